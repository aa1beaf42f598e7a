"""Two counts compared."""

from __future__ import annotations

import pytest

from hemalens.differential.compare import compare_counts, newcombe
from hemalens.errors import InputError


def test_verdicts() -> None:
    first = {"neutrophil": 1200, "lymphocyte": 800}
    assert {each.verdict for each in compare_counts(first, {"neutrophil": 1210, "lymphocyte": 790})} == {"the same"}
    assert {each.verdict for each in compare_counts(first, {"neutrophil": 900, "lymphocyte": 1100})} == {"differs"}
    assert {each.verdict for each in compare_counts({"a": 6, "b": 4}, {"a": 5, "b": 5})} == {"too few to tell"}


def test_a_type_that_one_count_lacks() -> None:
    found = {each.code: each for each in compare_counts({"a": 100}, {"a": 90, "blast": 10})}
    assert (found["blast"].first, found["blast"].second, found["blast"].verdict) == (0, 0.1, "differs")
    with pytest.raises(InputError):
        compare_counts({}, {"a": 1})


def test_limits_of_the_published_example() -> None:
    # Newcombe 1998, table II, (a): 56/70 - 48/80, method 10
    low, high = newcombe((56, 70), (48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
