"""Pretraining on other labelled images: the head is replaced, and the network is trained on from there."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

from pydantic import Field

from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.splits import check_classes, hold_out, seeded
from hemalens.errors import BundleError
from hemalens.files import default_cache_dir, sha256_text
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.freezing import freeze_first_blocks, start_head_near_zero
from hemalens.training.augmentation import AugmentationConfig
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, fit_network, follow_quickly
from hemalens.training.masks import MaskUse
from hemalens.training.module import OptimiserConfig

VALIDATION_FRACTION = 0.15


class PretrainingConfig(StrictConfig):
    """How a network is trained on another labelled set first; fields as in the training that follows.

    `frozen_blocks`: how many of the first residual blocks keep their first weights, the stem with them. `masked_inputs`:
    images that have a mask show nothing outside it.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=2)
    images_per_epoch: int | None = Field(default=None, ge=2)
    sampling: Literal["balanced", "none"] = "balanced"
    patience: int | None = Field(default=5, ge=1)
    frozen_blocks: int = Field(default=0, ge=0)
    masked_inputs: bool = False
    seed: int = 0
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    def training(self, network: TrainingConfig) -> TrainingConfig:
        """The training of `network`, its first weights, input size and precision, under these settings."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name in TrainingConfig.model_fields}
        named = {name: getattr(network, name) for name in (*BackboneConfig.model_fields, "precision")}
        return TrainingConfig(**(named | own), masks=MaskUse(masked_inputs=self.masked_inputs))


def pretrained(dataset: CellDataset, network: TrainingConfig, config: PretrainingConfig) -> Bundle:
    """A classifier of `dataset`, trained once and kept in the cache by all that shapes it.

    A part of the set, 15 %, chooses the epoch. Raises `SplitError` for a class of fewer than two independent images.
    """
    check_classes(dataset, purpose="pretraining")
    training = config.training(network)
    request: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "network": training.model_dump(mode="json"),
        "sources": training.file_digests(),
        "data": dataset.fingerprint,
        "before": [stage.digest for stage in dataset.stages],
        "masks": dataset.mask_fingerprint if config.masked_inputs else "",
        "versions": library_versions(),
    }
    folder = default_cache_dir() / "pretrained" / sha256_text(json.dumps(request, sort_keys=True))
    try:
        return open_bundle(folder / "bundle")
    except BundleError:
        pass  # not trained yet, or not to its end
    learn, validation = hold_out(dataset, VALIDATION_FRACTION, seeded(config.seed, "pretraining"))
    timm_network = create_backbone(training, n_classes=len(dataset.classes))
    follow_quickly(timm_network)
    start_head_near_zero(timm_network, config.seed)
    freeze_first_blocks(timm_network, config.frozen_blocks)
    preprocessing = preprocessing_of(training)
    module = CellClassifier(timm_network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=config.seed)
    bundle = fit_network(
        module,
        method="pretraining",
        train_part=learn,
        validation=validation,
        config=training,
        preprocessing=preprocessing,
        run_dir=folder,
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return bundle
