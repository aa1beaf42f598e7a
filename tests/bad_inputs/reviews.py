"""Draws for review, reviewed cells and reports of a confusion that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bad_input_cases import Case, Place
from report_fakes import make_report

import drawn_slides as drawn
from hemalens.differential.rules import CountRules
from hemalens.differential.slides import slide_result
from hemalens.report import write_report
from hemalens.report.compose import Results
from hemalens.report.compose import make_report as composed

CELLS = "slide,field,x_min,y_min,x_max,y_max,kind,type,counted\na,f,1.0,2.0,9.0,9.0,white cell,neutrophil,True\n"
HEAD = "slide,field,x_min,y_min,x_max,y_max,reviewed\n"
GOOD = "a,f,1.0,2.0,9.0,9.0,lymphocyte\n"


def _count_of(place: Place, *, rules: bool = True, cells: str = CELLS) -> object:
    """The folder of a count of one cell."""
    methods = {"count": {"rules": CountRules().model_dump(mode="json")}} if rules else {}
    slides = [slide_result("a", ["neutrophil"])]
    (place.folder / "count").mkdir()
    write_report(composed("c", "c", Results(slides=slides), data=[], methods=methods, seed=0), place.folder / "count")
    place.file("count/cells.csv", cells)
    return place.folder / "count"


def _reviewed(sheet: str, *more: object, **made: object) -> Callable[[Place], Sequence[object]]:
    def make(place: Place) -> Sequence[object]:
        count = _count_of(place, **made)  # type: ignore[arg-type]
        return ("compare", count, "--reviewed", place.file("sheet.csv", sheet), *more)

    return make


def _second(place: Place) -> Sequence[object]:
    count = _count_of(place)
    return ("compare", count, count, "--reviewed", place.file("sheet.csv", HEAD + GOOD))


def _inside(place: Place) -> Sequence[object]:
    count = _count_of(place)
    return ("compare", count, "--reviewed", place.file("sheet.csv", HEAD + GOOD), "--out", count, "--overwrite")


def _counted(*more: object) -> Callable[[Place], Sequence[object]]:
    def make(place: Place) -> Sequence[object]:
        field = drawn.save(drawn.draw([drawn.Disc("neutrophil", 80, 70, 22)]).pixels, place.folder / "f" / "a.png")
        options = ("--bundle", place.bundle(), "--no-crops", "--no-overlays")
        return ("count", field.parent, "--out", place.out, *options, *more)

    return make


def _confusion(n_evaluations: int) -> Callable[[Place], Sequence[object]]:
    def make(place: Place) -> Sequence[object]:
        write_report(make_report(n_evaluations=n_evaluations, n_points=5), place.folder / "test")
        return _counted("--confusion", place.folder / "test")(place)

    return make


CASES = (
    Case("reviewed cells of no file", lambda p: ("compare", _count_of(p), "--reviewed", "none.csv"), ("none.csv",)),
    Case("an empty sheet", _reviewed(""), ("sheet.csv",)),
    Case("a sheet without labels", _reviewed(HEAD + "a,f,1.0,2.0,9.0,9.0,\n"), ("no counted cell is reviewed",)),
    Case("a sheet without rows", _reviewed(HEAD), ("no counted cell is reviewed",)),
    Case("a sheet without boxes", _reviewed("slide,field,reviewed\na,f,blast\n"), ("lacks the column(s) x_min",)),
    Case("a sheet without the column reviewed", _reviewed(CELLS), ("lacks the column(s) reviewed",)),
    Case("an unknown reviewed type", _reviewed(HEAD + "a,f,1,2,9,9,neutrofil\n"), ("line 2: unknown cell type",)),
    Case("a reviewed cell of another slide", _reviewed(HEAD + GOOD.replace("a,", "b,", 1)), ("no such cell",)),
    Case("a reviewed cell of another place", _reviewed(HEAD + GOOD.replace("9.0", "8.0")), ("no such cell",)),
    Case("a box of words", _reviewed(HEAD + GOOD.replace("1.0", "left")), ("line 2: the box is wrong",)),
    Case("a box of nan", _reviewed(HEAD + GOOD.replace("1.0", "nan")), ("no such cell",)),
    Case("a cell with two labels", _reviewed(HEAD + GOOD + GOOD.replace("lymph", "mono")), ("line 3",)),
    Case("reviewed cells of an image", lambda p: ("compare", _count_of(p), "--reviewed", p.image()), ("cell.png",)),
    Case("reviewed cells of two counts", _second, ("--reviewed corrects one count", "a second count")),
    Case("reviewed cells with rules", _reviewed(HEAD + GOOD, "--rules", "r.toml"), ("--reviewed", "--rules")),
    Case("a reviewed count into itself", _inside, ("count",)),
    Case("a reviewed count without rules", _reviewed(HEAD + GOOD, rules=False), ("no rules of counting",)),
    Case("a reviewed count of other cells", _reviewed(HEAD + GOOD, cells=CELLS + CELLS.splitlines()[1]), ("fit each",)),
    Case("a reviewed folder of images", lambda p: ("compare", p.cells(), "--reviewed", p.image()), ("is no count",)),
    Case("a draw of no cell", _counted("--review", "0"), ("--review", "greater than or equal to 1")),
    Case("a draw of words", _counted("--review", "some"), ("--review", "valid integer")),
    Case("a draw with a negative seed", _counted("--review", "2", "--seed", "-1"), ("--seed",)),
    Case("a confusion of no file", _counted("--confusion", "none"), ("none", "cannot read the report")),
    Case("a confusion without a test", _confusion(0), ("has no test",)),
    Case("a confusion of two tests", _confusion(2), ("has 2 tests",)),
    Case("a confusion of another model", _confusion(1), ("knows no", "the report of the model that counts")),
)
