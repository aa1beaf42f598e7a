"""White-cell study of Mo: a frozen encoder of kidney tissue and a partly open ResNet-18 of lymph-node tissue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.base import AuxiliaryRole, Method
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.models.combined import CombinedNetwork
from hemalens.models.freezing import open_last_stages
from hemalens.training.augmentation import AugmentationConfig
from hemalens.training.classifier import CellClassifier
from hemalens.training.cluster_labels import ClusteringConfig, clusters_of
from hemalens.training.fit import TrainingConfig, TrainingData, check_parts, fit_network, set_batch_norm_momentum
from hemalens.training.masks import MaskUse
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.pretraining import PLAIN, PretrainingConfig, pretrained
from hemalens.training.reconstruction import ReconstructionConfig, reconstruction_encoder
from hemalens.training.trainer import Precision

CAM16, CAM16_HELD, PRCC = "cam16", "cam16_held", "prcc"
ROLES = (
    AuxiliaryRole(CAM16, "labelled images of other tissue; published: CAM16", labelled=True, required=True),
    AuxiliaryRole(CAM16_HELD, "more of it, to choose the epoch on; by default 15 % of cam16", labelled=True),
    AuxiliaryRole(PRCC, "unlabelled images; published: pRCC regions", labelled=False, required=True),
)


MOVED = AugmentationConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
"""Flips and rotation, as published; no change of colour."""


class CombinedNetworkConfig(TrainingConfig):
    """The published settings: ImageNet ResNet-18, trained on CAM16 with its first convolution and block frozen, then its
    last two residual blocks open; a frozen autoencoder of pRCC; a new head on 512 + 512 features; the best of 30 epochs.

    `weights`: by default torchvision's of ImageNet. `prcc`: "autoencoder", or "clusters", a classifier of pseudo-labels,
    which the paper dropped. `open_stages`: of two residual blocks each. With `masks.masked_inputs`, images that have a
    mask show the cell alone.
    """

    backbone: str = "resnet18"
    weights: str = "hub:tv_in1k"
    image_size_px: int | None = Field(default=224, ge=16, le=2048)
    open_stages: int | None = Field(default=1, ge=0)
    epochs: int = Field(default=30, ge=1, le=MOST)
    sampling: Literal["balanced", "none"] = "none"
    patience: int | None = Field(default=None, ge=1, le=MOST)
    selection_score: Literal["balanced_accuracy", "accuracy"] = "accuracy"
    optimiser: OptimiserConfig = PLAIN
    augmentation: AugmentationConfig = MOVED
    precision: Precision = "fp32"
    masks: MaskUse = MaskUse(masked_inputs=True)
    pretraining: PretrainingConfig = PretrainingConfig(
        frozen_blocks=1,
        masked_inputs=True,
        sampling="none",
        patience=None,
        selection_score="accuracy",
        optimiser=PLAIN,
        augmentation=MOVED,
    )
    prcc: Literal["autoencoder", "clusters"] = "autoencoder"
    autoencoder: ReconstructionConfig = ReconstructionConfig()
    clustering: ClusteringConfig = ClusteringConfig()


class CombinedModule(CellClassifier):
    """A classifier whose network is a `CombinedNetwork`."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> both embeddings, (n, a + b)."""
        embedding: Tensor = self.network.embed(pixels)
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits (n, k)."""
        logits: Tensor = self.network.head(embedding)
        return logits


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: CombinedNetworkConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Train both encoders on their tissue, or take them from the cache; then train the open layers on `train`."""
    held = check_parts("combined_network", validation, auxiliary, [role.name for role in ROLES])
    missing = [role for role in (CAM16, PRCC) if role not in auxiliary]
    if missing:
        raise ConfigError("combined_network needs two further sets", expected=f"{CAM16} and {PRCC}", got=f"no {missing[0]}")
    seed = int(rng.integers(2**31))
    preprocessing = preprocessing_of(config)
    network = combined_network(config, auxiliary, preprocessing, n_classes=len(train.classes), seed=seed)
    module = CombinedModule(network, preprocessing, optimiser=config.optimiser, epochs=config.epochs, seed=seed)
    return fit_network(
        module,
        TrainingData(
            train,
            held,
            pretraining=tuple(auxiliary[role] for role in (CAM16, CAM16_HELD) if role in auxiliary),
            unlabelled=(auxiliary[PRCC],),
        ),
        method="combined_network",
        config=config,
        run_dir=run_dir,
    )


def combined_network(
    config: CombinedNetworkConfig,
    auxiliary: Mapping[str, CellDataset],
    preprocessing: Preprocessing,
    *,
    n_classes: int,
    seed: int,
) -> CombinedNetwork:
    """The network at the start of training: both encoders trained, all but the last stages of the second frozen."""
    frozen, size = frozen_encoder(config, auxiliary[PRCC], preprocessing)
    first = pretrained(auxiliary[CAM16], config, config.pretraining, held=auxiliary.get(CAM16_HELD))
    network = create_backbone(config.model_copy(update={"weights": str(first.path)}))
    set_batch_norm_momentum(network)
    open_last_stages(network, config.open_stages)
    return CombinedNetwork(frozen, size, network, n_classes=n_classes, seed=seed)


def frozen_encoder(
    config: CombinedNetworkConfig, unlabelled: CellDataset, preprocessing: Preprocessing
) -> tuple[nn.Module, int]:
    """The encoder trained without labels, and the length of its embedding."""
    if config.prcc == "autoencoder":
        network = reconstruction_encoder(unlabelled, preprocessing, config.autoencoder, backbone=config.backbone)
        return network.encoder, network.latent_size
    clusters = clusters_of(unlabelled, config.clustering)
    classifier = pretrained(clusters.dataset, config, config.pretraining)
    encoder = create_backbone(config.model_copy(update={"weights": str(classifier.path)}))
    return encoder, int(encoder.num_features)  # type: ignore[arg-type]


METHOD = Method(
    "combined_network",
    "a frozen encoder of unlabelled tissue and a partly open one of labelled tissue",
    CombinedNetworkConfig,
    fit,
    roles=ROLES,
    publication='Mo, "Classifying White Blood Cells", 2023',
)
