"""Fine-tuning hardened against another laboratory: its stain, light, microscope and camera; each piece is a switch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.base import Method
from hemalens.methods.finetune import METHOD as FINETUNE
from hemalens.methods.finetune import PRETRAINING, FinetuneConfig, starting_network
from hemalens.models.backbone import preprocessing_of
from hemalens.models.freezing import freeze
from hemalens.models.norms import Norm, set_norm
from hemalens.models.outline import OutlineNetwork, WithOutline, without_batch_norm
from hemalens.models.test_time_augmentation import Views, mean_over_views
from hemalens.models.white_balance import against_field
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.background_swap import check_exchange
from hemalens.training.classifier import CellClassifier
from hemalens.training.ema import average_into
from hemalens.training.fit import Before, Lesson, check_parts, fit_network, follow_quickly
from hemalens.training.laboratory_augmentation import LaboratoryAugmentation, LaboratoryConfig
from hemalens.training.masks import without_background
from hemalens.training.subclass_labels import FineLabels, admitted_cross_entropy

GEOMETRY = AugmentationConfig(zoom=0.3, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
"""Mirrored, turned, 0.77 to 1.3 times the size; colours are the laboratory's matter."""


class RobustConfig(FinetuneConfig):
    """`finetune`, and what each switch adds; with `laboratory.*` at 0, norm "batch", `weight_average` 0, `views` 1,
    `white_balance`, `fine_labels` and `outline` off it is `finetune` with this augmentation.

    `laboratory`: images as other laboratories would have taken them, after `augmentation` has moved the cell.
    `white_balance`: the network sees each channel against its empty field, computed in the graph. `norm`:
    "batch", "group" (no averages of training images; pretrained weights fit less) or "frozen" (pretrained averages stay).
    `weight_average`: decay a step of the moving average of the weights, which is what validation and bundle use; 0 for
    none. `views`: an answer is the mean of the logits over so many of an image's mirrored and turned views; it takes
    `views` times the work. `fine_labels`: finer cell types than the classes are learned where `min_fine_images` or more
    images show them, and their probabilities summed up. `outline`: a second, small network sees nothing but the outline of
    the nucleus; it has a loss of its own, and the answer is the mean of both networks' logits. `background`: the share of
    the images that get the surroundings of another training image, of whatever class, each time they are shown; the cell is
    found by `masks.segmenter`, the classical one where none is named.

    All epochs are run and the last is kept: validation images of the same laboratory choose nothing for another one.
    """

    epochs: int = Field(default=15, ge=1)
    image_size_px: int | None = Field(default=96, ge=16, le=2048)
    images_per_epoch: int | None = Field(default=1600, ge=2)
    patience: int | None = Field(default=None, ge=1)
    augmentation: AugmentationConfig = GEOMETRY
    laboratory: LaboratoryConfig = LaboratoryConfig()
    white_balance: bool = True
    norm: Norm = "batch"
    weight_average: float = Field(default=0.99, ge=0, lt=1)
    views: Views = 4
    fine_labels: bool = True
    min_fine_images: int = Field(default=20, ge=1)
    outline: bool = True
    background: float = Field(default=0.0, ge=0, le=1)


