"""Train the autoencoders that BC-SAM is compared with, AE-CFE and DoRL, on the same feature maps and cell images."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hemalens.config import Seed, StrictConfig
from hemalens.errors import ConfigError, one_line
from hemalens.graphs.features import MAPS_AT_ONCE
from hemalens.models.ae_cfe import AECFE, scaled_map
from hemalens.models.dorl import DoRL
from hemalens.training.autoencoder import ADAMW, CellPairs, DomainBatches, PairBatches
from hemalens.training.checkpoints import load_weights
from hemalens.training.losses import structural_similarity
from hemalens.training.module import Learner, OptimiserConfig
from hemalens.training.trainer import Precision, Schedule, train

Batch = tuple[Tensor, Tensor, Tensor]
"""Feature maps (n, c, h, w), cell images (n, 3, side, side) in [0, 1] and domains (n,)."""


class BaselineConfig(StrictConfig):
    """What both trainings have; `name` is that of the network in reports."""

    name: ClassVar[str]

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=4)
    seed: Seed = 1234
    precision: Precision = "fp32"
    optimiser: OptimiserConfig

    @abstractmethod
    def network(self, map_shape: tuple[int, ...], side_px: int) -> Any:
        """The untrained network for maps (c, h, w) and cell images of `side_px`."""

    @abstractmethod
    def loss(self, network: Any, batch: Batch, reference: int) -> Tensor:
        """The loss of one batch; the other domains are drawn to the domain `reference`."""


class AECFEConfig(BaselineConfig):
    """AE-CFE (Salehi et al. 2022): (1 - SSIM) + error of the map + `discrepancy_weight` * discrepancy.

    Adam at a constant rate for 150 epochs, batches of 500, as in the authors' code. `width` scales the channels of the
    hidden layers: 1 as published, less for training on a CPU.
    """

    name: ClassVar[str] = "AE-CFE"

    epochs: int = Field(default=150, ge=1)
    batch_size: int = Field(default=500, ge=4)
    discrepancy_weight: float = Field(default=5.0, ge=0)
    width: float = Field(default=1.0, gt=0, le=4)
    optimiser: OptimiserConfig = OptimiserConfig(
        learning_rate=1e-3,
        weight_decay=0.0,
        warmup_epochs=0.0,
        schedule="constant",
        label_smoothing=0.0,
        gradient_clip=None,
    )

    def network(self, map_shape: tuple[int, ...], side_px: int) -> AECFE:
        """The layers of the authors' code."""
        return AECFE(map_shape[0], side_px=side_px, width=self.width)

    def loss(self, network: AECFE, batch: Batch, reference: int) -> Tensor:
        """Image, map and latents (authors' code; the paper's weights)."""
        maps, cells, domains = batch
        latents, features, drawn = network(maps)
        unlike = 1 - structural_similarity(drawn.float(), cells, padding="zeros")
        error = nn.functional.mse_loss(features.float(), scaled_map(maps))
        return unlike + error + self.discrepancy_weight * moment_discrepancy(latents.float(), domains, reference)


class DoRLConfig(BaselineConfig):
    """DoRL (Li et al. 2024): (1 - SSIM) + `loss_weight` * (discrepancy of projections + half the error of the map).

    Adam with decay, 500 warm-up steps and a cosine, 300 epochs, as in the authors' code. `decoder_width` scales the
    channels of the image decoder. Fewer layers and epochs train on a CPU.
    """

    name: ClassVar[str] = "DoRL"

    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=4)
    loss_weight: float = Field(default=2.0, ge=0)
    mask_ratio: float = Field(default=0.75, ge=0, lt=1)
    encoder_layers: int = Field(default=12, ge=1)
    decoder_layers: int = Field(default=4, ge=1)
    n_heads: int = Field(default=12, ge=1)
    decoder_width: float = Field(default=1.0, gt=0, le=4)
    optimiser: OptimiserConfig = ADAMW.model_copy(update={"learning_rate": 1e-4})

    def network(self, map_shape: tuple[int, ...], side_px: int) -> DoRL:
        """The layers of the authors' code, for the side of these maps."""
        return DoRL(
            map_shape[0],
            map_shape[1],
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            n_heads=self.n_heads,
            mask_ratio=self.mask_ratio,
            decoder_width=self.decoder_width,
            side_px=side_px,
        )

    def loss(self, network: DoRL, batch: Batch, reference: int) -> Tensor:
        """Image, projections and map."""
        maps, cells, domains = batch
        features, drawn, projected = network(maps)
        unlike = 1 - structural_similarity(drawn.float(), cells, padding="zeros")
        apart = mean_discrepancy(projected.float(), domains, reference)
        return unlike + self.loss_weight * (apart + nn.functional.mse_loss(features.float(), maps) / 2)


