"""Evaluation: metrics, intervals, paired tests, calibration error, explanations, and the results they give.

Begin with `evaluate.evaluate`. `metrics` counts confusions and bootstraps them, `significance` compares two models on the
same images, `segmentation` scores masks, `occlusion` explains single predictions, `projection` draws embeddings in a
plane, `trust_check` tests what `trust` reports. `results/` is the schema of `report.json`.
Imports `inference`, `classifiers`, `bundle` and the rooms below; no torch.
"""
