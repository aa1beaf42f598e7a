"""A count corrected by reviewed cells, from the folder of the count alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from command import Command
from hemalens.differential.reviewed import reviewed_share
from hemalens.differential.rules import CountRules
from hemalens.differential.slides import slide_result
from hemalens.errors import HemalensError
from hemalens.report import read_report, write_report
from hemalens.report.compose import Results, make_report
from hemalens.runs.counting.rows import CELL_COLUMNS
from hemalens.runs.reviewed import apply_review

TYPES = ("neutrophil", "neutrophil", "lymphocyte", "monocyte")
SLIDES = ("a", "=b")
N = 20


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """A count of two slides with 20 cells each, and cells that do not count."""
    folder = tmp_path / "count"
    folder.mkdir()
    made = [slide_result(slide, [TYPES[i % 4] for i in range(N)]) for slide in SLIDES]
    methods = {"count": {"rules": CountRules().model_dump(mode="json")}}
    write_report(make_report("count", "count", Results(slides=made), data=[], methods=methods, seed=0), folder)
    _write(folder / "cells.csv", [_row(slide, i) for slide in SLIDES for i in range(N)] + [_row("a", 98, counted="False")])
    return folder


def _row(slide: str, i: int, **more: str) -> dict[str, str]:
    box = {"x_min": f"{10.0 * i}", "y_min": "5.0", "x_max": f"{10.0 * i + 7.5}", "y_max": "12.0"}
    shown = "'" + slide if slide.startswith("=") else slide
    return {"slide": shown, "field": "f.png", **box, "kind": "white cell", "type": TYPES[i % 4], "counted": "True", **more}


def _write(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = CELL_COLUMNS) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)
    return path


def _sheet(folder: Path, labels: dict[int, str], slide: str = "a") -> Path:
    rows = [_row(slide, i, reviewed=label) for i, label in labels.items()]
    return _write(folder / "sheet.csv", rows, (*CELL_COLUMNS, "reviewed"))


def test_shares_are_those_of_the_reviewed_cells(counted: Path, tmp_path: Path) -> None:
    labels = {0: "Lymphocytes", 1: "neutrophil", 2: "lymphocyte", 3: "", 7: "blast"}
    made = apply_review(counted, _sheet(tmp_path, labels), out=tmp_path / "out")
    first, second = made.slides
    assert (first.n_reviewed, second.n_reviewed) == (4, 0)
    predicted = [TYPES[i % 4] for i in range(N)]
    known = {0: "lymphocyte", 1: "neutrophil", 2: "lymphocyte", 7: "blast"}
    for each in first.types:
        expected = reviewed_share(each.code, predicted, [known.get(i) for i in range(N)], CountRules())
        assert each.reviewed is not None
        assert (each.reviewed.value, each.reviewed.low) == (expected.value, expected.low)
    assert [each.code for each in first.types][-1] == "blast"
    assert all(each.reviewed is None for each in second.types)
    assert read_report(tmp_path / "out" / "report.json").slides == made.slides


def test_a_spreadsheet_may_write_numbers_and_slides_in_its_own_way(counted: Path, tmp_path: Path) -> None:
    row = _row("=b", 4, reviewed="neutrophil", x_min="40", x_max="47,5")
    sheet = _write(tmp_path / "s.csv", [row], (*CELL_COLUMNS, "reviewed"))
    assert [slide.n_reviewed for slide in apply_review(counted, sheet).slides] == [0, 1]


def test_cells_that_are_not_counted_say_nothing(counted: Path, tmp_path: Path) -> None:
    made = apply_review(counted, _sheet(tmp_path, {98: "blast", 0: "neutrophil"}))
    assert made.slides[0].n_reviewed == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: ""}, "no counted cell is reviewed"),
        ({}, "no counted cell is reviewed"),
        ({98: "blast"}, "no counted cell is reviewed"),
        ({0: "neutrofil"}, "line 2: unknown cell type 'neutrofil'"),
        ({50: "neutrophil"}, "line 2: the count has no such cell"),
    ],
)
def test_sheets_that_do_not_fit(counted: Path, tmp_path: Path, labels: dict[int, str], message: str) -> None:
    with pytest.raises(HemalensError, match=message):
        apply_review(counted, _sheet(tmp_path, labels), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sheets_that_are_none(counted: Path, tmp_path: Path) -> None:
    twice = _write(
        tmp_path / "t.csv", [_row("a", 0, reviewed=code) for code in ("blast", "monocyte")], (*CELL_COLUMNS, "reviewed")
    )
    with pytest.raises(HemalensError, match="line 3: a cell has two labels"):
        apply_review(counted, twice)
    with pytest.raises(HemalensError, match="lacks the column"):
        apply_review(counted, _write(tmp_path / "c.csv", [_row("a", 0)]))
    box = _write(tmp_path / "b.csv", [_row("a", 0, reviewed="blast", x_min="left")], (*CELL_COLUMNS, "reviewed"))
    with pytest.raises(HemalensError, match="line 2: the box is wrong"):
        apply_review(counted, box)
    with pytest.raises(HemalensError, match="is no count"):
        apply_review(tmp_path, _sheet(tmp_path, {0: "blast"}))


def test_the_cells_of_another_count_are_refused(counted: Path, tmp_path: Path) -> None:
    _write(counted / "cells.csv", [_row("a", i) for i in range(3)])
    with pytest.raises(HemalensError, match="do not fit each other; expected 20 white cells; got 3"):
        apply_review(counted, _sheet(tmp_path, {0: "neutrophil"}))


def test_the_command(
    counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Command(monkeypatch, capsys)
    sheet = _sheet(tmp_path, {0: "lymphocyte", 1: "neutrophil"})
    ended = run("compare", counted, "--reviewed", sheet, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "a: 20 white cells, 2 reviewed" in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines() if "report:" not in line)
    refused = run("compare", counted, counted, "--reviewed", sheet)
    assert (refused.code, "--reviewed corrects one count" in refused.err) == (2, True)
    inside = run("compare", counted, "--reviewed", sheet, "--out", counted)
    assert inside.code == 2