def mean_discrepancy(latents: Tensor, domains: Tensor, reference: int) -> Tensor:
    """Mean squared difference of the mean latents (n, d) of each domain and the reference, summed over domains."""
    centre = latents[domains == reference].mean(dim=0)
    others = [latents[domains == domain].mean(dim=0) for domain in torch.unique(domains) if domain != reference]
    return sum((nn.functional.mse_loss(centre, other) for other in others), latents.new_zeros(()))


def moment_discrepancy(latents: Tensor, domains: Tensor, reference: int) -> Tensor:
    """`mean_discrepancy` plus half the symmetric Kullback-Leibler divergence of softmaxed covariances.

    The softmax runs down each column of a covariance (d, d); the divergence is the mean over its numbers. A domain with one
    image in the batch has no covariance and adds none.
    """
    total = mean_discrepancy(latents, domains, reference)
    parts = {int(domain): latents[domains == domain] for domain in torch.unique(domains)}
    if reference not in parts or len(parts[reference]) < 2:
        return total
    own = torch.cov(parts[reference].T).log_softmax(dim=0)
    for domain, part in parts.items():
        if domain != reference and len(part) > 1:
            other = torch.cov(part.T).log_softmax(dim=0)
            total = total + ((own.exp() - other.exp()) * (own - other)).mean() / 2
    return total


class _Module(Learner):
    """One of the networks in training."""

    def __init__(self, network: nn.Module, config: BaselineConfig, reference: int) -> None:
        super().__init__(optimiser=config.optimiser, epochs=config.epochs, seed=config.seed)
        self.network = network
        self.config = config
        self.reference = reference

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.config.loss(self.network, batch, self.reference)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss


class Trained(Protocol):
    """What both networks give once trained."""

    def embed(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, d)."""

    def draw(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, 3, side, side) in [0, 1]."""


def fit_baseline(pairs: CellPairs, config: BaselineConfig, run_dir: Path) -> Any:
    """Train a network on all pairs, without labels; an interrupted training in `run_dir` resumes.

    The reference domain is that of the first pair. Raises `ConfigError` for a single domain or too small a batch.
    """
    ids = pairs.domain_ids
    if len(np.unique(ids)) < 2:
        raise ConfigError(f"{config.name} needs images of two domains or more", got=one_line(pairs.domains[0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = config.network(pairs.maps.shape[1:], pairs.cells.shape[1]).to(memory_format=torch.channels_last)
    loader = DataLoader(
        PairBatches(pairs), batch_size=None, sampler=DomainBatches(ids, config.batch_size, seed=config.seed)
    )
    module = _Module(network, config, int(ids[0]))
    train(module, loader, None, run_dir=run_dir, schedule=Schedule(precision=config.precision))
    return network.eval()


def read_baseline(file: Path, map_shape: tuple[int, ...], side_px: int, config: BaselineConfig) -> Any:
    """A trained network from its safetensors file; raises `WeightsError` for a damaged file, or one of another network."""
    network = config.network(map_shape, side_px)
    load_weights(network, file)
    return network.eval()


def embeddings(network: Trained, maps: NDArray[np.float16]) -> NDArray[np.float32]:
    """The embeddings (n, d) of feature maps (n, c, h, w)."""
    parts = []
    with torch.inference_mode():
        for i in range(0, len(maps), MAPS_AT_ONCE):
            part = torch.from_numpy(np.asarray(maps[i : i + MAPS_AT_ONCE], np.float32))
            parts.append(network.embed(part).numpy())
    return np.concatenate(parts)


def drawings(network: Trained, maps: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Reconstructed cell images, uint8 (n, side, side, 3), of feature maps (n, c, h, w)."""
    with torch.inference_mode():
        drawn = network.draw(torch.from_numpy(maps.astype(np.float32)))
    images: NDArray[np.uint8] = (drawn.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return images
