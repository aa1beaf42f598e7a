"""The latents that the BC-SAM study classifies, of autoencoders trained on all images or on training folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from hemalens.bundle.stages import CellImageStage
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import check_classes, k_fold, seeded, units
from hemalens.files import atomic_path, default_cache_dir, sha256_text, write_text
from hemalens.graphs.build import digest
from hemalens.graphs.features import feature_maps
from hemalens.imaging.segmentation import Outcome
from hemalens.methods.bc_sam import BCSamConfig, cell_image_stage, cell_images, feature_graph
from hemalens.models.autoencoder import CellAutoencoder
from hemalens.progress import Say
from hemalens.runs.curves import HISTORY
from hemalens.training.autoencoder import (
    AutoencoderConfig,
    CellPairs,
    Discrepancy,
    fit_autoencoder,
    latent_graph,
    latents,
    read_autoencoder,
    reconstruct,
)
from hemalens.training.baseline_autoencoders import BaselineConfig, drawings, embeddings, fit_baseline, read_baseline
from hemalens.training.checkpoints import has_weights, tensor_bytes

Protocol = Literal["transductive", "inductive"]
POOLED = "features"
"""Name of the row of pooled features."""
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
        """A side with stratified folds; raises `SplitError` where a class is too small.

        Folds are those of scikit-learn, as in the authors' code; where images share a group, groups stay together.
        """
        unit = units(dataset)
        check_classes(dataset, n_units=n_folds, purpose=f"{n_folds} folds")
        if len(np.unique(unit)) == len(dataset):
            splits = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(unit, dataset.targets)
            folds = tuple((train.astype(np.int64), test.astype(np.int64)) for train, test in splits)
        else:
            place = {id(record): i for i, record in enumerate(dataset.records)}
            parts = k_fold(dataset, n_folds, seeded(seed, "k_fold"))
            whole = [[np.array([place[id(r)] for r in part.records], np.int64) for part in pair] for pair in parts]
            folds = tuple((train, test) for train, test in whole)
        return cls(key, dataset, start, folds, unit)

    @property
    def rows(self) -> slice:
        """Its rows among all images."""
        return slice(self.start, self.start + len(self.dataset))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the pooled features, or the embeddings of one autoencoder.

    `embeddings`, one array (n_all, d) a fold, over all images of the study; the same array where the folds share it.
    """

    name: str
    protocol: Protocol | None
    embeddings: tuple[NDArray[np.float32], ...]
    draw: Callable[[NDArray[np.float16]], NDArray[np.uint8]] | None = field(default=None, repr=False)
    """Reconstructed cell images of feature maps, by the first fold's autoencoder."""
    fits: tuple[Path, ...] = field(default=(), repr=False)
    """The run folders of its trainings, one a fold or one for all."""


@dataclass(frozen=True)
class Material:
    """Feature maps and cell images of both sides."""

    sides: tuple[Side, Side]
    graph: onnx.ModelProto
    stage: CellImageStage
    maps: NDArray[np.float16]
    cells: NDArray[np.uint8]
    outcomes: Mapping[Outcome, int]
    """How many cells were cut out whole, cut off by the border, or not found."""

    @classmethod
    def prepare(cls, sides: tuple[Side, Side], config: BCSamConfig, scratch: Path) -> Material:
        """Compute them, or read them from the cache."""
        records = [record for side in sides for record in side.dataset.records]
        graph, stage = feature_graph(config), cell_image_stage(config)
        maps = feature_maps(records, graph, scratch)
        return cls(sides, graph, stage, maps, *cell_images(records, stage))

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
            network, fit = self._autoencoder(np.arange(len(self.maps)), config, run_dir)
            found = latents(latent_graph(network, self.maps.shape[1:]), self.maps)
            return Row(words, protocol, (found,) * n_folds, partial(reconstruct, network), (fit,))
        fits: list[Path] = []
        by_fold, first = [], None
        for fold in range(n_folds):
            rows = self.training_rows(fold)
            say(f"autoencoder, {words}, inductive, fold {fold}: {len(rows)} images")
            network, fit = self._autoencoder(rows, config, run_dir)
            fits.append(fit)
            by_fold.append(latents(latent_graph(network, self.maps.shape[1:]), self.maps))
            first = first or network
        return Row(words, protocol, tuple(by_fold), partial(reconstruct, first) if first else None, tuple(fits))

    def baseline(self, config: BaselineConfig, run_dir: Path, say: Say) -> Row:
        """The embeddings of another paper's autoencoder, trained on all images."""
        say(f"{config.name}: {len(self.maps)} images")
        rows = np.arange(len(self.maps))
        network, fit = self._trained(
            config,
            rows,
            lambda folder: fit_baseline(self.pairs.part(rows), config, folder),
            lambda file: read_baseline(file, self.maps.shape[1:], self.cells.shape[1], config),
            run_dir,
        )
        n_folds = len(self.sides[0].folds)
        found = embeddings(network, self.maps)
        return Row(config.name, "transductive", (found,) * n_folds, partial(drawings, network), (fit,))

    def _autoencoder(
        self, rows: NDArray[np.int64], config: AutoencoderConfig, run_dir: Path
    ) -> tuple[CellAutoencoder, Path]:
        """The autoencoder of BC-SAM on these images, and the folder of its training."""
        return self._trained(
            config,
            rows,
            lambda folder: fit_autoencoder(self.pairs.part(rows), config, folder),
            lambda file: read_autoencoder(file, self.maps.shape[1:], config),
            run_dir,
        )

    def _trained(
        self,
        config: StrictConfig,
        rows: NDArray[np.int64],
        fit: Callable[[Path], Any],
        read: Callable[[Path], Any],
        run_dir: Path,
    ) -> tuple[Any, Path]:
        """A network from `fit`, or from the cache under the same images, features, cell images and settings.

        And its run folder, which holds the training's history in both cases.
        """
        contents = [c for side in self.sides for c in side.dataset.contents]
        key = sha256_text(
            digest(self.graph),
            self.stage.digest,
            type(config).__name__,
            config.model_dump_json(),
            *(f"{self.pairs.domains[i]}:{contents[i]}" for i in rows),
        )
        kept = default_cache_dir() / "autoencoders" / f"{key}.safetensors"
        folder = run_dir / f"autoencoder_{key[:16]}"
        told, history = kept.with_suffix(".jsonl"), folder / HISTORY
        if has_weights(kept):
            if told.is_file() and not history.is_file():
                write_text(history, told.read_text(encoding="utf-8"))
            return read(kept), folder
        network = fit(folder)
        if history.is_file():
            write_text(told, history.read_text(encoding="utf-8"))
        with atomic_path(kept) as temporary:
            temporary.write_bytes(tensor_bytes(network.state_dict()))
        return network, folder
