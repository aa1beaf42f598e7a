"""Train the cross-domain autoencoder of BC-SAM: feature maps in, cell images out, latents aligned between domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hemalens.config import Seed, StrictConfig
from hemalens.errors import ConfigError, ParityError, SplitError, one_line
from hemalens.graphs.build import full_map_graph, join
from hemalens.graphs.features import MAPS_AT_ONCE
from hemalens.graphs.runtime import run_rows
from hemalens.imaging.reading import Preprocessing
from hemalens.models.autoencoder import LATENT_SIZE, CellAutoencoder, channels_of
from hemalens.models.export import to_onnx
from hemalens.training.checkpoints import load_weights, tensor_bytes
from hemalens.training.losses import Kernel, Padding, maximum_mean_discrepancy, structural_similarity
from hemalens.training.module import Learner, OptimiserConfig
from hemalens.training.trainer import Precision, Schedule, train

ADAMW = OptimiserConfig(
    learning_rate=5e-4,
    weight_decay=0.05,
    decay_all=True,
    warmup_steps=500,
    schedule="cosine",
    cosine_length="whole",
    label_smoothing=0.0,
    gradient_clip=None,
)
"""The published optimiser of the autoencoder: rate and decay of the paper, warm-up and cosine as in the authors' code."""
LATENT_PARITY = 1e-3
"""Largest allowed difference of a latent between the graph and the trained encoder; latents are of the order of 1."""


Discrepancy = Literal["none", "linear", "rbf"]
"""Kernel of the MMD between domains, or none."""


class AutoencoderConfig(StrictConfig):
    """The published autoencoder and its training.

    Loss: 1 - SSIM + `mmd_weight` * MMD between domains; `mmd`: "linear" as published, a "rbf" mixture, or "none". The
    weight is the published one for "linear" and has no published counterpart for "rbf", which is on another scale.
    `ssim_padding`: the windows of SSIM reach over the image's border, which is black there, or lie within the image.
    `decoder_width` scales the decoder's channels and `side_px` is the side of the reconstruction: 1.0 and 128 as
    published, less for training on a CPU.
    """

    latent_size: int = Field(default=LATENT_SIZE, ge=1)
    mmd: Discrepancy = "linear"
    mmd_weight: float = Field(default=5.0, ge=0)
    ssim_padding: Padding = "zeros"
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=2)
    side_px: Literal[128, 64, 32] = 128
    decoder_width: float = Field(default=1.0, gt=0, le=4)
    seed: Seed = 1234
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = ADAMW


@dataclass(frozen=True, slots=True)
class CellPairs:
    """Feature maps (m, c, h, w) and the cell images uint8 (m, side, side, 3) to reconstruct from them.

    `rows` (n,) index both arrays, `domains` (n,) names the domain of each row.
    """

    maps: NDArray[np.float16]
    cells: NDArray[np.uint8]
    domains: tuple[str, ...]
    rows: NDArray[np.int64]

    @classmethod
    def whole(cls, maps: NDArray[np.float16], cells: NDArray[np.uint8], domains: Sequence[str]) -> CellPairs:
        """All rows of both arrays."""
        return cls(maps, cells, tuple(domains), np.arange(len(maps)))

    def part(self, indices: Sequence[int] | NDArray[np.int64]) -> CellPairs:
        """The pairs at `indices`; shares the arrays, which may be large."""
        domains = tuple(self.domains[i] for i in indices)
        return CellPairs(self.maps, self.cells, domains, self.rows[np.asarray(indices, np.int64)])

    @property
    def domain_ids(self) -> NDArray[np.int64]:
        """Each pair's domain as a number, (n,)."""
        names = sorted(set(self.domains))
        return np.array([names.index(domain) for domain in self.domains], np.int64)


