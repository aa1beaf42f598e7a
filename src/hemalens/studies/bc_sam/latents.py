"""The latents that the BC-SAM study classifies, of autoencoders trained on all images or on training folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.bundle.stages import CellImageStage
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import k_fold, seeded, units
from hemalens.files import atomic_path, default_cache_dir, sha256_text
from hemalens.graphs.build import digest
from hemalens.graphs.features import feature_maps
from hemalens.methods.bc_sam import BCSamConfig, cell_image_stage, cell_images, feature_graph
from hemalens.models.autoencoder import CellAutoencoder
from hemalens.training.autoencoder import (
    AutoencoderConfig,
    CellPairs,
    Discrepancy,
    autoencoder_bytes,
    fit_autoencoder,
    latent_graph,
    latents,
    read_autoencoder,
)

Say = Callable[[str], None]
Protocol = Literal["transductive", "inductive"]
DISCREPANCY_WORDS: dict[Discrepancy, str] = {"none": "no MMD", "linear": "linear MMD", "rbf": "kernel MMD"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two laboratories: its images, the first row of them among all images, and its folds.

    `folds` are (training, test) positions within the dataset, `units` (n,) the unit of each image.
    """

    key: str
    dataset: CellDataset
    start: int
    folds: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    units: NDArray[np.int64]

    @classmethod
    def split(cls, key: str, dataset: CellDataset, *, start: int, n_folds: int, seed: int) -> Side:
        """A side with stratified folds; raises `SplitError` where a class is too small."""
        place = {id(record): i for i, record in enumerate(dataset.records)}
        parts = k_fold(dataset, n_folds, seeded(seed, "k_fold"))
        folds = [
            tuple(np.array([place[id(record)] for record in part.records], np.int64) for part in pair) for pair in parts
        ]
        return cls(key, dataset, start, tuple((train, test) for train, test in folds), units(dataset))

    @property
    def rows(self) -> slice:
        """Its rows among all images."""
        return slice(self.start, self.start + len(self.dataset))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the pooled features, or the latents of an autoencoder with one discrepancy.

    `embeddings`, one array (n_all, d) a fold, over all images of the study; the same array where the folds share it.
    """

    name: str
    protocol: Protocol | None
    embeddings: tuple[NDArray[np.float32], ...]
    autoencoder: CellAutoencoder | None = field(default=None, repr=False)
    """That of the first fold, for its reconstructions."""


@dataclass(frozen=True)
class Material:
    """Feature maps and cell images of both sides."""

    sides: tuple[Side, Side]
    graph: onnx.ModelProto
    stage: CellImageStage
    maps: NDArray[np.float16]
    cells: NDArray[np.uint8]

    @classmethod
    def prepare(cls, sides: tuple[Side, Side], config: BCSamConfig, scratch: Path) -> Material:
        """Compute them, or read them from the cache."""
        records = [record for side in sides for record in side.dataset.records]
        graph, stage = feature_graph(config), cell_image_stage(config)
        maps = feature_maps(records, graph, scratch)
        return cls(sides, graph, stage, maps, cell_images(records, stage))

    @property
    def pooled(self) -> NDArray[np.float32]:
        """The feature maps averaged over the image: (n_all, c)."""
        means = [part.astype(np.float32).mean(axis=(2, 3)) for part in np.array_split(self.maps, len(self.maps) // 256 + 1)]
        return np.concatenate(means)

    @cached_property
    def pairs(self) -> CellPairs:
        """All images, for the training of an autoencoder, with the domains of their records."""
        domains = [record.domain for side in self.sides for record in side.dataset.records]
        return CellPairs.whole(self.maps, self.cells, domains)

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """The images of both sides' training folds."""
        return np.concatenate([side.start + side.folds[fold][0] for side in self.sides])

    def row(self, protocol: Protocol, config: AutoencoderConfig, run_dir: Path, say: Say) -> Row:
        """The latents under one protocol and one discrepancy."""
        words = DISCREPANCY_WORDS[config.mmd]
        n_folds = len(self.sides[0].folds)
        if protocol == "transductive":
            say(f"autoencoder, {words}, transductive: {len(self.maps)} images")
            network = self._autoencoder(np.arange(len(self.maps)), config, run_dir)
            embeddings = [latents(latent_graph(network, self.maps.shape[1:]), self.maps)] * n_folds
            return Row(words, protocol, tuple(embeddings), network)
        found, first = [], None
        for fold in range(n_folds):
            rows = self.training_rows(fold)
            say(f"autoencoder, {words}, inductive, fold {fold}: {len(rows)} images")
            network = self._autoencoder(rows, config, run_dir)
            found.append(latents(latent_graph(network, self.maps.shape[1:]), self.maps))
            first = first or network
        return Row(words, protocol, tuple(found), first)

    def _autoencoder(self, rows: NDArray[np.int64], config: AutoencoderConfig, run_dir: Path) -> CellAutoencoder:
        """Trained on these images, or read from the cache under the same images, features, cell images and settings."""
        contents = [c for side in self.sides for c in side.dataset.contents]
        key = sha256_text(
            digest(self.graph),
            self.stage.digest,
            config.model_dump_json(),
            *(f"{self.pairs.domains[i]}:{contents[i]}" for i in rows),
        )
        kept = default_cache_dir() / "autoencoders" / f"{key}.safetensors"
        if kept.is_file():
            return read_autoencoder(kept, self.maps.shape[1:], config)
        network = fit_autoencoder(self.pairs.part(rows), config, run_dir / f"autoencoder_{key[:16]}")
        with atomic_path(kept) as temporary:
            temporary.write_bytes(autoencoder_bytes(network))
        return network
