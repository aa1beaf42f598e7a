"""Learn from a few labelled embeddings what a trained head does not know yet, without forgetting what it knows.

The logits are those of the head, scaled, plus those of a linear part that starts at nothing and is kept small: with a
linear head this is logistic regression with its weights pulled towards the head's (Chelba & Acero 2006). NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

Floats = NDArray[np.floating[Any]]
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Pulls towards the base that are tried, weakest first."""
UNTOLD_STRENGTH = 0.1
"""The pull where nothing can be left out, as with one image a class."""
USUAL_SCALE = 0.5
"""What the base's logits are multiplied by before any label is seen: in another laboratory a head is too sure."""
USUAL_STEEPNESS = 10.0
"""What a cosine is multiplied by before any label is seen."""
MOST_PARTS = 20
"""More units than this are left out several at a time, in so many parts."""
TOLERANCE = 1e-3
"""Where the gradient ends: it is of the summed loss, so three decimals are enough."""
UNKNOWN_COSINE = -1.0
"""The cosine to the mean of a class of which the support has no image."""
SHORTEST = 1e-12


@dataclass(frozen=True, slots=True)
class Correction:
    """On top of a head: `scale` times its logits (n, k), plus points (n, d) @ `weight`.T (k, d) + `bias` (k,)."""

    scale: float
    weight: Floats
    bias: Floats


# --------------------------------------------------------------------------------------------- pulled towards the base


def fit_correction(points: Floats, index: NDArray[np.int64], base: Floats, unit: NDArray[np.int64]) -> Correction:
    """Regularised logistic regression on points (n, d) of classes (n,) that starts at the `base` logits (n, k).

    Of `STRENGTHS` the pull is taken under which left-out images are most likely; `unit` (n,) is what is left out together.
    Classes count alike, however many images they have. A class may be without an image: the base still knows it.
    """
    images = _even(index)
    scale = _fit_scale(base, index, images)
    coordinates, axes, length = _coordinates(points)
    strength = _chosen(coordinates, index, scale * base, unit, images)
    found = _solve(coordinates, index, scale * base, images, strength=strength)
    return Correction(scale, found[:, :-1] @ axes / length, found[:, -1])


def _even(index: NDArray[np.int64]) -> Floats:
    """Weight of each image (n,): classes weigh alike, all together as much as there are images."""
    counts = np.bincount(index)
    weights: Floats = len(index) / (np.count_nonzero(counts) * counts[index])
    return weights


def _fit_scale(base: Floats, index: NDArray[np.int64], images: Floats) -> float:
    """What to multiply the base's logits by so that they fit; a normal prior on its logarithm counts like one image."""
    rows = np.arange(len(index))

    def loss(log_scale: float) -> float:
        fit = images @ log_softmax(np.exp(log_scale) * base, axis=1)[rows, index]
        return float((log_scale - np.log(USUAL_SCALE)) ** 2 / 2 - fit)

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 2.0), method="bounded").x))


def _coordinates(points: Floats) -> tuple[Floats, Floats, float]:
    """Points (n, d) of mean square length 1 in n coordinates or fewer, a constant 1 behind; axes (r, d); the length before.

    The weights lie in the span of the support: the same solution in n coordinates instead of d.
    """
    length = float(np.sqrt((points**2).sum(axis=1).mean())) or 1.0
    left, sizes, axes = np.linalg.svd(points / length, full_matrices=False)
    return np.concatenate([left * sizes, np.ones((len(points), 1))], axis=1), axes, length


def _chosen(points: Floats, index: NDArray[np.int64], base: Floats, unit: NDArray[np.int64], images: Floats) -> float:
    """The strength whose corrections, each made without a part of the units, fit the images of that part best."""
    losses = np.zeros(len(STRENGTHS))
    n_told = 0
    for out in parts_of(unit):
        # an image whose class is left out with it tells of the pull's side only
        told = out & np.isin(index, index[~out])
        n_told += int(told.sum())
        start = None
        for i in reversed(range(len(STRENGTHS) if told.any() else 0)):
            start = _solve(points[~out], index[~out], base[~out], images[~out], strength=STRENGTHS[i], start=start)
            logs = log_softmax(base[told] + points[told] @ start.T, axis=1)
            losses[i] -= images[told] @ logs[np.arange(len(logs)), index[told]]
    return STRENGTHS[int(np.argmin(losses))] if n_told else UNTOLD_STRENGTH


