"""Export a trained model to a bundle, after a parity check on training images."""

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
from hemalens.bundle.bundle import FINE, MODEL, SEEN_UNLABELLED, Bundle, FineEntry, Manifest, class_entries, write_bundle
from hemalens.bundle.nucleus_size import sizes_of
from hemalens.bundle.reference import reference_of
from hemalens.bundle.review import thresholds_of
from hemalens.bundle.seen import SEEN, seen_images
from hemalens.bundle.stages import Stage
from hemalens.cache import FeatureCache
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.leaks import traces
from hemalens.errors import ImageError, ParityError
from hemalens.files import default_cache_dir
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.reading import Preprocessing
from hemalens.trust.reference import REFERENCE_FILE, reference_bytes

PARITY = 1e-3
"""Largest allowed difference of a probability from the trained model."""
N_PARITY_IMAGES = 8

Reference = Callable[[list[Record]], NDArray[np.floating[Any]]]
"""The trained model's probabilities (n, k) of records, computed without the graph."""


@dataclass(frozen=True, slots=True)
class FineTypes:
    """The subtypes of a graph's output `FINE`, and the trained model's probabilities of them, (n, f)."""

    entries: tuple[FineEntry, ...]
    reference: Reference


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model to export.

    `graph` maps image to embedding and raw_logits, and with `fine` to the probabilities of subtypes. `reference` computes
    the calibrated probabilities (n, k) of records without the graph.
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
    """Images used without their labels."""
    pretraining: tuple[CellDataset, ...] = ()
    """Labelled images of the pretraining."""
    inherited: frozenset[str] = frozenset()
    """Content digests of the images that its initial weights were trained on."""
    imitated: tuple[CellDataset, ...] = ()
    """Validation images as imitated laboratories show them, a set for each."""
    watched: CellDataset | None = None
    """Labelled images whose scores were noted in each epoch. They chose nothing, so the model has not seen them."""


def export_bundle(trained: Trained, path: Path, *, extra_files: dict[str, bytes] | None = None) -> Bundle:
    """Join the graph, compare it with the trained model on training images, and write the bundle.

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
    if trained.watched is not None:
        data += DataEntry.each(trained.watched, "watched")
    data += [entry for dataset in trained.pretraining for entry in DataEntry.each(dataset, "pretraining")]
    data += [entry for dataset in trained.auxiliary for entry in DataEntry.each(dataset, "auxiliary")]
    stages = bundle_stages(trained.train)
    cache = FeatureCache(default_cache_dir()) if trained.frozen_backbone else None
    reference = reference_of(trained.train, trained.validation, graph, cache, imitated=trained.imitated)
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
        review=thresholds_of(reference, classes),
        data=tuple(data),
        parity=parity,
        versions=library_versions(),
    )
    learned = [trained.train, *([trained.validation] if trained.validation else []), *trained.pretraining]
    seen = trained.inherited.union(*(traces(dataset) for dataset in learned))
    files = {MODEL: content, SEEN: seen_images(seen), **(extra_files or {})}
    if trained.auxiliary:
        files[SEEN_UNLABELLED] = seen_images(content for dataset in trained.auxiliary for content in dataset.contents)
    if reference is not None:
        files[REFERENCE_FILE] = reference_bytes(reference)
    for stage in stages:
        files |= stage.files()
    return write_bundle(path, manifest, files)


def bundle_stages(dataset: CellDataset) -> tuple[Stage, ...]:
    """The stages of a training set, which the bundle repeats."""
    return tuple(stage for stage in dataset.stages if isinstance(stage, Stage))


def check_parity(
    graph: bytes, records: Sequence[Record], reference: Reference, *, fine: Reference | None = None
) -> tuple[float, int]:
    """Largest difference of a probability on some of the records, and the length of the embedding.

    `fine` computes the probabilities of subtypes. Raises `ParityError` when a probability differs by more than 1e-3.
    """
    chosen = list(records[:: max(1, len(records) // N_PARITY_IMAGES)][:N_PARITY_IMAGES])
    wanted = {"probabilities": reference, **({FINE: fine} if fine else {})}
    served = []
    for _, outputs in GraphRunner(graph, [*wanted, "embedding"]).map(chosen):
        if isinstance(outputs, ImageError):
            raise outputs
        served.append(outputs)
    apart = [np.abs(np.stack([a[name] for a in served]) - expected(chosen)).max() for name, expected in wanted.items()]
    # NaN counts as different
    difference = float(np.max(apart))
    if not difference <= PARITY:
        raise ParityError(
            "the exported graph does not reproduce the trained model",
            expected=f"probabilities within {PARITY}",
            got=f"a difference of {difference:.2g}",
        )
    return difference, len(served[0]["embedding"])
