"""A method in one file, as CONTRIBUTING describes it: fine-tuning with the focal loss (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.base import Method
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, TrainingData, check_parts, fit_network, set_batch_norm_momentum


class FocalLossConfig(TrainingConfig):
    """A backbone, its training, and `focus`, the exponent of the focal loss; 2 as published."""

    focus: float = Field(default=2.0, ge=0)


class FocalLossModule(CellClassifier):
    """A classifier that weights each image by how far its prediction is from certain."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, config: FocalLossConfig, seed: int) -> None:
        super().__init__(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
        self.focus = config.focus

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """-(1 - p)^focus log p of the correct class, the mean over the batch."""
        log_p = torch.log_softmax(self.classify(self.embed(pixels)), dim=1)
        right = log_p.gather(1, targets[:, None])[:, 0]
        return -((1 - right.exp()) ** self.focus * right).mean()


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: FocalLossConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train with early stopping on `validation`, calibrate on it, export the best epoch."""
    held = check_parts("focal_loss", validation, auxiliary)
    network = create_backbone(config, n_classes=len(train.classes))
    set_batch_norm_momentum(network)
    module = FocalLossModule(network, preprocessing_of(config), config=config, seed=int(rng.integers(2**31)))
    return fit_network(module, TrainingData(train, held), method="focal_loss", config=config, run_dir=run_dir)


METHOD = Method("focal_loss", "fine-tuning with the focal loss", FocalLossConfig, fit)