def parts_of(unit: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """Masks (n,) of what is left out together: each unit by itself, of many units every twentieth."""
    names, number = np.unique(unit, return_inverse=True)
    n_parts = min(len(names), MOST_PARTS)
    return [number % n_parts == part for part in range(n_parts)]


def _solve(
    points: Floats,
    index: NDArray[np.int64],
    base: Floats,
    images: Floats,
    *,
    strength: float,
    start: Floats | None = None,
) -> Floats:
    """Weights (k, r): least weighed loss of softmax(base + points @ weights.T) plus strength / 2 times their square."""
    shape, rows = (base.shape[1], points.shape[1]), np.arange(len(index))
    truth = np.zeros_like(base)
    truth[rows, index] = 1.0

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        logs = log_softmax(base + points @ weights.T, axis=1)
        gradient = ((np.exp(logs) - truth) * images[:, None]).T @ points + strength * weights
        return float(strength / 2 * flat @ flat - images @ logs[rows, index]), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options={"gtol": TOLERANCE, "maxiter": 500})
    weights: Floats = found.x.reshape(shape)
    return weights


# ----------------------------------------------------------------------------------------------- beside the class means


def fit_mixture(points: Floats, index: NDArray[np.int64], base: Floats, unit: NDArray[np.int64]) -> Correction:
    """The `base` logits (n, k) and the cosine to the mean of each class, each multiplied by what fits left-out images best.

    Normal priors on the logarithms of both factors count like one image each; with one image a class they decide. The mean
    of a class is of unit points; a class without an image has the cosine -1.
    """
    n_classes = base.shape[1]
    cosines = np.full((len(index), n_classes), np.nan)
    for out in parts_of(unit):
        if not out.all():
            weight, bias = _means(points[~out], index[~out], n_classes)
            cosines[out] = points[out] @ weight.T + bias
            absent = np.setdiff1d(np.arange(n_classes), index[~out])
            cosines[np.ix_(out & np.isin(index, absent), absent)] = np.nan
    told = ~np.isnan(cosines[np.arange(len(index)), index])
    images = _even(index)[told]
    known, heads, truth = np.nan_to_num(cosines[told], nan=UNKNOWN_COSINE), base[told], index[told]
    usual = np.log([USUAL_SCALE, USUAL_STEEPNESS])

    def loss(logs: Floats) -> float:
        scale, steepness = np.exp(logs)
        fit = images @ log_softmax(scale * heads + steepness * known, axis=1)[np.arange(len(truth)), truth]
        return float(((logs - usual) ** 2).sum() / 2 - fit)

    scale, steepness = np.exp(minimize(loss, usual, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4}).x)
    weight, bias = _means(points, index, n_classes)
    return Correction(float(scale), steepness * weight, steepness * bias)


def _means(points: Floats, index: NDArray[np.int64], n_classes: int) -> tuple[Floats, Floats]:
    """Unit class means (k, d) and what is added (k,): 0, or -1 for a class without an image, whose mean is zero."""
    weight, bias = np.zeros((n_classes, points.shape[1])), np.full(n_classes, UNKNOWN_COSINE)
    for c in np.unique(index):
        mean = points[index == c].mean(axis=0)
        weight[c], bias[c] = mean / max(float(np.linalg.norm(mean)), SHORTEST), 0.0
    return weight, bias


# --------------------------------------------------------------------------------------------------- without the base


def discriminant(points: Floats, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Weight (k, d) and bias (k,) of a linear discriminant: one covariance within classes, shrunk; classes alike probable.

    Shrunk towards a multiple of the identity by Ledoit & Wolf (2004), inverted in n dimensions instead of d.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    n, d = points.shape
    means = np.stack([points[index == c].mean(axis=0) for c in range(int(index.max()) + 1)])
    within = points - means[index]
    variance = float((within**2).sum()) / (n * d)
    if variance <= SHORTEST:
        # one image a class: nothing is known of the spread, so nearest means
        weight: Floats = means / max(float((means**2).sum(axis=1).mean()), SHORTEST)
    else:
        shrinkage = float(ledoit_wolf_shrinkage(within, assume_centered=True))
        floor = max(shrinkage * variance, SHORTEST)
        rows = within * np.sqrt((1 - shrinkage) / n)
        # Woodbury: (floor I + rows.T rows)^-1
        inner = np.linalg.solve(floor * np.eye(n) + rows @ rows.T, rows @ means.T)
        weight = (means - inner.T @ rows) / floor
    return weight, -0.5 * (weight * means).sum(axis=1)
