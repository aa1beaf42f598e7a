"""Two counts compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency, fisher_exact, norm

from hemalens.differential.compare import cells_to_tell, compare_counts, homogeneity, newcombe, wilson
from hemalens.differential.rules import CountRules
from hemalens.errors import InputError
from hemalens.evaluation.results import CountComparison


def _compared(first: Mapping[str, int], second: Mapping[str, int], rules: CountRules | None = None) -> CountComparison:
    return compare_counts(first, second, rules or CountRules(), names=("a", "b"))


def test_verdicts() -> None:
    first = {"neutrophil": 1200, "lymphocyte": 800}
    for second, verdict in (
        ({"neutrophil": 1210, "lymphocyte": 790}, "the same"),
        ({"neutrophil": 900, "lymphocyte": 1100}, "differs"),
    ):
        found = _compared(first, second)
        assert {each.verdict for each in found.types} == {found.verdict} == {verdict}
    few = _compared({"neutrophil": 6, "lymphocyte": 4}, {"neutrophil": 5, "lymphocyte": 5})
    assert {each.verdict for each in few.types} == {few.verdict} == {"too few to tell"}
    assert few.cells_needed == max(each.cells_needed for each in few.types) > 10


def test_the_difference_that_matters_is_smaller_in_rare_types() -> None:
    first = {"neutrophil": 1600, "eosinophil": 100, "blast": 10, "monocyte": 290}
    found = {each.code: each.matters for each in _compared(first, first).types}
    assert found == {"neutrophil": 0.1, "eosinophil": 0.05, "blast": 0.02, "monocyte": 0.1}
    narrow = _compared(first, first, CountRules(tolerance=1)).types[0]
    assert (narrow.matters, narrow.verdict) == (0.01, "too few to tell")


def test_p_are_fishers_corrected_with_the_whole() -> None:
    found = _compared(
        {"neutrophil": 120, "lymphocyte": 60, "monocyte": 20}, {"neutrophil": 70, "lymphocyte": 20, "monocyte": 10}
    )
    alone = [fisher_exact([[a, 200 - a], [b, 100 - b]]).pvalue for a, b in ((120, 70), (60, 20), (20, 10))]
    whole = homogeneity([(120, 70), (60, 20), (20, 10)], np.random.default_rng(0))
    ordered, largest, expected = sorted([*alone, whole]), 0.0, {}
    for rank, p in enumerate(ordered):
        largest = max(largest, min(1.0, (4 - rank) * p))
        expected[p] = largest
    assert [each.p for each in found.types] == pytest.approx([expected[p] for p in alone])
    assert found.p == pytest.approx(expected[whole])


def test_the_test_of_the_whole_agrees_with_chi_square_in_large_counts() -> None:
    pairs = [(520, 480), (300, 350), (100, 90), (80, 80)]
    p = homogeneity(pairs, np.random.default_rng(0))
    assert p == pytest.approx(chi2_contingency(np.array(pairs)).pvalue, abs=0.015)
    assert homogeneity([(5, 7)], np.random.default_rng(0)) == 1


def test_a_type_that_one_count_lacks() -> None:
    found = {each.code: each for each in _compared({"monocyte": 100}, {"monocyte": 90, "blast": 10}).types}
    blast = found["blast"]
    assert (blast.first.value, blast.second.value, blast.verdict) == (0, 0.1, "differs")
    assert blast.first.high == pytest.approx(1 - 0.025 ** (1 / 100))


@pytest.mark.parametrize("empty", [{}, {"monocyte": 0}])
def test_a_count_without_cells(empty: dict[str, int]) -> None:
    with pytest.raises(InputError, match="'b' has no white cell"):
        _compared({"monocyte": 3}, empty)


def test_limits_of_the_published_example() -> None:
    # Newcombe 1998, table II, (a): 56/70 - 48/80, method 10
    low, high = newcombe((56, 70), (48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@given(st.integers(1, 400), st.data())
def test_wilson_is_scipys(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    expected = binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson(count, total)[1:] == pytest.approx((expected.low, expected.high), abs=1e-9)


TWO_COUNTS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(TWO_COUNTS)
def test_exchanging_the_counts_exchanges_the_result(pairs: list[tuple[int, int]]) -> None:
    codes = [f"t{i}" for i in range(len(pairs))]
    first, second = ({code: pair[i] for code, pair in zip(codes, pairs, strict=True)} for i in (0, 1))
    if not sum(first.values()) or not sum(second.values()):
        return
    one, two = _compared(first, second), _compared(second, first)
    for a, b in zip(one.types, two.types, strict=True):
        assert (a.first, a.second) == (b.second, b.first)
        assert (a.difference.low, a.difference.high) == pytest.approx((-(b.difference.high or 0), -(b.difference.low or 0)))
        assert a.difference.low - 1e-12 <= a.difference.value <= a.difference.high + 1e-12  # type: ignore[operator]
    assert sum(each.n_first for each in one.types) == one.n_first


def test_equal_counts_are_seldom_called_different() -> None:
    rng, shares = np.random.default_rng(2), [0.58, 0.3, 0.07, 0.03, 0.02]
    codes = [f"t{i}" for i in range(5)]
    verdicts = [
        _compared(*(dict(zip(codes, rng.multinomial(n, shares).tolist(), strict=True)) for n in (400, 100))).verdict
        for _ in range(120)
    ]
    # binomial: more than 13 of 120 at 0.05 has a probability below 0.01
    assert verdicts.count("differs") <= 13


def test_cells_to_tell_reach_the_power() -> None:
    n = cells_to_tell(0.5, 0.1)
    # the power of the normal test of two shares 0.45 and 0.55 of n cells each
    power = norm.cdf(0.1 / np.sqrt(2 * 0.25 / n) - norm.ppf(0.975))
    assert power == pytest.approx(0.8, abs=0.01)
    assert cells_to_tell(0.5, 0.1, n_tests=6) > n


def test_a_count_beyond_a_million_is_refused() -> None:
    with pytest.raises(InputError, match="the count 'b' is too large"):
        compare_counts({"neutrophil": 60}, {"neutrophil": 600_000_000_000}, CountRules(), names=("a", "b"))
