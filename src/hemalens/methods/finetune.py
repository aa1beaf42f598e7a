"""Fine-tune a timm backbone, whole or in part, with optional pretraining on other labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from torch import nn

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.methods.base import AuxiliaryRole, Method
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.freezing import freeze_first_blocks, open_last_stages, start_head_near_zero
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import (
    TrainingConfig,
    TrainingData,
    check_machine,
    check_parts,
    fit_network,
    set_batch_norm_momentum,
)
from hemalens.training.masks import without_background
from hemalens.training.pretraining import PretrainingConfig, pretrained

PRETRAINING = "pretraining"
PRETRAINING_ROLE = AuxiliaryRole(PRETRAINING, "labelled images to train on first", labelled=True)


class FinetuneConfig(TrainingConfig):
    """A backbone and how it is trained on.

    `open_stages`: number of last stages that learn, the head always with them; None opens all. `frozen_blocks`: number
    of first blocks that keep their weights, the stem with them. Set at most one of the two. `image_size_px`: 128 takes a
    third of the time of 224 on a CPU; None takes timm's size for the backbone. `pretraining`: how the network is trained
    first on the auxiliary set of that role, where there is one; its head is then replaced.
    """

    image_size_px: int | None = Field(default=128, ge=16, le=2048)
    open_stages: int | None = Field(default=None, ge=0)
    frozen_blocks: int = Field(default=0, ge=0)
    pretraining: PretrainingConfig = PretrainingConfig()


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: FinetuneConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train with early stopping on `validation`, calibrate on it, export the best epoch."""
    return fit_as("finetune", train, validation, auxiliary, config=config, rng=rng, run_dir=run_dir)


@dataclass(frozen=True, slots=True)
class Start:
    """Weights that take the place of the configured ones, learned from `unlabelled` images."""

    weights: Path
    unlabelled: CellDataset


def fit_as(
    method: str,
    train: CellDataset,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    *,
    config: FinetuneConfig,
    rng: np.random.Generator,
    run_dir: Path,
    start: Start | None = None,
) -> Bundle:
    """`fit` for a method of another name, which the bundle stores."""
    held = check_parts(method, validation, auxiliary, [PRETRAINING])
    check_machine(config, held)
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    without_background(train, config.masks, preprocessing)  # raises before hours of pretraining, not after
    first = config.model_copy(update={"weights": str(start.weights)}) if start else config
    network = starting_network(first, auxiliary.get(PRETRAINING), n_classes=len(train.classes), seed=seed)
    module = CellClassifier(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
    return fit_network(
        module,
        TrainingData(train, held, pretraining=tuple(auxiliary.values()), unlabelled=(start.unlabelled,) if start else ()),
        method=method,
        config=config,
        run_dir=run_dir,
    )


def starting_network(config: FinetuneConfig, first: CellDataset | None, *, n_classes: int, seed: int) -> nn.Module:
    """The network at the start of training: pretrained on `first` where given, with a new head, partly frozen."""
    if config.open_stages is not None and config.frozen_blocks:
        raise ConfigError("open_stages and frozen_blocks both choose the layers that learn", remedy="Set one of them.")
    start: BackboneConfig = config
    if first is not None:
        if all(record.cell_type is not None for record in first.records):
            # cells look as in the training that follows; tissue shows no single cell to find
            first = without_background(first, config.masks, preprocessing_of(config))
        start = config.model_copy(update={"weights": str(pretrained(first, config, config.pretraining).path)})
    network = create_backbone(start, n_classes=n_classes)
    set_batch_norm_momentum(network)
    start_head_near_zero(network, seed)
    open_last_stages(network, config.open_stages)
    freeze_first_blocks(network, config.frozen_blocks)
    return network


METHOD = Method(
    "finetune",
    "any timm backbone, trained whole or in part, pretrained on other labelled images or not",
    FinetuneConfig,
    fit,
    roles=(PRETRAINING_ROLE,),
)
