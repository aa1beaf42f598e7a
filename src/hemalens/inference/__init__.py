"""Prediction: a bundle over images, one row an image.

Begin with `predict.predict`, the verb; `predictor.Predictor` is the same for a program that holds its images itself.
`rows` writes predictions as CSV or Parquet, `explain` pictures of the evidence.
Imports `bundle`, `graphs`, `trust` and the rooms below; no torch.
"""
