"""Adaptation of a bundle to a new laboratory, with a few labelled cells, with unlabelled images, or with both.

Begin with `adapt.adapt`, the one verb, and its `options`. It dispatches to `few_labels` (a new classifier), `finetune` (all
weights) and `adapt_unlabelled`. `suggest` lists the cells to label next, by the strategies of `active_learning`.
Labelled cells: `source_head`, `encoders`, `ensemble`. Unlabelled images: `unlabelled_steps`; `guards` chooses among the
pieces `size_evidence`, `neighbours` and `class_means`, and `adjustment` puts them together.
Imports `runs` and the rooms below; torch only through `methods.few_shot_finetune`, inside the function that trains.
"""
