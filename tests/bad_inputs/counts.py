"""Counts to compare and rules of counting that cannot be meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bad_input_cases import Case, Place

GOOD = "type,a,b\nneutrophil,60,50\nlymphocyte,40,50\n"


def _compare(text: str | bytes, *more: object) -> Callable[[Place], Sequence[object]]:
    return lambda place: ("compare", place.file("counts.csv", text), *more)


def _row(row: str) -> Callable[[Place], Sequence[object]]:
    return _compare(f"{GOOD}{row}\n")


def _rules(text: str) -> Callable[[Place], Sequence[object]]:
    return lambda place: ("compare", place.file("counts.csv", GOOD), "--rules", place.file("rules.toml", text))


def _folder(place: Place) -> Sequence[object]:
    return ("compare", place.cells())


def _edited(place: Place) -> Sequence[object]:
    place.file("count/report.json", '{"title": "x"}')
    return ("compare", place.folder / "count")


def _input_as_output(place: Place) -> Sequence[object]:
    table = place.file("counts.csv", GOOD)
    return ("compare", table, "--out", table)


CASES = (
    Case("compare nothing", lambda place: ("compare", place.folder / "none.csv"), ("none.csv", "cannot be read")),
    Case("compare an empty table", _compare(""), ("counts.csv",)),
    Case("compare an image", lambda place: ("compare", place.image()), ("cell.png",)),
    Case("compare a folder of images", _folder, ("cannot read the report",)),
    Case("compare an edited report", _edited, ("report.json",)),
    Case("compare without types", _compare("a,b\n1,2\n"), ("no table of counts", "a column of counts")),
    Case("compare two columns of types", _compare("type,Type,b\nblast,1,2\n"), ("counts.csv",)),
    Case("compare an unknown type", _row("neutrofill,1,2"), ("line 4: unknown cell type",)),
    Case("compare a negative count", _row("monocyte,-1,2"), ("line 4, column 'a'", "'-1'")),
    Case("compare a fraction of a cell", _row("monocyte,1,2.5"), ("line 4, column 'b'", "'2.5'")),
    Case("compare a count of nan", _row("monocyte,nan,2"), ("whole number", "'nan'")),
    Case("compare an endless count", _row(f"monocyte,{'9' * 40},2"), ("whole number",)),
    Case("compare a count of another script", _row("monocyte,\u0663,2"), ("whole number",)),
    Case("compare a type twice", _row("Neutrophils,1,2"), ("neutrophil is counted twice",)),
    Case("compare nucleated red cells alone", _compare("type,a,b\nnrbc,4,5\n"), ("no white cell",)),
    Case("compare smudge cells alone", _compare("type,a,b\nsmudge,4,5\n"), ("no white cell",)),
    Case("compare a count of zero", _compare("type,a,b\nblast,0,5\n"), ("'a' has no white cell",)),
    Case("compare an unknown name", _compare(GOOD, "--name", "a", "--name", "c"), ("has no count 'c'",)),
    Case("compare a name with itself", _compare(GOOD, "--name", "a", "--name", "a"), ("two counts are compared",)),
    Case("compare into its input", _input_as_output, ("counts.csv",)),
    Case("rules of no file", _compare(GOOD, "--rules", "none.toml"), ("none.toml",)),
    Case("rules with an unknown key", _rules("tolerances = 5"), ("rules.toml", "did you mean 'tolerance'")),
    Case("rules with a wrong type", _rules("[reference]\nblastt = { low = 0, high = 1 }"), ("did you mean 'blast'",)),
    Case("rules with a flag of two thresholds", _rules("[flags.x]\ntypes = ['blast']\ncells = 1\nabove = 2"), ("one",)),
    Case("rules with no tolerance", _rules("tolerance = 0"), ("'tolerance'", "greater than 0")),
)
