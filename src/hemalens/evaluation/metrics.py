"""Scores from confusion counts or probabilities, with their confidence intervals.

Confusion rows are the true classes, columns the predicted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Confusion = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
N_BINS = 15


def confusion(target: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> Confusion:
    """Counts (k, k): row the true class, column the predicted one."""
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (target, predicted), 1)
    return counts


def accuracy(counts: Confusion) -> Any:
    """Fraction of correct predictions; NaN without images. Counts (..., k, k) give (...)."""
    return _scalar(_ratio(_diagonal(counts).sum(axis=-1), counts.sum(axis=(-2, -1))))


def majority_rate(counts: Confusion) -> Any:
    """Accuracy of always predicting the most frequent true class. Counts (..., k, k) give (...)."""
    return _scalar(_ratio(counts.sum(axis=-1).max(axis=-1, initial=0), counts.sum(axis=(-2, -1))))


def recall(counts: Confusion) -> NDArray[np.float64]:
    """Per class (..., k): correct predictions among its images; NaN for a class without images."""
    return _ratio(_diagonal(counts), counts.sum(axis=-1))


def precision(counts: Confusion) -> NDArray[np.float64]:
    """Per class (..., k): correct predictions among those of the class; NaN for a class that is never predicted."""
    return _ratio(_diagonal(counts), counts.sum(axis=-2))


def f1(counts: Confusion) -> NDArray[np.float64]:
    """Per class (..., k): 2 TP / (2 TP + FP + FN); NaN for a class that is neither present nor predicted."""
    return _ratio(2 * _diagonal(counts), counts.sum(axis=-2) + counts.sum(axis=-1))


def balanced_accuracy(counts: Confusion) -> Any:
    """Mean recall over the classes that have images. Counts (..., k, k) give (...)."""
    return _mean_of_present(recall(counts), counts)


def macro_f1(counts: Confusion) -> Any:
    """Mean F1 over the classes that have images. Counts (..., k, k) give (...)."""
    return _mean_of_present(f1(counts), counts)


def _mean_of_present(values: NDArray[np.float64], counts: Confusion) -> Any:
    present = counts.sum(axis=-1) > 0
    return _scalar(_ratio(np.where(present, values, 0).sum(axis=-1), present.sum(axis=-1)))


def _diagonal(counts: Confusion) -> NDArray[np.int64]:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _scalar(values: NDArray[np.float64]) -> Any:
    """A plain float for one confusion, an array for several."""
    return float(values) if values.ndim == 0 else values


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio: NDArray[np.float64] = np.divide(
        numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0
    )
    return ratio


def exact_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson limits of a proportion (Clopper & Pearson 1934; Rümke's tables); (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of one model: true and predicted class indices, and the unit of each image, (n,) each."""

    target: NDArray[np.int64]
    predicted: NDArray[np.int64]
    unit: NDArray[np.int64]


def resampled_confusions(
    models: Sequence[Predictions], n_classes: int, *, rng: np.random.Generator, n_repeats: int = 1000
) -> Confusion | None:
    """Confusion counts (models, repeats, k, k) over resampled units (groups, or single images); None without images.

    Units, numbered alike for all models, are drawn with replacement within strata of their most frequent class, so that a
    rare class never vanishes.
    """
    n_units = 1 + max((int(model.unit.max(initial=-1)) for model in models), default=-1)
    if n_units == 0:
        return None
    # a confusion count for each model and unit: resampling is then one weighted sum; counts this small are exact in float32
    shape = (n_units, len(models), n_classes * n_classes)
    cells = [
        np.ravel_multi_index((a.unit, np.full_like(a.unit, i), a.target * n_classes + a.predicted), shape)
        for i, a in enumerate(models)
    ]
    of_unit = np.bincount(np.concatenate(cells), minlength=int(np.prod(shape))).reshape(shape).astype(np.float32)
    # a unit that no model was tested on would only thin out its stratum
    of_unit = of_unit[of_unit.sum(axis=(1, 2)) > 0]
    n_units = len(of_unit)
    stratum = of_unit.sum(axis=1).reshape(n_units, n_classes, n_classes).sum(axis=2).argmax(axis=1)
    weights = unit_weights(stratum, rng=rng, n_repeats=n_repeats)
    drawn = (weights @ of_unit.reshape(n_units, -1)).reshape(n_repeats, len(models), n_classes, n_classes)
    resampled: Confusion = drawn.astype(np.int64).swapaxes(0, 1)
    return resampled


def unit_weights(stratum: NDArray[np.int64], *, rng: np.random.Generator, n_repeats: int) -> NDArray[np.float32]:
    """How often each unit is drawn, (repeats, units), with replacement within its stratum; `stratum` is (units,)."""
    weights = np.zeros((n_repeats, len(stratum)), np.float32)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n_repeats)
    return weights


def bootstrap_interval(
    score: Callable[[Confusion], Any],
    models: Sequence[Predictions],
    n_classes: int,
    *,
    rng: np.random.Generator,
    n_repeats: int = 1000,
) -> tuple[float, float]:
    """95 % percentile interval of the mean score of some models over resampled units; NaN without images.

    `score` takes counts (..., k, k) and gives (...). See `resampled_confusions`.
    """
    return percentile_interval(score, resampled_confusions(models, n_classes, rng=rng, n_repeats=n_repeats))


def percentile_interval(score: Callable[[Confusion], Any], resampled: Confusion | None) -> tuple[float, float]:
    """95 % percentile interval of the mean score of some models over their `resampled_confusions`; NaN for None."""
    if resampled is None:
        return float("nan"), float("nan")
    low, high = np.nanpercentile(np.nanmean(score(resampled), axis=0), [2.5, 97.5])
    return float(low), float(high)


def two_way_interval(scores: NDArray[np.float64], *, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean over models, where both models and test units are resampled.

    `scores` (models, repeats) are those of `resampled_confusions`; each repeat resamples the models as well. The mean
    leaves out NaN.
    """
    n_models, n_repeats = scores.shape
    drawn = np.take_along_axis(scores, rng.integers(n_models, size=(n_models, n_repeats)), axis=0)
    known = ~np.isnan(drawn)
    means = _ratio(np.where(known, drawn, 0).sum(axis=0), known.sum(axis=0))
    if np.isnan(means).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def negative_log_likelihood(probabilities: Floats, target: NDArray[np.int64]) -> float:
    """Mean of -log p of the true class, p not below 1e-12; NaN without images."""
    if len(target) == 0:
        return float("nan")
    chosen = np.asarray(probabilities, np.float64)[np.arange(len(target)), target]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def reliability(probabilities: Floats, target: NDArray[np.int64], n_bins: int = N_BINS) -> list[dict[str, float | int]]:
    """Bins of equal width over the highest probability: count, mean confidence and accuracy of each that has images."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == target
    index = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    rows: list[dict[str, float | int]] = []
    for b in range(n_bins):
        inside = index == b
        if inside.any():
            rows.append(
                {
                    "low": b / n_bins,
                    "high": (b + 1) / n_bins,
                    "n": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    return rows


def expected_calibration_error(probabilities: Floats, target: NDArray[np.int64], n_bins: int = N_BINS) -> float:
    """ECE (Guo et al. 2017): mean over images of |confidence - accuracy| of their bin; NaN without images."""
    if len(target) == 0:
        return float("nan")
    rows = reliability(probabilities, target, n_bins)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(target)
