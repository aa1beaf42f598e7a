"""BC-SAM: feature maps of a fine-tuned Segment Anything, a cross-domain autoencoder, a classical head (Cai et al. 2024)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.segmenter import TrainedSegmenter, open_segmenter, open_trained_segmenter, segmenter_source
from hemalens.bundle.stages import CLASSICAL, CellImageStage, packed, unpacked
from hemalens.cache import FeatureCache
from hemalens.classifiers.heads import ClassWeights, check_head
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ConfigError
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut, half_map_graph, join, kind_of
from hemalens.graphs.features import MAPS_AT_ONCE, feature_maps
from hemalens.graphs.runtime import run_rows
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig, Outcome
from hemalens.methods.base import AuxiliaryRole, Method
from hemalens.models.autoencoder import channels_of
from hemalens.models.backbone import BackboneConfig, frozen_graph, preprocessing_of
from hemalens.progress import track
from hemalens.training.autoencoder import (
    AutoencoderConfig,
    CellPairs,
    autoencoder_bytes,
    check_domains,
    fit_autoencoder,
    latent_graph,
    latents,
    read_autoencoder,
    reconstruct,
)
from hemalens.training.probe import Encoded, Probe, export_probe

UNLABELLED = "unlabelled"
"""Role of images, such as another laboratory's, that the autoencoder learns from without their labels."""
N_SHOWN = 12
"""Cells whose reconstructions a report shows."""


class BCSamConfig(BackboneConfig):
    """The published settings, except for the weights of Segment Anything, which no package contains.

    `segmenter`: the folder of a trained one (`hemalens train bc_sam_segmenter`), or "classical". `features`: the encoded
    feature maps, the segmenter's as published, or those of a timm `backbone` with its `weights`. `head`: a name in
    `HEADS`; "ann" is best in the published table. `class_weights`: "balanced" weights each class inversely to its size.
    `margin_px`, `background`, `cut_from`, `connectivity` and `resampling` shape the cell image (`CellImageConfig`).
    """

    features: Literal["segmenter", "timm"] = "segmenter"
    segmenter: str = ""
    margin_px: int = Field(default=10, ge=0, le=200)
    background: int = Field(default=128, ge=0, le=255)
    cut_from: Literal["original", "resized"] = "resized"
    connectivity: Literal[4, 8] = 4
    resampling: Literal["bicubic", "spline"] = "spline"
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    head: str = "ann"
    class_weights: ClassWeights = "none"

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        check_head(self.head, self.class_weights)
        return self

    def file_digests(self) -> dict[str, str]:
        """With the digest of a trained segmenter's manifest."""
        return super().file_digests() | segmenter_source("segmenter", self.segmenter)

    @property
    def cell_image(self) -> CellImageConfig:
        """How the cell image is cut that the autoencoder reconstructs."""
        return CellImageConfig(
            size_px=self.autoencoder.side_px,
            margin_px=self.margin_px,
            background=self.background,
            cut_from=self.cut_from,
            connectivity=self.connectivity,
            resampling=self.resampling,
        )


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: BCSamConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train the autoencoder on `train` and the auxiliary set "unlabelled", then the head on the latents of `train`."""
    unknown = [role for role in auxiliary if role != UNLABELLED]
    if unknown:
        raise ConfigError("bc_sam takes one kind of auxiliary data", expected=UNLABELLED, got=", ".join(unknown))
    more = [dataset.through(train.stages) for dataset in auxiliary.values()]
    records = [record for dataset in (train, *more) for record in dataset.records]
    check_domains([record.domain for record in records], config.autoencoder)
    maps_of, stage = feature_graph(config), cell_image_stage(config)
    channels_of(kind_of(maps_of, "feature_map")[1])  # raises before all maps are computed, not after
    scratch = run_dir / "scratch"
    maps = feature_maps(records, maps_of, scratch / "maps.npy")
    pairs = CellPairs.whole(maps, cell_images(records, stage)[0], [record.domain for record in records])
    network = fit_autoencoder(pairs, config.autoencoder, run_dir)
    encoder = latent_graph(network, maps.shape[1:])
    learn = Encoded(train, latents(encoder, maps[: len(train)]))
    held = None
    if validation is not None:
        held_maps = feature_maps(validation.records, maps_of, scratch / "validation.npy")
        held = Encoded(validation, latents(encoder, held_maps))
    shutil.rmtree(scratch, ignore_errors=True)
    probe = Probe(
        method="bc_sam",
        config=config,
        head=config.head,
        class_weights=config.class_weights,
        encoder=join(maps_of, encoder),
        preprocessing=_preprocessing(config),
        frozen_backbone=False,
    )
    return export_probe(
        probe,
        learn,
        held,
        seed=int(rng.integers(2**31)),
        run_dir=run_dir,
        auxiliary=more,
        extra_files={WEIGHTS: autoencoder_bytes(network)},
    )


def feature_graph(config: BCSamConfig) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> feature_map (n, c, h, w), 16 bits; raises `ConfigError` where none is named."""
    if config.features == "timm":
        backbone = BackboneConfig(**{name: getattr(config, name) for name in BackboneConfig.model_fields})
        return frozen_graph(backbone, default_cache_dir(), output="feature_map")
    graph = cut(_trained(config).graph, ["image"], ["full_map"])
    # windowed attention leaves the sides of the exported map open
    found = run_rows(graph.SerializeToString(), {"image": np.zeros((1, 8, 8, 3), np.uint8)}, ["full_map"])
    return join(graph, half_map_graph(found["full_map"].shape[1:]))


