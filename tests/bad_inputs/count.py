"""Fields, tables and options of `count` that give no count, or only some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from bad_input_cases import Case, Place
from PIL import Image

import drawn_slides as drawn

CELLS = [drawn.Disc("neutrophil", 80, 70, 22), drawn.Disc("lymphocyte", 200, 120, 22), drawn.Disc("red", 140, 30, 11)]
PLAIN = ("--no-crops", "--no-overlays")
OUT = ("out",)


def _field(place: Place, name: str = "fields/a.png", cells: object = None, size: tuple[int, int] = (320, 240)) -> Path:
    discs = CELLS if cells is None else cells
    return drawn.save(drawn.draw(discs, size).pixels, place.folder / name)  # type: ignore[arg-type]


def _count(place: Place, source: object, *more: object, plain: bool = True) -> tuple[object, ...]:
    options = PLAIN if plain else ()
    return ("count", source, "--out", place.out, "--bundle", place.bundle(), *options, *more)


def _fields(*more: object, names: tuple[str, ...] = ("a.png",)) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        for i, name in enumerate(names):
            _field(place, f"fields/{name}", [*CELLS, drawn.Disc("red", 40 + 30 * i, 200, 10 + i)])
        return _count(place, place.folder / "fields", *more)

    return make


def _table(text: str, *more: object, fields: tuple[str, ...] = ("a.png",)) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        for i, name in enumerate(fields):
            _field(place, name, [*CELLS, drawn.Disc("red", 40 + 30 * i, 200, 10 + i)])
        return _count(place, place.file("slides.csv", text), *more)

    return make


def _torn(n_good: int) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        for i in range(n_good):
            _field(place, f"fields/good{i}.png", [*CELLS, drawn.Disc("red", 40 + 40 * i, 200, 11)])
        place.file("fields/torn.png", "no image")
        return _count(place, place.folder / "fields")

    return make


def _copies(place: Place) -> tuple[object, ...]:
    for name in ("a.png", "b.png"):
        _field(place, f"fields/{name}")
    return _count(place, place.folder / "fields")


def _same_slide(place: Place) -> tuple[object, ...]:
    for name in ("one/a.png", "two/a.png"):
        _field(place, f"fields/{name}")
    return _count(place, place.folder / "fields")


def _without_cells(place: Place) -> tuple[object, ...]:
    return _count(place, _field(place, cells=[]))


def _single_cells(place: Place) -> tuple[object, ...]:
    return _count(place, _field(place, "cell.png", [drawn.Disc("neutrophil", 40, 40, 20)], (80, 80)))


def _sizes(place: Place) -> tuple[object, ...]:
    _field(place, "fields/a.png")
    _field(place, "fields/b.png", size=(400, 300))
    return _count(place, place.folder / "fields")


def _black(place: Place) -> tuple[object, ...]:
    return _count(place, drawn.save(np.zeros((200, 300, 3), np.uint8), place.folder / "black.png"))


def _inside(place: Place) -> tuple[object, ...]:
    _field(place)
    return ("count", place.folder / "fields", "--out", place.folder / "fields" / "out", "--bundle", place.bundle())


def _above(place: Place) -> tuple[object, ...]:
    _field(place)
    return ("count", place.folder / "fields", "--out", place.folder, "--bundle", place.bundle(), "--overwrite")


def _occupied(place: Place) -> tuple[object, ...]:
    place.file("out/mine.txt", "mine")
    return _fields("--overwrite")(place)


def _pages(place: Place) -> tuple[object, ...]:
    second = [drawn.Disc("neutrophil", 60, 180, 22), drawn.Disc("lymphocyte", 250, 60, 22), drawn.Disc("red", 90, 90, 11)]
    pages = [Image.fromarray(drawn.draw(discs).pixels) for discs in (CELLS, second)]
    pages[0].save(place.folder / "stack.tif", save_all=True, append_images=pages[1:])
    return _count(place, place.folder / "stack.tif")


def _segmenter_as_detector(place: Place) -> tuple[object, ...]:
    return _count(place, _field(place), "--detector", place.bundle())


def _collide(place: Place) -> tuple[object, ...]:
    for i, name in enumerate(("a b", "a_b", "a-b ")):
        _field(place, f"fields/{name}/f.png", [*CELLS, drawn.Disc("red", 40 + 30 * i, 200, 11)])
    return _count(place, place.folder / "fields")


CASES = tuple(
    Case(name, make, says, code, writes, around=drawn.counted_by_colour)
    for name, make, says, code, writes in (
        ("a folder without an image", lambda p: _count(p, p.file("f/a.doc").parent), ("no image in",), 2, ()),
        ("no such fields", lambda p: _count(p, p.folder / "nowhere"), ("there is no image or folder",), 2, ()),
        ("a field without a cell", _without_cells, ("No white cell is counted",), 0, OUT),
        ("a black field", _black, ("No white cell is counted",), 0, OUT),
        ("a single cell as a field", _single_cells, ("look like single cells; use `hemalens predict`",), 0, OUT),
        ("two cells", _fields(), ("2 white cells", "98 more for 100 white cells"), 0, OUT),
        ("one torn field", _torn(1), ("1 of 2 field(s) cannot be read", "torn.png"), 0, OUT),
        ("only a torn field", _torn(0), ("no field can be read", "cells.csv"), 2, OUT),
        ("copies of a field", _copies, ("1 of 2 field(s) are copies",), 0, OUT),
        ("the same slide twice", _same_slide, ("share 1 field, byte for byte",), 0, OUT),
        ("fields of two sizes", _sizes, ("fields of 2 sizes",), 0, OUT),
        ("pages of a TIFF", _pages, ("2 images, named as in", "4 white cells"), 0, OUT),
        ("slides of colliding names", _collide, ("a b: 2 white cells", "a_b: 2 white cells"), 0, OUT),
        ("white count 0", _fields("--white-count", "0"), ("--white-count cannot", "above 0", "got 0"), 2, ()),
        ("a negative white count", _fields("--white-count", "-3"), ("--white-count cannot", "got -3"), 2, ()),
        ("white count NaN", _fields("--white-count", "nan"), ("--white-count cannot", "got nan"), 2, ()),
        ("white count in cells", _fields("--white-count", "7200"), ("10^3 per microlitre", "is 7.2 in this unit"), 2, ()),
        ("red count in cells", _fields("--red-count", "4500000"), ("10^6 per microlitre", "is 4.5 in this unit"), 2, ()),
        ("a white count in words", _fields("--white-count", "many"), ("--white-count", "valid number"), 2, ()),
        ("a white count of two slides", _fields("--white-count", "7", names=("a/1.png", "b/1.png")), ("one slide",), 2, ()),
        ("a target of 0", _fields("--target", "0"), ("--target", "greater than or equal to 1"), 2, ()),
        ("an unknown rule", _fields("--set", "smudge=counted"), ("smudge", "smudge_cells"), 2, ()),
        ("a rules file that is none", lambda p: _fields("--rules", p.file("r.toml", "["))(p), ("r.toml",), 2, ()),
        ("out inside the fields", _inside, ("would lie among the images",), 2, ()),
        ("out above the fields", _above, ("would replace the input",), 2, ()),
        ("out with other files", _occupied, ("something else than a count",), 2, ()),
        ("a bundle as the detector", _segmenter_as_detector, ("bundle",), 2, ()),
        ("a table without the column field", _table("slide,image_id\nA,a.png\n"), ("lacks the column(s) field",), 2, ()),
        ("a table without slides", _table("a\n"), ("lacks the column(s) slide, field",), 2, ()),
        ("an empty table", _table(""), ("lacks the column(s)",), 2, ()),
        ("a table without a row", _table("slide,field\n"), ("lists no field",), 2, ()),
        ("a table with a missing file", _table("slide,field\nA,b.png\n"), ("line 2", "there is no file"), 2, ()),
        ("a table with a path outside", _table("slide,field\nA,../a.png\n"), ("lies outside",), 2, ()),
        ("a slide without a name", _table("slide,field\n,a.png\n"), ("line 2: the slide has no name",), 2, ()),
        ("a row twice", _table("slide,field\nA,a.png\nA,a.png\n"), ("listed twice are counted once",), 0, OUT),
        ("a white count of 0 in a table", _table("slide,field,wbc\nA,a.png,0\n"), ("line 2", "white_count"), 2, ()),
        ("7200 in a table", _table("slide,field,white_count\nA,a.png,7200\n"), ("is 7.2 in this unit",), 2, ()),
        ("a white count of letters in a table", _table("slide,field,wbc\nA,a.png,x7\n"), ("got 'x7'",), 2, ()),
        (
            "two white counts of a slide",
            _table("slide,field,wbc\nA,a.png,7\nA,b.png,8\n", fields=("a.png", "b.png")),
            ("two values of white_count", "7 and 8"),
            2,
            (),
        ),
    )
)
