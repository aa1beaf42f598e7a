"""Two counts compared: two readers, reader and program, or a slide and last week's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hemalens.errors import InputError
from hemalens.evaluation.significance import holm

Verdict = Literal["the same", "differs", "too few to tell"]


@dataclass(frozen=True, slots=True)
class TypeComparison:
    """One type in two counts: shares, the difference with its 95 % limits, p by Fisher's exact test, Holm-corrected."""

    code: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    verdict: Verdict


def compare_counts(
    first: Mapping[str, int], second: Mapping[str, int], *, tolerance: float = 0.05, level: float = 0.05
) -> list[TypeComparison]:
    """Compare two counts type by type.

    "differs" where the corrected p is below `level`; "the same" where the limits of the difference lie within
    `tolerance`, a share; "too few to tell" otherwise. Limits are Newcombe's (1998, method 10). Raises `InputError` for a
    count without cells.
    """
    from scipy.stats import fisher_exact

    totals = sum(first.values()), sum(second.values())
    if not all(totals):
        raise InputError("a count to compare has no cell", expected="at least one cell in each")
    codes = list(dict.fromkeys([*first, *second]))
    tables = [
        [[n.get(code, 0), total - n.get(code, 0)] for n, total in zip((first, second), totals, strict=True)]
        for code in codes
    ]
    corrected = holm([float(fisher_exact(table).pvalue) for table in tables])
    found = []
    for code, ((a, _), (b, _)), p in zip(codes, tables, corrected, strict=True):
        low, high = newcombe((a, totals[0]), (b, totals[1]))
        verdict: Verdict = (
            "differs" if p < level else "the same" if -tolerance < low and high < tolerance else "too few to tell"
        )
        shares = a / totals[0], b / totals[1]
        found.append(TypeComparison(code, *shares, shares[0] - shares[1], low, high, float(p), verdict))
    return found


def newcombe(first: tuple[int, int], second: tuple[int, int], *, confidence: float = 0.95) -> tuple[float, float]:
    """Limits of the difference of two shares, each (count, total), from their Wilson limits."""
    from scipy.stats import binomtest

    (a, n), (b, m) = first, second
    one, two = (binomtest(*each).proportion_ci(confidence, method="wilson") for each in (first, second))
    p, q = a / n, b / m
    low = p - q - float(np.hypot(p - one.low, two.high - q))
    high = p - q + float(np.hypot(one.high - p, q - two.low))
    return low, high
