"""Resized training images, decoded once by the graph that also serves, and the sampler of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hemalens.cache import FeatureCache
from hemalens.datasets.base import CellDataset
from hemalens.files import default_cache_dir, large_array
from hemalens.graphs.build import float_value, join, make_model, resize_graph
from hemalens.graphs.features import extract
from hemalens.imaging.reading import Preprocessing
from hemalens.progress import track


def _uint8_graph(preprocessing: Preprocessing) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> small uint8 (n, 3, size, size): a quarter of the cache that floats would take."""
    shape: list[int | str] = ["n", 3, preprocessing.size_px, preprocessing.size_px]
    node = helper.make_node("Cast", ["resized"], ["small"], to=TensorProto.UINT8)
    small = helper.make_tensor_value_info("small", TensorProto.UINT8, shape)
    return join(resize_graph(preprocessing), make_model([node], [float_value("resized", shape)], [small], []))


AT_ONCE = 256
"""Images that are read from the cache, or put there, at once."""


def resized_images(dataset: CellDataset, preprocessing: Preprocessing, scratch: Path) -> NDArray[np.uint8]:
    """All images of a dataset, resized as in the bundle's graph: uint8 (n, 3, size, size).

    Through the cache, by the graph that resizes and by each image's content and stages: folds, seeds and later trainings
    decode no image again. A large set is memory-mapped to the file `scratch`. Raises `ImageError` for the first
    unreadable image.
    """
    size = preprocessing.size_px
    pixels: NDArray[np.uint8] = large_array((len(dataset), 3, size, size), np.uint8, scratch)
    graph, cache = _uint8_graph(preprocessing), FeatureCache(default_cache_dir())
    with track("reading images", len(dataset)) as progress:
        for start in range(0, len(dataset), AT_ONCE):
            part = dataset.records[start : start + AT_ONCE]
            found = extract(part, graph, cache=cache, output="small", progress=progress)
            if found.errors:
                part[next(iter(found.errors))].read()  # raises the error of the image itself
            pixels[start : start + len(part)] = found.complete().reshape(-1, 3, size, size)
    return pixels


class PixelDataset(Dataset[tuple[Tensor, int]]):
    """Resized images with their targets; indexed by (index, seed), so that an augmentation depends on nothing else."""

    def __init__(
        self, pixels: NDArray[np.uint8], targets: NDArray[np.int64], augment: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.pixels = pixels
        self.targets = targets
        self.augment = augment

    def __getstate__(self) -> dict[str, Any]:
        """For another process of this machine: mapped images by the name of their file."""
        mapped = isinstance(self.pixels, np.memmap)
        return self.__dict__ | ({"pixels": Path(str(self.pixels.filename))} if mapped else {})  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.pixels, Path):
            self.pixels = np.load(self.pixels, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        image = torch.from_numpy(self.pixels[index].copy())
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image = self.augment(image)
        return image, int(self.targets[index])

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """A batch at once, on one thread: several threads are slower on images this small."""
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[key] for key in keys]
        finally:
            torch.set_num_threads(n_threads)


class EpochSampler(Sampler[tuple[int, int]]):
    """Draws (index, seed) pairs, each epoch's from (seed, epoch) alone, so that a resumed run repeats them.

    With `weights` (n,) indices are drawn with replacement in these proportions, otherwise each once, in random order;
    with `shuffle` off, each once in order. `n_draws`: draws an epoch, None for n; without weights, more draws repeat
    images and fewer leave some out. With `reshuffle` off every epoch has the first one's indices in the same order.
    """

    def __init__(
        self,
        n: int,
        *,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        n_draws: int | None = None,
        shuffle: bool = True,
        reshuffle: bool = True,
    ) -> None:
        self.n = n
        self.n_draws = n_draws or n
        self.seed = seed
        self.weights = weights
        self.shuffle = shuffle
        self.reshuffle = reshuffle
        self.epoch = 0
        self.share: tuple[int, int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def take_share(self, rank: int, n_ranks: int, batch_size: int) -> None:
        """Draw only the share of process `rank` of each batch; of a last batch too small to share, nothing."""
        self.share = (rank, n_ranks, batch_size)

    def __len__(self) -> int:
        return len(self._places())

    def _places(self) -> NDArray[np.int64]:
        """Places in the epoch's order that are drawn here."""
        places = np.arange(self.n_draws)
        if self.share is None:
            return places
        rank, n_ranks, batch_size = self.share
        batches = np.split(places, range(batch_size, self.n_draws, batch_size))
        shares = [np.array_split(batch, n_ranks)[rank] for batch in batches if len(batch) >= n_ranks]
        return np.concatenate([places[:0], *shares])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        drawing = rng if self.reshuffle else np.random.default_rng([self.seed, 0])
        if not self.shuffle:
            order = np.arange(self.n_draws)
        elif self.weights is None:
            order = np.concatenate([drawing.permutation(self.n) for _ in range(-(-self.n_draws // self.n))])[: self.n_draws]
        else:
            order = drawing.choice(self.n, self.n_draws, p=self.weights)
        seeds = rng.integers(2**31, size=self.n_draws)
        places = self._places()
        yield from zip(order[places].tolist(), seeds[places].tolist(), strict=True)
