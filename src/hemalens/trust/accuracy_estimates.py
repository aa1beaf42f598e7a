"""Accuracy on new images, estimated without labels; each estimator states its assumption. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
ATYPICAL = 0.05
"""Typicality below which an image counts as atypical of the training data."""
ASSUMES = {
    "thresholded_confidence": "a confidence means the same in the target laboratory as in the training data",
    "difference_of_confidences": "accuracy falls by as much as the mean confidence does",
    "typical_cells": "atypical cells are classified by chance, the others as in the training data",
    "mean_confidence": "probabilities are calibrated at the training temperature, with nucleus sizes",
}
"""The assumption of each estimator, in words."""


def thresholded_confidence(reference: Floats, correct: NDArray[np.bool_], new: Floats) -> float:
    """Average thresholded confidence (Garg et al. 2022): fraction of new images above a confidence threshold.

    `reference` (m,) and `new` (n,) are highest probabilities; `correct` (m,) marks held-out images predicted correctly. As
    many held-out images lie below the threshold as are predicted wrongly.
    """
    n_wrong = int((~correct).sum())
    threshold = float("inf") if n_wrong == len(reference) else float(np.sort(reference)[n_wrong])
    return float((new >= threshold).mean())


def difference_of_confidences(reference: Floats, correct: NDArray[np.bool_], new: Floats) -> float:
    """Held-out accuracy minus the fall of the mean highest probability (Guillory et al. 2021), in [0, 1].

    Arguments as in `thresholded_confidence`.
    """
    return float(np.clip(correct.mean() - (reference.mean() - new.mean()), 0, 1))


def typical_cells(reference: Floats, correct: NDArray[np.bool_], new: Floats, typicality: Floats, n_classes: int) -> float:
    """Thresholded confidence of typical cells, weighted with chance, 1 / n_classes, for the others.

    `typicality` (n,) are p-values of the new images. Without a shift a fraction `ATYPICAL` of them lies below `ATYPICAL`;
    the fraction of typical images is therefore that above it over 1 - `ATYPICAL` (Storey 2002).
    """
    typical = typicality >= ATYPICAL
    if not typical.any():
        return 1 / n_classes
    fraction = min(1.0, float(typical.mean()) / (1 - ATYPICAL))
    return fraction * thresholded_confidence(reference, correct, new[typical]) + (1 - fraction) / n_classes
