"""Feature cache: arrays on disk, by the digest of the graph and of the image."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hemalens.errors import OutputError, one_line
from hemalens.files import optional_cache, output_errors


class FeatureCache:
    """Arrays on disk by graph and image: one SQLite file a graph, safe for several processes.

    The key holds everything that changes the value: the graph's bytes, with its preprocessing and weights, and the image's
    bytes, box and stages. Each file holds flat arrays of one type.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _connect(self, graph_digest: str) -> sqlite3.Connection:
        path = self.folder / "features" / f"{graph_digest}.sqlite"
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60)
        connection.execute("CREATE TABLE IF NOT EXISTS embeddings (content TEXT PRIMARY KEY, vector BLOB NOT NULL)")
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Go on without a cache that cannot be written, which costs time alone; `OutputError` for a damaged one."""
        try:
            with optional_cache():
                try:
                    yield
                except sqlite3.OperationalError as error:
                    raise self._refused(error) from error
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def _refused(self, error: sqlite3.Error) -> OutputError:
        return OutputError(
            f"the feature cache {one_line(self.folder)} cannot be used",
            got=str(error),
            remedy="Free space, remove the folder, or name another with HEMALENS_CACHE.",
        )

    def get(self, graph_digest: str, contents: Sequence[str], dtype: DTypeLike = np.float32) -> dict[str, NDArray[Any]]:
        """The cached arrays of these contents, flat; `dtype` must be the type they were stored with."""
        found: dict[str, NDArray[Any]] = {}
        with self._errors(), closing(self._connect(graph_digest)) as connection:
            for start in range(0, len(contents), 500):
                part = contents[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT content, vector FROM embeddings WHERE content IN ({marks})", part)
                found.update((content, np.frombuffer(vector, dtype)) for content, vector in rows)
        return found

    def put(self, graph_digest: str, vectors: dict[str, NDArray[Any]]) -> None:
        """Store arrays; existing entries are kept."""
        with self._errors(), closing(self._connect(graph_digest)) as connection, connection:
            rows = [(content, vector.tobytes()) for content, vector in vectors.items()]
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)
