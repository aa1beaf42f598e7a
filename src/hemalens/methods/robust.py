"""Fine-tuning that is robust to another laboratory's stain, light, microscope and camera."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import BundleError
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.base import Method
from hemalens.methods.finetune import PRETRAINING, PRETRAINING_ROLE, FinetuneConfig, starting_network
from hemalens.models.backbone import preprocessing_of
from hemalens.models.class_distance import ClassDistance
from hemalens.models.freezing import freeze
from hemalens.models.outline import OutlineNetwork, WithOutline, without_batch_norm
from hemalens.models.test_time_augmentation import Views, mean_over_views
from hemalens.models.white_balance import white_balanced
from hemalens.taxonomy import is_mature
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.classifier import CellClassifier, Embedded
from hemalens.training.ema import average_into
from hemalens.training.fit import TrainingData, check_machine, check_parts, fit_network, set_batch_norm_momentum
from hemalens.training.laboratory_augmentation import LaboratoryAugmentation, LaboratoryConfig
from hemalens.training.masks import without_background
from hemalens.training.mature_types import AT_ALL, FurtherTypes, MatureTypes, held_back
from hemalens.training.module import MOST
from hemalens.training.subclass_labels import FineLabels, admitted_cross_entropy
from hemalens.training.trainer import KeptEpoch

GEOMETRY = AugmentationConfig(zoom=0.3, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
"""Flips, rotations and a zoom of 0.77 to 1.3; `LaboratoryConfig` changes the colours."""
EMA_DECAY = 0.99
"""Decay a step of the moving average of the weights."""
REMOVED_SETTINGS: Mapping[str, object] = {
    "norm": "batch",
    "weight_average": EMA_DECAY,
    "background": 0.0,
    "optimiser.cosine_from": "warmup",
    "pretraining.optimiser.cosine_from": "warmup",
}
"""Settings that an older manifest may hold, each with the only value that this method still has."""
BEFORE: Mapping[str, object] = {"white_balance": False, "further_types": 1.0, "mature_first": False}
"""Settings that an older manifest lacks, each with the value that its network was trained with."""


class RobustConfig(FinetuneConfig):
    """`finetune` with stronger augmentation, averaged weights, test-time augmentation and an outline network.

    `laboratory`: augmentation that imitates other laboratories, applied after `augmentation`. `white_balance`: divide
    each channel by the brightness of the background, inside the graph. `views`: turned and mirrored copies of an image
    whose logits are averaged; prediction takes `views` times the work. `outline_views`: those that the outline network
    sees, which costs a quarter. `fine_labels`: learn the finer cell types that `min_fine_images` or more training
    images show, and sum their probabilities to the classes. `outline`: add a second, small network that sees the outline
    of the nucleus alone; it has a loss of its own, and both networks' logits are averaged. `mature_first`: under a label
    map with further types, outputs of their own tell the five mature types apart (`training.mature_types`).

    An exponential moving average of the weights is validated and exported. Training runs all epochs and keeps the last:
    validation images of the training laboratory cannot choose an epoch for another one.
    """

    epochs: int = Field(default=15, ge=1, le=MOST)
    image_size_px: int | None = Field(default=96, ge=16, le=2048)
    images_per_epoch: int | None = Field(default=1600, ge=2, le=100 * MOST)
    further_types: float = Field(default=0.5, gt=0, le=1)
    patience: int | None = Field(default=None, ge=1, le=MOST)
    kept_epoch: KeptEpoch = "last"
    augmentation: AugmentationConfig = GEOMETRY
    laboratory: LaboratoryConfig = LaboratoryConfig()
    white_balance: bool = True
    views: Views = 2
    outline_views: Views = 4
    fine_labels: bool = True
    min_fine_images: int = Field(default=20, ge=1, le=MOST)
    outline: bool = True
    mature_first: bool = True

    @classmethod
    def of_manifest(cls, settings: Mapping[str, Any]) -> Self:
        """The config that a bundle's manifest holds, without `REMOVED_SETTINGS`.

        Raises `BundleError` for a removed setting with another value, `ConfigError` for unknown ones.
        """
        kept = copy.deepcopy(dict(settings))
        for name, value in REMOVED_SETTINGS.items():
            *parts, key = name.split(".")
            group = kept
            for part in parts:
                group = group.get(part, {})
            if (found := group.pop(key, value)) != value:
                raise BundleError(
                    f"this bundle was trained with {name}={found}, which `robust` does not support",
                    expected=f"{name}={value}",
                    remedy="Train the bundle again without that setting.",
                )
        # both networks saw the same views
        views = {"outline_views": kept["views"]} if "views" in kept else {}
        return cls.from_mapping({**BEFORE, **views, **kept}, source="manifest")


class RobustModule(CellClassifier):
    """A classifier that predicts with averaged weights over several views, and sums finer types to classes.

    `decay`: of the moving average of the weights, 0 for none.
    """

    def __init__(
        self,
        network: Any,
        preprocessing: Preprocessing,
        *,
        config: RobustConfig,
        labels: FineLabels,
        seed: int,
        decay: float = EMA_DECAY,
    ) -> None:
        super().__init__(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
        self.views: Views = config.views
        self.outline_views: Views = config.outline_views
        self.white_balance = config.white_balance
        self.decay = decay
        self.labels = labels
        self.types = types_of(labels, config)
        self.further_types = config.further_types
        self.further: FurtherTypes | None = None
        self.averaged: Any = freeze(copy.deepcopy(self.network)) if decay else None
        self.n_averaged: Tensor
        self.admitted: Tensor
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("admitted", labels.admitted(), persistent=False)

    @property
    def served(self) -> Any:
        """The network that learns while training, the averaged one otherwise."""
        return self.network if self.training or self.averaged is None else self.averaged

    def weights(self) -> dict[str, Tensor]:
        """Weights of the network that predicts, without the outline network, which further training initialises again."""
        predicting = self.network if self.averaged is None else self.averaged
        state: dict[str, Tensor] = (predicting.network if isinstance(predicting, WithOutline) else predicting).state_dict()
        return state

    def after_training(self) -> None:
        """Fold the batch norms of the outline network, so that adaptation leaves it unchanged."""
        if isinstance(self.served, WithOutline):
            self.served.outlined = without_batch_norm(self.served.outlined)

    @property
    def holds_back(self) -> bool:
        """Under a label map with mature and further types."""
        return self.types.twice

    @torch.no_grad()
    def hold_back(self, learned: Embedded, home: Embedded, elsewhere: Embedded) -> None:
        """Ask for more certainty of further types, as `training.mature_types.FurtherTypes`.

        In training they are drawn less often; that is made up for where mature cells allow.
        """
        mature = np.array([is_mature(label) for label in self.labels.classes])
        distance = ClassDistance.of(*learned, *home)
        further = torch.from_numpy(~mature)
        self.further = FurtherTypes(distance, further, 0.0).eval()
        cells = [self.classify(torch.from_numpy(found[mature[classes]])).numpy() for found, classes in (home, elsewhere)]
        back = held_back(cells, self.labels.classes, least=float(np.log(self.further_types)))
        self.further = FurtherTypes(distance, further, back).eval()

    def classes_of(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the class of each training target (n,)."""
        classes: NDArray[np.int64] = self.labels.class_of_target[targets]
        return classes

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> embedding (n, d), outside training the mean over the views.

        The head is linear: the logits of a mean embedding are the mean of the views' logits.
        """
        served, given = self.served, self.network_input(pixels)
        if self.training:
            return super().embed(given)
        if not isinstance(served, WithOutline):
            return mean_over_views(super().embed, given, self.views)
        colours = mean_over_views(served.embed_colours, given, self.views)
        return torch.cat([colours, mean_over_views(served.outlined.embed, served.outlines(given), self.outline_views)], 1)

    def network_input(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size), white-balanced where configured."""
        if not self.white_balance:
            return pixels
        light = white_balanced((pixels * self.std + self.mean) / 255)
        return ((light * 255 - self.mean) / self.std).to(memory_format=torch.channels_last)

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits of the classes (n, k)."""
        logits = self.labels.class_logits(self.types.joined(super().classify(embedding)))
        return logits if self.further is None else self.further(logits, embedding)

    @property
    def finer(self) -> tuple[tuple[str, str], ...]:
        """(output, its class) of each output, where any class has several."""
        return self.labels.finer

    def fine(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> probability of each output given its class, (n, f)."""
        return self.labels.within_classes(self.types.joined(super().classify(embedding)))

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the outputs; targets (n,) index `FineLabels.targets`.

        With an outline network, the sum of both networks' losses.
        """
        embedding, served = self.embed(pixels), self.served
        if isinstance(served, WithOutline):
            return torch.stack([self._loss(logits, targets) for logits in served.logits_of_each(embedding)]).sum()
        return self._loss(super().classify(embedding), targets)

    def _loss(self, own: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of one network's outputs (n, n_outputs); that of the mature types counts for mature cells."""
        admitted = self.admitted[targets]
        if not self.types.twice:
            return self._cross_entropy(own, admitted, targets, np.ones(len(self.types.mature), bool))
        first, every = self.types.parts(own)
        mature = self.types.mature
        chosen = admitted[:, torch.from_numpy(mature).to(own.device)]
        cells = chosen.any(dim=1)
        loss = AT_ALL * self._cross_entropy(every, admitted, targets, np.ones(len(mature), bool))
        if not cells.any():
            return loss
        return loss + cells.float().mean() * self._cross_entropy(first[cells], chosen[cells], targets[cells], mature)

    def _cross_entropy(self, logits: Tensor, admitted: Tensor, targets: Tensor, of: NDArray[np.bool_]) -> Tensor:
        """Over the outputs `of`, bool (f,), of which `logits` and `admitted` are the columns."""
        weights = logits.new_ones(len(self.labels.classes)) if self.class_weights is None else self.class_weights.to(logits)
        of_output, of_target = (
            torch.from_numpy(index).to(targets.device)
            for index in (self.labels.class_of_output[of], self.labels.class_of_target)
        )
        return admitted_cross_entropy(
            logits,
            admitted,
            smoothing=self.optimiser.label_smoothing,
            output_weights=weights[of_output],
            image_weights=weights[of_target[targets]],
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep the logits of one view for the epoch's scores: all views would cost as much as the training."""
        images, targets = batch
        logits = self.classify(super().embed(self.network_input(self.pixels(images))))
        self._validation.append((logits.float().cpu(), targets.cpu()))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Update the average after each optimiser step; accumulated batches make none."""
        if self.averaged is not None and self.trainer.global_step > int(self.n_averaged):
            self.n_averaged += 1
            average_into(self.averaged, self.network, step=int(self.n_averaged), decay=self.decay)


def types_of(labels: FineLabels, config: RobustConfig) -> MatureTypes:
    """Which outputs belong to mature types; none where the network answers once for all."""
    if config.mature_first:
        return MatureTypes.of(labels.classes, labels.class_of_output)
    return MatureTypes(np.zeros(len(labels.outputs), bool))


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
    check_machine(config, held)
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    without_background(train, config.masks, preprocessing)  # raises before hours of pretraining, not after
    labels = FineLabels.none(train.classes)
    if config.fine_labels:
        labels = FineLabels.of(train, min_images=config.min_fine_images)
    n_outputs = types_of(labels, config).n_outputs
    network = starting_network(config, auxiliary.get(PRETRAINING), n_classes=n_outputs, seed=seed)
    if config.outline:
        weights = "none" if config.weights == "none" else "package"
        outlined = OutlineNetwork(n_classes=n_outputs, weights=weights, seed=seed)
        set_batch_norm_momentum(outlined)
        network = WithOutline(network, outlined, preprocessing)
    return fit_network(
        RobustModule(network, preprocessing, config=config, labels=labels, seed=seed),
        TrainingData(train, held, relabelled=labels.relabelled(train), pretraining=tuple(auxiliary.values())),
        method="robust",
        config=config,
        run_dir=run_dir,
        augment=v2.Compose([Augmentation(config.augmentation), LaboratoryAugmentation(config.laboratory)]),
    )


METHOD = Method(
    "robust",
    "fine-tuning with laboratory augmentation, averaged weights and test-time augmentation",
    RobustConfig,
    fit,
    roles=(PRETRAINING_ROLE,),
)
