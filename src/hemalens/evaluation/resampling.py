"""Intervals of statistics that are sums over slides or fields: a bootstrap over these units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation.metrics import exact_interval, unit_weights
from hemalens.evaluation.results import Estimate

N_REPEATS = 1000

Weights = NDArray[np.float64]
"""How often each unit counts, (r, units)."""
Statistic = Callable[[Weights], NDArray[np.float64]]
"""A statistic of weighted units: (r, units) give (r,), NaN where it is undefined."""


class Resampled:
    """Draws `n_units` with replacement, the same ones for every statistic of one object."""

    def __init__(self, n_units: int, *, seed: int, n_repeats: int = N_REPEATS) -> None:
        rng = np.random.default_rng(seed)
        self.n_units = n_units
        self._weights = unit_weights(np.zeros(n_units, np.int64), rng=rng, n_repeats=n_repeats).astype(float)

    def estimate(self, statistic: Statistic) -> Estimate:
        """The statistic with its 95 % percentile interval; without one for fewer than two units."""
        value = float(statistic(np.ones((1, self.n_units)))[0]) if self.n_units else float("nan")
        if np.isnan(value):
            return Estimate(value=None)
        if self.n_units < 2:
            return Estimate(value=value)
        drawn = statistic(self._weights)
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return Estimate(value=value, low=float(low), high=float(high))

    def ratio(self, part: NDArray[np.float64], whole: NDArray[np.float64], *, factor: float = 1.0) -> Estimate:
        """`factor` times the sum of `part` (units,) over that of `whole` (units,)."""
        return self.estimate(lambda weights: factor * divided(weights @ part, weights @ whole))

    def proportion(self, part: NDArray[np.float64], whole: NDArray[np.float64]) -> Estimate:
        """A share of counted things; where it is 0 or 1 in every unit, its exact binomial limits (Clopper-Pearson)."""
        found, n, k = self.ratio(part, whole), round(float(whole.sum())), round(float(part.sum()))
        if n == 0 or k not in (0, n):
            return found
        low, high = exact_interval(k, n)
        return Estimate(value=found.value, low=low, high=high)


def divided(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """A ratio (r,), NaN where the whole is 0."""
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio
