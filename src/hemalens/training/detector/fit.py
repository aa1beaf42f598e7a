"""Train the detector's network on fields with boxes, and export it to ONNX."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hemalens.config import Seed, StrictConfig
from hemalens.datasets.fields.base import Field
from hemalens.detection.maps import STRIDE
from hemalens.errors import ParityError
from hemalens.graphs.build import join, unscaled_graph
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from hemalens.models.detector import DetectorNetwork, activated
from hemalens.models.export import to_onnx
from hemalens.models.freezing import freeze
from hemalens.training.data import EpochSampler
from hemalens.training.detector.losses import detector_losses
from hemalens.training.detector.recolouring import RecolouringConfig, recoloured
from hemalens.training.detector.sheets import NucleusCounts, read_sheets
from hemalens.training.detector.targets import targets_of
from hemalens.training.detector.windows import Sheet, drawn_window
from hemalens.training.ema import average_into
from hemalens.training.fit import set_batch_norm_momentum
from hemalens.training.laboratory_augmentation import LaboratoryAugmentation, LaboratoryConfig
from hemalens.training.module import Learner, OptimiserConfig
from hemalens.training.trainer import Precision, Schedule, train

DECAY = 0.997
"""Decay a step of the moving average of the weights."""
PARITY = 1e-3
"""Largest allowed difference of a score between the graph and the trained network."""


class DetectorTraining(StrictConfig):
    """How windows of fields are drawn and learned.

    `epochs` of `windows_per_epoch` windows of `side_px` pixels. A share `strong_share` of them is changed by `laboratory`,
    the others by `mild`.
    """

    epochs: int
    windows_per_epoch: int
    batch_size: int
    side_px: int
    precision: Precision
    optimiser: OptimiserConfig
    recolouring: RecolouringConfig
    laboratory: LaboratoryConfig
    mild: LaboratoryConfig
    strong_share: float
    seed: Seed


class WindowDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Windows with their targets; indexed by (field, seed), so that a window depends on nothing else."""

    def __init__(self, sheets: list[Sheet], how: DetectorTraining) -> None:
        self.sheets = sheets
        self.how = how
        self.strong, self.mild = LaboratoryAugmentation(how.laboratory), LaboratoryAugmentation(how.mild)

    def __len__(self) -> int:
        return len(self.sheets)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        index, seed = key
        rng = np.random.default_rng(seed)
        window = drawn_window(self.sheets[index], self.how.side_px, rng)
        in_places = window.boxes.moved(0, 0, scale=1 / STRIDE)
        image = recoloured(window.image, window.nucleus, in_places, self.how.recolouring, rng)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels = (self.strong if rng.random() < self.how.strong_share else self.mild)(pixels)
        return pixels, {name: torch.from_numpy(value) for name, value in asdict(targets_of(window)).items()}

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """A batch at once, on one thread: several threads are slower on images this small."""
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[key] for key in keys]
        finally:
            torch.set_num_threads(n_threads)


class DetectorModule(Learner):
    """The network on uint8 windows (n, 3, side, side), with a moving average of its weights, which is exported."""

    def __init__(self, network: DetectorNetwork, preprocessing: Preprocessing, how: DetectorTraining) -> None:
        super().__init__(optimiser=how.optimiser, epochs=how.epochs, seed=how.seed)
        self.network = network
        self.averaged: Any = freeze(copy.deepcopy(network))
        self.mean: Tensor
        self.std: Tensor
        self.n_averaged: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: tuple[Tensor, dict[str, Tensor]], batch_index: int) -> Tensor:
        """The sum of the losses of scores, boxes and nucleus."""
        images, targets = batch
        pixels = ((images.float() - self.mean) / self.std).to(memory_format=torch.channels_last)
        losses = detector_losses(self.network(pixels), targets)
        for name, value in losses.items():
            self.log(f"{name}_loss", value, on_step=False, on_epoch=True, batch_size=len(images))
        return torch.stack(list(losses.values())).sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Update the average after each step."""
        if self.trainer.global_step > int(self.n_averaged):
            self.n_averaged += 1
            average_into(self.averaged, self.network, step=int(self.n_averaged), decay=DECAY)


def fit_boxes(
    network: DetectorNetwork, fields: Sequence[Field], preprocessing: Preprocessing, how: DetectorTraining, run_dir: Path
) -> tuple[DetectorNetwork, NucleusCounts]:
    """Train on all fields, every laboratory equally often; return the averaged network, and the nuclei that it learned.

    A stopped training in `run_dir` resumes.
    """
    set_batch_norm_momentum(network)
    sheets, nuclei = read_sheets(fields, run_dir / "scratch" / "fields.npy")
    domains = [field.record.domain for field in fields]
    n_fields = Counter(domains)
    weights = np.array([1 / n_fields[domain] for domain in domains])
    sampler = EpochSampler(len(sheets), seed=how.seed, weights=weights / weights.sum(), n_draws=how.windows_per_epoch)
    loader = DataLoader(WindowDataset(sheets, how), batch_size=how.batch_size, sampler=sampler, drop_last=True)
    module = DetectorModule(network.to(memory_format=torch.channels_last), preprocessing, how)  # type: ignore[call-overload]
    train(module, loader, None, run_dir=run_dir, schedule=Schedule(precision=how.precision))
    averaged: DetectorNetwork = module.averaged
    return averaged.eval(), nuclei


class _Served(nn.Module):
    """Pixels (n, 3, h, w) -> scores and distances (n, h / 4, w / 4, 4), as `detection.maps` reads them."""

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        scores, distances = activated(self.network(pixels))
        return scores.permute(0, 2, 3, 1), distances.permute(0, 2, 3, 1)


def detector_graph(network: DetectorNetwork, preprocessing: Preprocessing) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3), sides multiples of 16 -> scores (n, h / 4, w / 4, 4) and distances alike."""
    maps = to_onnx(_Served(network), preprocessing, ["scores", "distances"], free_sides=True)
    return join(unscaled_graph(preprocessing), maps)


def check_maps(
    graph: onnx.ModelProto, network: DetectorNetwork, preprocessing: Preprocessing, images: Iterable[NDArray[np.uint8]]
) -> float:
    """Largest difference of a score between the graph and the trained network, on images (h, w, 3) of any sides.

    Raises `ParityError` above 1e-3.
    """
    served, module, largest = session_of(graph.SerializeToString()), _Served(network.eval()), 0.0
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    for image in images:
        (found,) = served.run(["scores"], {"image": image[None]})
        pixels = (image.astype(np.float32) - mean) / std
        with torch.inference_mode():
            wanted, _ = module(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()))
        # unlike max, numpy's keeps a NaN
        largest = float(np.maximum(largest, np.abs(found - wanted.numpy()).max()))
    if not largest <= PARITY:
        raise ParityError(
            "the exported detector does not reproduce the trained one",
            expected=f"scores within {PARITY}",
            got=f"a difference of {largest:.2g}",
        )
    return largest
