"""Fine-tune any timm backbone, whole or its last stages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hemalens.bundle import WEIGHTS, Bundle
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ConfigError
from hemalens.evaluation.metrics import fit_temperature, log_softmax
from hemalens.graphs import join, normalise_graph, resize_graph
from hemalens.methods.base import Method
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.export import to_onnx
from hemalens.sampling import balanced_weights
from hemalens.training.classifier import CellClassifier, OptimiserConfig
from hemalens.training.export import Trained, export_bundle
from hemalens.training.pixels import EpochSampler, PixelDataset, resized_images
from hemalens.training.trainer import Precision
from hemalens.training.trainer import train as run_training
from hemalens.transforms import Augmentation, AugmentationConfig

BATCH_NORM_MOMENTUM = 0.1
"""Share of each batch in the running statistics (torch's own default)."""


class FinetuneConfig(BackboneConfig):
    """A backbone and how it is trained.

    `open_stages`: how many of the last stages learn (the head always does); None opens all. `sampling`: "balanced" draws
    every class equally often, "none" each image once an epoch. `n_loader_workers`: 0 loads in the training process; the
    result does not depend on it. `image_size_px`: 128 is a third of the work of 224, for a processor without a GPU; None
    takes what timm states for the backbone.
    """

    image_size_px: int | None = Field(default=128, ge=16, le=2048)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=2)
    open_stages: int | None = Field(default=None, ge=0)
    sampling: Literal["balanced", "none"] = "balanced"
    patience: int = Field(default=5, ge=1)
    precision: Precision = "auto"
    n_loader_workers: int = Field(default=0, ge=0)
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()


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
    if auxiliary or validation is None:
        raise ConfigError("finetune takes a validation part, for early stopping and calibration, and no auxiliary data")
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    network = create_backbone(config, n_classes=len(train.classes))
    prepare_for_few_steps(network, seed)
    open_last_stages(network, config.open_stages)
    module = CellClassifier(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
    scratch = run_dir / "scratch"
    held = resized_images(validation, preprocessing, scratch / "validation.npy")
    weights = balanced_weights(train.targets) if config.sampling == "balanced" else None
    pixels = resized_images(train, preprocessing, scratch / "train.npy")
    training = DataLoader(
        PixelDataset(pixels, train.targets, Augmentation(config.augmentation)),
        batch_size=config.batch_size,
        sampler=EpochSampler(len(train), seed=seed, weights=weights),
        num_workers=config.n_loader_workers,
        # a batch of one has no batch statistics
        drop_last=len(train) % config.batch_size == 1,
    )
    checking = DataLoader(
        PixelDataset(held, validation.targets, None),
        batch_size=config.batch_size,
        sampler=EpochSampler(len(validation), seed=seed, shuffle=False),
    )
    run_training(module, training, checking, run_dir=run_dir, patience=config.patience, precision=config.precision)
    temperature = fit_temperature(_logits(module, held), validation.targets)

    def reference(records: list[Record]) -> NDArray[np.float64]:
        chosen = replace(train, records=tuple(records))
        logits = _logits(module, resized_images(chosen, preprocessing, scratch / "parity.npy"))
        return np.exp(log_softmax(logits / temperature))

    network_graph = to_onnx(_TwoOutputs(module.network).eval(), preprocessing, ["embedding", "raw_logits"])
    trained = Trained(
        method="finetune",
        config=config,
        train=train,
        validation=validation,
        graph=join(resize_graph(preprocessing), normalise_graph(preprocessing), network_graph),
        preprocessing=preprocessing,
        temperature=temperature,
        frozen_backbone=False,
        reference=reference,
    )
    bundle = export_bundle(trained, run_dir / "bundle", extra_files={WEIGHTS: _weights(module.network)})
    shutil.rmtree(scratch, ignore_errors=True)
    return bundle


class _TwoOutputs(nn.Module):
    """A timm network that gives its pooled embedding beside its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.network.forward_head(self.network.forward_features(pixels), pre_logits=True)
        return embedding, self.network.get_classifier()(embedding)


def prepare_for_few_steps(network: nn.Module, seed: int) -> None:
    """Start the head near zero, and let batch-norm averages follow within tens of steps.

    timm starts a narrow head with logits of several units, and its `tf_` networks average batch statistics over hundreds
    of steps, as long ImageNet runs do.
    """
    timm_network: Any = network
    head = timm_network.get_classifier()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(std=0.01, generator=generator)
        if head.bias is not None:
            head.bias.zero_()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = BATCH_NORM_MOMENTUM


def open_last_stages(network: nn.Module, n_stages: int | None) -> None:
    """Let only the last `n_stages` of timm's coarse layer groups learn, and the head; None opens all.

    Raises `ConfigError` when the network has fewer stages.
    """
    if n_stages is None:
        return
    from timm.models import group_parameters

    timm_network: Any = network
    group_of = group_parameters(network, timm_network.group_matcher(coarse=True), reverse=True)
    stages = sorted(set(group_of.values()))
    if n_stages > len(stages):
        raise ConfigError("open_stages is out of range", expected=f"at most {len(stages)}", got=str(n_stages))
    learning = set(stages[len(stages) - n_stages :])
    head = {id(parameter) for parameter in timm_network.get_classifier().parameters()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad = id(parameter) in head or group_of.get(name) in learning


def _logits(module: CellClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        parts = [module(torch.from_numpy(pixels[i : i + 32])) for i in range(0, len(pixels), 32)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def _weights(network: nn.Module) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})


METHOD = Method("finetune", "any timm backbone, trained whole or in its last stages", FinetuneConfig, fit)
