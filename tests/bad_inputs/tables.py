"""Tables that spreadsheets write, and tables that are none."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable

import openpyxl
from bad_input_cases import Case, Place


def _rows(place: Place) -> list[tuple[str, str]]:
    """(path, label) of each cell, relative to the place."""
    place.cells()
    names = sorted(path.relative_to(place.folder).as_posix() for path in (place.folder / "cells").rglob("*.png"))
    return [(name, name.split("/")[1]) for name in names]


def _train(place: Place, spec: str) -> tuple[object, ...]:
    return ("train", "stub", "--train", f"csv:{place.folder / spec}", "--out", place.out)


def _text(
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    header: str = "path,label",
    first: str = "",
    end: str = "\n",
    tail: str = "",
) -> Callable[[Place], tuple[object, ...]]:
    """A table of all cells in a dialect."""

    def make(place: Place) -> tuple[object, ...]:
        lines = [separator.join(header.split(",")), *(separator.join(row) for row in _rows(place))]
        place.file("list.csv", (first + end.join(lines) + end + tail).encode(encoding))
        return _train(place, "list.csv")

    return make


def _raw(content: bytes | str, name: str = "list.csv") -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        place.cells()
        place.file(name, content)
        return _train(place, name)

    return make


def _row(row: str) -> Callable[[Place], tuple[object, ...]]:
    """The row beside good ones."""

    def make(place: Place) -> tuple[object, ...]:
        lines = ["path,label", row, *(",".join(row) for row in _rows(place))]
        place.file("list.csv", "\n".join(lines))
        return _train(place, "list.csv")

    return make


def _book(*, sheet: str = "", title: str = "Tabelle1", empty: bool = False) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        book = openpyxl.Workbook()
        book.active.title = title
        for row in [] if empty else [("path", "label"), *_rows(place), (None, None)]:
            book.active.append(row)
        book.create_sheet("notes").append(["nothing"])
        content = io.BytesIO()
        book.save(content)
        place.file("list.xlsx", content.getvalue())
        return _train(place, f"list.xlsx{sheet}")

    return make


def _bomb(place: Place) -> tuple[object, ...]:
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/workbook.xml", "w", force_zip64=True) as entry,
    ):
        for _ in range(201):
            entry.write(bytes(1_000_000))
    place.file("list.xlsx", content.getvalue())
    return _train(place, "list.xlsx")


def _pipe(place: Place) -> tuple[object, ...]:
    os.mkfifo(place.folder / "list.csv")
    return _train(place, "list.csv")


def _half_filled(n: int, *more: object) -> Callable[[Place], tuple[object, ...]]:
    """A support of which the first of each class is filled in, and `n` rows more are not."""

    def make(place: Place) -> tuple[object, ...]:
        rows = _rows(place)
        filled = [(name, label if i >= n else "") for i, (name, label) in enumerate(rows)]
        place.file("list.csv", "\n".join(["path,label", *(",".join(row) for row in filled)]))
        return ("adapt", place.bundle(), "--support", "csv:list.csv", "--out", place.out, *more)

    return make


def _predict_blank(place: Place) -> tuple[object, ...]:
    rows = _rows(place)
    place.file("list.csv", "\n".join(["path,label", *(f"{name}," for name, _ in rows)]))
    return ("predict", place.bundle(), "csv:list.csv", "--out", f"{place.out}.csv")


OUT = ("out",)
CASES = (
    Case("semicolons", _text(separator=";"), ("read as: separator ;, encoding utf-8",), 0, OUT, stub=True),
    Case("tabs", _text(separator="\t"), ("separator tab",), 0, OUT, stub=True),
    Case("a first line sep=;", _text(separator=";", first="sep=;\n"), ("separator ;",), 0, OUT, stub=True),
    Case("cp1252", _text(encoding="cp1252", header="path,label,Größe"), ("encoding cp1252, as it is",), 0, OUT, stub=True),
    Case("UTF-16", _text(encoding="utf-16", separator="\t"), ("encoding utf-16-le",), 0, OUT, stub=True),
    Case("UTF-16 without its mark", _text(encoding="utf-16-be"), ("encoding utf-16-be",), 0, OUT, stub=True),
    Case("a byte-order mark and CRLF", _text(encoding="utf-8-sig", end="\r\n"), ("bundle: ",), 0, OUT, stub=True),
    Case(
        "empty rows at the end",
        _text(separator=";", tail=";;;\n;;\n"),
        ("read as: separator ;", "bundle: "),
        0,
        OUT,
        stub=True,
    ),
    Case("columns in capitals", _text(header="PATH,Label"), ("'PATH' is read as path",), 0, OUT, stub=True),
    Case("columns of other names", _text(header="filename,class"), ("'class' is read as label",), 0, OUT, stub=True),
    Case("unknown columns", _text(header="a,b"), ("lacks the column(s) path, label", "got a, b"), stub=True),
    Case("a workbook", _book(), ("read as: sheet 'Tabelle1'", "the first of 2"), 0, OUT, stub=True),
    Case("a sheet of a workbook", _book(sheet="#my cells", title="my cells"), ("sheet 'my cells'",), 0, OUT, stub=True),
    Case("no such sheet", _book(sheet="#cells"), ("has no sheet 'cells'", "'Tabelle1', 'notes'"), stub=True),
    Case("a sheet without a header", _book(sheet="#notes"), ("lacks the column(s) path, label",), stub=True),
    Case("an empty workbook", _book(empty=True), ("lacks the column(s)", "no header"), stub=True),
    Case("a text as workbook", _raw("path,label\n", "list.xlsx"), ("cannot be read as an Excel workbook",), stub=True),
    Case("a workbook that is cut off", _raw(b"PK\x03\x04abc"), ("cannot be read as an Excel workbook",), stub=True),
    Case("a workbook that unpacks without end", _bomb, ("unpacks to 201,000,000 bytes",), stub=True),
    Case("an old workbook", _raw(b"\xd0\xcf\x11\xe0\xa1\xb1", "list.xls"), ("an old or encrypted workbook",), stub=True),
    Case("an empty table", _raw(""), ("lacks the column(s) path, label", "no header"), stub=True),
    Case("a header alone", _raw("path,label\n"), ("lists no image",), stub=True),
    Case(
        "bytes of no text",
        _raw(b"path,label\n\x81\x8d\xff"),
        ("cannot be read as a CSV", "Save it as CSV UTF-8"),
        stub=True,
    ),
    Case("an open quote", _raw('path,label\n"a'), ("cannot be read as a CSV",), stub=True),
    Case("two columns of one name", _raw("path,label,label\na,b,c\n"), ("several columns for label",), stub=True),
    Case("two columns that may be the path", _raw("file,image,label\na,b,c\n"), ("several columns for path",), stub=True),
    Case("a named pipe as table", _pipe, ("there is no CSV file",), stub=True),
    Case("a row with too many values", _row("a,b,c"), ("line 2: more values than columns",), stub=True),
    Case("a row without a path", _row(",neutrophil"), ("line 2: the path is empty",), stub=True),
    Case("a row of no file", _row("none.png,neutrophil"), ("line 2: there is no file",), stub=True),
    Case("a path out of the folder", _row("../x.png,neutrophil"), ("line 2:", "lies outside the CSV's folder"), stub=True),
    Case(
        "a path out of the folder, of Windows", _row("..\\x.png,neutrophil"), ("lies outside the CSV's folder",), stub=True
    ),
    Case("a path with a NUL", _row("a\0b.png,neutrophil"), ("line 2:", "cannot be a path"), stub=True),
    Case("a half-filled support", _half_filled(3), ("3 row(s) without a label are not used",), 0, OUT),
    Case("a support without labels", _half_filled(12), ("no image of list has a label", "Fill the column label in")),
    Case("predict for rows without labels", _predict_blank, ("12 rows",), 0, ("out.csv",)),
)
