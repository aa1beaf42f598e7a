"""BloodShot: an embedder trained with an angular margin and rotation consistency for few-shot learning (Laor 2022).

The embedder is a classifier of the generic dataset, and its bundle is tested as one. In a new laboratory, embeddings of a
few labelled cells replace the classifier: `hemalens adapt`, or the protocol k-shot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.base import Method
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.training.augmentation import AugmentationConfig, border_colours
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, TrainingData, check_parts, fit_network, set_batch_norm_momentum
from hemalens.training.losses import AAMSoftmax, rotate_each, rotation_consistency
from hemalens.training.module import OptimiserConfig
from hemalens.training.trainer import KeptEpoch, Precision

MARGIN_RAD = 0.499
"""28.6 degrees, as published."""

ADAM = OptimiserConfig(
    learning_rate=1e-3, weight_decay=0.0, warmup_epochs=0.0, schedule="constant", label_smoothing=0.0, gradient_clip=None
)


class BloodShotConfig(TrainingConfig):
    """The published settings: EfficientNet-B0 from random weights, Adam, 6 epochs, last weights, no augmentation.

    `loss`: the three of the paper's first table; label smoothing applies to "softmax" only. `consistency_weight`: the
    paper's lambda. `normalisation`: "unit" divides by 255, "backbone" is what pretrained weights expect. `rotation_fill`:
    colour of the corners of a rotated copy, "black" as published or the image's "border" colour, which leaves no edge.
    """

    backbone: str = "efficientnet_b0"
    weights: str = "none"
    image_size_px: int | None = Field(default=224, ge=16, le=2048)
    seed: int = 123
    normalisation: Literal["unit", "backbone"] = "unit"
    loss: Literal["softmax", "aam", "aam+consistency"] = "aam+consistency"
    margin_rad: float = Field(default=MARGIN_RAD, ge=0, lt=1.57)
    scale: float = Field(default=64.0, gt=0)
    consistency_weight: float = Field(default=1.0, ge=0)
    rotation_fill: Literal["black", "border"] = "black"
    epochs: int = Field(default=6, ge=1)
    sampling: Literal["balanced", "none"] = "none"
    patience: int | None = Field(default=None, ge=1)
    kept_epoch: KeptEpoch = "last"
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = ADAM
    augmentation: AugmentationConfig = AugmentationConfig.none()


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: BloodShotConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train the embedder and its classifier; `validation` serves for calibration and the history."""
    held = check_parts("bloodshot", validation, auxiliary)
    if config.class_weights == "balanced" and config.loss != "softmax":
        raise ConfigError("the angular losses have no class weights", remedy="Use --set sampling=balanced instead.")
    preprocessing = preprocessing_of(config)
    if config.normalisation == "unit":
        preprocessing = Preprocessing(size_px=preprocessing.size_px, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    network = create_backbone(config)
    set_batch_norm_momentum(network)
    module = EmbedderModule(network, preprocessing, len(train.classes), config, seed=int(rng.integers(2**31)))
    return fit_network(module, TrainingData(train, held), method="bloodshot", config=config, run_dir=run_dir)


class EmbedderModule(CellClassifier):
    """A timm network without a head, and one of the three losses on its raw pooled embedding."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, n_classes: int, config: BloodShotConfig, *, seed: int
    ) -> None:
        super().__init__(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
        self.config = config
        size = int(self.network.head_hidden_size)  # of the pooled embedding; num_features counts before a head's own layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head: Any = (
                nn.Linear(size, n_classes)
                if config.loss == "softmax"
                else AAMSoftmax(n_classes, size, margin_rad=config.margin_rad, scale=config.scale)
            )

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits (n, k) of the loss's own classifier."""
        logits: Tensor = self.head(embedding)
        return logits

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Classification loss, plus lambda times the consistency under a random rotation of each image."""
        if self.config.loss == "softmax":
            return super().loss(pixels, targets)
        if self.config.loss == "aam":
            aam: Tensor = self.head.loss(self.embed(pixels), targets)
            return aam
        # one pass for both, so that batch norm sees one distribution
        embeddings, rotated = self.embed(torch.cat([pixels, self.rotated(pixels)])).chunk(2)
        loss: Tensor = self.head.loss(embeddings, targets)
        return loss + self.config.consistency_weight * rotation_consistency(embeddings, rotated)

    def rotated(self, pixels: Tensor) -> Tensor:
        """Each image rotated by an angle uniform on the circle."""
        angles = torch.rand(len(pixels), device=pixels.device) * 2 * torch.pi
        black = -(self.mean / self.std).reshape(1, 3)
        fill = border_colours(pixels) if self.config.rotation_fill == "border" else black
        return rotate_each(pixels, angles, fill)


METHOD = Method(
    "bloodshot",
    "embedder with angular margin and rotation consistency (BloodShot)",
    BloodShotConfig,
    fit,
    publication='Laor, "BloodShot: Few-shot Learning On Blood Cells", 2022',
)
