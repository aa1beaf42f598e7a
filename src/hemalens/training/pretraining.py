"""Pretrain a network on other labelled images; the training that follows replaces the head."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

from pydantic import Field

from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.config import Seed, StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import check_classes, hold_out, seeded
from hemalens.errors import BundleError
from hemalens.files import default_cache_dir, sha256_text
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.freezing import freeze_first_blocks, start_head_near_zero
from hemalens.training.augmentation import AugmentationConfig
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, TrainingData, fit_network, set_batch_norm_momentum
from hemalens.training.masks import EmptyMasks, MaskUse
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.trainer import KeptEpoch

VALIDATION_FRACTION = 0.15
PLAIN = OptimiserConfig(label_smoothing=0.0, gradient_clip=None)
"""Plain cross-entropy, as in the studies of white cells; learning rate and schedule are not published."""


class PretrainingConfig(StrictConfig):
    """How a network is pretrained on another labelled set; fields as in the training that follows.

    `frozen_blocks`: number of first residual blocks that keep their weights, the stem with them. `masked_inputs`: images
    that have a mask show nothing outside it; `empty_masks` as in `MaskUse`.
    """

    epochs: int = Field(default=20, ge=1, le=MOST)
    batch_size: int = Field(default=32, ge=2, le=MOST)
    images_per_epoch: int | None = Field(default=None, ge=2, le=100 * MOST)
    sampling: Literal["balanced", "none"] = "balanced"
    patience: int | None = Field(default=5, ge=1, le=MOST)
    kept_epoch: KeptEpoch = "best"
    selection_score: Literal["balanced_accuracy", "accuracy"] = "balanced_accuracy"
    frozen_blocks: int = Field(default=0, ge=0)
    masked_inputs: bool = False
    empty_masks: EmptyMasks = "whole"
    seed: Seed = 0
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    def training(self, network: TrainingConfig) -> TrainingConfig:
        """These settings with the backbone, first weights, input size and precision of `network`."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name in TrainingConfig.model_fields}
        named = {name: getattr(network, name) for name in (*BackboneConfig.model_fields, "precision")}
        masks = MaskUse(masked_inputs=self.masked_inputs, empty_masks=self.empty_masks)
        return TrainingConfig(**(named | own), masks=masks)


def pretrained(
    dataset: CellDataset, network: TrainingConfig, config: PretrainingConfig, *, held: CellDataset | None = None
) -> Bundle:
    """A classifier of `dataset`, from the cache where it is trained already.

    The cache key holds data, settings and versions. The images `held` choose the epoch, by default 15 % of the set. Raises
    `SplitError` for a class of fewer than two independent images, or an image that is in both sets.
    """
    check_classes(dataset, n_units=1 if held else 2, purpose="pretraining")
    training = config.training(network)
    request: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "network": training.model_dump(mode="json"),
        "sources": training.file_digests(),
        "data": dataset.fingerprint,
        "held": held.fingerprint if held else "",
        "before": [stage.digest for stage in dataset.stages],
        "masks": dataset.mask_fingerprint if config.masked_inputs else "",
        "versions": library_versions(),
    }
    folder = default_cache_dir() / "pretrained" / sha256_text(json.dumps(request, sort_keys=True))
    try:
        return open_bundle(folder / "bundle")
    except BundleError:
        pass  # not trained yet, or not to its end
    if held is None:
        learn, validation = hold_out(dataset, VALIDATION_FRACTION, seeded(config.seed, "pretraining"))
    else:
        learn, validation = dataset, held.under(dataset.classes)
        refuse_leaks(traces(learn), validation)
    timm_network = create_backbone(training, n_classes=len(dataset.classes))
    set_batch_norm_momentum(timm_network)
    start_head_near_zero(timm_network, config.seed)
    freeze_first_blocks(timm_network, config.frozen_blocks)
    preprocessing = preprocessing_of(training)
    module = CellClassifier(timm_network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=config.seed)
    bundle = fit_network(module, TrainingData(learn, validation), method="pretraining", config=training, run_dir=folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return bundle
