"""From a trained model to a bundle: one graph, one manifest, and a parity check on real images before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    FINE,
    MODEL,
    SEEN,
    SEEN_UNLABELLED,
    Bundle,
    FineEntry,
    Manifest,
    class_entries,
    seen_images,
    write_bundle,
)
from hemalens.bundle.nucleus_size import sizes_of
from hemalens.bundle.reference import reference_files
from hemalens.bundle.stages import Stage
from hemalens.cache import FeatureCache
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ImageError, ParityError
from hemalens.files import default_cache_dir
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.reading import Preprocessing

PARITY = 1e-3
"""Largest allowed difference of a probability between the bundle and the trained model."""
N_PARITY_IMAGES = 8

Reference = Callable[[list[Record]], NDArray[np.floating[Any]]]
"""The trained model's own probabilities (n, k) for records, computed without the graph."""


@dataclass(frozen=True, slots=True)
class FineTypes:
    """The finer types behind a graph's output `FINE`, and the trained model's own probabilities of them, (n, f)."""

    entries: tuple[FineEntry, ...]
    reference: Reference


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model on its way into a bundle.

    `graph` maps image to embedding and raw_logits, and with `fine` to the finer types' probabilities; `reference` gives the
    trained model's own probabilities (n, k), calibrated, for records, computed without the graph.
    """

    method: str
    config: StrictConfig
    train: CellDataset
    validation: CellDataset | None
    graph: onnx.ModelProto
    preprocessing: Preprocessing
    temperature: float
    frozen_backbone: bool
    reference: Reference
    fine: FineTypes | None = None
    auxiliary: tuple[CellDataset, ...] = ()
    """Images it has seen without their labels."""
    pretraining: tuple[CellDataset, ...] = ()
    """Images it has learned from, with their labels, before `train`."""
    inherited: frozenset[str] = frozenset()
    """Contents of further images that its first weights had learned from."""


def export_bundle(trained: Trained, path: Path, *, extra_files: dict[str, bytes] | None = None) -> Bundle:
    """Join the graph, compare it with the trained model on real training images, and write the bundle.

    Raises `ParityError` when a probability differs by more than 1e-3.
    """
    classes = trained.train.classes
    graph = graphs.join(trained.graph, graphs.temperature_graph(len(classes), trained.temperature))
    content = graph.SerializeToString()
    fine = trained.fine.reference if trained.fine else None
    parity, embedding_size = check_parity(content, trained.train.records, trained.reference, fine=fine)
    data = [*DataEntry.each(trained.train, "train")]
    if trained.validation is not None:
        data += DataEntry.each(trained.validation, "validation")
    data += [entry for dataset in trained.pretraining for entry in DataEntry.each(dataset, "pretraining")]
    data += [entry for dataset in trained.auxiliary for entry in DataEntry.each(dataset, "auxiliary")]
    stages = bundle_stages(trained.train)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        method=trained.method,
        config=trained.config.model_dump(mode="json"),
        label_map=trained.train.label_map,
        classes=class_entries(classes),
        preprocessing=trained.preprocessing,
        before_graph=tuple(stage.entry() for stage in stages),
        embedding_size=embedding_size,
        frozen_backbone=trained.frozen_backbone,
        temperature=trained.temperature,
        fine=trained.fine.entries if trained.fine else (),
        nucleus_sizes=sizes_of(trained.train, stages),
        data=tuple(data),
        parity=parity,
        versions=library_versions(),
    )
    learned = [trained.train, *([trained.validation] if trained.validation else []), *trained.pretraining]
    seen = trained.inherited.union(*(dataset.contents for dataset in learned))
    files = {MODEL: content, SEEN: seen_images(seen), **(extra_files or {})}
    if trained.auxiliary:
        files[SEEN_UNLABELLED] = seen_images(content for dataset in trained.auxiliary for content in dataset.contents)
    cache = FeatureCache(default_cache_dir()) if trained.frozen_backbone else None
    files |= reference_files(trained.train, trained.validation, graph, cache)
    for stage in stages:
        files |= stage.files()
    return write_bundle(path, manifest, files)


def bundle_stages(dataset: CellDataset) -> tuple[Stage, ...]:
    """What the images of a training set went through, as a bundle must repeat it."""
    return tuple(stage for stage in dataset.stages if isinstance(stage, Stage))


def check_parity(
    graph: bytes, records: Sequence[Record], reference: Reference, *, fine: Reference | None = None
) -> tuple[float, int]:
    """(largest difference of a probability on some of the records, length of the embedding).

    `fine` gives the probabilities of finer types, where the graph tells them. Raises `ParityError` when a probability
    differs by more than 1e-3.
    """
    chosen = list(records[:: max(1, len(records) // N_PARITY_IMAGES)][:N_PARITY_IMAGES])
    wanted = {"probabilities": reference, **({FINE: fine} if fine else {})}
    served = []
    for _, answer in GraphRunner(graph, [*wanted, "embedding"]).map(chosen):
        if isinstance(answer, ImageError):
            raise answer
        served.append(answer)
    apart = [np.abs(np.stack([a[name] for a in served]) - expected(chosen)).max() for name, expected in wanted.items()]
    # a value that is no number counts as different
    difference = float(np.max(apart))
    if not difference <= PARITY:
        raise ParityError(
            "the exported graph does not reproduce the trained model",
            expected=f"probabilities within {PARITY}",
            got=f"a difference of {difference:.2g}",
        )
    return difference, len(served[0]["embedding"])
