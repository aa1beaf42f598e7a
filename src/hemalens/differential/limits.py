"""Exact limits of a share, and how many cells must be counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import InputError

CONFIDENCE = 0.95
MOST_CELLS = 2**17
"""Largest number of cells that `cells_for_width` tries."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `total` cells with its exact binomial limits, all in [0, 1]; without cells 0 to 1."""

    count: float
    total: int
    value: float | None
    low: float
    high: float

    @property
    def percent(self) -> str:
        """As in "57.5 % (50.3 to 64.4)"."""
        if self.value is None:
            return "no cell"
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def share(count: int, total: int, *, confidence: float = CONFIDENCE) -> Share:
    """The share with its limits by Clopper and Pearson, which Rümke tabulated for differential counts."""
    if not 0 <= count <= total:
        raise InputError("a count lies outside its total", expected=f"0 to {total}", got=str(count))
    if not total:
        return Share(count, total, None, 0.0, 1.0)
    (low,), (high,) = _limits(np.array([count]), np.array([total]), confidence)
    return Share(count, total, count / total, float(low), float(high))


def cells_for_width(value: float, width: float, *, confidence: float = CONFIDENCE) -> int:
    """The fewest cells whose limits around the share `value` are at most `width` apart; both in (0, 1).

    Raises `InputError` for a width that needs more than `MOST_CELLS` cells.
    """
    if not (0 <= value <= 1 and 0 < width < 1):
        raise InputError("a share or width is out of range", expected="a share from 0 to 1 and a width in between")

    def wide(n: NDArray[np.int64]) -> NDArray[np.bool_]:
        low, high = _limits(np.rint(value * n).astype(np.int64), n, confidence)
        return high - low > width

    most = next((2**power for power in range(18) if not wide(np.array([2**power]))[0]), None)
    if most is None:
        raise InputError(f"limits {width:.3%} apart need more than {MOST_CELLS:,} cells", remedy="Choose a larger width.")
    # the width is not monotonic, as value * n is rounded: the last number that is too wide counts
    tried = np.arange(max(1, most // 2), 4 * most)
    too_wide = tried[wide(tried)]
    return int(too_wide[-1]) + 1 if len(too_wide) else 1


def _limits(
    counts: NDArray[np.int64], totals: NDArray[np.int64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits by Clopper and Pearson of many counts at once, as quantiles of the beta distribution."""
    from scipy.special import betaincinv

    tail, rest = (1 - confidence) / 2, totals - counts
    low = betaincinv(np.maximum(counts, 1), rest + 1, tail)
    high = betaincinv(counts + 1, np.maximum(rest, 1), 1 - tail)
    return np.where(counts > 0, low, 0.0), np.where(rest > 0, high, 1.0)


def cells_to_see(value: float, *, confidence: float = CONFIDENCE) -> int:
    """Cells to count so that at least one of a type of the share `value` in (0, 1] is among them with `confidence`."""
    if not 0 < value <= 1:
        raise InputError("a share is out of range", expected="above 0, at most 1", got=str(value))
    return 1 if value == 1 else math.ceil(math.log(1 - confidence) / math.log(1 - value))