class RobustModule(CellClassifier):
    """A classifier that answers with averaged weights, over several views, and sums finer types up to classes."""

    def __init__(
        self, network: Any, preprocessing: Preprocessing, *, config: RobustConfig, labels: FineLabels, seed: int
    ) -> None:
        super().__init__(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
        self.views: Views = config.views
        self.white_balance = config.white_balance
        self.decay = config.weight_average
        self.labels = labels
        self.averaged: Any = freeze(copy.deepcopy(self.network)) if self.decay else None
        self.n_averaged: Tensor
        self.admitted: Tensor
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("admitted", labels.admitted(), persistent=False)

    @property
    def served(self) -> Any:
        """The network that learns, in training; elsewhere the averaged one, where there is one."""
        return self.network if self.training or self.averaged is None else self.averaged

    def weights(self) -> dict[str, Tensor]:
        """Those of the network that answers; a further training learns the outlines anew."""
        answering = self.network if self.averaged is None else self.averaged
        state: dict[str, Tensor] = (answering.network if isinstance(answering, WithOutline) else answering).state_dict()
        return state

    def after_training(self) -> None:
        """Take the batch norms out of the outline network, so that they cannot follow a new laboratory's images."""
        if isinstance(self.served, WithOutline):
            self.served.outlined = without_batch_norm(self.served.outlined)

    def classes_of(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each lesson (n,)."""
        classes: NDArray[np.int64] = self.labels.class_of_lesson[targets]
        return classes

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> embedding (n, d), outside training the mean over the views.

        The head is linear: the logits of a mean embedding are the mean of the views' logits.
        """
        return mean_over_views(super().embed, self.seen(pixels), 1 if self.training else self.views)

    def seen(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) as the network sees them: against the empty field, where that is asked for."""
        if not self.white_balance:
            return pixels
        light = against_field((pixels * self.std + self.mean) / 255)
        return ((light * 255 - self.mean) / self.std).to(memory_format=torch.channels_last)

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits of the classes (n, k)."""
        return self.labels.rolled_up(super().classify(embedding))

    @property
    def finer(self) -> tuple[tuple[str, str], ...]:
        """(output, its class) of each output, where any class has several."""
        return self.labels.finer

    def fine(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> probability of each output given its class, (n, f)."""
        return self.labels.within_classes(super().classify(embedding))

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the outputs, targets (n,) being lessons; label smoothing and class weights as configured.

        With outlines the sum of both networks' losses.
        """
        embedding, served = self.embed(pixels), self.served
        if isinstance(served, WithOutline):
            return torch.stack([self._loss(logits, targets) for logits in served.logits_of_each(embedding)]).sum()
        return self._loss(super().classify(embedding), targets)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = logits.new_ones(len(self.labels.classes)) if self.class_weights is None else self.class_weights.to(logits)
        of_output, of_lesson = (
            torch.from_numpy(of).to(targets.device) for of in (self.labels.class_of_output, self.labels.class_of_lesson)
        )
        return admitted_cross_entropy(
            logits,
            self.admitted[targets],
            smoothing=self.optimiser.label_smoothing,
            output_weights=weights[of_output],
            image_weights=weights[of_lesson[targets]],
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep the logits of one view for the epoch's scores: the others would cost as much as the training."""
        images, targets = batch
        logits = self.classify(super().embed(self.seen(self.pixels(images))))
        self._validation.append((logits.float().cpu(), targets.cpu()))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Take a step into the average; batches whose gradients only add up take none."""
        if self.averaged is not None and self.trainer.global_step > int(self.n_averaged):
            self.n_averaged += 1
            average_into(self.averaged, self.network, step=int(self.n_averaged), decay=self.decay)


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: RobustConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train for all epochs, calibrate the averaged weights on `validation`, export them."""
    held = check_parts("robust", validation, auxiliary, [PRETRAINING])
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    without_background(train, config.masks, preprocessing)  # where that cannot be, it is told before a pretraining
    check_exchange(train, config.background, config.masks)
    labels = FineLabels.none(train.classes)
    if config.fine_labels:
        labels = FineLabels.of(train, min_images=config.min_fine_images)
    network = starting_network(config, auxiliary.get(PRETRAINING), n_classes=len(labels.outputs), seed=seed)
    set_norm(network, config.norm)
    if config.outline:
        known = "none" if config.weights == "none" else "package"
        outlined = OutlineNetwork(n_classes=len(labels.outputs), weights=known, seed=seed)
        follow_quickly(outlined)
        network = WithOutline(network, outlined, preprocessing)
    module = RobustModule(network, preprocessing, config=config, labels=labels, seed=seed)
    augment = v2.Compose([Augmentation(config.augmentation), LaboratoryAugmentation(config.laboratory)])
    return fit_network(
        module,
        method="robust",
        train_part=train,
        validation=held,
        config=config,
        preprocessing=preprocessing,
        run_dir=run_dir,
        before=Before(labelled=tuple(auxiliary.values())),
        lesson=Lesson(labels.taught(train), augment, config.background),
    )


METHOD = Method(
    "robust",
    "fine-tuning with images as other laboratories take them, averaged weights and several views",
    RobustConfig,
    fit,
    roles=FINETUNE.roles,
)
