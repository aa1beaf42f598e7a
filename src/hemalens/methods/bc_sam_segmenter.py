"""BC-SAM's segmenter: Segment Anything with low-rank adapters, tuned on the masks of a few cells (Cai et al. 2024)."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hemalens.bundle.artifact import WEIGHTS, DataEntry, library_versions
from hemalens.bundle.segmenter import SegmenterManifest, TrainedSegmenter, write_segmenter
from hemalens.bundle.stages import SEGMENTER
from hemalens.config import Seed, StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.imaging.reading import Preprocessing
from hemalens.models.lora import add_lora, count_parameters, merge_lora, trainable_state
from hemalens.models.sam import SamConfig, SamSegmenter, build_sam, image_size_of
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.module import OptimiserConfig
from hemalens.training.segmenter import SegmenterTraining, check_masks, fit_masks, segmenter_graph
from hemalens.training.trainer import Precision

NAME = "bc_sam_segmenter"
PIXEL_MEAN = (215.0322, 187.7592, 200.4668)
PIXEL_STD = (41.3047, 56.9191, 21.9522)
"""Mean and standard deviation of red, green and blue on 0-255: those of the authors' images with masks, from their code."""
ADAMW = OptimiserConfig(
    learning_rate=5e-4,
    weight_decay=0.05,
    decay_all=True,
    warmup_epochs=10,
    schedule="cosine",
    schedule_epochs=150,
    cosine_length="whole",
    label_smoothing=0.0,
    gradient_clip=None,
)
"""Rate and decay of the paper (1e-4 and 0.1 in the authors' code); 10 warm-up epochs and a cosine over 150 of the code."""
N_PARITY_IMAGES = 4


class SegmenterConfig(StrictConfig):
    """The published settings.

    `weights`: the path of SAM's ViT-B (the official sam_vit_b_01ec64.pth, or transformers' facebook/sam-vit-base), or
    "none" for random weights. `architecture`: "vit_b", or "small", of this package, for training from scratch on a CPU.
    `rank` of the adapters; 0 trains every parameter. `mask_fraction`: masks to learn from, as a share of all training
    images, with or without a mask, rounded up; where fewer have one, all of them. `antialias`: smooth an image before it
    shrinks. `epochs`: the schedule runs over 150 epochs, and the weights of epoch 85 are kept.
    """

    architecture: Literal["vit_b", "small"] = "vit_b"
    weights: str = ""
    image_size_px: int | None = Field(default=None, ge=16, le=1024)
    rank: int = Field(default=4, ge=0)
    mask_fraction: float = Field(default=0.01, gt=0, le=1)
    epochs: int = Field(default=85, ge=1)
    batch_size: int = Field(default=32, ge=1)
    ce_weight: float = Field(default=0.2, ge=0)
    dice_weight: float = Field(default=0.8, ge=0)
    augment: bool = True
    antialias: bool = False
    mean: tuple[float, float, float] = Field(default=PIXEL_MEAN, strict=False)
    std: tuple[float, float, float] = Field(default=PIXEL_STD, strict=False)
    seed: Seed = 1234
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = ADAMW

    @property
    def sam(self) -> SamConfig:
        """The network; raises `ConfigError` where no weights are named."""
        if not self.weights:
            raise ConfigError(
                f"{NAME} needs the weights of Segment Anything, which no package contains",
                expected="weights=FILE, sam_vit_b_01ec64.pth or the folder of facebook/sam-vit-base",
                remedy="Without them a small network can be trained from scratch: --set architecture=small "
                "--set weights=none --set rank=0 --set optimiser.learning_rate=0.001.",
            )
        return SamConfig(
            architecture=self.architecture, weights=self.weights, image_size_px=self.image_size_px, seed=self.seed
        )


def build(config: SegmenterConfig) -> SamSegmenter:
    """The network before training: adapters added and the rest of the encoder frozen; with rank 0 all layers open."""
    network = build_sam(config.sam)
    if config.rank:
        add_lora(network, config.rank, seed=config.seed)
    return network


def preprocessing_of(config: SegmenterConfig) -> Preprocessing:
    """From an image to the network's input."""
    return Preprocessing(size_px=image_size_of(config.sam), mean=config.mean, std=config.std, antialias=config.antialias)


def fit_segmenter(train: CellDataset, *, config: SegmenterConfig, run_dir: Path) -> TrainedSegmenter:
    """Train on all masks of `train`, write `run_dir`/segmenter; an interrupted training resumes.

    The folder holds the graph with merged adapters, and the trained weights: adapters, prompt encoder and mask decoder, or
    with rank 0 the whole network.
    """
    network = build(config)
    trained, total = count_parameters(network)
    preprocessing = preprocessing_of(config)
    fit_masks(network, train, preprocessing, _training(config), run_dir)
    state: dict[str, Any] = trainable_state(network) if config.rank else network.state_dict()
    weights = tensor_bytes(state)
    if config.rank:
        merge_lora(network)
    graph = segmenter_graph(network, preprocessing)
    parity = check_masks(graph, network, (record.read() for record in train.records[:N_PARITY_IMAGES]))
    manifest = SegmenterManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        method=NAME,
        config=config.model_dump(mode="json"),
        architecture=config.architecture,
        from_scratch=config.weights == "none",
        preprocessing=preprocessing,
        n_masks=len(train),
        n_parameters=total,
        n_trained_parameters=trained,
        data=(DataEntry.of(train, "train"),),
        parity=parity,
        versions=library_versions(),
    )
    files = {SEGMENTER: graph.SerializeToString(), WEIGHTS: weights}
    written = write_segmenter(run_dir / "segmenter", manifest, files)
    shutil.rmtree(run_dir / "scratch", ignore_errors=True)
    return written


def _training(config: SegmenterConfig) -> SegmenterTraining:
    shared = SegmenterTraining.model_fields.keys()
    return SegmenterTraining(**{name: getattr(config, name) for name in shared})
