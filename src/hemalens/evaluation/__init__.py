"""Evaluation: metrics, intervals, p-values, calibration error, explanations, and the results they give.

Begin with `evaluate.evaluate`. `metrics` counts confusions and bootstraps them, `significance` gives p-values of paired
tests of methods, `segmentation` scores masks. `activation` and `occlusion` explain single predictions, `projection` maps
embeddings to a plane, `trust_check` tests the reports of `trust`. `formatting` and `thumbnails` turn numbers and
images into text for reports. `results/` is the schema of `report.json`.
Imports `inference`, `classifiers`, `bundle` and the rooms below; no torch.
"""
