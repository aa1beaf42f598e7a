"""The differential: what enters the hundred, and the corrections."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.differential.count import (
    corrected_white_count,
    differential,
    first_cells,
    platelets_by_field,
    platelets_by_ratio,
    to_see_one,
)
from hemalens.differential.rules import CountRules
from hemalens.errors import InputError

COUNTS = {"neutrophil": 60, "lymphocyte": 30, "monocyte": 10, "erythroblast": 8, "smudge_cell": 4, "platelet": 50}
TYPES = ("neutrophil", "lymphocyte", "blast", "erythroblast", "proerythroblast", "smudge_cell", "artefact", "of_my_own")


def test_nucleated_red_cells_stay_out_of_the_hundred() -> None:
    found = differential(COUNTS, CountRules(), white_count=17.4)
    assert (found.total, found.shares["neutrophil"].value) == (100, 0.6)
    assert found.per_100 == {"erythroblast": 8.0, "smudge_cell": 4.0}
    assert found.corrected_white_count == pytest.approx(16.111, abs=5e-4)
    assert found.absolute["lymphocyte"] == pytest.approx(0.3 * 17.4 / 1.08)
    assert found.not_counted == {"platelet": 50}
    assert corrected_white_count(17_400, 8) == pytest.approx(16_111, abs=0.2)


def test_a_proerythroblast_is_a_nucleated_red_cell() -> None:
    found = differential({"neutrophil": 50, "proerythroblast": 3, "erythroblast": 2}, CountRules())
    assert (found.total, found.beside["erythroblast"], found.per_100["erythroblast"]) == (50, 5, 10.0)


def test_few_nucleated_red_cells_correct_nothing() -> None:
    assert differential(COUNTS | {"erythroblast": 4}, CountRules(), white_count=17.4).corrected_white_count is None
    assert differential(COUNTS | {"erythroblast": 5}, CountRules(), white_count=21.0).corrected_white_count == 20.0
    lower = differential(COUNTS | {"erythroblast": 4}, CountRules(nucleated_red_cells_from=3), white_count=10.4)
    assert lower.corrected_white_count == 10.0
    none = differential({"neutrophil": 9}, CountRules(nucleated_red_cells_from=0), white_count=10.4)
    assert none.corrected_white_count is None


@pytest.mark.parametrize(
    ("rule", "total", "lymphocytes"), [("per 100", 100, 30), ("counted", 104, 30), ("as lymphocytes", 104, 34)]
)
def test_smudge_cells(rule: Any, total: int, lymphocytes: int) -> None:
    found = differential(COUNTS, CountRules(smudge_cells=rule))
    assert (found.total, found.shares["lymphocyte"].count) == (total, lymphocytes)
    assert ("smudge_cell" in found.beside) is (rule == "per 100")


@pytest.mark.parametrize("only", ["smudge_cell", "erythroblast", "platelet"])
def test_a_slide_without_white_cells_has_no_shares(only: str) -> None:
    found = differential({only: 7}, CountRules(), white_count=3.0)
    assert (found.total, found.shares, found.per_100, found.absolute, found.smallest_share) == (0, {}, {}, {}, None)


@given(st.lists(st.sampled_from(TYPES)), st.sampled_from(["per 100", "counted", "as lymphocytes"]))
def test_every_cell_is_somewhere_once(cells: list[str], smudge: Any) -> None:
    rules = CountRules(smudge_cells=smudge)
    counts, beyond = first_cells(cells, rules)
    found = differential(counts, rules)
    assert beyond == 0
    assert found.total + sum(found.beside.values()) + sum(found.not_counted.values()) == len(cells)
    assert sum(int(each.count) for each in found.shares.values()) == found.total
    assert found == differential(first_cells(sorted(cells), rules)[0], rules)


@given(st.lists(st.sampled_from(TYPES)), st.integers(1, 12))
def test_the_first_white_cells_are_counted(cells: list[str], target: int) -> None:
    rules = CountRules(target=target)
    counts, beyond = first_cells(cells, rules)
    n_white = sum(map(rules.is_white_cell, cells))
    assert differential(counts, rules).total == min(target, n_white)
    assert beyond == max(0, n_white - target)


def test_types_together() -> None:
    found = differential({"band_neutrophil": 3, "segmented_neutrophil": 5, "myeloblast": 2}, CountRules())
    assert found.together(["neutrophil"]).count == 8
    assert found.together(["blast", "band_neutrophil"]).count == 5
    assert found.together(["monocyte"]).high == pytest.approx(0.3085, abs=1e-4)


def test_platelets() -> None:
    assert platelets_by_ratio(50, 1000, 4.5) == pytest.approx(225)
    assert platelets_by_ratio(5, 0, 4.5) is None
    assert platelets_by_field(150, 10, CountRules()) == 225
    assert platelets_by_field(150, 10, CountRules(platelets_per_field=20_000)) == 300
    assert platelets_by_field(150, 0, CountRules()) is None


def test_cells_to_see_one() -> None:
    assert to_see_one() == {1: 299, 2: 149, 5: 59}
    assert differential({"neutrophil": 299}, CountRules()).smallest_share == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("n", [-1, 1.5, float("nan"), float("inf"), True, "7", None])
def test_bad_counts(n: Any) -> None:
    with pytest.raises(InputError, match="neutrophil"):
        differential({"neutrophil": n}, CountRules())


@pytest.mark.parametrize("count", [-0.1, float("nan"), float("inf"), "7"])
def test_a_bad_white_count(count: Any) -> None:
    with pytest.raises(InputError, match="white count"):
        differential(COUNTS, CountRules(), white_count=count)
