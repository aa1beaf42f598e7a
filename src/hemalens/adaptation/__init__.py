"""Adaptation of a bundle to a new laboratory, with a few labelled cells, with unlabelled images, or with both.

Begin with `adapt.adapt`, the one verb, and its `options`. It dispatches to `few_labels` (a new classifier), `finetune` (all
weights) and `adapt_unlabelled`. `suggest` lists the cells to label next, by the strategies of `active_learning`.
Labelled cells: `source_head`, `encoders`, `ensemble`. Unlabelled images: `unlabelled_steps`, in their order,
`unlabelled_config`, `class_bias` (and the likelihood of nucleus sizes), `neighbours`.
Imports `runs` and the rooms below; torch only through `methods.few_shot_finetune`, inside the function that trains.
"""
