"""From a network to a bundle: resized images, epochs, calibration, export. The one road of every trained method."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import FINE, Bundle, fine_entries, open_bundle
from hemalens.bundle.export import FineTypes, Trained, export_bundle
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import ConfigError
from hemalens.graphs.build import join, normalise_graph, resize_graph
from hemalens.imaging.reading import Preprocessing
from hemalens.models.backbone import BackboneConfig, weights_file
from hemalens.models.export import to_onnx
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.background_swap import exchanged
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.masks import MaskUse, training_images, without_background
from hemalens.training.module import OptimiserConfig
from hemalens.training.trainer import Course, Precision, train

BATCH_NORM_MOMENTUM = 0.1
"""Share of each batch in the running statistics (torch's own default)."""


class TrainingConfig(BackboneConfig):
    """A backbone and how it is trained.

    `sampling`: "balanced" draws every class equally often, "none" each image once an epoch. `class_weights`: "balanced"
    weighs the loss of each class inverse to its size instead; one of the two. `accumulate`: batches whose gradients are
    added up before a step, for batches larger than memory allows. `patience`: epochs without a
    better validation score before training stops and the best epoch is kept; None runs all epochs and keeps the last.
    `images_per_epoch`: how many images are drawn an epoch, None as many as there are; a fixed number gives trainings on
    few and on many images the same number of steps. `masks`: what the masks of training images are used for.
    `n_loader_workers`: 0 loads in the training process; the result does not depend on it.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=2)
    images_per_epoch: int | None = Field(default=None, ge=2)
    sampling: Literal["balanced", "none"] = "balanced"
    class_weights: Literal["balanced", "none"] = "none"
    accumulate: int = Field(default=1, ge=1)
    patience: int | None = Field(default=5, ge=1)
    precision: Precision = "auto"
    n_loader_workers: int = Field(default=0, ge=0)
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    masks: MaskUse = MaskUse()


def check_parts(
    method: str, validation: CellDataset | None, auxiliary: Mapping[str, CellDataset], roles: Collection[str] = ()
) -> CellDataset:
    """The validation part; raises `ConfigError` without one, or with auxiliary data that the method cannot use."""
    if validation is None:
        raise ConfigError(f"{method} takes a validation part, for the choice of the epoch and calibration")
    foreign = [role for role in auxiliary if role not in roles]
    if foreign:
        known = f"the roles {', '.join(roles)}" if roles else "no auxiliary data"
        raise ConfigError(f"{method} has no use for auxiliary data of the role {foreign[0]!r}", expected=known)
    return validation


@dataclass(frozen=True, slots=True)
class Before:
    """What a network has learned from before its training: with labels, and without."""

    labelled: tuple[CellDataset, ...] = ()
    unlabelled: tuple[CellDataset, ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """What training images teach where it is not the plain thing.

    `shown`: the training part under the labels that the network learns, None for its own; `module.classes_of` says which
    class each of these belongs to. `augment`: what happens to an image uint8 (3, H, W), None for the configured
    augmentation. `background`: the share of the images, each time they are shown, whose surroundings are another's.
    """

    shown: CellDataset | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    background: float = 0.0


def fit_network(
    module: CellClassifier,
    *,
    method: str,
    train_part: CellDataset,
    validation: CellDataset,
    config: TrainingConfig,
    preprocessing: Preprocessing,
    run_dir: Path,
    before: Before = Before(),
    lesson: Lesson = Lesson(),
) -> Bundle:
    """Train `module`, calibrate it on `validation`, write `run_dir`/bundle; a stopped run goes on."""
    if config.class_weights == "balanced" and config.sampling == "balanced":
        raise ConfigError("sampling and class_weights both balance the classes", remedy="Set one of them to none.")
    scratch = run_dir / "scratch"
    shown = without_background(lesson.shown or train_part, config.masks, preprocessing)
    train_part, validation = (without_background(part, config.masks, preprocessing) for part in (train_part, validation))
    held = resized_images(validation, preprocessing, scratch / "validation.npy")
    pixels, targets = training_images(shown, preprocessing, config.masks, seed=module.seed, run_dir=run_dir)
    exchange = exchanged(shown, pixels, lesson.background, use=config.masks, run_dir=run_dir)
    augment = lesson.augment or Augmentation(config.augmentation)
    learned = PixelDataset(pixels, targets, augment, exchange=exchange)
    training, checking = _loaders(module, learned, PixelDataset(held, validation.targets, None), config)
    course = Course(patience=config.patience, precision=config.precision, accumulate=config.accumulate)
    train(module, training, checking, run_dir=run_dir, course=course)
    module.after_training()
    temperature = fit_temperature(logits_of(module, held), validation.targets)
    answers = ModuleAnswers(module, train_part, preprocessing, scratch, temperature)
    trained = Trained(
        method=method,
        config=config,
        train=train_part,
        validation=validation,
        graph=graph_of(module, preprocessing),
        preprocessing=preprocessing,
        temperature=temperature,
        frozen_backbone=False,
        reference=answers.probabilities,
        fine=FineTypes(fine_entries(module.finer), answers.fine) if module.finer else None,
        auxiliary=before.unlabelled,
        pretraining=before.labelled,
        inherited=_images_behind(config.weights),
    )
    bundle = export_bundle(trained, run_dir / "bundle", extra_files={WEIGHTS: tensor_bytes(module.weights())})
    shutil.rmtree(scratch, ignore_errors=True)
    return bundle


def _loaders(
    module: CellClassifier, learned: PixelDataset, held: PixelDataset, config: TrainingConfig
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """What loads the images of training and of validation; classes are evened out here or in the module's loss."""
    classes = module.classes_of(learned.targets)
    if config.class_weights == "balanced":
        module.weigh_classes(classes)
    weights = balanced_weights(classes) if config.sampling == "balanced" else None
    sampler = EpochSampler(len(classes), seed=module.seed, weights=weights, n_draws=config.images_per_epoch)
    training = DataLoader(
        learned,
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=config.n_loader_workers,
        # a batch of one has no batch statistics
        drop_last=len(sampler) % config.batch_size == 1,
    )
    in_order = EpochSampler(len(held), seed=module.seed, shuffle=False)
    return training, DataLoader(held, batch_size=config.batch_size, sampler=in_order)


@dataclass(frozen=True, slots=True)
class ModuleAnswers:
    """What a trained module itself makes of records of `dataset`, without the graph: what the graph is compared with.

    `temperature` calibrates; `scratch` is a folder for resized images.
    """

    module: CellClassifier
    dataset: CellDataset
    preprocessing: Preprocessing
    scratch: Path
    temperature: float

    def probabilities(self, records: list[Record]) -> NDArray[np.float64]:
        """Calibrated probabilities (n, k)."""
        return np.exp(log_softmax(logits_of(self.module, self._resized(records)) / self.temperature))

    def fine(self, records: list[Record]) -> NDArray[np.float32]:
        """Probability of each finer type given its class, (n, f)."""
        pixels = torch.from_numpy(self._resized(records))
        with torch.inference_mode():
            fine: NDArray[np.float32] = self.module.fine(self.module.embed(self.module.pixels(pixels))).numpy()
        return fine

    def _resized(self, records: list[Record]) -> NDArray[np.uint8]:
        chosen = replace(self.dataset, records=tuple(records))
        return resized_images(chosen, self.preprocessing, self.scratch / "parity.npy")


def graph_of(module: CellClassifier, preprocessing: Preprocessing) -> onnx.ModelProto:
    """A trained module as a graph from `image` to `embedding`, `raw_logits` and, where it has any, finer types."""
    outputs = ["embedding", "raw_logits", *([FINE] if module.finer else [])]
    network = to_onnx(_Outputs(module).eval(), preprocessing, outputs)
    return join(resize_graph(preprocessing), normalise_graph(preprocessing), network)


class _Outputs(nn.Module):
    """A trained module that gives its embedding beside its logits, and behind them its finer types where it has any."""

    def __init__(self, module: CellClassifier) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        embedding = self.module.embed(pixels)
        logits = self.module.classify(embedding)
        return (embedding, logits, self.module.fine(embedding)) if self.module.finer else (embedding, logits)


def _images_behind(weights: str) -> frozenset[str]:
    """Contents of the images that a bundle named as `weights` has learned from; none for weights from elsewhere."""
    file = weights_file(weights)
    if file is None or not (file.parent / MANIFEST).is_file():
        return frozenset()
    bundle = open_bundle(file.parent)
    return bundle.seen | bundle.seen_unlabelled


def follow_quickly(network: nn.Module) -> None:
    """Let batch-norm averages follow within tens of steps.

    timm's `tf_` networks average batch statistics over hundreds of steps, as long ImageNet runs do.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = BATCH_NORM_MOMENTUM


def logits_of(module: CellClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (n, k) of images uint8 (n, 3, size, size), not calibrated."""
    with torch.inference_mode():
        parts = [module(torch.from_numpy(pixels[i : i + 32])) for i in range(0, len(pixels), 32)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits
