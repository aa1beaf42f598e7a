"""Test for a domain shift: energy distances between new and held-out images, within each predicted class.

Comparing within classes keeps another mix of cell types from counting as a shift. Pure NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Verdict = Literal[
    "not detected",
    "detected",
    "unknown: too few images",
    "unknown: too few reference images of the predicted types",
    "unknown: the bundle has no reference statistics",
]
NOT_DETECTED: Verdict = "not detected"
DETECTED: Verdict = "detected"
TOO_FEW: Verdict = "unknown: too few images"
TOO_FEW_REFERENCE: Verdict = "unknown: too few reference images of the predicted types"
NO_REFERENCE: Verdict = "unknown: the bundle has no reference statistics"
FEWEST = 20
"""Fewest images on either side, in classes that both sides have, for a verdict."""
FEWEST_OF_CLASS = 5
"""Fewest images on either side for a class to be compared."""
MOST_OF_CLASS = 250
N_PERMUTATIONS = 199
SHIFT_SCORE = 0.05
"""Smallest score of a detected shift: twice the largest of 596 draws of held-out images in other mixes of cell types, 0.024
(docs/reference/results/domain-shift.md)."""
SHIFT_P = 0.01
"""Largest p-value of a detected shift."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How far new images lie from held-out images of the training data with the same prediction.

    `score` in [0, 1]: the energy coefficient minus its mean under permutation, 0 for the same distribution, 1 for two
    points. `p_value`: fraction of permutations with a coefficient as large. Both are None where the verdict is unknown.
    `n_compared` new images and `n_reference` held-out images enter.
    """

    verdict: Verdict
    score: float | None = None
    p_value: float | None = None
    n_compared: int = 0
    n_reference: int = 0


def domain_shift(
    reference: Floats,
    reference_predicted: NDArray[np.int64],
    new: Floats,
    new_predicted: NDArray[np.int64],
    *,
    rng: np.random.Generator,
) -> Shift:
    """Compare whitened points (m, q) of held-out images with those (n, q) of new ones, within predicted classes (m,), (n,).

    The coefficient is the energy distance over twice the mean distance between the sides (Székely & Rizzo 2013), both
    summed over classes by their share of the new images. Permutations exchange sides within each class.
    """
    parts: list[tuple[Floats, Floats]] = []
    for c in np.intersect1d(reference_predicted, new_predicted):
        held, fresh = reference[reference_predicted == c], new[new_predicted == c]
        if min(len(held), len(fresh)) >= FEWEST_OF_CLASS:
            parts.append((held, fresh))
    n_reference, n_new = (sum(len(part[side]) for part in parts) for side in (0, 1))
    if min(n_new, n_reference) < FEWEST:
        verdict = TOO_FEW if len(new) < FEWEST else TOO_FEW_REFERENCE
        return Shift(verdict, n_compared=n_new, n_reference=n_reference)
    distance, between = np.zeros(1 + N_PERMUTATIONS), np.zeros(1 + N_PERMUTATIONS)
    for held, fresh in parts:
        drawn = _at_most(held, MOST_OF_CLASS, rng), _at_most(fresh, MOST_OF_CLASS, rng)
        found = energies(*drawn, n_permutations=N_PERMUTATIONS, rng=rng)
        distance += len(fresh) * found[0]
        between += len(fresh) * found[1]
    coefficient = distance / np.maximum(2 * between, np.finfo(float).tiny)
    chance = float(coefficient[1:].mean())
    score = max(0.0, (float(coefficient[0]) - chance) / max(1 - chance, 1e-12))
    p_value = float((coefficient >= coefficient[0] - 1e-12).mean())
    detected = score >= SHIFT_SCORE and p_value <= SHIFT_P
    return Shift(DETECTED if detected else NOT_DETECTED, score, p_value, n_new, n_reference)


def energies(
    first: Floats, second: Floats, *, n_permutations: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| of points (m, q) and (n, q), and E|X-Y|.

    Each is (1 + n_permutations,): first as observed, then permuted.
    """
    m, n = len(first), len(second)
    distances = _pairwise(np.concatenate([first, second]))
    side = np.zeros((1 + n_permutations, m + n))
    side[:, :m] = 1
    side[1:] = rng.permuted(side[1:], axis=1)
    to_first, to_second = side @ distances, (1 - side) @ distances
    between = (to_first * (1 - side)).sum(axis=1) / (m * n)
    within = (to_first * side).sum(axis=1) / m**2 + (to_second * (1 - side)).sum(axis=1) / n**2
    return 2 * between - within, between


def ood_auroc(reference_scores: Floats, new_scores: Floats) -> float:
    """AUROC of new against held-out images by their out-of-distribution scores, (n,) and (m,); ties count half."""
    held = np.sort(np.asarray(reference_scores, np.float64))
    below = np.searchsorted(held, new_scores, side="left")
    not_above = np.searchsorted(held, new_scores, side="right")
    return float(((below + not_above) / 2).mean() / len(held))


def _at_most(points: Floats, most: int, rng: np.random.Generator) -> Floats:
    return points if len(points) <= most else points[rng.choice(len(points), most, replace=False)]


def _pairwise(points: Floats) -> NDArray[np.float64]:
    squares = (points**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)))
