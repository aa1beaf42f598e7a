"""Scores of several models on the same test images, as means with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets import CellDataset
from hemalens.evaluation import metrics
from hemalens.evaluation.results import Estimate

Score = Callable[[metrics.Confusion], Any]
"""A score of counts (..., k, k)."""


def mean_estimate(
    score: Score,
    counts: metrics.Confusion,
    resampled: metrics.Confusion | None,
    *,
    seed: int,
    used: NDArray[np.bool_] | None = None,
) -> Estimate:
    """Mean score of the models' `counts` (m, k, k), with an interval over models and test units.

    `resampled` (m, repeats, k, k) are the counts of resampled units, None without images. `used` (m, repeats) leaves out
    resamples.
    """
    values = np.asarray(score(counts), float)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    if resampled is None:
        return Estimate(value=float(values.mean()), std=std)
    scores = np.asarray(score(resampled), float)
    if used is not None:
        scores = np.where(used, scores, np.nan)
    low, high = metrics.two_way_interval(scores, rng=np.random.default_rng(seed))
    return Estimate(value=float(values.mean()), low=low, high=high, std=std)


def unit_name(dataset: CellDataset) -> str:
    """What the bootstrap resamples: groups, or images where there are none."""
    return "groups" if any(record.group is not None for record in dataset.records) else "images"
