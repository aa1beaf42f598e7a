"""The differential: what enters the hundred, and the corrections."""

from __future__ import annotations

import pytest

from hemalens.differential.count import (
    CountRules,
    Interval,
    corrected_white_count,
    differential,
    platelets_by_field,
    platelets_by_ratio,
)
from hemalens.errors import InputError

COUNTS = {"neutrophil": 60, "lymphocyte": 30, "monocyte": 10, "erythroblast": 8, "smudge_cell": 4, "platelet": 50}


def test_nucleated_red_cells_stay_out_of_the_hundred() -> None:
    found = differential(COUNTS, CountRules(), white_count=17.4)
    assert (found.total, found.shares["neutrophil"].value) == (100, 0.6)
    assert found.per_100 == {"erythroblast": 8.0, "smudge_cell": 4.0}
    assert found.corrected_white_count == pytest.approx(16.111, abs=5e-4)
    assert found.absolute["lymphocyte"] == pytest.approx(0.3 * 17.4 / 1.08)
    assert corrected_white_count(17_400, 8) == pytest.approx(16_111, abs=0.2)


def test_few_nucleated_red_cells_correct_nothing() -> None:
    assert differential(COUNTS | {"erythroblast": 4}, CountRules(), white_count=17.4).corrected_white_count is None
    assert differential(COUNTS | {"erythroblast": 4}, CountRules(nucleated_red_cells_from=3), white_count=10).absolute


@pytest.mark.parametrize(
    ("rule", "total", "lymphocytes"), [("per 100", 100, 30), ("counted", 104, 30), ("as lymphocytes", 104, 34)]
)
def test_smudge_cells(rule: str, total: int, lymphocytes: int) -> None:
    found = differential(COUNTS, CountRules(smudge_cells=rule))  # type: ignore[arg-type]
    assert (found.total, found.shares["lymphocyte"].count) == (total, lymphocytes)


def test_flags_and_reference() -> None:
    rules = CountRules(flags={"blast": 0, "erythroblast": 1}, reference={"neutrophil": Interval(low=45, high=79)})
    assert differential(COUNTS | {"blast": 1}, rules).flags == (
        "blast 1.0 %, above 0 %",
        "erythroblast 7.9 %, above 1 %",
    )
    low = differential({"neutrophil": 20, "lymphocyte": 80}, rules).flags
    assert low == ("neutrophil 20.0 %, outside 45 to 79 %",)


def test_platelets() -> None:
    assert platelets_by_ratio(50, 1000, 4.5) == pytest.approx(225)
    assert platelets_by_ratio(5, 0, 4.5) is None
    assert platelets_by_field(150, 10, CountRules()) == 225


def test_bad_counts() -> None:
    with pytest.raises(InputError):
        differential({"neutrophil": -1}, CountRules())
    assert differential({}, CountRules()).shares == {}
