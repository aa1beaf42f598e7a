"""A count of which a part was reviewed, drawn at random: the program's share, corrected by the reviewed cells.

The estimate is that of prediction-powered inference for a mean (Angelopoulos et al., Science 382, 2023), where the
reviewed cells are among the counted ones: the program's share of all cells plus the mean correction of the reviewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import InputError

DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class ReviewedShare:
    """A type's share: the estimate with its limits, the program's own share, and how many cells were reviewed."""

    code: str
    value: float
    low: float
    high: float
    program: float
    n_reviewed: int


def reviewed_share(
    code: str,
    predicted: Sequence[str],
    reviewed: Sequence[str | None],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> ReviewedShare:
    """The share of `code` in the blood, from predictions and the reviewer's labels, None where a cell was not reviewed.

    The reviewed cells must be drawn at random. Limits hold for types without an error among the reviewed too: the share
    of right answers among the unreviewed cells that the program calls `code`, and of misses among the others, are drawn
    from their posterior (Jeffreys), then the blood's share from that of the slide. Raises `InputError` without a reviewed
    cell.
    """
    calls = np.array([label == code for label in predicted])
    known = np.array([label is not None for label in reviewed])
    truth = np.array([label == code for label in reviewed])
    if len(calls) != len(known) or not known.any():
        raise InputError("no reviewed cell", expected="labels of cells drawn at random", got=f"{int(known.sum())}")
    value = float(calls.mean() + (truth[known].astype(float) - calls[known]).mean())
    draws = _true_counts(calls, known, truth, np.random.default_rng(seed))
    shares = np.random.default_rng(seed + 1).beta(draws + 0.5, len(calls) - draws + 0.5)
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    value = min(max(value, 0.0), 1.0)
    return ReviewedShare(
        code, value, min(float(low), value), max(float(high), value), float(calls.mean()), int(known.sum())
    )


def _true_counts(
    calls: NDArray[np.bool_], known: NDArray[np.bool_], truth: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draws of the number of cells of the type on the slide, (DRAWS,)."""
    total = np.full(DRAWS, float(truth[known].sum()))
    for called in (True, False):
        stratum = calls == called
        right, seen = int(truth[stratum & known].sum()), int((stratum & known).sum())
        share = rng.beta(right + 0.5, seen - right + 0.5, DRAWS)
        total += rng.binomial(int((stratum & ~known).sum()), share)
    return total
