"""Adapts a bundle to a new laboratory: with a few labelled cells, with images alone, or both.

Begin with `few_labels.adapt`, `adapt_unlabelled` and `finetune`, one verb each; `suggest` lists the cells to label next.
Labelled cells: `source_head`, `ensemble`, `encoders`, `active_learning`. Unlabelled images: `unlabelled` (the steps in
their order), `unlabelled_config`, `logit_adjustment` (class bias, nucleus size), `neighbours`.
Imports `runs` and the rooms below; torch only through `methods.few_shot_finetune`, inside the function that trains.
"""
