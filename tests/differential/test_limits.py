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
