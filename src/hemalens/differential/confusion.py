"""The differential corrected for the model's own known confusion, with the uncertainty of both.

The predicted types of n cells are multinomial with probabilities M^T p, where p are the true shares and M the confusion
of the model, one row a true type. p is the maximum-likelihood estimate on the simplex, found by EM (Vardi & Lee 1993; with
one column a prediction the priors' EM of Saerens et al. 2002), so no share is negative as it is by inverting M. Limits
come from draws of M (Dirichlet, Jeffreys' prior) and of the predictions' shares: as in Clopper-Pearson's limits the lower
ones without a prior cell, the upper ones with one more cell of each type.

The correction assumes that the model errs on the slide as it does on the tested images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.differential.count import first_cells
from hemalens.differential.rules import CountRules
from hemalens.errors import InputError, public
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate, Evaluation, SlideResult

DRAWS = 500
"""Draws for each of the two limits."""
MOST_STEPS = 1000
SETTLED = 1e-7
PRIOR = 0.5
NOTHING = 5e-4
"""A lower limit below this is 0: EM approaches a share of 0 without reaching it."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Tested images by true type (rows, `tested`) and prediction (columns, `classes`), and where they were tested."""

    classes: tuple[str, ...]
    tested: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    source: str

    @classmethod
    def of(cls, evaluation: Evaluation) -> Confusion:
        """The confusion of an evaluation of a report."""
        where = f"{evaluation.target} ({formatting.counted(evaluation.n_images, 'image')})"
        return cls(evaluation.classes, evaluation.tested_classes, evaluation.confusion, where)

    def check_knows(self, codes: Iterable[str]) -> None:
        """Raise `InputError` for a predicted type that the test does not have: it is the test of another model."""
        unknown = sorted(set(codes) - set(self.classes))
        if unknown:
            raise InputError(
                f"the confusion of {self.source} knows no {unknown[0]}", expected="the report of the model that counts"
            )


@public
def adjusted_slide(
    slide: SlideResult, cells: Sequence[str], confusion: Confusion, rules: CountRules, *, seed: int = 0
) -> SlideResult:
    """The slide with shares corrected for the confusion beside its own; `cells` as they were given to `slide_result`.

    Raises `InputError` for a type of which no image was tested.
    """
    counted, _ = first_cells(cells, rules)
    confusion.check_knows(counted)
    white = [i for i, code in enumerate(confusion.tested) if rules.is_white_cell(code)]
    if not slide.total:
        return slide
    found = true_shares([counted[code] for code in confusion.classes], confusion, white, np.random.default_rng(seed))
    types = tuple(
        each if each.total_of else each.model_copy(update={"adjusted": found.get(each.code)}) for each in slide.types
    )
    return slide.model_copy(update={"types": types, "adjusted_by": confusion.source})


def true_shares(
    counts: Sequence[int], confusion: Confusion, among: Sequence[int], rng: np.random.Generator
) -> dict[str, Estimate]:
    """Shares of the tested types at the places `among`, among these, from `counts` of predictions by class."""
    seen, tested = np.asarray(counts, float), np.asarray(confusion.counts, float)
    missing = [code for code, n in zip(confusion.classes, counts, strict=True) if n and code not in confusion.tested]
    if missing:
        raise InputError(
            f"no {missing[0]} was tested on {confusion.source}, and the slide has some",
            expected="a test with every type that the slide may have",
        )
    value = _among(em(seen[None] / seen.sum(), (tested / tested.sum(axis=1, keepdims=True))[None]), among)[0]
    low = np.quantile(_among(_drawn(seen, tested, rng), among), 0.025, axis=0)
    high = np.quantile(_among(_drawn(seen + 1, tested, rng), among), 0.975, axis=0)
    low = np.where(low < NOTHING, 0.0, np.minimum(low, value))
    return {
        confusion.tested[i]: Estimate(value=float(value[j]), low=float(low[j]), high=float(max(high[j], value[j])))
        for j, i in enumerate(among)
    }


def _drawn(seen: NDArray[np.float64], tested: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws of the shares of the tested types, (DRAWS, t)."""
    matrices = rng.standard_gamma(np.broadcast_to(tested + PRIOR, (DRAWS, *tested.shape)))
    targets = rng.standard_gamma(np.broadcast_to(seen, (DRAWS, len(seen))))
    return em(targets / targets.sum(axis=1, keepdims=True), matrices / matrices.sum(axis=2, keepdims=True))


def _among(shares: NDArray[np.float64], among: Sequence[int]) -> NDArray[np.float64]:
    chosen = shares[:, list(among)]
    found: NDArray[np.float64] = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1e-12)
    return found


def em(targets: NDArray[np.float64], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum-likelihood shares (d, t) on the simplex of predictions' shares (d, c) under confusions (d, t, c)."""
    shares = np.full(matrices.shape[:2], 1 / matrices.shape[1])
    for _ in range(MOST_STEPS):
        expected = np.einsum("dt,dtc->dc", shares, matrices)
        ratio = np.divide(targets, expected, out=np.zeros_like(targets), where=expected > 0)
        step = shares * np.einsum("dtc,dc->dt", matrices, ratio)
        step /= np.maximum(step.sum(axis=1, keepdims=True), 1e-300)
        moved = float(np.abs(step - shares).max())
        shares = step
        if moved < SETTLED:
            break
    return shares
