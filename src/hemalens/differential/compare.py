"""Two counts compared: two readers, reader and program, or a slide and last week's.

Each type is tested by Fisher's exact test, the whole differential by an exact test of homogeneity (chi-square over tables
with the same margins, drawn at random); all p are corrected by Holm. Limits of a difference are Newcombe's (1998, method
10). CLSI H20-A2 compares a count of 100 cells with the reference of two readers of 200 cells each: add the readers' cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hemalens.differential.limits import share
from hemalens.differential.rules import CountRules
from hemalens.errors import InputError, check_seed, public
from hemalens.evaluation.results import Estimate
from hemalens.evaluation.results.slides import CountComparison, TypeDifference, Verdict
from hemalens.evaluation.significance import holm

LEVEL = 0.05
RARE_TOLERANCE = 0.02
"""The smallest difference in shares that matters, also in a rare type."""
DRAWS = 9_999
POWER = 0.8
MOST_CELLS = 1_000_000
"""White cells of a count at most: more are in another unit, and take long to test."""
Z = 1.959963984540054


@public
def compare_counts(
    first: Mapping[str, int], second: Mapping[str, int], rules: CountRules, *, names: tuple[str, str], seed: int = 0
) -> CountComparison:
    """Compare the white cells of two counts type by type.

    "differs" where the corrected p is below 0.05; "the same" where the limits of the difference lie within the difference
    that matters; "too few to tell" otherwise. The difference that matters is the tolerance of the rules; in a type rarer
    than this it is the share itself, at least 2 points. Raises `InputError` for a count without a white cell, or one
    above a million.
    """
    check_seed(seed)
    totals = sum(first.values()), sum(second.values())
    for name, total in zip(names, totals, strict=True):
        if not total:
            raise InputError(f"the count {name!r} has no white cell", expected="at least one white cell in each count")
        if total > MOST_CELLS:
            raise InputError(f"the count {name!r} is too large", expected=f"at most {MOST_CELLS:,} cells", got=f"{total:,}")
    codes = [code for code in dict.fromkeys([*first, *second]) if first.get(code, 0) or second.get(code, 0)]
    pairs = [(first.get(code, 0), second.get(code, 0)) for code in codes]
    alone = [_fisher(a, totals[0], b, totals[1]) for a, b in pairs]
    *corrected, whole = holm([*alone, homogeneity(pairs, np.random.default_rng(seed))])
    tolerance, n_tests = rules.tolerance / 100, len(codes) + 1
    types = tuple(
        _compared(code, pair, totals, p=p, tolerance=tolerance, n_tests=n_tests)
        for code, pair, p in zip(codes, pairs, corrected, strict=True)
    )
    found = {each.verdict for each in types}
    verdict: Verdict = "too few to tell"
    if "differs" in found or whole < LEVEL:
        verdict = "differs"
    elif found == {"the same"}:
        verdict = "the same"
    return CountComparison(
        first=names[0],
        second=names[1],
        n_first=totals[0],
        n_second=totals[1],
        types=types,
        p=whole,
        verdict=verdict,
        cells_needed=max((each.cells_needed for each in types), default=0) if verdict == "too few to tell" else 0,
        tolerance=rules.tolerance,
    )


def _compared(
    code: str, pair: tuple[int, int], totals: tuple[int, int], *, p: float, tolerance: float, n_tests: int
) -> TypeDifference:
    low, high = newcombe((pair[0], totals[0]), (pair[1], totals[1]))
    pooled = sum(pair) / sum(totals)
    matters = min(tolerance, max(RARE_TOLERANCE, pooled))
    inside = -matters < low and high < matters
    verdict: Verdict = "differs" if p < LEVEL else "the same" if inside else "too few to tell"
    one, two = share(pair[0], totals[0]), share(pair[1], totals[1])
    return TypeDifference(
        code=code,
        n_first=pair[0],
        n_second=pair[1],
        first=Estimate(value=one.value, low=one.low, high=one.high),
        second=Estimate(value=two.value, low=two.low, high=two.high),
        difference=Estimate(value=pair[0] / totals[0] - pair[1] / totals[1], low=low, high=high),
        matters=matters,
        p=p,
        verdict=verdict,
        cells_needed=cells_to_tell(pooled, matters, n_tests) if verdict == "too few to tell" else 0,
    )


def cells_to_tell(value: float, difference: float, n_tests: int = 1) -> int:
    """Cells in each of two counts at which a `difference` around a share `value` is found with 80 % probability.

    Normal approximation, at 0.05 over the number of tests.
    """
    from scipy.special import ndtri

    quantiles = float(ndtri(1 - LEVEL / (2 * n_tests)) + ndtri(POWER))
    return math.ceil(2 * value * (1 - value) * (quantiles / difference) ** 2)


def _fisher(a: int, n: int, b: int, m: int) -> float:
    from scipy.stats import fisher_exact

    return min(1.0, float(fisher_exact([[a, n - a], [b, m - b]]).pvalue))


def homogeneity(pairs: Sequence[tuple[int, int]], rng: np.random.Generator) -> float:
    """p that two counts come from one differential: chi-square over random tables with the same margins."""
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    margins = table.sum(axis=1)
    n = int(table[:, 0].sum())
    drawn = rng.multivariate_hypergeometric(margins, n, size=DRAWS, method="marginals")
    observed, simulated = _chi_square(table[None, :, 0], margins, n)[0], _chi_square(drawn, margins, n)
    return float((1 + (simulated >= observed - 1e-9).sum()) / (1 + DRAWS))


def _chi_square(firsts: NDArray[np.int64], margins: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Chi-square of tables with these margins by their first columns (d, t)."""
    expected = margins * (n / margins.sum())
    other = margins - expected
    squares = (firsts - expected) ** 2
    found: NDArray[np.float64] = (squares / expected + squares / other).sum(axis=1)
    return found


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """95 % limits of the difference of two shares, each (count, total), from their Wilson limits."""
    (p, p_low, p_high), (q, q_low, q_high) = wilson(*first), wilson(*second)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def wilson(count: int, total: int) -> tuple[float, float, float]:
    """A share with its limits by Wilson (1927)."""
    p = count / total
    centre = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    return p, max(0.0, centre - half), min(1.0, centre + half)
