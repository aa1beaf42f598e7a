"""Means over models with intervals, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.benchmark.protocols.scoring import mean_estimate
from hemalens.evaluation import metrics

COUNTS = np.array([[[3, 1], [0, 4]], [[2, 2], [2, 2]]])


def test_the_mean_and_its_spread() -> None:
    found = mean_estimate(metrics.accuracy, COUNTS, None, seed=0)
    assert (found.value, found.low, found.high) == (pytest.approx((7 / 8 + 4 / 8) / 2), None, None)
    assert found.std == pytest.approx(np.std([7 / 8, 4 / 8], ddof=1))
    assert mean_estimate(metrics.accuracy, COUNTS[:1], None, seed=0).std is None


def test_the_interval_leaves_out_resamples_that_are_not_used() -> None:
    resampled = np.repeat(COUNTS[:, None], 40, axis=1)
    resampled[:, 20:] = [[0, 4], [4, 0]]
    used = np.zeros((2, 40), bool)
    used[:, :20] = True
    some = mean_estimate(metrics.accuracy, COUNTS, resampled, seed=0, used=used)
    every = mean_estimate(metrics.accuracy, COUNTS, resampled, seed=0)
    assert some.low is not None
    assert every.low is not None
    assert some.low >= 4 / 8
    assert every.low == 0
    assert mean_estimate(metrics.accuracy, COUNTS, resampled, seed=0, used=used) == some
