"""Revising a table at its end: reasons and sets of the right rows, in both formats, and nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from hemalens.inference.revision import LaterSets, revise
from hemalens.trust.review import REASONS

COLUMNS = ("path", "label", "review", "review_rank", "prediction_set", "error")
ROWS = [
    ("a,\"b\".png", "neutrophil", "near tie", 4, "neutrophil", None),
    ("line\nbreak.png", None, None, None, None, "unreadable"),
    ("c.png", "monocyte", None, None, "monocyte|lymphocyte", None),
]  # fmt: skip


def _write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(rows)
        return path
    types = {"review_rank": pa.int64()}
    schema = pa.schema([pa.field(name, types.get(name, pa.string())) for name in COLUMNS])
    parquet.write_table(pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema=schema), path)
    return path


def _read(path: Path) -> list[tuple[str, ...]]:
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            return [tuple(row.values()) for row in csv.DictReader(file)]
    rows = parquet.read_table(path).to_pylist()
    return [tuple("" if value is None else str(value) for value in row.values()) for row in rows]


def _texts(rows: list[tuple[object, ...]]) -> list[tuple[str, ...]]:
    return [tuple("" if value is None else str(value) for value in row) for row in rows]


def _sets(*members: tuple[str, ...] | None) -> LaterSets:
    found = LaterSets()
    for each in members:
        found.add(each)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_get_their_set_and_their_reason(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", ROWS)
    revise(path, ranks=[0, 0, 5], sets=_sets(("neutrophil", "monocyte"), None, ("monocyte",)))
    expected = [list(row) for row in ROWS]
    expected[0][4], expected[2][4] = "neutrophil|monocyte", "monocyte"
    expected[2][2:4] = REASONS[4], 5
    assert _read(path) == _texts([tuple(row) for row in expected])
    revise(path, ranks=[1, 0, 0])
    expected[0][2:4] = REASONS[0], 1
    assert _read(path) == _texts([tuple(row) for row in expected])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_without_a_change_the_table_is_not_written(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", ROWS)
    before = path.stat().st_mtime_ns, path.read_bytes()
    revise(path)
    revise(path, ranks=[0, 0, 0])
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_another_number_of_rows_is_refused(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", ROWS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="zip"):
        revise(path, sets=_sets(("neutrophil",)))
    with pytest.raises(ValueError, match="zip"):
        revise(path, ranks=[1], sets=_sets(None, None, None))
    assert path.read_bytes() == before


@hypothesis.given(st.lists(st.none() | st.lists(st.sampled_from("abcd"), unique=True).map(tuple)))
def test_sets_come_back_in_the_order_of_the_rows(rows: list[tuple[str, ...] | None]) -> None:
    assert list(_sets(*rows).values()) == [None if row is None else "|".join(row) for row in rows]