def cell_image_stage(config: BCSamConfig) -> CellImageStage:
    """The stage that cuts out the cells to reconstruct; raises `ConfigError` where no segmenter is named."""
    if not config.segmenter:
        raise _no_segmenter()
    return CellImageStage(open_segmenter(config.segmenter), config.cell_image)


def _trained(config: BCSamConfig) -> TrainedSegmenter:
    if config.segmenter in ("", CLASSICAL):
        raise _no_segmenter()
    return open_trained_segmenter(Path(config.segmenter))


def _no_segmenter() -> ConfigError:
    return ConfigError(
        "bc_sam needs a segmenter",
        expected="the folder of a fine-tuned Segment Anything, from `hemalens train bc_sam_segmenter`",
        remedy="Use --set segmenter=FOLDER; or, without SAM's weights, --set features=timm --set segmenter=classical.",
    )


def _preprocessing(config: BCSamConfig) -> Preprocessing:
    return preprocessing_of(config) if config.features == "timm" else _trained(config).manifest.preprocessing


def cell_images(records: Sequence[Record], stage: CellImageStage) -> tuple[NDArray[np.uint8], Counter[Outcome]]:
    """The cell images (n, side, side, 3) of records as stored on disk, and the number of each outcome.

    They are cached by content and bits. Raises `ImageError` for an unreadable one.
    """
    shape = (stage.config.size_px, stage.config.size_px, 3)
    cells = np.empty((len(records), *shape), np.uint8)
    outcomes: Counter[Outcome] = Counter()
    cache, once = FeatureCache(default_cache_dir()), stage.once()
    with track("cutting cells out", len(records)) as progress:
        for start in range(0, len(records), MAPS_AT_ONCE):
            part = [record.unstaged() for record in records[start : start + MAPS_AT_ONCE]]
            contents = [record.view_id() for record in part]
            known = cache.get(once.digest_by_content, contents, np.uint8)
            fresh = {}
            for i, (content, record) in enumerate(zip(contents, part, strict=True)):
                if content not in known:
                    known[content] = fresh[content] = packed(once.make(record.read()))
                found = unpacked(known[content])
                cells[start + i] = found.pixels
                outcomes[found.outcome] += 1
                progress(1)
            cache.put(once.digest_by_content, fresh)
    return cells, outcomes


def show(bundle: Bundle, dataset: CellDataset) -> PictureTable:
    """Some cell images, and their reconstructions by the autoencoder of a bundle."""
    config = BCSamConfig.from_mapping(bundle.manifest.config)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, N_SHOWN).astype(int))
    records = [dataset.records[i] for i in chosen]
    maps = feature_maps(records, feature_graph(config))
    network = read_autoencoder(bundle.path / WEIGHTS, maps.shape[1:], config.autoencoder)
    cells, _ = cell_images(records, cell_image_stage(config))
    return reconstruction_table(records, cells, {"reconstructed from the latent": reconstruct(network, maps)})


def reconstruction_table(
    records: Sequence[Record],
    cells: NDArray[np.uint8],
    reconstructed: Mapping[str, NDArray[np.uint8]],
    *,
    note: str = "The cell image, and its reconstruction by the autoencoder from the latent.",
) -> PictureTable:
    """Cell images (n, side, side, 3) and one or more reconstructions of each."""
    rows = [
        Picture(
            name=record.file_name,
            caption=", ".join(text for text in (record.domain, record.label) if text),
            pictures=tuple(thumbnail(images[i]) for images in (cells, *reconstructed.values())),
        )
        for i, record in enumerate(records)
    ]
    return PictureTable(
        title="Reconstructions by the autoencoder", columns=("cell image", *reconstructed), rows=tuple(rows), note=note
    )


METHOD = Method(
    "bc_sam",
    "feature maps, cross-domain autoencoder, classical head (BC-SAM)",
    BCSamConfig,
    fit,
    show,
    roles=(
        AuxiliaryRole(
            UNLABELLED, "images of another laboratory, used without their labels", labelled=False, only_cells=True
        ),
    ),
    publication='Cai et al., "Towards cross-domain single blood cell image classification via '
    'large-scale LoRA-based Segment Anything Model", ISBI 2024',
)
