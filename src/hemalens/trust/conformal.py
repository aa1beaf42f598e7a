"""Split-conformal prediction sets: sets of labels that cover the true one with a nominal coverage. Pure NumPy.

The coverage holds for images exchangeable with the calibration images. It is lost under domain shift (Vovk et al. 2005;
Angelopoulos & Bates 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.config import check_share

Floats = NDArray[np.floating[Any]]
COVERAGE = 0.9
FEWEST_OF_CLASS = 20
"""A class of fewer calibration images shares its threshold with other such classes."""


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Calibrated thresholds for one laboratory: a set holds each label with a probability of at least 1 - threshold.

    `thresholds` (k,) lie in [0, 1], or are infinite where calibration images are too few for the coverage: every set then
    holds the label. `groups` (k,) number the classes that share a threshold; the coverage holds within each group. `n`
    counts calibration images.
    """

    coverage: float
    thresholds: NDArray[np.float64]
    groups: NDArray[np.int64]
    n: int

    @classmethod
    def calibrate(cls, probabilities: Floats, targets: NDArray[np.int64], *, coverage: float = COVERAGE) -> PredictionSets:
        """Calibrate on probabilities (m, k) of held-out images and their true classes (m,).

        The score of an image is 1 - p of its true class (LAC: Sadinle, Lei & Wasserman 2019). The threshold of a group is
        the ceil((n + 1) coverage)-th smallest of its n scores (Mondrian). Raises `InputError` outside (0, 1).
        """
        check_coverage(coverage)
        probabilities = np.asarray(probabilities, np.float64)
        groups = class_groups(np.bincount(targets, minlength=probabilities.shape[1]))
        scores = 1 - probabilities[np.arange(len(targets)), targets]
        of_group = [threshold(scores[groups[targets] == g], coverage) for g in range(int(groups.max()) + 1)]
        return cls(coverage, np.array(of_group)[groups], groups, len(targets))

    def members(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Members (n, k) of each image's set by its probabilities (n, k); the predicted label is always one."""
        found = np.asarray(1 - np.asarray(probabilities, np.float64) <= self.thresholds)
        found[np.arange(len(found)), np.argmax(probabilities, axis=1)] = True
        return found


def check_coverage(coverage: float) -> None:
    """Raise `InputError` for a coverage outside (0, 1)."""
    check_share(coverage, "the coverage of prediction sets", ends=False)


def threshold(scores: Floats, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of n scores; infinity where there is none."""
    # 1e-9: (n + 1) * 0.9 of n = 9 is 9.000000000000002 on some machines
    place = int(np.ceil((len(scores) + 1) * coverage - 1e-9))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else float("inf")


def class_groups(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group (k,) of each class by its number of calibration images (k,): large classes alone, small ones together.

    While the small ones together have fewer than `FEWEST_OF_CLASS` images, the smallest large class joins them.
    """
    order = np.argsort(counts, kind="stable")
    together = [int(c) for c in order if counts[c] < FEWEST_OF_CLASS]
    alone = [int(c) for c in order if counts[c] >= FEWEST_OF_CLASS]
    while together and alone and counts[together].sum() < FEWEST_OF_CLASS:
        together.append(alone.pop(0))
    groups = np.zeros(len(counts), np.int64)
    for number, c in enumerate(alone, start=bool(together)):
        groups[c] = number
    return groups
