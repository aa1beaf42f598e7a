"""Fine-tune any timm backbone, whole or its last stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from hemalens.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.methods.base import Method
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, check_parts, fit_network, follow_quickly


class FinetuneConfig(TrainingConfig):
    """A pretrained backbone and how it is trained on.

    `open_stages`: how many of the last stages learn (the head always does); None opens all. `image_size_px`: 128 is a third
    of the work of 224, for a processor without a GPU; None takes what timm states for the backbone.
    """

    image_size_px: int | None = Field(default=128, ge=16, le=2048)
    open_stages: int | None = Field(default=None, ge=0)


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
    held = check_parts("finetune", validation, auxiliary)
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    network = create_backbone(config, n_classes=len(train.classes))
    follow_quickly(network)
    start_head_near_zero(network, seed)
    open_last_stages(network, config.open_stages)
    module = CellClassifier(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
    return fit_network(
        module,
        method="finetune",
        train_part=train,
        validation=held,
        config=config,
        preprocessing=preprocessing,
        run_dir=run_dir,
    )


def start_head_near_zero(network: nn.Module, seed: int) -> None:
    """Give the head small weights: timm starts a narrow one with logits of several units."""
    timm_network: Any = network
    head = timm_network.get_classifier()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(std=0.01, generator=generator)
        if head.bias is not None:
            head.bias.zero_()


def open_last_stages(network: nn.Module, n_stages: int | None) -> None:
    """Let only the last `n_stages` of timm's coarse layer groups learn, and the head; None opens all.

    Raises `ConfigError` when the network has fewer stages.
    """
    if n_stages is None:
        return
    from timm.models import group_parameters

    timm_network: Any = network
    group_of = group_parameters(network, timm_network.group_matcher(coarse=True), reverse=True)
    head = {id(parameter) for parameter in timm_network.get_classifier().parameters()}
    # timm counts a head of its own as a group
    stages = sorted({group_of[name] for name, p in network.named_parameters() if id(p) not in head and name in group_of})
    if n_stages > len(stages):
        raise ConfigError("open_stages is out of range", expected=f"at most {len(stages)}", got=str(n_stages))
    learning = set(stages[len(stages) - n_stages :])
    for name, parameter in network.named_parameters():
        parameter.requires_grad = id(parameter) in head or group_of.get(name) in learning


METHOD = Method("finetune", "any timm backbone, trained whole or in its last stages", FinetuneConfig, fit)
