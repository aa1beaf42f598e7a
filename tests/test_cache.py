"""The feature cache: arrays come back as they were stored, and what is damaged is computed anew and counted."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens import cache as caches
from hemalens.cache import FeatureCache

VALUES = {"a": np.arange(4, dtype=np.float32), "b": np.ones(4, np.float32)}


@pytest.fixture(autouse=True)
def _no_damage() -> Iterator[None]:
    caches.forget_damage()
    yield
    caches.forget_damage()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_arrays_come_back_as_they_were_stored(tmp_path: Path, dtype: type[np.generic]) -> None:
    vectors = {f"image {i}": np.arange(i, i + 4).astype(dtype) for i in range(1200)}
    FeatureCache(tmp_path).put("graph", vectors)
    found = FeatureCache(tmp_path).get("graph", [*vectors, "another image"], dtype)
    assert found.keys() == vectors.keys()
    assert all(np.array_equal(found[name], vectors[name]) for name in vectors)
    assert found["image 0"].dtype == dtype
    assert caches.damage_notes() == []


def test_graphs_do_not_share_entries_and_the_first_value_stays(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("one", {"image": np.zeros(2, np.float32)})
    cache.put("one", {"image": np.ones(2, np.float32)})
    assert cache.get("two", ["image"]) == {}
    assert cache.get("one", ["image"])["image"].tolist() == [0, 0]


def _file(folder: Path) -> Path:
    return folder / "features" / "graph.sqlite"


def _edit(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(_file(folder))) as connection, connection:
        connection.execute(statement, values)


ROWS: dict[str, tuple[str, tuple[object, ...]]] = {
    "zeroed": ("UPDATE arrays SET vector = ? WHERE content = 'a'", (bytes(16),)),
    "short": ("UPDATE arrays SET vector = ? WHERE content = 'a'", (bytes(3),)),
    "empty": ("UPDATE arrays SET vector = ? WHERE content = 'a'", (b"",)),
    "text": ("UPDATE arrays SET vector = ? WHERE content = 'a'", ("text",)),
    "a number": ("UPDATE arrays SET vector = ? WHERE content = 'a'", (7,)),
    "no checksum": ("UPDATE arrays SET checksum = ? WHERE content = 'a'", (b"",)),
    "of another image": (
        "UPDATE arrays SET (vector, checksum) = (SELECT vector, checksum FROM arrays WHERE content = 'b') "
        "WHERE content = 'a'",
        (),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_fails_its_checksum_is_absent_counted_and_replaced(tmp_path: Path, name: str) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    _edit(tmp_path, *ROWS[name][:1], *ROWS[name][1])
    found = cache.get("graph", ["a", "b"])
    assert list(found) == ["b"]
    assert caches.damage_notes() == ["1 damaged entry of the cache was computed anew"]
    cache.put("graph", VALUES)
    assert cache.get("graph", ["a"])["a"].tolist() == [0, 1, 2, 3]


def test_exchanged_rows_are_both_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    for before, after in (("a", "x"), ("b", "a"), ("x", "b")):
        _edit(tmp_path, "UPDATE arrays SET content = ? WHERE content = ?", after, before)
    assert cache.get("graph", ["a", "b"]) == {}


def test_an_array_of_another_length_or_type_is_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    assert cache.get("graph", ["a"], size=3) == {}
    assert cache.get("graph", ["b"], np.uint8) == {}
    assert cache.get("graph", ["a", "b"]) == {}, "and removed"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nan_and_infinity_are_not_kept(tmp_path: Path, dtype: type[np.generic]) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", {"a": np.array([1, np.nan], dtype), "b": np.array([np.inf, 1], dtype), "c": np.ones(2, dtype)})
    assert list(cache.get("graph", ["a", "b", "c"], dtype)) == ["c"]


def test_stored_nan_with_a_checksum_is_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    value = np.array([np.nan] * 4, np.float32)
    checksum = caches._checksum("graph", "a", value.tobytes(), value.dtype)
    _edit(tmp_path, "UPDATE arrays SET vector = ?, checksum = ? WHERE content = 'a'", value.tobytes(), checksum)
    assert list(cache.get("graph", ["a", "b"])) == ["b"]


FILES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("no database " * 100),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a page overwritten": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another table": lambda path: _edit(path.parent.parent, "ALTER TABLE arrays DROP COLUMN checksum"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_moved_aside_and_made_anew(tmp_path: Path, name: str) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    FILES[name](_file(tmp_path))
    assert cache.get("graph", ["a", "b"]) == {}
    cache.put("graph", VALUES)
    assert cache.get("graph", ["a"])["a"].tolist() == [0, 1, 2, 3]
    assert (tmp_path / "features" / "graph.sqlite.damaged-1").exists()
    assert caches.damage_notes() == ["a damaged file of the cache was moved to 'graph.sqlite.damaged-1', and made anew"]
    FILES["text"](_file(tmp_path))
    assert cache.get("graph", ["a"]) == {}
    assert (tmp_path / "features" / "graph.sqlite.damaged-2").exists()


def test_a_file_of_an_older_version_counts_as_empty(tmp_path: Path) -> None:
    _file(tmp_path).parent.mkdir()
    _edit(tmp_path, "CREATE TABLE embeddings (content TEXT PRIMARY KEY, vector BLOB NOT NULL)")
    _edit(tmp_path, "INSERT INTO embeddings VALUES ('a', ?)", bytes(16))
    cache = FeatureCache(tmp_path)
    assert cache.get("graph", ["a"]) == {}
    cache.put("graph", VALUES)
    assert cache.get("graph", ["a"])["a"].tolist() == [0, 1, 2, 3]
    assert caches.damage_notes() == []


def test_a_locked_file_waits(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("graph", VALUES)
    connection = sqlite3.connect(_file(tmp_path), check_same_thread=False, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, lambda: connection.execute("COMMIT"))
    release.start()
    cache.put("graph", {"c": VALUES["a"]})
    release.join()
    connection.close()
    assert cache.get("graph", ["c"])["c"].tolist() == [0, 1, 2, 3]


@given(st.integers(0, 8191), st.integers(1, 255))
def test_a_flipped_byte_never_gives_another_value(tmp_path_factory: pytest.TempPathFactory, place: int, mask: int) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    cache = FeatureCache(folder)
    cache.put("graph", VALUES)
    content = bytearray(_file(folder).read_bytes())
    content[place % len(content)] ^= mask
    _file(folder).write_bytes(content)
    found = cache.get("graph", ["a", "b"])
    assert all(np.array_equal(value, VALUES[name]) for name, value in found.items())
