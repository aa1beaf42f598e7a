"""Few-shot logistic regression regularised towards a pretrained head (L2-SP).

The logits are those of the head, scaled, plus those of a linear layer with an L2 penalty. With a linear head this is
logistic regression whose weights are penalised for their distance from the head's (Chelba & Acero 2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

Floats = NDArray[np.floating[Any]]
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""L2 penalties tried in cross-validation, smallest first."""
DEFAULT_PENALTY = 0.1
"""The penalty where cross-validation is impossible, as with one image a class."""
PRIOR_SCALE = 0.5
"""Prior mean of the factor on the head's logits: under domain shift a head is overconfident."""
MAX_FOLDS = 20
"""Up to this many units, cross-validation leaves one out; beyond, it has this many folds."""
TOLERANCE = 1e-3
"""Largest gradient of the summed loss at which the solver stops."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A linear correction of a head: `scale` * head logits (n, k) + points (n, d) @ `weight`.T (d, k) + `bias` (k,)."""

    scale: float
    weight: Floats
    bias: Floats


def fit_correction(points: Floats, index: NDArray[np.int64], base: Floats, unit: NDArray[np.int64]) -> Correction:
    """Fit a correction of the head's logits `base` (n, k) on points (n, d) of classes (n,).

    Cross-validation chooses the penalty from `PENALTIES`; images of one `unit` (n,) share a fold. Classes have equal
    weight. A class without an image keeps the head's logits.
    """
    weights = _balanced(index)
    scale = _fit_scale(base, index, weights)
    coordinates, axes, length = _coordinates(points)
    penalty = _cross_validate(coordinates, index, scale * base, unit, weights)
    found = _solve(coordinates, index, scale * base, weights, penalty=penalty)
    return Correction(scale, found[:, :-1] @ axes / length, found[:, -1])


def _balanced(index: NDArray[np.int64]) -> Floats:
    """Weight of each image (n,), with the same sum for each class and n in total."""
    counts = np.bincount(index)
    weights: Floats = len(index) / (np.count_nonzero(counts) * counts[index])
    return weights


def _fit_scale(base: Floats, index: NDArray[np.int64], weights: Floats) -> float:
    """Fit the factor on the head's logits; a standard normal prior on its logarithm counts like one image."""
    rows = np.arange(len(index))

    def loss(log_scale: float) -> float:
        fit = weights @ log_softmax(np.exp(log_scale) * base, axis=1)[rows, index]
        return float((log_scale - np.log(PRIOR_SCALE)) ** 2 / 2 - fit)

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 2.0), method="bounded").x))


def _coordinates(points: Floats) -> tuple[Floats, Floats, float]:
    """Project points (n, d) onto their span: coordinates (n, r + 1) with a constant 1 last, axes (r, d), RMS length.

    The solution lies in the span of the support, so r <= n coordinates give the same one as d.
    """
    length = float(np.sqrt((points**2).sum(axis=1).mean())) or 1.0
    left, sizes, axes = np.linalg.svd(points / length, full_matrices=False)
    return np.concatenate([left * sizes, np.ones((len(points), 1))], axis=1), axes, length


def _cross_validate(
    points: Floats, index: NDArray[np.int64], base: Floats, unit: NDArray[np.int64], weights: Floats
) -> float:
    """Choose the penalty with the lowest weighted loss on held-out folds of units."""
    losses = np.zeros(len(PENALTIES))
    n_scored = 0
    for out in folds_of(unit):
        # without a training image of its class, an image favours large penalties whatever the rest looks like
        scored = out & np.isin(index, index[~out])
        n_scored += int(scored.sum())
        start = None
        for i in reversed(range(len(PENALTIES) if scored.any() else 0)):
            start = _solve(points[~out], index[~out], base[~out], weights[~out], penalty=PENALTIES[i], start=start)
            logs = log_softmax(base[scored] + points[scored] @ start.T, axis=1)
            losses[i] -= weights[scored] @ logs[np.arange(len(logs)), index[scored]]
    return PENALTIES[int(np.argmin(losses))] if n_scored else DEFAULT_PENALTY


def folds_of(unit: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """Masks (n,) of the held-out images of each fold: one unit a fold, or every twentieth unit where there are many."""
    names, number = np.unique(unit, return_inverse=True)
    n_folds = min(len(names), MAX_FOLDS)
    return [number % n_folds == fold for fold in range(n_folds)]


def _solve(
    points: Floats,
    index: NDArray[np.int64],
    base: Floats,
    images: Floats,
    *,
    penalty: float,
    start: Floats | None = None,
) -> Floats:
    """Weights (k, r) that minimise the weighted loss of softmax(base + points @ weights.T) + penalty / 2 * |weights|^2."""
    shape, rows = (base.shape[1], points.shape[1]), np.arange(len(index))
    truth = np.zeros_like(base)
    truth[rows, index] = 1.0

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        logs = log_softmax(base + points @ weights.T, axis=1)
        gradient = ((np.exp(logs) - truth) * images[:, None]).T @ points + penalty * weights
        return float(penalty / 2 * flat @ flat - images @ logs[rows, index]), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options={"gtol": TOLERANCE, "maxiter": 500})
    weights: Floats = found.x.reshape(shape)
    return weights
