"""Tables as spreadsheets write them: every dialect gives the same rows, and no bytes a traceback."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets import tables
from hemalens.datasets.table_text import cell
from hemalens.datasets.tables import Table, read_table, table_file
from hemalens.errors import DatasetError

HEADER = ("path", "label")
ROWS = (("a b.png", "fünf"), ("x;y.png", "one, two"), ("z.png", 'in "quotes"'), ("n.png", "two\nlines"))


def _fits(names: Sequence[str]) -> bool:
    return set(HEADER) <= {name.strip() for name in names}


def _read(place: Path, content: bytes, name: str = "t.csv") -> Table:
    (place / name).write_bytes(content)
    return read_table(place / name, fits=_fits)


def _written(rows: Sequence[Sequence[str]], separator: str, end: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_dialect_gives_the_same_rows(tmp_path: Path, separator: str, encoding: str, end: str) -> None:
    found = _read(tmp_path, _written([HEADER, *ROWS], separator, end).encode(encoding))
    assert found.columns == HEADER
    assert [row for _, row in found.rows] == list(ROWS)
    plain = separator == "," and encoding.startswith("utf-8")
    assert (found.read_as is None) is plain
    if not plain:
        assert f"separator {'tab' if separator == chr(9) else separator}, encoding " in str(found.read_as)


CELLS = st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), min_size=1, max_size=8).filter(str.strip)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4),
    separator=st.sampled_from(tables.SEPARATORS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    stated=st.booleans(),
)
def test_what_a_spreadsheet_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], separator: str, encoding: str, stated: bool
) -> None:
    text = _written([HEADER, *([cell(value) for value in row] for row in rows)], separator, "\r\n")
    content = ((f"sep={separator}\r\n" if stated else "") + text).encode(encoding)
    found = _read(tmp_path_factory.getbasetemp(), content)
    assert [row for _, row in found.rows] == rows


@given(content=st.one_of(st.binary(max_size=60), st.binary(max_size=40).map(lambda rest: b"PK\x03\x04" + rest)))
def test_any_bytes_give_a_table_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    refusal = ""
    try:
        found = _read(tmp_path_factory.getbasetemp(), content)
    except DatasetError as error:
        refusal = str(error)
    else:
        assert all(len(row) == len(found.columns) for _, row in found.rows)
    assert "\n" not in refusal


def test_a_stated_separator_goes_before_what_fits_and_lines_are_counted_with_it(tmp_path: Path) -> None:
    found = _read(tmp_path, b"sep=:\npath:label\na:b\n")
    assert (found.columns, found.rows) == (HEADER, ((3, ("a", "b")),))


def test_empty_rows_and_columns_at_the_end_are_left_out(tmp_path: Path) -> None:
    found = _read(tmp_path, b"\r\npath;label;;\r\na;b;;\r\n;;;\r\nc;;;\r\n;;;\r\n")
    assert found.columns == HEADER
    assert found.rows == ((3, ("a", "b")), (5, ("c", "")))


@pytest.mark.parametrize("line", ["a,b,c", "a,b,,d"])
def test_a_value_without_a_column_names_the_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match="line 2: more values than columns"):
        _read(tmp_path, f"path,label\n{line}\n".encode())


def _book(place: Path, rows: Sequence[Sequence[object]], name: str = "t.xlsx") -> Path:
    book = openpyxl.Workbook()
    book.active.title = "Tabelle1"
    for row in rows:
        book.active.append(list(row))
    book.create_sheet("second").append(["other"])
    book.save(place / name)
    return place / name


def test_a_workbook_gives_its_values_as_text(tmp_path: Path) -> None:
    day = datetime(2024, 3, 1)
    rows = [(*HEADER, "n", None), ("a.png", "fünf", 7), ("b.png", None, 0.5), (None, None), ("c.png", day, 8.0), (None,)]
    found = read_table(_book(tmp_path, rows), fits=_fits)
    assert found.columns == (*HEADER, "n")
    assert found.rows == (
        (2, ("a.png", "fünf", "7")),
        (3, ("b.png", "", "0.5")),
        (5, ("c.png", date(2024, 3, 1).isoformat(), "8")),
    )
    assert found.read_as == "read as: sheet 'Tabelle1' of an Excel workbook, the first of 2"


def test_a_sheet_is_named_after_a_hash_and_a_missing_one_lists_those_that_are_there(tmp_path: Path) -> None:
    path = _book(tmp_path, [HEADER, ("a", "b")])
    assert read_table(path.with_name("t.xlsx#second"), fits=_fits).columns == ("other",)
    with pytest.raises(DatasetError, match=r"has no sheet 'third'; expected 'Tabelle1', 'second'"):
        read_table(path.with_name("t.xlsx#third"), fits=_fits)
    assert table_file(path.with_name("t.xlsx#second")) == (path, "second")
    (tmp_path / "t.xlsx#1.csv").write_text("")
    assert table_file(tmp_path / "t.xlsx#1.csv") == (tmp_path / "t.xlsx#1.csv", None)


def test_a_formula_without_a_stored_value_is_empty_and_never_computed(tmp_path: Path) -> None:
    found = read_table(_book(tmp_path, [HEADER, ("a.png", "=1+1")]), fits=_fits)
    assert found.rows == ((2, ("a.png", "")),)


def test_a_workbook_of_another_suffix_is_told_by_its_content(tmp_path: Path) -> None:
    path = _book(tmp_path, [HEADER, ("a", "b")])
    assert _read(tmp_path, path.read_bytes(), "renamed.csv").rows == ((2, ("a", "b")),)


def test_old_damaged_and_oversized_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="old or encrypted workbook"):
        _read(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1", "t.xls")
    with pytest.raises(DatasetError, match=r"cannot be read as an Excel workbook; got BadZipFile"):
        _read(tmp_path, b"path,label\n", "t.xlsx")
    monkeypatch.setattr(tables, "MAX_BYTES", 4000)
    with pytest.raises(DatasetError, match="too large for a table"):
        _read(tmp_path, b"a" * 4001)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 100_000)
    with pytest.raises(DatasetError, match=r"it unpacks to 100,000 bytes, more than 4,000"):
        _read(tmp_path, bomb.getvalue(), "bomb.xlsx")


def test_a_workbook_of_charts_alone_has_no_table(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_chartsheet("chart")
    del book["Sheet"]
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DatasetError, match="cannot be read as an Excel workbook"):
        read_table(tmp_path / "t.xlsx", fits=_fits)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read; got"):
        read_table(tmp_path, fits=_fits)
    with pytest.raises(DatasetError, match="cannot be read; got"):
        read_table(tmp_path / "none.csv", fits=_fits)
