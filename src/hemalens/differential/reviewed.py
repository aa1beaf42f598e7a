"""A count of which a part was reviewed, drawn at random: the program's share, corrected by the reviewed cells.

The estimate is that of prediction-powered inference for a mean (Angelopoulos et al., Science 382, 2023), where the
reviewed cells are among the counted ones: the program's share of all cells plus the mean correction of the reviewed. With
few reviewed cells its normal limits are too narrow, and they vanish where no reviewed cell was wrong; the limits here are
drawn from the posterior of each stratum instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.differential.limits import share
from hemalens.differential.rules import CountRules
from hemalens.errors import InputError, check_seed, public
from hemalens.evaluation.results import CountedType, Estimate, SlideResult

DRAWS = 10_000
PRIOR = 0.5
"""Jeffreys' prior of a share in a stratum."""


@dataclass(frozen=True, slots=True)
class ReviewedShare:
    """A type's share of white cells: the estimate with its limits, the program's own share, and cells reviewed."""

    code: str
    value: float
    low: float
    high: float
    program: float
    n_reviewed: int


def draw_for_review(n_cells: int, n: int, *, seed: int = 0) -> list[int]:
    """`n` of the cells 0 to `n_cells` - 1, drawn at random without replacement, ascending; the same for one seed."""
    check_seed(seed)
    if not 1 <= n <= n_cells:
        raise InputError("the cells to review cannot be drawn", expected=f"1 to {n_cells} cells", got=str(n))
    return sorted(np.random.default_rng(seed).permutation(n_cells)[:n].tolist())


def reviewed_share(
    code: str,
    predicted: Sequence[str],
    reviewed: Sequence[str | None],
    rules: CountRules,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> ReviewedShare:
    """The share of `code` among white cells in the blood, from predictions and the reviewer's labels.

    `predicted` are the cells that the program counted as white; `reviewed` has None where a cell was not reviewed. The
    reviewed cells must be drawn at random. A cell that the reviewer calls no white cell leaves the count. Limits hold for
    types without an error among the reviewed too: what the reviewer would say of the other cells is drawn apart for those
    that the program calls `code` and for the rest, then the blood's share from that of the slide. Raises `InputError`
    without a reviewed cell.
    """
    calls = np.array([label == code for label in predicted], bool)
    known = np.array([label is not None for label in reviewed], bool)
    if len(calls) != len(known) or not known.any():
        raise InputError("no reviewed cell", expected="labels of cells drawn at random", got=f"{int(known.sum())}")
    # 0: of the type, 1: another white cell, 2: no white cell
    truth = np.array([_outcome(label, code, rules) for label in reviewed])
    correction = float((truth[known] == 0).mean() - calls[known].mean())
    white = 1 - float((truth[known] == 2).mean())
    value = min(max((calls.mean() + correction) / white, 0.0), 1.0) if white else 0.0
    rng = np.random.default_rng(seed)
    of_type, others = _true_counts(calls, known, truth, rng)
    shares = rng.beta(of_type + PRIOR, others + PRIOR)
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    if not calls.any() and not (truth[known] == 0).any():
        low = 0.0
    return ReviewedShare(
        code, value, min(float(low), value), max(float(high), value), float(calls.mean()), int(known.sum())
    )


def _outcome(label: str | None, code: str, rules: CountRules) -> int:
    if label is None:
        return -1
    return 0 if label == code else 1 if rules.is_white_cell(label) else 2


def _true_counts(
    calls: NDArray[np.bool_], known: NDArray[np.bool_], truth: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws of the numbers of cells of the type and of other white cells on the slide, (DRAWS,) each."""
    n_outcomes = 3 if (truth[known] == 2).any() else 2
    totals = np.tile(np.bincount(truth[known], minlength=3)[:n_outcomes].astype(float), (DRAWS, 1))
    for called in (True, False):
        stratum = calls == called
        seen = np.bincount(truth[stratum & known], minlength=3)[:n_outcomes]
        drawn = rng.standard_gamma(np.broadcast_to(seen + PRIOR, (DRAWS, n_outcomes)))
        shares = drawn / drawn.sum(axis=1, keepdims=True)
        totals += rng.multinomial(int((stratum & ~known).sum()), shares)
    return totals[:, 0], totals[:, 1]


@public
def reviewed_slide(
    slide: SlideResult, predicted: Sequence[str], reviewed: Sequence[str | None], rules: CountRules, *, seed: int = 0
) -> SlideResult:
    """The slide with shares corrected by reviewed cells beside its own; `predicted` and `reviewed` in one order.

    Cells that the program did not count as white are left out. Types that only the reviewer found are added.
    """
    if len(predicted) != len(reviewed):
        raise InputError("as many labels as cells are needed", expected=str(len(predicted)), got=str(len(reviewed)))
    pairs = [(p, r) for p, r in zip(predicted, reviewed, strict=True) if rules.is_white_cell(p)]
    calls, labels = [p for p, _ in pairs], [r for _, r in pairs]
    found: dict[str, Estimate] = {}
    own = [each.code for each in slide.types if not each.total_of]
    new = sorted({label for label in labels if label is not None and rules.is_white_cell(label)} - set(own))
    for code in (*own, *new):
        each = reviewed_share(code, calls, labels, rules, seed=seed)
        found[code] = Estimate(value=each.value, low=each.low, high=each.high)
    shown = [each for each in slide.types if not each.total_of]
    sums = [each for each in slide.types if each.total_of]
    shown += [_not_counted(code, slide) for code in new]
    types = (*(each.model_copy(update={"reviewed": found[each.code]}) for each in shown), *sums)
    n_reviewed = sum(label is not None for label in labels)
    return slide.model_copy(update={"types": types, "n_reviewed": n_reviewed})


def _not_counted(code: str, slide: SlideResult) -> CountedType:
    """A type of which the program counted no cell on the slide."""
    none = share(0, slide.total)
    count = slide.white_count if slide.corrected_white_count is None else slide.corrected_white_count
    absolute = None if count is None else Estimate(value=0.0, low=0.0, high=count * none.high)
    return CountedType(
        code=code, count=0, share=Estimate(value=none.value, low=none.low, high=none.high), absolute=absolute
    )
