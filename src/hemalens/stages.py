"""What happens to an image before a graph sees it: finding its white cell, and cutting it out."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from hemalens import graphs
from hemalens.artifacts import Part
from hemalens.cache import FeatureCache
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ImageError
from hemalens.files import default_cache_dir, sha256_text
from hemalens.progress import track
from hemalens.runtime import session_of
from hemalens.segmentation import CellImage, CellImageConfig, Outcome, cell_image, segment_cell

CLASSICAL = "classical"
"""The segmenter by colour, without weights."""
SEGMENTER = "segmenter.onnx"
CLASSICAL_VERSION = "2"
"""Changes whenever the masks of the classical segmenter could, since kept cell images depend on it."""


class Segmenter(Protocol):
    """Finds the white cell of an image."""

    name: str

    @property
    def digest(self) -> str:
        """What it is, as a digest."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Image (H, W, 3) -> the cell's mask (H, W), nucleus included."""


class ClassicalSegmenter:
    """By colour: `segmentation.segment_cell`."""

    name = CLASSICAL
    digest = sha256_text(CLASSICAL, CLASSICAL_VERSION)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The cell's mask (H, W)."""
        return segment_cell(image).cell


class GraphSegmenter:
    """By a trained graph: image uint8 (n, h, w, 3) -> cell_probability (n, side, side), brought to the image's size."""

    def __init__(self, name: str, graph: onnx.ModelProto) -> None:
        self.name = name
        self.graph = graph

    @cached_property
    def digest(self) -> str:
        """What the graph computes, as a digest."""
        return graphs.digest(self._mask_graph)

    @cached_property
    def _mask_graph(self) -> onnx.ModelProto:
        return graphs.cut(self.graph, ["image"], ["cell_probability"])

    @cached_property
    def _session(self):  # type: ignore[no-untyped-def]
        return session_of(self._mask_graph.SerializeToString())

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The cell's mask (H, W): where its probability, interpolated, is at least one half."""
        (found,) = self._session.run(["cell_probability"], {"image": image[None]})
        height, width = image.shape[:2]
        whole = Image.fromarray(found[0]).resize((width, height), Image.Resampling.BILINEAR)
        mask: NDArray[np.bool_] = np.asarray(whole) >= 0.5
        return mask


def kept_mask(record: Record, segmenter: Segmenter) -> NDArray[np.bool_]:
    """The segmenter's mask (H, W) of a record's image as it lies on disk, made once and kept in the cache.

    Raises `ImageError`.
    """
    cache, key, content = FeatureCache(default_cache_dir()), sha256_text("mask", segmenter.digest), record.content_id()
    known = cache.get(key, [content], np.uint8).get(content)
    if known is None:
        mask = segmenter(record.unstaged().read())
        # one file holds masks of all sizes: the two sides stand before the bits
        known = np.concatenate([np.array(mask.shape, "<u4").view(np.uint8), np.packbits(mask)])
        cache.put(key, {content: known})
    height, width = (int(side) for side in known[:8].view("<u4"))
    return np.unpackbits(known[8:], count=height * width).reshape(height, width).astype(bool)


class CellImageEntry(Part):
    """A cell-image stage in a manifest; `segmenter` is "classical" or a file of the bundle."""

    kind: Literal["cell_image"] = "cell_image"
    segmenter: str
    config: CellImageConfig


class CellImageStage:
    """Shows the white cell alone: largest part of the mask, cut to its box, the rest gray (BC-SAM, section 2.2.1).

    Each cell image is made once for an image and a segmenter, and kept in the cache, unless `keep` is off. `seen` counts
    what came out.
    """

    def __init__(self, segmenter: Segmenter, config: CellImageConfig, *, keep: bool = True) -> None:
        self.segmenter = segmenter
        self.config = config
        self.keep = keep
        self.digest = sha256_text("cell image", segmenter.digest, config.model_dump_json())
        self.digest_by_content = sha256_text(self.digest, "by the file's content")
        self._lock = threading.Lock()
        self.seen: Counter[Outcome] = Counter()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Image (H, W, 3) -> cell image (size, size, 3)."""
        made = self.make(image)
        with self._lock:
            self.seen[made.outcome] += 1
        return made.pixels

    def make(self, image: NDArray[np.uint8]) -> CellImage:
        """The cell image and how it came out, from the cache where it is known."""
        if not self.keep:
            return cell_image(image, self.segmenter(image), self.config)
        cache = FeatureCache(default_cache_dir())
        content = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
        outcomes: tuple[Outcome, ...] = get_args(Outcome)
        known = cache.get(self.digest, [content], np.uint8).get(content)
        if known is not None:
            size = self.config.size_px
            return CellImage(pixels=known[1:].reshape(size, size, 3), outcome=outcomes[int(known[0])])
        made = cell_image(image, self.segmenter(image), self.config)
        first = np.array([outcomes.index(made.outcome)], np.uint8)
        cache.put(self.digest, {content: np.concatenate([first, made.pixels.ravel()])})
        return made

    def once(self) -> CellImageStage:
        """The same without the cache, for images that come by once and in any number."""
        return CellImageStage(self.segmenter, self.config, keep=False)

    def entry(self) -> CellImageEntry:
        """What a manifest says of it."""
        return CellImageEntry(segmenter=SEGMENTER if self.files() else CLASSICAL, config=self.config)

    def files(self) -> dict[str, bytes]:
        """What a bundle has to bring along for it."""
        return {SEGMENTER: self.segmenter.graph.SerializeToString()} if isinstance(self.segmenter, GraphSegmenter) else {}


def stage_of(entry: CellImageEntry, folder: Path) -> CellImageStage:
    """The stage that a manifest in `folder` describes."""
    if entry.segmenter == CLASSICAL:
        return CellImageStage(ClassicalSegmenter(), entry.config)
    return CellImageStage(GraphSegmenter(entry.segmenter, onnx.load_model(folder / entry.segmenter)), entry.config)


def count_outcomes(dataset: CellDataset, stage: CellImageStage) -> dict[Outcome, int]:
    """How the cell images of a dataset come out; unreadable images are not counted."""
    found: Counter[Outcome] = Counter()
    with track("cutting cells out", len(dataset)) as progress:
        for record in dataset.records:
            # an unreadable image shows as such where it is tested or trained on
            with suppress(ImageError):
                found[stage.make(record.unstaged().read()).outcome] += 1
            progress(1)
    return dict(found)
