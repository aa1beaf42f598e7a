"""Accuracy on new images estimated without their labels, four ways, each with what it takes for granted. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
ATYPICAL = 0.05
"""Typicality below which an image counts as unlike home."""
ASSUMES = {
    "thresholded_confidence": "a confidence means the same in the new laboratory as at home",
    "difference_of_confidences": "accuracy falls by as much as the mean confidence does",
    "typical_cells": "cells unlike home are guessed at, the others are answered as at home",
    "mean_confidence": "answers at the temperature of the training, beside sizes and a class bias, are as sure as right",
}
"""What each estimate takes for granted, in words."""


def thresholded_confidence(home: Floats, right: NDArray[np.bool_], new: Floats) -> float:
    """Average thresholded confidence (Garg et al. 2022): share of new images above the home confidence threshold.

    The best probabilities are `home` (m,) and `new` (n,); `right` (m,) says which home answers were. The threshold leaves
    as many home images below it as were answered wrong.
    """
    return float((new >= _threshold(home, right)).mean())


def _threshold(home: Floats, right: NDArray[np.bool_]) -> float:
    n_wrong = int((~right).sum())
    return float("inf") if n_wrong == len(home) else float(np.sort(home)[n_wrong])


def difference_of_confidences(home: Floats, right: NDArray[np.bool_], new: Floats) -> float:
    """Home accuracy less the fall of the mean best probability (Guillory et al. 2021), in [0, 1]; arguments as above."""
    return float(np.clip(right.mean() - (home.mean() - new.mean()), 0, 1))


def typical_cells(home: Floats, right: NDArray[np.bool_], new: Floats, typicality: Floats, n_classes: int) -> float:
    """Thresholded confidence among cells like home; the others are right as often as a guess, 1 / n_classes.

    Of images like home a share `ATYPICAL` lies below `ATYPICAL` itself: the share like home is that above it over
    1 - `ATYPICAL` (Storey 2002). `typicality` (n,) are p-values of the new images.
    """
    typical = typicality >= ATYPICAL
    if not typical.any():
        return 1 / n_classes
    like_home = min(1.0, float(typical.mean()) / (1 - ATYPICAL))
    return like_home * thresholded_confidence(home, right, new[typical]) + (1 - like_home) / n_classes
