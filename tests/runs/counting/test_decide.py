"""What counts and what does not, and what is doubtful."""

from __future__ import annotations

import pytest

from hemalens.differential.rules import CountRules
from hemalens.imaging.boxes import RED, WHITE
from hemalens.runs.counting.decide import decide, doubt, is_counted_type, limits_of, mark_beyond_target
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.slides import SlideField

RULES = CountRules()


def _cell(label: str | None = "neutrophil", kind: int = WHITE, **more: object) -> FoundCell:
    cell = FoundCell(0, kind, (10, 10, 30, 30), 0.9, False, False, cell_found="found", label=label, probability=0.9)
    for name, value in more.items():
        setattr(cell, name, value)
    return cell


def _decided(*cells: FoundCell, rules: CountRules = RULES) -> list[str]:
    found = FoundField(SlideField(None, "f", "f"), list(cells))  # type: ignore[arg-type]
    decide(found, rules)
    mark_beyond_target([found], rules)
    return [cell.reason for cell in found.cells]


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        *(("neutrophil", True), ("myeloblast", True), ("leukocyte", True)),
        *(("erythroblast", True), ("proerythroblast", True), ("smudge_cell", True)),
        *(("platelet", False), ("giant_platelet", False), ("erythrocyte", False), ("artefact", False)),
    ],
)
def test_types_that_count(code: str, counts: bool) -> None:
    assert is_counted_type(code, RULES) is counts
    assert _decided(_cell(code)) == ["" if counts else f"no leukocyte: {code.replace('_', ' ')}"]


def test_a_reason_that_a_cell_has_stays() -> None:
    assert _decided(_cell("platelet", reason="copy of a")) == ["copy of a"]


def test_the_border_and_missing_predictions() -> None:
    cells = _cell(at_border=True), _cell(None, kind=RED, at_border=True), _cell(None, error="the graph gives NaN")
    assert _decided(*cells) == [
        "cut by the right or bottom border",
        "cut by the right or bottom border",
        "not classified: the graph gives NaN",
    ]


def test_a_target_of_white_cells_leaves_others_out_of_it() -> None:
    cells = [_cell(code) for code in ("neutrophil", "erythroblast", "lymphocyte", "neutrophil", "erythroblast")]
    assert _decided(*cells, rules=CountRules(target=2)) == ["", "", "", *["beyond the target of 2"] * 2]


def test_less_sure_cells_are_more_doubtful() -> None:
    order = [
        _cell(probability=0.99, typicality=0.5, prediction_set=("neutrophil",)),
        _cell(probability=0.6, typicality=0.5, prediction_set=("neutrophil",)),
        _cell(probability=0.6, typicality=0.01, prediction_set=("neutrophil",)),
        _cell(probability=0.6, typicality=0.01, prediction_set=("neutrophil", "monocyte")),
        _cell(probability=0.6, typicality=0.01, prediction_set=(), cell_found="several"),
    ]
    doubts = [doubt(cell) for cell in order]
    assert doubts == sorted(set(doubts))
    assert all(0 <= each <= 1 for each in doubts)


def test_what_a_bundle_cannot_separate() -> None:
    assert limits_of(["neutrophil", "proerythroblast", "smudge_cell"]) == []
    assert "nucleated red cells:" in limits_of(["neutrophil", "smudge_cell"])[0]
    assert "nucleated red cells and smudge cells" in limits_of(["neutrophil"])[0]