class DomainBatches(Sampler[list[int]]):
    """Batches in which every domain is present, each epoch's from (seed, epoch) alone.

    Every image is drawn at least once an epoch. A batch has each domain's share of the whole; a domain with fewer images
    than there are batches is repeated.
    """

    def __init__(self, domain_ids: NDArray[np.int64], batch_size: int, *, seed: int) -> None:
        self.members = [np.flatnonzero(domain_ids == domain) for domain in np.unique(domain_ids)]
        if len(domain_ids) < 2:
            raise SplitError("an autoencoder needs batches", expected="two images or more", got=str(len(domain_ids)))
        if batch_size < 2 * len(self.members):
            raise ConfigError(
                "the batches are too small for every domain to be in each",
                expected=f"batch_size {2 * len(self.members)} or more",
                got=str(batch_size),
            )
        # a batch of one has no batch statistics
        self.n_batches = max(1, min(-(-len(domain_ids) // batch_size), len(domain_ids) // 2))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        shares = []
        for members in self.members:
            n_rounds = max(1, -(-self.n_batches // len(members)))
            order = np.concatenate([rng.permutation(members) for _ in range(n_rounds)])
            order = order[: max(len(members), self.n_batches)]
            shares.append(np.array_split(order, self.n_batches))
        for parts in zip(*shares, strict=True):
            yield np.concatenate(parts).tolist()


class PairBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Whole batches of pairs, indexed by a list of positions."""

    def __init__(self, pairs: CellPairs) -> None:
        self.pairs = pairs
        self.domain_ids = pairs.domain_ids

    def __len__(self) -> int:
        return len(self.domain_ids)

    def __getitem__(self, positions: Any) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.pairs.rows[positions]
        maps = torch.from_numpy(self.pairs.maps[rows].astype(np.float32))
        cells = torch.from_numpy(self.pairs.cells[rows]).permute(0, 3, 1, 2).float() / 255
        return maps, cells, torch.from_numpy(self.domain_ids[positions])


class AutoencoderModule(Learner):
    """An autoencoder on batches of feature maps (n, c, h, w), cell images (n, 3, side, side) in [0, 1], domains (n,)."""

    def __init__(self, network: CellAutoencoder, config: AutoencoderConfig) -> None:
        super().__init__(optimiser=config.optimiser, epochs=config.epochs, seed=config.seed)
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """1 - SSIM + weight * MMD of one batch (BC-SAM, equation 6)."""
        maps, cells, domains = batch
        latents, drawn = self.network(maps.to(memory_format=torch.channels_last))
        loss = 1 - structural_similarity(drawn.float(), cells, padding=self.config.ssim_padding)
        self.log("dissimilarity", loss, on_step=False, on_epoch=True, batch_size=len(maps))
        if self.config.mmd != "none":
            kernel: Kernel = self.config.mmd
            apart = maximum_mean_discrepancy(latents.float(), domains, kernel=kernel)
            self.log("mmd", apart, on_step=False, on_epoch=True, batch_size=len(maps))
            loss = loss + self.config.mmd_weight * apart
        return loss


def check_domains(domains: Sequence[str], config: AutoencoderConfig) -> None:
    """Raise `ConfigError` where the MMD needs a second domain."""
    names = sorted(set(domains))
    if config.mmd != "none" and len(names) < 2:
        raise ConfigError(
            "the discrepancy between domains needs images of two domains or more",
            got=f"one: {one_line(names[0])}" if names else "none",
            remedy="Name images of another laboratory with --aux unlabelled=SPEC, or switch it off with "
            "--set autoencoder.mmd=none.",
        )


def fit_autoencoder(pairs: CellPairs, config: AutoencoderConfig, run_dir: Path) -> CellAutoencoder:
    """Train an autoencoder on all pairs, without labels; an interrupted training in `run_dir` resumes.

    Raises `ConfigError` for a single domain, a feature map or a batch too small, or a warm-up longer than the training.
    """
    check_domains(pairs.domains, config)
    if pairs.cells.shape[1] != config.side_px:
        raise ConfigError(
            "the cell images do not fit the decoder", expected=f"{config.side_px} px", got=f"{pairs.cells.shape[1]} px"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _network(pairs.maps.shape[1:], config)
    module = AutoencoderModule(network, config)
    # the dataset returns whole batches
    loader = DataLoader(
        PairBatches(pairs), batch_size=None, sampler=DomainBatches(pairs.domain_ids, config.batch_size, seed=config.seed)
    )
    train(module, loader, None, run_dir=run_dir, schedule=Schedule(precision=config.precision))
    return network.eval()


def reconstruct(network: CellAutoencoder, maps: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Reconstructed cell images, uint8 (n, side, side, 3), of feature maps (n, c, h, w)."""
    with torch.inference_mode():
        _, drawn = network(torch.from_numpy(maps.astype(np.float32)))
    images: NDArray[np.uint8] = (drawn.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return images


def latent_graph(network: CellAutoencoder, map_shape: tuple[int, ...]) -> onnx.ModelProto:
    """feature_map (n, c, h, w), 16 bits -> embedding (n, d), the latent.

    Raises `ParityError` where it differs from torch's.
    """
    encoder = to_onnx(network.encoder.eval(), Preprocessing(), ["embedding"], feature_map=map_shape)
    graph = join(full_map_graph(map_shape), encoder)
    maps = np.random.default_rng(0).random((4, *map_shape)).astype(np.float16)
    with torch.inference_mode():
        wanted = network.encoder(torch.from_numpy(maps.astype(np.float32))).numpy()
    difference = float(np.abs(latents(graph, maps) - wanted).max())
    if not difference <= LATENT_PARITY:
        raise ParityError(
            "the exported encoder does not reproduce the trained one",
            expected=f"latents within {LATENT_PARITY}",
            got=f"a difference of {difference:.2g}",
        )
    return graph


def latents(graph: onnx.ModelProto, maps: NDArray[np.float16]) -> NDArray[np.float32]:
    """The latents (n, d) of feature maps (n, c, h, w)."""
    content = graph.SerializeToString()
    parts = [
        run_rows(content, {"feature_map": np.asarray(maps[i : i + MAPS_AT_ONCE])}, ["embedding"])["embedding"]
        for i in range(0, len(maps), MAPS_AT_ONCE)
    ]
    return np.concatenate(parts)


def autoencoder_bytes(network: CellAutoencoder) -> bytes:
    """The weights as a safetensors file."""
    return tensor_bytes(network.state_dict())


def read_autoencoder(file: Path, map_shape: Sequence[int], config: AutoencoderConfig) -> CellAutoencoder:
    """The network of `autoencoder_bytes`; raises `WeightsError` for a damaged file, or one of another network."""
    network = _network(map_shape, config)
    load_weights(network, file)
    return network.eval()


def _network(map_shape: Sequence[int], config: AutoencoderConfig) -> CellAutoencoder:
    return CellAutoencoder(
        channels_of(map_shape),
        latent_size=config.latent_size,
        side_px=config.side_px,
        decoder_width=config.decoder_width,
    )
