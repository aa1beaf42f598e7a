"""Limits: published vectors, and the number of cells to count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from hemalens.differential.limits import cells_for_width, cells_to_see, share
from hemalens.errors import InputError


@pytest.mark.parametrize(
    ("count", "total", "low", "high"), [(115, 200, 50.3, 64.4), (8, 400, 0.9, 3.9), (0, 100, 0.0, 3.6)]
)
def test_the_tables_of_ruemke(count: int, total: int, low: float, high: float) -> None:
    found = share(count, total)
    assert (round(100 * found.low, 1), round(100 * found.high, 1)) == (low, high)


@given(st.integers(1, 500), st.data())
def test_limits_are_quantiles_of_beta(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    found = share(count, total)
    assert found.low == pytest.approx(beta.ppf(0.025, count, total - count + 1) if count else 0)
    assert found.high == pytest.approx(beta.ppf(0.975, count + 1, total - count) if count < total else 1)


def test_cells_to_see_one() -> None:
    assert [cells_to_see(p) for p in (0.01, 0.02, 0.05, 1)] == [299, 149, 59, 1]
    with pytest.raises(InputError):
        cells_to_see(0)


def test_the_width_is_reached_and_not_one_cell_earlier() -> None:
    n = cells_for_width(0.575, 0.14)
    wide = [share(round(0.575 * k), k) for k in (n - 1, n, n + 7)]
    assert wide[0].high - wide[0].low > 0.14
    assert all(each.high - each.low <= 0.14 for each in wide[1:])
    with pytest.raises(InputError, match="more than"):
        cells_for_width(0.5, 0.0001)


def test_no_cell() -> None:
    assert share(0, 0).percent == "no cell"
    with pytest.raises(InputError):
        share(3, 2)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Rümke's table as reprinted in textbooks of haematology: whole per cent
    [(1, 100, 0, 6), (5, 100, 1, 12), (10, 100, 4, 18), (50, 100, 39, 61), (20, 200, 6, 15), (50, 500, 7, 13)],
)
def test_whole_per_cent_of_the_printed_table(count: int, total: int, low: int, high: int) -> None:
    # the printed table rounds outwards or to the nearest per cent
    found = share(count, total)
    assert abs(100 * found.low - low) < 1
    assert abs(100 * found.high - high) < 1


@given(st.integers(1, 2000), st.data())
def test_limits_hold_the_estimate_and_ascend(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total - 1))
    found, further = share(count, total), share(count + 1, total)
    assert found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low <= further.low
    assert found.high <= further.high
    assert (found.low, found.high) == pytest.approx(
        (1 - share(total - count, total).high, 1 - share(total - count, total).low)
    )


@given(st.floats(0, 1), st.floats(0.02, 0.98))
def test_every_larger_number_is_narrow_enough(value: float, width: float) -> None:
    n = cells_for_width(value, width)
    for k in (n, n + 1, n + 2, n + 5, 2 * n):
        found = share(round(value * k), k)
        assert found.high - found.low <= width + 1e-12
    if n > 1:
        before = share(round(value * (n - 1)), n - 1)
        assert before.high - before.low > width - 1e-12


@pytest.mark.parametrize(("value", "width"), [(-0.1, 0.1), (1.1, 0.1), (float("nan"), 0.1), (0.5, 0), (0.5, 1)])
def test_no_width_or_share(value: float, width: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        cells_for_width(value, width)
