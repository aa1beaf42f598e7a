"""Feature cache: arrays on disk, by the digest of the graph and of the image; what is damaged is computed anew."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hemalens.errors import OutputError, one_line
from hemalens.files import is_regular, optional_cache, output_errors

VERSION = 2
"""Version of the table; a file of another one is emptied."""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
"""Errors of a file that is no database, or one of other tables; it is moved aside."""
T = TypeVar("T")

_damaged: list[str] = []


def damage_notes() -> list[str]:
    """What this process has found damaged in the cache, in one line a kind."""
    entries = _damaged.count("")
    counted = "1 damaged entry of the cache was" if entries == 1 else f"{entries} damaged entries of the cache were"
    notes = [f"{counted} computed anew"] if entries else []
    return notes + [note for note in _damaged if note]


def note_damage(note: str) -> None:
    """Remember what was found damaged, in one line."""
    _damaged.append(note)


def forget_damage() -> None:
    """Begin to count anew."""
    _damaged.clear()


class FeatureCache:
    """Arrays on disk by graph and image: one SQLite file a graph, safe for several processes.

    Where the folder cannot be written, nothing is cached, with a note.

    The key holds everything that changes the value: the graph's bytes, with its preprocessing and weights, and the image's
    bytes, box and stages. Each file holds flat arrays of one type. A value carries a checksum of key and bytes: one that
    fails it is removed and counted (`damage_notes`), and a damaged file is moved aside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, graph_digest: str) -> Path:
        return self.folder / "features" / f"{graph_digest}.sqlite"

    def _connect(self, graph_digest: str) -> sqlite3.Connection:
        path = self._file(graph_digest)
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not is_regular(path):
                _move_aside(path)
        connection = sqlite3.connect(path, timeout=60)
        try:
            if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    _begin(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _run(self, graph_digest: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` with the database of a graph, anew after a damaged one is moved aside; raises `OutputError`."""
        for last in (False, True):
            try:
                with closing(self._connect(graph_digest)) as connection, connection:
                    return work(connection)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if last or code not in DAMAGED:
                    raise self._error(error) from error
                with output_errors(self._file(graph_digest)):
                    _move_aside(self._file(graph_digest))
        raise AssertionError("unreachable")

    def _error(self, error: sqlite3.Error) -> OutputError:
        return OutputError(
            f"the feature cache {one_line(self.folder)} cannot be used",
            got=str(error),
            remedy="Free space, remove the folder, or name another with HEMALENS_CACHE.",
        )

    def get(
        self, graph_digest: str, contents: Sequence[str], dtype: DTypeLike = np.float32, *, size: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """The cached arrays of these contents, flat; `dtype` must be the type they were stored with.

        Without arrays of another length than `size`, of NaN or infinity, and those that fail their checksum.
        """
        kind = np.dtype(dtype)

        def read(connection: sqlite3.Connection) -> dict[str, NDArray[Any]]:
            found: dict[str, NDArray[Any]] = {}
            broken: list[str] = []
            for start in range(0, len(contents), 500):
                part = contents[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT content, vector, checksum FROM arrays WHERE content IN ({marks})", part)
                for content, vector, checksum in rows:
                    array = _checked(graph_digest, content, vector, checksum, kind)
                    if array is None or (size is not None and array.size != size):
                        broken.append(content)
                    else:
                        found[content] = array
            if broken:
                connection.executemany("DELETE FROM arrays WHERE content = ?", [(content,) for content in broken])
                _damaged.extend("" for _ in broken)
            return found

        with optional_cache():
            return self._run(graph_digest, read)
        return {}

    def put(self, graph_digest: str, vectors: dict[str, NDArray[Any]]) -> None:
        """Store arrays; existing entries are kept, and arrays with NaN or infinity are left out."""
        rows = [
            (content, vector.tobytes(), _checksum(graph_digest, content, vector.tobytes(), vector.dtype))
            for content, vector in vectors.items()
            if _finite(vector)
        ]
        with optional_cache():
            self._run(graph_digest, lambda found: found.executemany("INSERT OR IGNORE INTO arrays VALUES (?, ?, ?)", rows))


def _begin(connection: sqlite3.Connection) -> None:
    """The empty table of this version, in place of tables of other versions; another process may have made it."""
    if connection.execute("PRAGMA user_version").fetchone() == (VERSION,):
        return
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        quoted = name.replace('"', '""')
        connection.execute(f'DROP TABLE "{quoted}"')
    connection.execute("CREATE TABLE arrays (content TEXT PRIMARY KEY, vector BLOB NOT NULL, checksum BLOB NOT NULL)")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _checksum(graph_digest: str, content: str, value: bytes, kind: np.dtype[Any]) -> bytes:
    head = "\x00".join((graph_digest, content, kind.str, "")).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(head + value, digest_size=16).digest()


def _checked(graph_digest: str, content: str, value: object, checksum: object, kind: np.dtype[Any]) -> NDArray[Any] | None:
    """The array of a row; None where it is not the one that was stored."""
    if not isinstance(value, bytes) or checksum != _checksum(graph_digest, content, value, kind):
        return None
    array = np.frombuffer(value, kind)
    return array if _finite(array) else None


def _finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _move_aside(path: Path) -> None:
    """Rename a damaged file, with its journals, to the first free `NAME.damaged-N`."""
    n = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    with suppress(FileNotFoundError):  # another process was first
        os.replace(path, path.with_name(f"{path.name}.damaged-{n}"))
        note_damage(f"a damaged file of the cache was moved to {one_line(f'{path.name}.damaged-{n}')}, and made anew")
    for journal in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + journal).unlink(missing_ok=True)
