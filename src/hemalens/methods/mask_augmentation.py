"""White-cell study of Kong: ResNet-18, pretrained on other tissue, with copies of cells cut out by their masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.methods.base import AuxiliaryRole, Method
from hemalens.methods.finetune import PRETRAINING, FinetuneConfig, Start, fit_as
from hemalens.models.backbone import preprocessing_of
from hemalens.training.augmentation import AugmentationConfig
from hemalens.training.masks import MaskUse
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.pretraining import PLAIN, PretrainingConfig
from hemalens.training.reconstruction import ReconstructionConfig, reconstruction_weights
from hemalens.training.trainer import Precision

PRCC = "prcc"


class MaskAugmentationConfig(FinetuneConfig):
    """The published settings: ResNet-18 from random weights, all layers trained; five copies of each cell with a mask.

    An auxiliary set "pretraining" (published: CAM16) is trained on first. `masks.copies=0` makes no copies;
    `masks.background` chooses what surrounds them, "mixed" as published. The copies are the only augmentation; all epochs
    run, and the best one is kept. Optimiser, epochs and input size are not published: those of `finetune`, 30 epochs, and
    224 px as in the paper's figure of the ResNet-18. An auxiliary set "prcc" comes before all: the backbone encodes its
    images and a symmetric decoder reconstructs them, under `reconstruction`; the paper proposes this as future work.
    """

    backbone: str = "resnet18"
    weights: str = "none"
    image_size_px: int | None = Field(default=224, ge=16, le=2048)
    epochs: int = Field(default=30, ge=1, le=MOST)
    sampling: Literal["balanced", "none"] = "none"
    patience: int | None = Field(default=None, ge=1, le=MOST)
    selection_score: Literal["balanced_accuracy", "accuracy"] = "accuracy"
    optimiser: OptimiserConfig = PLAIN
    augmentation: AugmentationConfig = AugmentationConfig.none()
    precision: Precision = "fp32"
    masks: MaskUse = MaskUse(copies=5)
    pretraining: PretrainingConfig = PretrainingConfig(
        sampling="none", patience=None, selection_score="accuracy", optimiser=PLAIN, augmentation=AugmentationConfig.none()
    )
    reconstruction: ReconstructionConfig = ReconstructionConfig(encoder="backbone")


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: MaskAugmentationConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train, keep the best epoch on `validation`, calibrate on it, export."""
    labelled = {role: dataset for role, dataset in auxiliary.items() if role != PRCC}
    start = _reconstructed(auxiliary[PRCC], config) if PRCC in auxiliary else None
    return fit_as("mask_augmentation", train, validation, labelled, config=config, rng=rng, run_dir=run_dir, start=start)


def _reconstructed(unlabelled: CellDataset, config: MaskAugmentationConfig) -> Start:
    """The weights of the backbone after it has learned to reconstruct `unlabelled`."""
    preprocessing = preprocessing_of(config)
    file = reconstruction_weights(unlabelled, preprocessing, config.reconstruction, backbone=config.backbone)
    return Start(file, unlabelled)


METHOD = Method(
    "mask_augmentation",
    "ResNet-18, pretrained on other tissue or not, and new images of cells cut out by their masks",
    MaskAugmentationConfig,
    fit,
    roles=(
        AuxiliaryRole(PRETRAINING, "labelled images to train on first; published: CAM16", labelled=True),
        AuxiliaryRole(PRCC, "unlabelled images to reconstruct first; proposed: pRCC regions", labelled=False),
    ),
    publication='Kong, "White Blood Cell Classification based on Transfer Learning", 2023',
)
