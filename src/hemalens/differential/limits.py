"""Exact limits of a share, and how many cells must be counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hemalens.errors import InputError
from hemalens.evaluation.metrics import exact_interval

CONFIDENCE = 0.95
MOST_CELLS = 100_000
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
    low, high = exact_interval(count, total, confidence=confidence)
    return Share(count, total, count / total if total else None, low, high)


def cells_for_width(value: float, width: float, *, confidence: float = CONFIDENCE) -> int:
    """The fewest cells whose limits around the share `value` are at most `width` apart; both in (0, 1).

    Raises `InputError` for a width that needs more than `MOST_CELLS` cells.
    """
    if not (0 <= value <= 1 and 0 < width < 1):
        raise InputError("a share or width is out of range", expected="a share from 0 to 1 and a width in between")

    def wide(n: int) -> bool:
        low, high = exact_interval(round(value * n), n, confidence=confidence)
        return high - low > width

    if wide(MOST_CELLS):
        raise InputError(f"limits {width:.3%} apart need more than {MOST_CELLS:,} cells", remedy="Choose a larger width.")
    most = 1
    while wide(most):
        most *= 2
    # the width is not monotonic where value * n is rounded: the last number that is too wide counts
    return next((n + 1 for n in range(most, 0, -1) if wide(n)), 1)


def cells_to_see(value: float, *, confidence: float = CONFIDENCE) -> int:
    """Cells to count so that at least one of a type of the share `value` in (0, 1] is among them with `confidence`."""
    if not 0 < value <= 1:
        raise InputError("a share is out of range", expected="above 0, at most 1", got=str(value))
    return 1 if value == 1 else math.ceil(math.log(1 - confidence) / math.log(1 - value))
