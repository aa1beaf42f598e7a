"""Fine-tune the network of a `robust` bundle on a few labelled cells of a new laboratory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.export import check_parity
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import BundleError, ParityError
from hemalens.graphs.additions import without_additions
from hemalens.graphs.weights import further_tensors, head_weights, network_weights
from hemalens.methods.robust import GEOMETRY, RobustConfig, RobustModule, types_of
from hemalens.models.backbone import create_backbone
from hemalens.models.outline import OutlineNetwork, WithOutline, without_batch_norm
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.fit import ModulePredictions, logits_of, set_batch_norm_momentum
from hemalens.training.laboratory_augmentation import LaboratoryAugmentation, LaboratoryConfig
from hemalens.training.masks import without_background
from hemalens.training.mature_types import FurtherTypes
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.subclass_labels import FineLabels
from hemalens.training.trainer import Precision, Schedule, train

METHOD = "robust"
"""The method whose networks can be fine-tuned."""


SAME_LABORATORY = LaboratoryConfig(
    lightness_gain=0.25,
    lightness_shift=8.0,
    colour_gain=0.4,
    colour_shift=12.0,
    colour_turn_deg=8.0,
    dye_mix=0.0,
    channel_gain=0.1,
    gamma=0.25,
    haze=0.0,
    blur_px=1.2,
    coarseness=1.0,
    noise=0.015,
    tight=0.0,
)
"""Augmentation within one laboratory (day, smear, camera setting): weaker than between laboratories."""


class FewShotFinetuneConfig(StrictConfig):
    """Settings of fine-tuning on a few labelled cells.

    `steps` batches of `batch_size` images with balanced classes. `weight_average`: decay of the moving average of the
    weights at each step; 0 for none. `folds` of cross-validation calibrate the model and estimate its accuracy; 0 skips
    both.
    `classifier`: average the log probabilities with those of a few-shot classifier on the bundle before fine-tuning.
    """

    steps: int = Field(default=100, ge=1, le=MOST)
    batch_size: int = Field(default=32, ge=2, le=MOST)
    weight_average: float = Field(default=0.97, ge=0, lt=1)
    folds: int = Field(default=3, ge=0, le=20)
    classifier: bool = True
    precision: Precision = "auto"
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=5e-4, warmup_epochs=0.1)
    augmentation: AugmentationConfig = GEOMETRY
    laboratory: LaboratoryConfig = SAME_LABORATORY

    @field_validator("folds")
    @classmethod
    def _some_or_none(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to train on; use 2 or more, or 0 for none")
        return folds


@dataclass(frozen=True, slots=True)
class FineTuner:
    """A bundle to fine-tune, the settings, and a folder for temporary files.

    Nucleus sizes and a class bias of the bundle are no part of the network.
    """

    base: Bundle
    config: FewShotFinetuneConfig
    scratch: Path

    def check(self, cells: CellDataset) -> None:
        """Raise `BundleError` if the rebuilt network does not predict as the bundle does."""
        module = module_of(self.base, self.config, seed=0)
        predictions = ModulePredictions(module.eval(), cells, self.scratch, self.base.manifest.temperature)
        try:
            check_parity(without_additions(self.base.graph).SerializeToString(), cells.records, predictions.probabilities)
        except ParityError as error:
            raise BundleError(
                "the bundle's graph holds more than its network, which alone can be fine-tuned",
                got=error.got,
                remedy="Use the bundle from before int8 or other changes of its graph.",
            ) from error

    def learn(self, cells: CellDataset, *, seed: int) -> RobustModule:
        """Fine-tune a fresh copy of the network on `cells`, whose classes are the bundle's."""
        config, preprocessing = self.config, self.base.manifest.preprocessing
        module = module_of(self.base, config, seed=seed)
        module.further = None  # distances in the embedding do not outlast a training of it
        shown = without_background(module.labels.relabelled(cells), _settings(self.base).masks, preprocessing)
        pixels = resized_images(shown, preprocessing, self.scratch / f"cells_{seed}.npy")
        augment = v2.Compose([Augmentation(config.augmentation), LaboratoryAugmentation(config.laboratory)])
        weights = balanced_weights(module.classes_of(shown.targets))
        n_draws = config.steps * config.batch_size
        training: DataLoader[Any] = DataLoader(
            PixelDataset(pixels, shown.targets, augment),
            batch_size=config.batch_size,
            sampler=EpochSampler(len(shown), seed=seed, weights=weights, n_draws=n_draws),
        )
        run_dir = self.scratch / f"run_{seed}"
        train(module, training, None, run_dir=run_dir, schedule=Schedule(precision=config.precision))
        shutil.rmtree(run_dir, ignore_errors=True)  # checkpoints of minutes are not resumed
        module.after_training()
        return module

    def logits(self, module: RobustModule, records: CellDataset) -> NDArray[np.float32]:
        """Uncalibrated logits (n, k) of images."""
        preprocessing = self.base.manifest.preprocessing
        shown = without_background(records, _settings(self.base).masks, preprocessing)
        return logits_of(module, resized_images(shown, preprocessing, self.scratch / "logits.npy"))


