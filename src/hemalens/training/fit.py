"""Train a network, calibrate it and export it as a bundle: the path shared by all trained methods."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import softmax
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import FINE, Bundle, fine_entries, open_bundle
from hemalens.bundle.export import FineTypes, Trained, export_bundle
from hemalens.classifiers.calibration import fit_temperature
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import ConfigError
from hemalens.graphs.build import join, normalise_graph, resize_graph
from hemalens.models.backbone import BackboneConfig, weights_file
from hemalens.models.export import to_onnx
from hemalens.taxonomy import is_mature
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.imitations import imitations_of
from hemalens.training.masks import MaskUse, training_images, without_background
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.processes import check_devices
from hemalens.training.trainer import KeptEpoch, Precision, Schedule, train, uses_bf16

BATCH_NORM_MOMENTUM = 0.1
"""Share of each batch in the running statistics (torch's own default)."""
LEARNED = 250
"""Training images of each class, at most, that show where their embeddings lie."""


class TrainingConfig(BackboneConfig):
    """A backbone and how it is trained.

    `sampling`: "balanced" draws every class equally often, "none" each image once an epoch. Of balanced classes,
    `further_types` is how often each that is no mature type is drawn for one draw of a mature type, where there are both;
    within a class, a laboratory of n images is drawn in proportion to n ** `laboratories`. `class_weights`: "balanced"
    weights the loss of each class inversely to its size; set at most one of the two. `reshuffle`: a new order of the
    images each epoch, or the same in all. `accumulate`: batches whose gradients are added before a step, for batches
    larger than memory allows. `patience`: epochs without a better validation score before training stops; None runs all
    epochs. `kept_epoch`: the weights of the "best" epoch by `selection_score` on the validation part, or of the "last".
    `calibrate`: scale the logits by a temperature fitted on the validation part. `images_per_epoch`: images drawn an
    epoch, None for as many as there are; a fixed number gives small and large training sets the same number of steps.
    `masks`: how the masks of training images are used. `n_loader_workers`: 0 loads in the training process; the result
    does not depend on it. `precision`: "bf16" multiplies in 16 bits, "auto" where that is faster. `devices`: GPUs of this
    machine, or processes without a GPU, that share each batch; it stays one batch of `batch_size` images.

    Without patience and calibration, the last epoch kept, the validation part is only watched: its scores are in the
    history, the bundle does not depend on it, and may be tested on it. Such a bundle has no reference statistics.
    """

    epochs: int = Field(default=10, ge=1, le=MOST)
    batch_size: int = Field(default=32, ge=2, le=MOST)
    images_per_epoch: int | None = Field(default=None, ge=2, le=100 * MOST)
    sampling: Literal["balanced", "none"] = "balanced"
    further_types: float = Field(default=1.0, gt=0, le=1)
    laboratories: float = Field(default=1.0, ge=0, le=1)
    class_weights: Literal["balanced", "none"] = "none"
    reshuffle: bool = True
    accumulate: int = Field(default=1, ge=1, le=MOST)
    patience: int | None = Field(default=5, ge=1, le=MOST)
    kept_epoch: KeptEpoch = "best"
    selection_score: Literal["balanced_accuracy", "accuracy"] = "balanced_accuracy"
    calibrate: bool = True
    precision: Precision = "auto"
    devices: int = Field(default=1, ge=1, le=1024)
    n_loader_workers: int = Field(default=0, ge=0, le=256)
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    masks: MaskUse = MaskUse()

    @property
    def only_watches(self) -> bool:
        """Whether the validation part chooses and calibrates nothing."""
        return self.patience is None and self.kept_epoch == "last" and not self.calibrate


def check_parts(
    method: str, validation: CellDataset | None, auxiliary: Mapping[str, CellDataset], roles: Collection[str] = ()
) -> CellDataset:
    """Return the validation part; raises `ConfigError` without one, or for auxiliary roles the method does not have."""
    if validation is None:
        raise ConfigError(f"{method} needs a validation part, to choose the epoch and to calibrate")
    unknown = [role for role in auxiliary if role not in roles]
    if unknown:
        known = f"the roles {', '.join(roles)}" if roles else "no auxiliary data"
        raise ConfigError(f"{method} cannot use auxiliary data of the role {unknown[0]!r}", expected=known)
    return validation


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The images behind a bundle.

    `relabelled`: the training part under the labels that the network learns, where these differ from its classes;
    `module.classes_of` maps them back. `pretraining` and `unlabelled`: sets the network has learned from before, with and
    without their labels.
    """

    train: CellDataset
    validation: CellDataset
    relabelled: CellDataset | None = None
    pretraining: tuple[CellDataset, ...] = ()
    unlabelled: tuple[CellDataset, ...] = ()


def fit_network(
    module: CellClassifier,
    data: TrainingData,
    *,
    method: str,
    config: TrainingConfig,
    run_dir: Path,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Bundle:
    """Train `module`, calibrate it on the validation part, write `run_dir`/bundle; an interrupted run resumes.

    `augment` changes a training image uint8 (3, H, W); None for the configured augmentation.
    """
    check_machine(config, data.validation)
    preprocessing, scratch = module.preprocessing, run_dir / "scratch"
    shown, train_part, validation = (
        without_background(part, config.masks, preprocessing)
        for part in (data.relabelled or data.train, data.train, data.validation)
    )
    held = resized_images(validation, preprocessing, scratch / "validation.npy")
    pixels, targets = training_images(shown, preprocessing, config.masks, seed=module.seed, run_dir=run_dir)
    learned = PixelDataset(pixels, targets, augment or Augmentation(config.augmentation))
    weights = sampling_weights(module.classes_of(targets), train_part, config)
    shown_held = PixelDataset(held, validation.targets, None)
    training, checking = _loaders(module, learned, shown_held, config, weights)
    module.score = f"val_{config.selection_score}"
    schedule = _schedule(config)
    if config.epochs:
        train(module, training, checking, run_dir=run_dir, schedule=schedule)
    else:
        module.eval()  # the weights as they are
    module.after_training()
    imitated = () if config.only_watches else imitations_of(validation)
    temperature = _calibrated(module, learned, shown_held, imitated, scratch) if config.calibrate else 1.0
    predictions = ModulePredictions(module, train_part, scratch, temperature)
    trained = Trained(
        method=method,
        config=config,
        train=train_part,
        validation=None if config.only_watches else validation,
        imitated=imitated,
        watched=validation if config.only_watches else None,
        graph=graph_of(module),
        preprocessing=preprocessing,
        temperature=temperature,
        frozen_backbone=False,
        reference=predictions.probabilities,
        fine=FineTypes(fine_entries(module.finer), predictions.fine) if module.finer else None,
        auxiliary=data.unlabelled,
        pretraining=data.pretraining,
        inherited=_images_behind(config.weights),
    )
    bundle = export_bundle(trained, run_dir / "bundle", extra_files={WEIGHTS: tensor_bytes(module.weights())})
    shutil.rmtree(scratch, ignore_errors=True)
    return bundle


def _schedule(config: TrainingConfig) -> Schedule:
    return Schedule(
        config.patience,
        config.kept_epoch,
        precision=config.precision,
        accumulate=config.accumulate,
        devices=config.devices,
    )


def _calibrated(
    module: CellClassifier, learned: PixelDataset, held: PixelDataset, imitated: Sequence[CellDataset], scratch: Path
) -> float:
    """The temperature of a module on held-out images, after it holds back what it is asked to.

    `imitated` are the held-out images as imitated laboratories show them.
    """
    home = embeddings_of(module, held.pixels), held.targets
    if module.holds_back:
        file = scratch / "imitated.npy"
        found = [embeddings_of(module, resized_images(each, module.preprocessing, file)) for each in imitated]
        elsewhere = (
            np.concatenate([home[0][:0], *found]),
            np.concatenate([home[1][:0], *(each.targets for each in imitated)]),
        )
        classes = module.classes_of(learned.targets)
        some = some_of_each(classes, LEARNED)
        module.hold_back((embeddings_of(module, learned.pixels[some]), classes[some]), home, elsewhere)
    with torch.inference_mode():
        logits: NDArray[np.float32] = module.classify(torch.from_numpy(home[0])).numpy()
    return fit_temperature(logits, held.targets)


def check_machine(config: TrainingConfig, validation: CellDataset) -> None:
    """Raise `ConfigError` for a precision or devices that this machine lacks, and for images that cannot be shared."""
    _check_sampling(config)
    uses_bf16(config.precision)
    check_devices(config.devices, config.batch_size)
    if len(validation) < config.devices:
        raise ConfigError(
            "the validation part is too small for the devices",
            expected=f"{config.devices} images or more",
            got=str(len(validation)),
            remedy="Set fewer with --devices.",
        )


def _check_sampling(config: TrainingConfig) -> None:
    """Raise `ConfigError` for settings of the sampling that exclude each other."""
    if config.class_weights == "balanced" and config.sampling == "balanced":
        raise ConfigError("sampling and class_weights both balance the classes", remedy="Set one of them to none.")
    if config.laboratories == 1:
        return
    for name, expected in (("sampling", "balanced"), ("masks.copies", 0)):
        found = config.sampling if name == "sampling" else config.masks.copies
        if found != expected:
            raise ConfigError(f"laboratories={config.laboratories:g} needs {name}={expected}", got=f"{name}={found}")


def sampling_weights(classes: NDArray[np.int64], train: CellDataset, config: TrainingConfig) -> NDArray[np.float64] | None:
    """Weight of each training image (n,), of `classes` (n,), in the sampling of an epoch; None where nothing is balanced.

    Without `laboratories`, images may be more than the records of `train`: copies of them.
    """
    if config.sampling != "balanced":
        return None
    mature = np.array([is_mature(name) for name in train.classes])
    shares = np.where(mature, 1.0, config.further_types) if mature.any() else None
    domains = None if config.laboratories == 1 else [record.domain for record in train.records]
    return balanced_weights(classes, shares=shares, domains=domains, alpha=config.laboratories)


def _loaders(
    module: CellClassifier,
    learned: PixelDataset,
    held: PixelDataset,
    config: TrainingConfig,
    weights: NDArray[np.float64] | None,
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the training images, drawn by `weights`, and of the validation images; weighs the module's loss."""
    if config.class_weights == "balanced":
        module.weigh_classes(module.classes_of(learned.targets))
    sampler = EpochSampler(
        len(learned),
        seed=module.seed,
        weights=weights,
        n_draws=config.images_per_epoch,
        reshuffle=config.reshuffle,
    )
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
class ModulePredictions:
    """Predictions of a trained module in torch for records of `dataset`: the reference for the exported graph.

    `temperature` calibrates; `scratch` is a folder for resized images.
    """

    module: CellClassifier
    dataset: CellDataset
    scratch: Path
    temperature: float

    def probabilities(self, records: list[Record]) -> NDArray[np.float64]:
        """Calibrated probabilities (n, k)."""
        logits = logits_of(self.module, self._resized(records)) / self.temperature
        probabilities: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
        return probabilities

    def fine(self, records: list[Record]) -> NDArray[np.float32]:
        """Probability of each finer type given its class, (n, f)."""
        pixels = torch.from_numpy(self._resized(records))
        with torch.inference_mode():
            fine: NDArray[np.float32] = self.module.fine(self.module.embed(self.module.pixels(pixels))).numpy()
        return fine

    def _resized(self, records: list[Record]) -> NDArray[np.uint8]:
        chosen = replace(self.dataset, records=tuple(records))
        return resized_images(chosen, self.module.preprocessing, self.scratch / "parity.npy")


def graph_of(module: CellClassifier) -> onnx.ModelProto:
    """A trained module as a graph from `image` to `embedding`, `raw_logits` and, where it has any, finer types."""
    preprocessing = module.preprocessing
    outputs = ["embedding", "raw_logits", *([FINE] if module.finer else [])]
    network = to_onnx(_Outputs(module).eval(), preprocessing, outputs)
    return join(resize_graph(preprocessing), normalise_graph(preprocessing), network)


class _Outputs(nn.Module):
    """A trained module with its embedding, logits and, where it has any, finer types as outputs."""

    def __init__(self, module: CellClassifier) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        embedding = self.module.embed(pixels)
        logits = self.module.classify(embedding)
        return (embedding, logits, self.module.fine(embedding)) if self.module.finer else (embedding, logits)


def _images_behind(weights: str) -> frozenset[str]:
    """Digests of the images that the bundle named as `weights` was trained on; empty for other weights."""
    file = weights_file(weights)
    if file is None or not (file.parent / MANIFEST).is_file():
        return frozenset()
    bundle = open_bundle(file.parent)
    return bundle.seen | bundle.seen_unlabelled


def set_batch_norm_momentum(network: nn.Module) -> None:
    """Set the momentum of all batch norms so that running statistics follow within tens of steps.

    timm's `tf_` networks average batch statistics over hundreds of steps, as long ImageNet runs do.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = BATCH_NORM_MOMENTUM


def some_of_each(classes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Places of at most `most` images of each class in (n,), evenly spread: laboratories lie one after the other."""
    found = []
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        n = min(most, len(own))
        found.append(own[np.arange(n) * len(own) // n])
    return np.sort(np.concatenate(found))


def embeddings_of(module: CellClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings (n, d) of images uint8 (n, 3, size, size)."""
    with torch.inference_mode():
        parts = [module.embed(module.pixels(torch.from_numpy(pixels[i : i + 32]))) for i in range(0, len(pixels), 32)]
    embeddings: NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings


def logits_of(module: CellClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (n, k) of images uint8 (n, 3, size, size), not calibrated."""
    with torch.inference_mode():
        parts = [module(torch.from_numpy(pixels[i : i + 32])) for i in range(0, len(pixels), 32)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits
