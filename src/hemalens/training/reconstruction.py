"""Train the pixel autoencoder on images without labels; the cache keeps it by data, settings and versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hemalens.bundle.artifact import WEIGHTS, library_versions
from hemalens.config import Seed, StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.tiles import tiled
from hemalens.errors import ConfigError, DatasetError
from hemalens.files import atomic_path, default_cache_dir, sha256_text
from hemalens.imaging.reading import Preprocessing
from hemalens.models.reconstruction import LATENT_SIZE, Autoencoder, PixelAutoencoder, SymmetricAutoencoder
from hemalens.training.checkpoints import load_weights, tensor_bytes
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.losses import structural_similarity
from hemalens.training.module import ADAM, Learner, OptimiserConfig
from hemalens.training.trainer import Precision, Schedule, train

ENCODER = "encoder.safetensors"
"""File with the weights of the encoder alone."""


class ReconstructionConfig(StrictConfig):
    """A convolutional autoencoder and its training; the published study states the latent, 512, and the loss, MSE.

    `encoder`: "convolutions", five of them and a linear layer to `latent_size` numbers, or "backbone", the ResNet of the
    training that follows with a symmetric decoder. `loss`: "mse", or "ssim", which is 1 - SSIM. `tile_px`: side of the
    tiles that regions are cut into, so that small structures stay visible; None takes each image whole, as published.
    `width`: channels of the first of the five convolutions.
    """

    encoder: Literal["convolutions", "backbone"] = "convolutions"
    latent_size: int = Field(default=LATENT_SIZE, ge=1)
    loss: Literal["mse", "ssim"] = "mse"
    tile_px: int | None = Field(default=None, ge=32)
    width: int = Field(default=32, ge=1)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=2)
    images_per_epoch: int | None = Field(default=None, ge=2)
    seed: Seed = 0
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = ADAM


class ReconstructionModule(Learner):
    """An autoencoder on uint8 batches (n, 3, size, size); reconstructions are in [0, 1]."""

    def __init__(self, network: Autoencoder, preprocessing: Preprocessing, config: ReconstructionConfig) -> None:
        super().__init__(optimiser=config.optimiser, epochs=config.epochs, seed=config.seed)
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """MSE, or 1 - SSIM, of one batch."""
        images = batch[0].float()
        drawn = self.network((images - self.mean) / self.std).float()
        if self.config.loss == "ssim":
            loss = 1 - structural_similarity(drawn, images / 255)
        else:
            loss = nn.functional.mse_loss(drawn, images / 255)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss


def reconstruction_encoder(
    dataset: CellDataset, preprocessing: Preprocessing, config: ReconstructionConfig, *, backbone: str = ""
) -> Autoencoder:
    """An autoencoder of the images of `dataset`, trained without labels, from the cache where it is trained already.

    It takes normalised pixels of `preprocessing`. `backbone` names the encoder "backbone". Raises `ConfigError` for a size
    that is no multiple of 32, and `DatasetError` for fewer than two images or tiles.
    """
    return _trained(dataset, preprocessing, config, backbone)[0]


def reconstruction_weights(
    dataset: CellDataset, preprocessing: Preprocessing, config: ReconstructionConfig, *, backbone: str
) -> Path:
    """File with the weights of the encoder "backbone", by timm's names, trained as by `reconstruction_encoder`."""
    if config.encoder != "backbone":
        raise ConfigError(
            f"an encoder of {config.encoder} has no weights for {backbone}", expected="encoder=backbone", got=config.encoder
        )
    network, folder = _trained(dataset, preprocessing, config, backbone)
    file = folder / ENCODER
    if not file.is_file():
        with atomic_path(file) as temporary:
            temporary.write_bytes(tensor_bytes(network.encoder.state_dict()))
    return file


def _trained(
    dataset: CellDataset, preprocessing: Preprocessing, config: ReconstructionConfig, backbone: str
) -> tuple[Autoencoder, Path]:
    """The trained autoencoder, and its folder in the cache."""
    network = _network(preprocessing, config, backbone)
    request = {
        "config": config.model_dump(mode="json"),
        "backbone": backbone if config.encoder == "backbone" else "",
        "preprocessing": preprocessing.model_dump(mode="json"),
        "data": dataset.fingerprint,
        "before": [stage.digest for stage in dataset.stages],
        "versions": library_versions(),
    }
    folder = default_cache_dir() / "reconstructions" / sha256_text(json.dumps(request, sort_keys=True))
    file = folder / WEIGHTS
    if not file.is_file():
        module = ReconstructionModule(network, preprocessing, config)
        _train(module, dataset, preprocessing, folder)
        with atomic_path(file) as temporary:
            temporary.write_bytes(tensor_bytes(network.state_dict()))
        for scratch in ("checkpoints", "scratch"):
            shutil.rmtree(folder / scratch, ignore_errors=True)
    load_weights(network, file)
    network.eval()
    return network, folder


def _network(preprocessing: Preprocessing, config: ReconstructionConfig, backbone: str) -> Autoencoder:
    size = preprocessing.size_px
    if config.encoder == "backbone":
        return SymmetricAutoencoder(size, backbone=backbone, seed=config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PixelAutoencoder(size, latent_size=config.latent_size, width=config.width)


def _train(module: ReconstructionModule, dataset: CellDataset, preprocessing: Preprocessing, folder: Path) -> None:
    config = module.config
    parts = dataset if config.tile_px is None else tiled(dataset, config.tile_px)
    if len(parts) < 2:
        # a batch of one has no batch statistics
        raise DatasetError(
            f"{dataset.name} has too few images for an autoencoder", expected="at least 2", got=str(len(parts))
        )
    pixels = resized_images(parts, preprocessing, folder / "scratch" / "tiles.npy")
    nothing = np.zeros(len(parts), np.int64)
    sampler = EpochSampler(len(parts), seed=config.seed, n_draws=config.images_per_epoch)
    loader = DataLoader(
        PixelDataset(pixels, nothing, None),
        batch_size=config.batch_size,
        sampler=sampler,
        drop_last=len(sampler) % config.batch_size == 1,
    )
    train(module, loader, None, run_dir=folder, schedule=Schedule(precision=config.precision))
