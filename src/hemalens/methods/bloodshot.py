"""BloodShot: an embedder trained with an angular margin and rotation consistency for few-shot learning (Laor 2022).

The embedder is a classifier of the generic dataset, and its bundle is tested as one. In a new laboratory, embeddings of a
few labelled cells replace the classifier: `hemalens adapt`, or the protocol k-shot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hemalens.bundle.bundle import Bundle
from hemalens.config import Seed
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError, WeightsError
from hemalens.imaging.reading import Interpolation, Preprocessing
from hemalens.methods.base import Method
from hemalens.models.backbone import create_backbone, loss_head, preprocessing_of
from hemalens.models.checkpoint_files import initialise_as_torchvision
from hemalens.training.augmentation import AugmentationConfig, border_colours
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, TrainingData, check_parts, fit_network, set_batch_norm_momentum
from hemalens.training.losses import AAMSoftmax, rotate_each, rotation_consistency
from hemalens.training.module import ADAM, OptimiserConfig
from hemalens.training.trainer import KeptEpoch, Precision

MARGIN_RAD = math.radians(28.6)
"""28.6 degrees, as published."""


class BloodShotConfig(TrainingConfig):
    """The published settings: EfficientNet-B0 from random weights, Adam, 6 epochs, last weights, no augmentation.

    What the paper leaves open is as in the authors' code.

    `normalisation`: "unit" divides by 255, "backbone" is what pretrained weights expect. `initialisation`: random
    convolutions as torchvision draws them, or as timm does; pretrained weights have none. `stochastic_depth`: as in
    `create_backbone`. `epochs`: 0 keeps the weights as they are, with the classifier in their file. `reshuffle`: the
    authors train in one order.

    `loss`: the three of the paper's first table. `consistency_weight`: the paper's lambda. `passes`: images and rotated
    copies in "two" passes, each with its own batch statistics, or in "one" with common ones. `rotation_fill`: colour of the
    corners of a rotated copy, "black" as published or the image's "border" colour, which leaves no edge.

    For "softmax" only: label smoothing, `dropout` before its head, and `head_size`, the least number of outputs of that
    head, of which the first ones are the classes.
    """

    backbone: str = "efficientnet_b0"
    weights: str = "none"
    image_size_px: int | None = Field(default=224, ge=16, le=2048)
    seed: Seed = 123
    interpolation: Interpolation = "bicubic"
    normalisation: Literal["unit", "backbone"] = "unit"
    initialisation: Literal["torchvision", "timm"] = "torchvision"
    stochastic_depth: float = Field(default=0.2, ge=0, lt=1)
    loss: Literal["softmax", "aam", "aam+consistency"] = "aam+consistency"
    margin_rad: float = Field(default=MARGIN_RAD, ge=0, lt=1.57)
    scale: float = Field(default=64.0, gt=0)
    consistency_weight: float = Field(default=1.0, ge=0)
    passes: Literal["two", "one"] = "two"
    rotation_fill: Literal["black", "border"] = "black"
    dropout: float = Field(default=0.2, ge=0, lt=1)
    head_size: int = Field(default=1000, ge=0)
    epochs: int = Field(default=6, ge=0)
    sampling: Literal["balanced", "none"] = "none"
    reshuffle: bool = False
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
    preprocessing = preprocessing_of(config).model_copy(update={"interpolation": config.interpolation})
    if config.normalisation == "unit":
        preprocessing = preprocessing.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)})
    network = embedder_network(config)
    module = EmbedderModule(network, preprocessing, len(train.classes), config, seed=int(rng.integers(2**31)))
    if not config.epochs:
        module.load_head(loss_head(config))
    return fit_network(module, TrainingData(train, held), method="bloodshot", config=config, run_dir=run_dir)


def embedder_network(config: BloodShotConfig) -> nn.Module:
    """The network before training."""
    network = create_backbone(config, stochastic_depth=config.stochastic_depth)
    if config.weights == "none" and config.initialisation == "torchvision":
        initialise_as_torchvision(network, seed=config.seed)
    set_batch_norm_momentum(network)
    return network


class EmbedderModule(CellClassifier):
    """A timm network without a head, and one of the three losses on its raw pooled embedding."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, n_classes: int, config: BloodShotConfig, *, seed: int
    ) -> None:
        super().__init__(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
        self.config = config
        self.n_classes = n_classes
        size = int(self.network.head_hidden_size)  # of the pooled embedding; num_features counts before a head's own layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head: Any = (
                nn.Linear(size, max(n_classes, config.head_size))
                if config.loss == "softmax"
                else AAMSoftmax(n_classes, size, margin_rad=config.margin_rad, scale=config.scale)
            )
        if config.loss == "softmax" and config.initialisation == "torchvision":
            initialise_as_torchvision(self.head, seed=seed)

    def load_head(self, weights: Mapping[str, Tensor]) -> None:
        """Take the classifier of trained weights; raises `WeightsError` for another one."""
        own = self.head.state_dict()
        if {name: tensor.shape for name, tensor in weights.items()} != {name: tensor.shape for name, tensor in own.items()}:
            raise WeightsError(
                "without training (epochs=0) the weights file must hold the classifier",
                expected=_shapes(own),
                got=_shapes(weights) or "none",
                remedy="Give the classes that they were trained on, as in --labels as_labelled, or use --set epochs=6.",
            )
        self.head.load_state_dict(dict(weights))

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits (n, k) of the loss's own classifier."""
        logits: Tensor = self.head(embedding)
        return logits if logits.shape[1] == self.n_classes else logits[:, : self.n_classes]

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Classification loss, plus lambda times the consistency under a random rotation of each image."""
        if self.config.loss == "softmax":
            return self._softmax_loss(self.embed(pixels), targets)
        if self.config.loss == "aam":
            aam: Tensor = self.head.loss(self.embed(pixels), targets)
            return aam
        if self.config.passes == "two":
            embeddings = self.embed(pixels)
            rotated = self.embed(self.rotated(pixels))
        else:
            embeddings, rotated = self.embed(torch.cat([pixels, self.rotated(pixels)])).chunk(2)
        loss: Tensor = self.head.loss(embeddings, targets)
        return loss + self.config.consistency_weight * rotation_consistency(embeddings, rotated)

    def _softmax_loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        outputs: Tensor = self.head(nn.functional.dropout(embeddings, self.config.dropout, training=self.training))
        weight = None
        if self.class_weights is not None:
            weight = nn.functional.pad(self.class_weights, (0, outputs.shape[1] - self.n_classes), value=1.0).to(outputs)
        smoothing = self.optimiser.label_smoothing
        return nn.functional.cross_entropy(outputs, targets, weight=weight, label_smoothing=smoothing)

    def rotated(self, pixels: Tensor) -> Tensor:
        """Each image rotated by an angle uniform on the circle."""
        angles = torch.rand(len(pixels), device=pixels.device) * 2 * torch.pi
        black = -(self.mean / self.std).reshape(1, 3)
        fill = border_colours(pixels) if self.config.rotation_fill == "border" else black
        return rotate_each(pixels, angles, fill)


def _shapes(weights: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in weights.items())


METHOD = Method(
    "bloodshot",
    "embedder with angular margin and rotation consistency (BloodShot)",
    BloodShotConfig,
    fit,
    publication='Laor, "BloodShot: Few-shot Learning On Blood Cells", 2022',
)
