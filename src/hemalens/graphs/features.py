"""Compute embeddings and feature maps of images through a content-addressed cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.cache import FeatureCache
from hemalens.datasets.base import Record
from hemalens.errors import ConfigError, ImageError, one_line
from hemalens.files import default_cache_dir, large_array
from hemalens.graphs.build import digest, kind_of
from hemalens.graphs.runtime import GraphRunner
from hemalens.progress import track

MAPS_AT_ONCE = 256
"""Feature maps that are computed at once."""

Progress = Callable[[int], None]
"""Called with the number of images just done."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """Embeddings (n_readable, d) or feature maps (n_readable, c, h, w) of the records at `readable`.

    `errors` holds the messages of unreadable images by index.
    """

    embeddings: NDArray[Any]
    readable: NDArray[np.int64]
    errors: dict[int, str]

    def complete(self) -> NDArray[Any]:
        """The embeddings of all records; raises `ImageError` when an image could not be read."""
        if self.errors:
            raise ImageError(f"{len(self.errors)} image(s) cannot be read, first: {next(iter(self.errors.values()))}")
        return self.embeddings


def extract(
    records: Sequence[Record],
    graph: onnx.ModelProto,
    *,
    cache: FeatureCache | None,
    output: str = "embedding",
    progress: Progress = lambda n: None,
) -> Extraction:
    """Run a graph from `image` to `output` for each record; byte-identical images are computed once.

    The cache keeps partial results of an interrupted run.
    """
    dtype, shape = kind_of(graph, output)
    graph_digest = digest(graph)
    contents: dict[int, str] = {}
    errors: dict[int, str] = {}
    for i, record in enumerate(records):
        try:
            contents[i] = record.view_id()
        except OSError as error:
            errors[i] = f"cannot read {one_line(record.name)}: {error.strerror}"
    vectors = cache.get(graph_digest, list(dict.fromkeys(contents.values())), dtype) if cache else {}
    todo = {content: records[i] for i, content in contents.items() if content not in vectors}
    progress(len(records) - len(todo))
    broken: dict[str, str] = {}
    fresh: dict[str, NDArray[Any]] = {}
    if todo:
        runner = GraphRunner(graph.SerializeToString(), [output])
        for content, (_, found) in zip(todo, runner.map(todo.values()), strict=True):
            progress(1)
            if isinstance(found, ImageError):
                broken[content] = str(found)
                continue
            fresh[content] = vectors[content] = found[output].ravel()
            if cache and len(fresh) >= 256:
                cache.put(graph_digest, fresh)
                fresh = {}
        if cache and fresh:
            cache.put(graph_digest, fresh)
    errors |= {i: broken[content] for i, content in contents.items() if content in broken}
    readable = [i for i in range(len(records)) if i not in errors]
    stacked = np.stack([vectors[contents[i]] for i in readable]) if readable else np.zeros((0, int(np.prod(shape))), dtype)
    whole = stacked.reshape(len(readable), *shape) if len(shape) > 1 else stacked
    return Extraction(whole, np.array(readable, np.int64), errors)


def feature_maps(records: Sequence[Record], graph: onnx.ModelProto, scratch: Path | None = None) -> NDArray[np.float16]:
    """The feature maps (n, c, h, w) of a graph from `image` to `feature_map`, through the cache.

    A large set is memory-mapped to the file `scratch`, where one is named. Raises `ImageError` for an
    unreadable image, `ConfigError` for values beyond 16 bits.
    """
    dtype, shape = kind_of(graph, "feature_map")
    maps = large_array((len(records), *shape), dtype, scratch)
    cache = FeatureCache(default_cache_dir())
    with track("feature maps", len(records)) as progress:
        for start in range(0, len(records), MAPS_AT_ONCE):
            part = records[start : start + MAPS_AT_ONCE]
            found = extract(part, graph, cache=cache, output="feature_map", progress=progress)
            maps[start : start + len(part)] = found.complete()
            if not np.isfinite(maps[start : start + len(part)]).all():
                raise ConfigError(
                    "feature maps of this network do not fit 16-bit floats", expected="values within +-65,504"
                )
    return maps
