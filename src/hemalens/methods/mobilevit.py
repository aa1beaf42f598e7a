"""MobileViT on bone-marrow cells: a small vision transformer from random weights, classes drawn equally often."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.methods.base import Method
from hemalens.methods.finetune import PRETRAINING_ROLE, FinetuneConfig, fit_as
from hemalens.training.module import ADAM, MOST, OptimiserConfig
from hemalens.training.trainer import KeptEpoch, Precision


class MobileVitConfig(FinetuneConfig):
    """The published settings: MobileViT from random weights, batches of 128, learning rate 1e-3, cross-entropy, 200 epochs,
    an imbalanced-dataset sampler (every class drawn equally often) with augmentation.

    The paper does not name the variant. `mobilevit_plain_xs` with eight classes at 256 px has the published 1.998 M
    parameters and 1.799 GFLOPs, as thop counts them. Alternatives: mobilevit_xs (timm's, 1.936 M), mobilevit_xxs,
    mobilevit_s, mobilevitv2_050. Optimiser, schedule, augmentation and epoch are not published: Adam at a constant rate,
    the augmentation of `finetune`, and the last epoch. With little memory use `batch_size=32` and `accumulate=4`.
    """

    backbone: str = "mobilevit_plain_xs"
    weights: str = "none"
    image_size_px: int | None = Field(default=256, ge=16, le=2048)
    epochs: int = Field(default=200, ge=1, le=MOST)
    batch_size: int = Field(default=128, ge=2, le=MOST)
    patience: int | None = Field(default=None, ge=1, le=MOST)
    kept_epoch: KeptEpoch = "last"
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = ADAM


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: MobileVitConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train for all epochs; `validation` is scored in each, and serves for calibration where `calibrate` is set."""
    return fit_as("mobilevit", train, validation, auxiliary, config=config, rng=rng, run_dir=run_dir)


METHOD = Method(
    "mobilevit",
    "MobileViT from random weights, classes drawn equally often",
    MobileVitConfig,
    fit,
    roles=(PRETRAINING_ROLE,),
    publication='Wang, Shang and Zhang, "A Study of the Classification Method of Bone Marrow '
    'Blood Cells Based on MobileVit", ASRJETS',
)
