"""Fine-tune Segment Anything on masks of single cells and export it to ONNX."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hemalens.config import Seed, StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.masks import read_cell_mask
from hemalens.errors import ParityError
from hemalens.graphs.build import cut, join, normalise_graph, resize_graph
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from hemalens.models.export import to_onnx
from hemalens.models.sam import SamSegmenter
from hemalens.progress import track
from hemalens.training.data import EpochSampler, resized_images
from hemalens.training.losses import mask_loss, rotate_each
from hemalens.training.module import Learner, OptimiserConfig
from hemalens.training.trainer import Precision, Schedule, train

ROTATION_DEG = 20.0
"""Largest angle of the published rotation."""
MASK_PARITY = 1e-3
"""Largest allowed difference of a cell probability between the graph and the trained network."""


class MaskAugmentation:
    """The published augmentation: with p = 0.5 a quarter turn and a flip, else with p = 0.5 a rotation of +-20 degrees.

    Nearest neighbour, corners black and background. Image uint8 (3, S, S) and mask bool (S, S) change together.
    """

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A changed copy of both."""
        both = torch.cat([image, mask[None].to(image.dtype)])
        if torch.rand(()) > 0.5:
            both = torch.rot90(both, int(torch.randint(4, ())), (1, 2))
            both = both.flip(int(torch.randint(1, 3, ())))
        elif torch.rand(()) > 0.5:
            angle = torch.empty(1).uniform_(-ROTATION_DEG, ROTATION_DEG) * math.pi / 180
            both = rotate_each(both[None].float(), angle, torch.zeros(1, 4))[0].to(image.dtype)
        return both[:3], both[3].bool()


class MaskDataset(Dataset[tuple[Tensor, Tensor]]):
    """Resized images (n, 3, S, S) with their masks (n, S, S), the mask resized to the network's output.

    Indexed by (index, seed), so that an augmentation depends on nothing else.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], *, side: int, augment: MaskAugmentation | None
    ) -> None:
        self.pixels = pixels
        self.masks = masks
        self.side = side
        self.augment = augment

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, seed = key
        image, mask = torch.from_numpy(self.pixels[index].copy()), torch.from_numpy(self.masks[index].copy())
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image, mask = self.augment(image, mask)
        small = nn.functional.interpolate(mask[None, None].float(), size=(self.side, self.side), mode="nearest")
        return image, small[0, 0].long()


def resized_masks(dataset: CellDataset, size_px: int) -> NDArray[np.bool_]:
    """The masks of a dataset at the input size, nearest neighbour: (n, size, size); raises `ImageError` for a bad one."""
    masks = np.empty((len(dataset), size_px, size_px), np.bool_)
    with track("reading masks", len(dataset)) as progress:
        for i, record in enumerate(dataset.records):
            mask = Image.fromarray(read_cell_mask(record, record.read()))
            masks[i] = np.asarray(mask.resize((size_px, size_px), Image.Resampling.NEAREST))
            progress(1)
    return masks


class SegmenterModule(Learner):
    """A SAM network on uint8 images (n, 3, S, S) and masks of class indices (n, side, side)."""

    def __init__(
        self,
        network: SamSegmenter,
        preprocessing: Preprocessing,
        *,
        optimiser: OptimiserConfig,
        epochs: int,
        seed: int,
        weights: tuple[float, float],
    ) -> None:
        super().__init__(optimiser=optimiser, epochs=epochs, seed=seed)
        self.network = network
        self.weights = weights
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Cross-entropy and Dice of the low-resolution masks."""
        images, masks = batch
        logits = self.network((images.float() - self.mean) / self.std)
        loss = mask_loss(logits.float(), masks, ce_weight=self.weights[0], dice_weight=self.weights[1])
        self.log("mask_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss


class SegmenterTraining(StrictConfig):
    """How long, in what batches and with which weights of the two losses masks are learned."""

    epochs: int
    batch_size: int
    precision: Precision
    optimiser: OptimiserConfig
    ce_weight: float
    dice_weight: float
    augment: bool
    seed: Seed


def fit_masks(
    network: SamSegmenter, dataset: CellDataset, preprocessing: Preprocessing, how: SegmenterTraining, run_dir: Path
) -> None:
    """Train the open layers of a network on all masks of a dataset; an interrupted training in `run_dir` resumes."""
    size = preprocessing.size_px
    masks = resized_masks(dataset, size)
    pixels = resized_images(dataset, preprocessing, run_dir / "scratch" / "train.npy")
    augment = MaskAugmentation() if how.augment else None
    loader = DataLoader(
        MaskDataset(pixels, masks, side=4 * network.grid, augment=augment),
        batch_size=how.batch_size,
        sampler=EpochSampler(len(dataset), seed=how.seed),
    )
    module = SegmenterModule(
        network,
        preprocessing,
        optimiser=how.optimiser,
        epochs=how.epochs,
        seed=how.seed,
        weights=(how.ce_weight, how.dice_weight),
    )
    train(module, loader, None, run_dir=run_dir, schedule=Schedule(precision=how.precision))


class _MapAndMask(nn.Module):
    """A segmenter with its feature map and the cell's probability as outputs.

    The logits, and not their probabilities, are interpolated to the size of the pixels, as in BC-SAM's code.
    """

    def __init__(self, network: SamSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        feature_map = self.network.feature_map(pixels)
        logits = self.network.masks_from(feature_map)
        side = self.network.image_size_px
        whole = nn.functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        return feature_map, whole.softmax(dim=1)[:, 1]


def segmenter_graph(network: SamSegmenter, preprocessing: Preprocessing) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> full_map (n, c, g, g), the feature before the neck, and cell_probability (n, s, s)."""
    network.eval()
    outputs = to_onnx(_MapAndMask(network), preprocessing, ["full_map", "cell_probability"])
    return join(resize_graph(preprocessing), normalise_graph(preprocessing), outputs)


def check_masks(graph: onnx.ModelProto, network: SamSegmenter, images: Iterator[NDArray[np.uint8]]) -> float:
    """Largest difference of a cell probability between graph and network on images; raises `ParityError` above 1e-3."""
    served = session_of(graph.SerializeToString())
    prepared = session_of(cut(graph, ["image"], ["pixels"]).SerializeToString())
    largest = 0.0
    module = _MapAndMask(network.eval())
    for image in images:
        (found,) = served.run(["cell_probability"], {"image": image[None]})
        (pixels,) = prepared.run(["pixels"], {"image": image[None]})
        with torch.inference_mode():
            _, wanted = module(torch.from_numpy(pixels))
        # unlike max, numpy's keeps a NaN
        largest = float(np.maximum(largest, np.abs(found - wanted.numpy()).max()))
    if not largest <= MASK_PARITY:
        raise ParityError(
            "the exported segmenter does not reproduce the trained one",
            expected=f"cell probabilities within {MASK_PARITY}",
            got=f"a difference of {largest:.2g}",
        )
    return largest
