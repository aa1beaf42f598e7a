"""Whether a batch of images comes from the laboratory that a bundle knows: energy distances within answered classes.

Another mix of cell types is not another laboratory: images are compared with held-out images that got the same answer.
Pure NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Verdict = Literal["like home", "foreign", "cannot tell: too few images", "cannot tell: the bundle keeps no home images"]
LIKE_HOME: Verdict = "like home"
FOREIGN: Verdict = "foreign"
TOO_FEW: Verdict = "cannot tell: too few images"
NOTHING_KEPT: Verdict = "cannot tell: the bundle keeps no home images"
FEWEST = 20
"""Images on either side, in classes that both sides have, below which nothing is said."""
FEWEST_OF_CLASS = 5
"""Images on either side below which a class is not compared."""
MOST_OF_CLASS = 250
N_PERMUTATIONS = 199
FOREIGN_SCORE = 0.05
"""The score from which on, where chance does not explain it, images are called foreign: more than twice the largest of 596
draws of home images in other mixes of cell types, 0.024 (docs/trust.md)."""
FOREIGN_P = 0.01


@dataclass(frozen=True, slots=True)
class Shift:
    """How far new images lie from held-out home images that got the same answers.

    `score` in [0, 1]: the energy coefficient less what chance alone gives, 0 for the same distribution, 1 for two points.
    `p_value`: share of random divisions with a coefficient as large. `n_compared` new and `n_home` held-out images.
    None where nothing is said.
    """

    verdict: Verdict
    score: float | None = None
    p_value: float | None = None
    n_compared: int = 0
    n_home: int = 0


def domain_shift(
    home: Floats,
    home_answers: NDArray[np.int64],
    new: Floats,
    new_answers: NDArray[np.int64],
    *,
    rng: np.random.Generator,
) -> Shift:
    """Compare whitened points (m, q) of held-out images with those (n, q) of new ones, within answered classes (m,), (n,).

    The coefficient is the energy distance over twice the mean distance between the sides (Székely & Rizzo 2013), both
    summed over classes by their share of the new images. Which side a point belongs to is permuted within each class.
    """
    parts: list[tuple[Floats, Floats]] = []
    for c in np.intersect1d(home_answers, new_answers):
        held, fresh = home[home_answers == c], new[new_answers == c]
        if min(len(held), len(fresh)) >= FEWEST_OF_CLASS:
            parts.append((held, fresh))
    n_home, n_new = (sum(len(part[side]) for part in parts) for side in (0, 1))
    if min(n_new, n_home) < FEWEST:
        return Shift(TOO_FEW, n_compared=n_new, n_home=n_home)
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
    foreign = score >= FOREIGN_SCORE and p_value <= FOREIGN_P
    return Shift(FOREIGN if foreign else LIKE_HOME, score, p_value, n_new, n_home)


def energies(
    first: Floats, second: Floats, *, n_permutations: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| of points (m, q) and (n, q), and E|X-Y|: as they are, then permuted.

    Each is (1 + n_permutations,).
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


def strangeness(home_scores: Floats, new_scores: Floats) -> float:
    """AUC of telling new images from held-out ones by their scores, (m,) and (n,): 0.5 alike, 1 all stranger; ties half."""
    held = np.sort(np.asarray(home_scores, np.float64))
    below = np.searchsorted(held, new_scores, side="left")
    not_above = np.searchsorted(held, new_scores, side="right")
    return float(((below + not_above) / 2).mean() / len(held))


def _at_most(points: Floats, most: int, rng: np.random.Generator) -> Floats:
    return points if len(points) <= most else points[rng.choice(len(points), most, replace=False)]


def _pairwise(points: Floats) -> NDArray[np.float64]:
    squares = (points**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)))