def module_of(base: Bundle, config: FewShotFinetuneConfig, *, seed: int) -> RobustModule:
    """Rebuild the trainable module of a bundle; raises `BundleError` for a bundle of another method."""
    settings, manifest = _settings(base), base.manifest
    labels = FineLabels.from_finer(manifest.labels, [(entry.code, entry.of) for entry in manifest.fine])
    n_outputs = types_of(labels, settings).n_outputs
    network: Any = create_backbone(settings.model_copy(update={"weights": "none", "seed": seed}), n_classes=n_outputs)
    set_batch_norm_momentum(network)
    if settings.outline:
        outlined = without_batch_norm(OutlineNetwork(n_classes=n_outputs, weights="none", seed=seed))
        network = WithOutline(network, outlined, manifest.preprocessing)
    _load(network, base)
    module = RobustModule(
        network,
        manifest.preprocessing,
        config=settings.model_copy(update={"epochs": 1, "optimiser": config.optimiser}),
        labels=labels,
        seed=seed,
        decay=config.weight_average,
    )
    kept = further_tensors(without_additions(base.graph))
    module.further = FurtherTypes.of({name: torch.from_numpy(values.copy()) for name, values in kept.items()})
    return module


def _settings(base: Bundle) -> RobustConfig:
    if base.manifest.method != METHOD:
        raise BundleError(
            f"only networks of {METHOD} can be fine-tuned", expected=f"a bundle of {METHOD}", got=base.manifest.method
        )
    return RobustConfig.of_manifest(base.manifest.config)


def _load(network: Any, base: Bundle) -> None:
    """Load the weights of the bundle's graph into the network; one linear head holds the heads of all its parts."""
    prefix = "network." if isinstance(network, WithOutline) else ""
    # a graph stores equal tensors of two layers once; the file of weights has both
    kept = load_file(base.path / WEIGHTS) if WEIGHTS in base.manifest.files else {}
    found = {f"{prefix}{name}": tensor for name, tensor in kept.items()}
    graph = without_additions(base.graph)
    found |= {name: torch.from_numpy(value.copy()) for name, value in network_weights(graph).items()}
    weight, bias = (torch.from_numpy(value.copy()) for value in head_weights(graph))
    heads = [network.network.get_classifier(), network.outlined.head] if isinstance(network, WithOutline) else []
    heads = heads or [network.get_classifier()]
    # the logits are the mean over the heads
    parts = weight.split([head.in_features for head in heads], dim=1)
    with torch.no_grad():
        for head, part in zip(heads, parts, strict=True):
            head.weight.copy_(part * len(heads))
            head.bias.copy_(bias)
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    wanted = {name for name, parameter in network.named_parameters() if id(parameter) not in of_heads}
    wanted |= {name for name, _ in network.named_buffers() if name.endswith(("running_mean", "running_var"))}
    if lacking := sorted(wanted - set(found)):
        raise BundleError("the bundle's graph lacks weights of its network", got=f"no {lacking[0]}")
    network.load_state_dict({name: found[name] for name in wanted}, strict=False)
