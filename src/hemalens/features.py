"""Embeddings of images, computed once for each image content and graph, and kept in a content-addressed cache."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import platformdirs
from numpy.typing import NDArray

from hemalens import graphs
from hemalens.datasets.base import Record
from hemalens.errors import ImageError, OutputError, one_line
from hemalens.files import output_errors
from hemalens.runtime import GraphRunner

Progress = Callable[[int], None]
"""Called with the number of images just done."""


def default_cache_dir() -> Path:
    """The folder `HEMALENS_CACHE` names, otherwise the user's cache folder."""
    named = os.environ.get("HEMALENS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("hemalens"))


class FeatureCache:
    """Embeddings on disk by graph digest and image content: one SQLite file a graph, safe for several processes.

    The key holds everything that changes the value: the graph's bytes (preprocessing and weights in it), the image
    file's bytes and the box cut from it.
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
        try:
            yield
        except sqlite3.Error as error:
            raise OutputError(
                f"the feature cache {one_line(self.folder)} cannot be used",
                got=str(error),
                remedy="Free space, remove the folder, or name another with HEMALENS_CACHE.",
            ) from error

    def get(self, graph_digest: str, contents: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors known for these contents."""
        found: dict[str, NDArray[np.float32]] = {}
        with self._errors(), closing(self._connect(graph_digest)) as connection:
            for start in range(0, len(contents), 500):
                part = contents[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT content, vector FROM embeddings WHERE content IN ({marks})", part)
                found.update((content, np.frombuffer(vector, np.float32)) for content, vector in rows)
        return found

    def put(self, graph_digest: str, vectors: dict[str, NDArray[np.float32]]) -> None:
        """Keep vectors; an entry that is there already stays."""
        with self._errors(), closing(self._connect(graph_digest)) as connection, connection:
            rows = [(content, vector.astype(np.float32).tobytes()) for content, vector in vectors.items()]
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Embeddings (n_readable, d) of the records at `readable`, and the errors of the others by index."""

    embeddings: NDArray[np.float32]
    readable: NDArray[np.int64]
    errors: dict[int, str]

    def complete(self) -> NDArray[np.float32]:
        """All embeddings (n, d); raises `ImageError` when an image could not be read."""
        if self.errors:
            raise ImageError(f"{len(self.errors)} image(s) cannot be read, first: {next(iter(self.errors.values()))}")
        return self.embeddings


def extract(
    records: Sequence[Record],
    graph: onnx.ModelProto,
    *,
    cache: FeatureCache | None,
    progress: Progress = lambda n: None,
) -> Extraction:
    """Embeddings of the records by a graph from `image` to `embedding`; copies are computed once.

    What was computed before a stop stays in the cache.
    """
    graph_digest = graphs.digest(graph)
    contents: dict[int, str] = {}
    errors: dict[int, str] = {}
    for i, record in enumerate(records):
        try:
            contents[i] = record.content_id()
        except OSError as error:
            errors[i] = f"cannot read {one_line(record.path)}: {error.strerror}"
    vectors = cache.get(graph_digest, list(dict.fromkeys(contents.values()))) if cache else {}
    todo = {content: records[i] for i, content in contents.items() if content not in vectors}
    progress(len(records) - len(todo))
    broken: dict[str, str] = {}
    fresh: dict[str, NDArray[np.float32]] = {}
    if todo:
        runner = GraphRunner(graph.SerializeToString(), ["embedding"])
        for content, (_, answer) in zip(todo, runner.map(todo.values()), strict=True):
            progress(1)
            if isinstance(answer, ImageError):
                broken[content] = str(answer)
                continue
            fresh[content] = vectors[content] = answer["embedding"]
            if cache and len(fresh) >= 256:
                cache.put(graph_digest, fresh)
                fresh = {}
        if cache and fresh:
            cache.put(graph_digest, fresh)
    errors |= {i: broken[content] for i, content in contents.items() if content in broken}
    readable = [i for i in range(len(records)) if i not in errors]
    stacked = np.stack([vectors[contents[i]] for i in readable]) if readable else np.zeros((0, 0), np.float32)
    return Extraction(stacked, np.array(readable, np.int64), errors)
