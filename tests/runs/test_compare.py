"""`hemalens compare`: tables and folders of counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Command
from hemalens.differential.slides import slide_result
from hemalens.errors import HemalensError
from hemalens.report import read_report, write_report
from hemalens.report.compose import Results, make_report
from hemalens.runs.compare import CompareOptions, compare

READERS = "type,reader 1,reader 2\nneutrophil,120,100\nlymph,60,70\nnrbc,3,30\nplatelet,9,0\n"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _table(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _count(folder: Path, **slides: int) -> Path:
    """The report of slides with so many neutrophils of 100 cells."""
    folder.mkdir()
    made = [slide_result(name, ["neutrophil"] * n + ["lymphocyte"] * (100 - n)) for name, n in slides.items()]
    write_report(make_report("count", "count", Results(slides=made), data=[], methods={}, seed=0), folder)
    return folder


def test_two_columns_of_a_table(tmp_path: Path) -> None:
    (found,) = compare(_table(tmp_path, "two.csv", READERS)).count_comparisons
    assert (found.first, found.second, found.n_first, found.n_second) == ("reader 1", "reader 2", 180, 170)
    assert [each.code for each in found.types] == ["neutrophil", "lymphocyte"]


def test_two_tables_in_any_spelling(tmp_path: Path) -> None:
    first = _table(tmp_path, "a.csv", "Type;Count\nNeutrophils;1200\nLymphozyten;800\n")
    second = _table(tmp_path, "b.tsv", "type\tn\nneutrophil\t900\nlymphocyte\t1100\n")
    (found,) = compare(first, second).count_comparisons
    assert (found.first, found.second, found.verdict) == ("a", "b", "differs")


def test_slides_of_one_name_are_paired(tmp_path: Path) -> None:
    one, two = _count(tmp_path / "one", a=60, b=50, c=40), _count(tmp_path / "two", b=50, a=20, d=9)
    found = compare(one, two).count_comparisons
    assert [(each.first, each.second) for each in found] == [("one: a", "two: a"), ("one: b", "two: b")]
    assert [each.verdict for each in found] == ["differs", "too few to tell"]
    (alone,) = compare(one, options=CompareOptions(names=("c", "a"))).count_comparisons
    neutrophil = next(each for each in alone.types if each.code == "neutrophil")
    assert (alone.first, neutrophil.n_first, neutrophil.n_second) == ("c", 40, 60)


def test_reader_and_program(tmp_path: Path) -> None:
    program = _count(tmp_path / "program", slide_7=60)
    reader = _table(tmp_path, "reader.csv", "type,count\nneutrophil,20\nlymphocyte,80\n")
    (found,) = compare(program, reader).count_comparisons
    assert (found.first, found.second, found.verdict) == ("slide_7", "reader", "differs")


def test_the_rules_of_the_laboratory(tmp_path: Path) -> None:
    table = _table(tmp_path, "two.csv", "type,x,y\nsezary,10,10\nsmudge,90,90\nlymphocyte,100,100\n")
    rules = _table(tmp_path, "rules.toml", 'own_types = ["sezary"]\nsmudge_cells = "as lymphocytes"\ntolerance = 20\n')
    (found,) = compare(table, options=CompareOptions(rules_file=str(rules))).count_comparisons
    assert (found.n_first, found.tolerance, found.types[1].n_first) == (200, 20, 190)


def test_report_and_terminal(tmp_path: Path, command: Command) -> None:
    table, out = _table(tmp_path, "two.csv", READERS), tmp_path / "out"
    ended = command("compare", table, "--out", out)
    assert ended.code == 0
    # the last line is the path of the report
    assert max(map(len, ended.out.splitlines()[:-1])) <= 80
    for words in ("reader 1 (180 white cells) against reader 2 (170)", "66.7", "too few", "morphologist", "report.html"):
        assert words in ended.out
    (found,) = read_report(out / "report.json").count_comparisons
    assert found.n_first == 180
    assert "Fisher's exact test" in (out / "report.md").read_text(encoding="utf-8")
    assert "Counts compared" in (out / "report.html").read_text(encoding="utf-8")
    printed = json.loads(command("compare", table, "--json").out)
    assert printed["count_comparisons"][0]["types"][0]["n_first"] == 120
    assert command("compare", table, "--out", out).code == 2
    assert command("compare", table, "--out", out, "--overwrite").code == 0


def test_long_names_stay_whole_in_the_terminal(tmp_path: Path, command: Command) -> None:
    one, two = _count(tmp_path / "quickstart_adapted", a=60), _count(tmp_path / "quickstart_centred", a=20)
    lines = [" ".join(line.split()) for line in command("compare", one, two).out.splitlines()]
    assert lines[:2] == ["A: quickstart_adapted: a (100 white cells)", "B: quickstart_centred: a (100 white cells)"]
    assert "Cell type A, % B, % Difference p Verdict Needed" in lines
    assert any(line.startswith("neutrophil 60.0 20.0 40.0") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type,a,b\nneutrophill,1,2\n", "did you mean 'neutrophil'"),
        ("type,a,b\nneutrophil,1,-2\n", "line 2, column 'b'"),
        ("type,a,b\nneutrophil,1,2.5\n", "whole number"),
        ("type,a,b\nneutrophil,1,2\nneutrophils,1,2\n", "neutrophil is counted twice"),
        ("type,a,b\nnrbc,1,2\n", "has no white cell"),
        ("type,a\nneutrophil,1\n", "two, named by --name"),
        ("cell,a,b\nneutrophil,1,2\n", "no table of counts"),
        ("type\nneutrophil\n", "no table of counts"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HemalensError) as caught:
        compare(_table(tmp_path, "t.csv", text))
    assert words in str(caught.value)


def test_slides_that_do_not_match(tmp_path: Path) -> None:
    one, two = _count(tmp_path / "one", a=60, b=50), _count(tmp_path / "two", c=50, d=20)
    with pytest.raises(HemalensError, match="no slide is in both"):
        compare(one, two)
    with pytest.raises(HemalensError, match="has no count 'B'"):
        compare(one, options=CompareOptions(names=("a", "B")))
    with pytest.raises(HemalensError, match="--name chooses"):
        compare(one, two, options=CompareOptions(names=("a", "b")))
