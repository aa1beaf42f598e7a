"""Tables as spreadsheets write them: CSV of any separator and common encoding, and Excel workbooks."""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

from hemalens.datasets.table_text import plain
from hemalens.errors import DatasetError, one_line
from hemalens.files import open_regular

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": ",", ";": ";", "\t": "tab", "|": "|"}
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
WORKBOOKS = (".xlsx", ".xlsm")
ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
"""First bytes of a workbook, and of an old or encrypted one."""
MAX_BYTES = 200_000_000
"""Largest table, and largest content of a workbook, in bytes."""

Fits = Callable[[Sequence[str]], bool]
"""Whether the names of columns are those that a table must have."""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a table, its rows with their line numbers, and how it was read, where that is worth a note.

    A row has a value for each column. Rows without any value are left out.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    read_as: str | None = None


def table_file(path: Path) -> tuple[Path, str | None]:
    """The file and the sheet of a name such as "cells.xlsx#Sheet 2"; the sheet is None where none is named."""
    name, separator, sheet = path.name.rpartition("#")
    if separator and Path(name).suffix.lower() in WORKBOOKS and not path.exists():
        return path.with_name(name), sheet
    return path, None


def read_table(path: Path, *, fits: Fits) -> Table:
    """Read a table of text, or the first or named sheet of a workbook; raises `DatasetError`.

    The separator is the one of a first line "sep=", or the one under which the header `fits`. Text is read by its
    byte-order mark, otherwise as UTF-8, otherwise as cp1252. Formulas count with their stored values.
    """
    file, sheet = table_file(path)
    try:
        with open_regular(file) as handle:
            content = handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{one_line(file)} cannot be read", got=getattr(error, "strerror", None) or str(error)
        ) from error
    if len(content) > MAX_BYTES:
        raise DatasetError(f"{one_line(file)} is too large for a table", expected=f"at most {MAX_BYTES // 1_000_000} MB")
    if content.startswith(OLE):
        raise DatasetError(
            f"{one_line(file)} is an old or encrypted workbook",
            expected="an .xlsx without a password, or a CSV",
            remedy="Save it as one of these.",
        )
    if content.startswith(ZIP) or file.suffix.lower() in WORKBOOKS:
        return _workbook(file, content, sheet)
    text, encoding = _decoded(file, content)
    return _text(file, text, encoding, fits)


def _decoded(file: Path, content: bytes) -> tuple[str, str]:
    """The text and its encoding."""
    encoding = next((name for mark, name in BOMS if content.startswith(mark)), None)
    if encoding is None and len(content) > 3:
        # UTF-16 without its mark: every second byte of plain letters is zero
        odd, even = content[1:400:2], content[0:400:2]
        encoding = next(
            (name for part, name in ((odd, "utf-16-le"), (even, "utf-16-be")) if part.count(0) > len(part) * 0.7), None
        )
    for name in [encoding] if encoding else ["utf-8", "cp1252"]:
        try:
            return content.decode(name).removeprefix("\ufeff"), name
        except UnicodeDecodeError as error:
            reason = error
    raise DatasetError(
        f"{one_line(file)} cannot be read as a CSV",
        expected="text in UTF-8, UTF-16 or cp1252",
        got=str(reason),
        remedy="Save it as CSV UTF-8, or as .xlsx.",
    )


def _text(file: Path, text: str, encoding: str, fits: Fits) -> Table:
    stated = re.match(r'"?sep=(.)"?(\r\n|\r|\n|$)', text)
    skipped = 0
    if stated:
        text, skipped = text[stated.end() :], 1
    separator = stated[1] if stated else _separator(text, fits)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [(reader.line_num + skipped, row) for row in reader]
    except (csv.Error, ValueError, TypeError) as error:
        raise DatasetError(
            f"{one_line(file)} cannot be read as a CSV", got=str(error), remedy="Save it again as CSV UTF-8, or as .xlsx."
        ) from error
    read_as = None
    if separator != "," or encoding != "utf-8":
        guess = ", as it is not UTF-8" if encoding == "cp1252" else ""
        read_as = f"read as: separator {NAMES.get(separator, separator)}, encoding {encoding}{guess}"
    return _table(file, lines, read_as)


def _separator(text: str, fits: Fits) -> str:
    """The first separator under which the header fits, otherwise the one with most columns."""
    columns = {separator: _first_row(text, separator) for separator in SEPARATORS}
    fitting = [separator for separator, names in columns.items() if fits(names)]
    return fitting[0] if fitting else max(SEPARATORS, key=lambda separator: len(columns[separator]))


def _first_row(text: str, separator: str) -> list[str]:
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        return next((row for row in rows if any(cell.strip() for cell in row)), [])
    except csv.Error:
        return []


def _table(file: Path, lines: Iterable[tuple[int, Sequence[str]]], read_as: str | None) -> Table:
    """The header and rows; empty rows, and columns that are empty throughout at the end, are left out."""
    filled = [(line, _stripped(row)) for line, row in lines]
    filled = [(line, row) for line, row in filled if row]
    columns = tuple(name.strip() for name in filled[0][1]) if filled else ()
    rows = []
    for line, row in filled[1:]:
        if len(row) > len(columns):
            raise DatasetError(
                f"{one_line(file)}, line {line}: more values than columns",
                remedy="Put a value that holds a comma in double quotes.",
            )
        padded = (*row, *[""] * (len(columns) - len(row)))
        rows.append((line, tuple(plain(value) for value in padded)))
    return Table(columns, tuple(rows), read_as)


def _stripped(row: Sequence[str]) -> list[str]:
    """The row without empty values at its end."""
    last = max((i for i, value in enumerate(row) if value.strip()), default=-1)
    return list(row[: last + 1])


def _workbook(file: Path, content: bytes, sheet: str | None) -> Table:
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {MAX_BYTES:,}")
        with warnings.catch_warnings():
            # of what a workbook holds besides values
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
            names = [page.title for page in book.worksheets]
            chosen = sheet if sheet is not None else names[0]
            lines = []
            if chosen in names:
                page = book[chosen]
                page.reset_dimensions()
                lines = [
                    (i, [_value(cell) for cell in row]) for i, row in enumerate(page.iter_rows(values_only=True), start=1)
                ]
            book.close()
    except Exception as error:  # the library lets through whatever a damaged workbook causes
        raise DatasetError(
            f"{one_line(file)} cannot be read as an Excel workbook",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="Save it again as .xlsx, or as CSV UTF-8.",
        ) from error
    if chosen not in names:
        raise DatasetError(
            f"{one_line(file)} has no sheet {one_line(chosen)}", expected=", ".join(map(one_line, names[:8]))
        )
    more = f", the first of {len(names)}" if sheet is None and len(names) > 1 else ""
    return _table(file, lines, f"read as: sheet {one_line(chosen)} of an Excel workbook{more}")


def _value(cell: object) -> str:
    """A cell's value as text: whole numbers without a point, dates as in 2024-03-01."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, (datetime, date, time)) else str(cell)
