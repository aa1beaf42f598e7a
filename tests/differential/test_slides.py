"""The result of a slide."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import beta

from hemalens.differential.rules import CountRules, Flag, Interval
from hemalens.differential.slides import Analyser, InFields, slide_result
from hemalens.errors import InputError
from hemalens.evaluation.results import SlideResult

CELLS = ["neutrophil"] * 115 + ["lymphocyte"] * 85 + ["erythroblast"] * 16


def _by_code(result: SlideResult) -> dict[str, Any]:
    return {each.code: each for each in result.types}


def test_a_slide_of_two_hundred() -> None:
    fields, analyser = InFields(n_fields=40, red_cells=8000, platelets=400), Analyser(white_count=17.4, red_count=4.5)
    made = slide_result("slide 7", CELLS, fields=fields, analyser=analyser, not_counted={"cut by the border": 3})
    first = made.types[0]
    assert (made.name, made.total, first.code, first.count, first.share.value) == ("slide 7", 200, "neutrophil", 115, 0.575)
    assert first.share.low == pytest.approx(beta.ppf(0.025, 115, 86))
    assert first.share.high == pytest.approx(beta.ppf(0.975, 116, 85))
    assert made.corrected_white_count == pytest.approx(17.4 / 1.08)
    assert first.absolute is not None
    assert first.absolute.low == pytest.approx(17.4 / 1.08 * first.share.low)
    assert (made.platelets_by_ratio, made.platelets_by_field) == (225, 150)
    assert {each.goal: each.cells for each in made.needed}["400 white cells"] == 200
    assert made.to_see_one == {"1": 299, "2": 149, "5": 59}
    assert made.not_counted == {"cut by the border": 3}
    assert SlideResult.model_validate_json(made.model_dump_json()) == made


def test_the_target_counts_the_first_cells() -> None:
    made = slide_result("a", ["monocyte"] * 60 + CELLS, CountRules(target=100))
    assert (made.total, made.n_beyond, made.target) == (100, 160, 100)
    assert {code: each.count for code, each in _by_code(made).items()} == {"monocyte": 60, "neutrophil": 40}
    assert made.beside[0].count == 0


def test_classes_without_a_cell_have_limits() -> None:
    made = slide_result("a", ["neutrophil"] * 70, CountRules(), classes=["blast", "neutrophil", "erythroblast"])
    blast = _by_code(made)["blast"]
    assert (blast.count, blast.share.low) == (0, 0)
    assert blast.share.high == pytest.approx(1 - 0.025 ** (1 / 70))
    # the model knows no lymphocyte: that none is found says nothing
    assert [flag.partition(":")[0] for flag in made.flags] == ["neutrophil high"]


def test_flags_count_subtypes_and_own_thresholds() -> None:
    made = slide_result("a", ["neutrophil"] * 199 + ["myeloblast"])
    assert made.flags[0].startswith("blasts: 1 cell, 0.5 %")
    assert _by_code(made)["myeloblast"].flagged
    assert not _by_code(made)["neutrophil"].flagged
    rules = CountRules(flags={"many blasts": Flag(types=["blast"], above=0.5)}, reference={})
    assert slide_result("a", ["neutrophil"] * 199 + ["myeloblast"], rules).flags == ()
    beside = slide_result("a", CELLS).flags
    assert any("8.0 per 100 white cells; flagged at 1 per 100 or more" in flag for flag in beside)


def test_outside_the_interval_only_where_the_limits_are() -> None:
    rules = CountRules(reference={"neutrophil": Interval(low=45, high=50)}, flags={})
    found = [
        _by_code(slide_result("a", ["neutrophil"] * n + ["monocyte"] * (100 - n), rules))["neutrophil"].reference.found
        for n in (20, 40, 47, 55, 70)
    ]
    assert found == ["low", "within", "within", "within", "high"]


def test_the_interval_of_all_neutrophils_is_none_of_a_part() -> None:
    made = slide_result("a", ["neutrophil"] * 5 + ["segmented_neutrophil"] * 80 + ["band_neutrophil"] * 15)
    own = [each for each in made.types if not each.total_of]
    (total,) = [each for each in made.types if each.total_of]
    assert sum(each.count for each in own) == made.total == 100
    assert (total.code, total.count, total.reference.found) == ("neutrophil", 100, "high")  # type: ignore[union-attr]
    assert {each.code: each.reference is None for each in own} == {
        "segmented_neutrophil": True,
        "band_neutrophil": False,
        "neutrophil": True,
    }


@pytest.mark.parametrize(
    ("cells", "rules", "words"),
    [
        ([], CountRules(), "No white cell"),
        (["smudge_cell"] * 9, CountRules(), "No white cell"),
        (["neutrophil"] * 12, CountRules(), "Only 12 white cells of 100"),
        (["neutrophil"] * 100, CountRules(target=200), "Only 100 white cells of 200"),
        (["neutrophil"] * 60 + ["lymphocyte"] * 40, CountRules(), "No flag"),
        (["blast"] * 100, CountRules(reference={}), "1 flag: a morphologist"),
    ],
)
def test_the_decision(cells: list[str], rules: CountRules, words: str) -> None:
    assert slide_result("a", cells, rules).decision.startswith(words)


def test_cells_needed_for_the_width_are_enough() -> None:
    made = slide_result("a", CELLS, CountRules(width=10))
    more = next(each.cells for each in made.needed if "10 points apart" in each.goal)
    n = 200 + more
    k = round(0.575 * n)
    assert beta.ppf(0.975, k + 1, n - k) - beta.ppf(0.025, k, n - k + 1) <= 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": InFields(red_cells=-1)},
        {"fields": InFields(n_fields=1.5)},  # type: ignore[arg-type]
        {"analyser": Analyser(white_count=float("nan"))},
        {"analyser": Analyser(red_count=-4.0)},
        {"not_counted": {"doubtful": -2}},
    ],
)
def test_bad_input(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="wrong"):
        slide_result("a", CELLS, **wrong)


@pytest.mark.parametrize("cells", ["neutrophil", {"neutrophil": 3}])
def test_cells_are_a_list(cells: Any) -> None:
    with pytest.raises(InputError, match="list"):
        slide_result("a", cells)
