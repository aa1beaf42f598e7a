"""Labels of a support that two models doubt: the bundle, and a classifier on the other labelled cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets import CellDataset
from hemalens.errors import one_line

Floats = NDArray[np.floating[Any]]
FEWEST = 3
"""Fewest doubtful labels that are reported."""
SHARE = 0.2
"""Smallest share of doubtful labels that is reported; the models agree on mistakes too."""
NAMED = 5
"""Files that are named."""


def doubtful_labels(support: CellDataset, left_out: Floats, before: Floats) -> str | None:
    """A warning where many labels of the support are doubtful, with the most suspicious files; None where few are.

    A label is doubtful if leave-one-out probabilities `left_out` (n, k) and the bundle's logits `before` (n, k) agree on
    another class. Rows of zeros, of cells that cannot be left out, are not judged.
    """
    judged = left_out.sum(axis=1) > 0
    predicted, targets = left_out.argmax(axis=1), support.targets
    doubtful = judged & (predicted != targets) & (before.argmax(axis=1) == predicted)
    n = int(doubtful.sum())
    if n < FEWEST or n < SHARE * judged.sum():
        return None
    rows = np.arange(len(support))
    surplus = np.where(doubtful, left_out[rows, predicted] - left_out[rows, targets], -np.inf)
    worst = np.argsort(-surplus, kind="stable")[: min(NAMED, n)]
    named = ", ".join(
        f"{one_line(support.records[i].path)} ({support.classes[targets[i]]}, looks like {support.classes[predicted[i]]})"
        for i in worst
    )
    return f"{n} of {int(judged.sum())} labels are doubtful, check them: {named}"
