"""Classifiers on embeddings: classical heads, few-shot classifiers, and the calibration of their logits.

Begin with `heads.HEADS`, the table of heads that methods train. `few_shot` classifies by a few labelled cells a class,
`l2sp` is logistic regression regularised towards a pretrained head, `svm` the support vector machines and their graph,
`calibration` fits temperatures.
Imports `graphs` and the rooms below; no torch.
"""
