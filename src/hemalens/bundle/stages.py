"""Stages of an image before the graph: segment its white cell and cut it out."""

from __future__ import annotations

import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hemalens.bundle.artifact import OLDER, Part
from hemalens.cache import FeatureCache
from hemalens.datasets.base import Record
from hemalens.detection.finder import CellFinder
from hemalens.detection.maps import N_DISTANCES, N_SCORES
from hemalens.errors import BundleError, one_line
from hemalens.files import default_cache_dir, open_regular, sha256_text
from hemalens.graphs import build as graphs
from hemalens.graphs.checks import check_interface
from hemalens.graphs.runtime import session_of
from hemalens.imaging.centred_crop import CentredCropConfig, centred_crop
from hemalens.imaging.segmentation import CellImage, CellImageConfig, Outcome, cell_image, cut_source, segment_cell

CLASSICAL = "classical"
"""The segmenter by colour, without weights."""
SEGMENTER = "segmenter.onnx"
CLASSICAL_VERSION = "2"
"""Part of the cache key: change it with the masks of the classical segmenter."""
CENTRED = "centred"
"""The crop around the nucleus, which the detector finds."""
DETECTOR = "detector.onnx"
"""The detector's graph, in its own folder and in each bundle that takes windows by it."""
CENTRED_VERSION = "3"
"""Part of the cache key: change it with the crop, or the way from the detector's maps to the nucleus."""
SLACK = 1e-3
"""How far a probability may lie outside 0 to 1."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Segmenter(Protocol):
    """Segments the white cell of an image."""

    name: str

    @property
    def digest(self) -> str:
        """Digest of the segmenter."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Mask (H, W) of the cell in an image (H, W, 3), nucleus included."""


class ClassicalSegmenter:
    """Segments by colour, as `segmentation.segment_cell`."""

    name = CLASSICAL
    digest = sha256_text(CLASSICAL, CLASSICAL_VERSION)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The cell's mask (H, W)."""
        return segment_cell(image).cell


class GraphSegmenter:
    """Segments by a trained graph: image uint8 (n, h, w, 3) -> cell_probability (n, side, side), resized to the image."""

    def __init__(self, name: str, graph: onnx.ModelProto) -> None:
        self.name = name
        self.graph = graph

    @cached_property
    def digest(self) -> str:
        """Digest of the graph."""
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
        if found.ndim != 3 or not (found.min() >= -SLACK and found.max() <= 1 + SLACK):  # NaN is no probability either
            raise BundleError(
                f"the segmenter {one_line(self.name)} gives no probabilities",
                expected="values from 0 to 1",
                got=f"{found.min():.4g} to {found.max():.4g} of shape {found.shape}",
            )
        height, width = image.shape[:2]
        whole = Image.fromarray(found[0]).resize((width, height), Image.Resampling.BILINEAR)
        mask: NDArray[np.bool_] = np.asarray(whole) >= 0.5
        return mask


def kept_mask(record: Record, segmenter: Segmenter) -> NDArray[np.bool_]:
    """The mask (H, W) of a record's image as it lies on disk, kept in the cache; raises `ImageError`."""
    record = record.unstaged()
    cache, key, content = FeatureCache(default_cache_dir()), sha256_text("mask", segmenter.digest), record.view_id()
    known = cache.get(key, [content], np.uint8).get(content)
    if known is None:
        mask = segmenter(record.read())
        # one file holds masks of all sizes: height and width precede the bits
        known = np.concatenate([np.array(mask.shape, "<u4").view(np.uint8), np.packbits(mask)])
        cache.put(key, {content: known})
    height, width = (int(side) for side in known[:8].view("<u4"))
    return np.unpackbits(known[8:], count=height * width).reshape(height, width).astype(bool)


class CellImageEntry(Part):
    """A cell-image stage in a manifest; `segmenter` is "classical" or a file of the bundle."""

    kind: Literal["cell_image"] = "cell_image"
    segmenter: str
    config: CellImageConfig

    @property
    def needs(self) -> tuple[str, ...]:
        """Files of the bundle that the stage requires."""
        return () if self.segmenter == CLASSICAL else (self.segmenter,)


class CentredCropEntry(Part):
    """A centred-crop stage in a manifest; `detector` is a file of the bundle."""

    kind: Literal["centred_crop"] = "centred_crop"
    detector: str
    config: CentredCropConfig

    @model_validator(mode="before")
    @classmethod
    def _has_a_detector(cls, given: Any) -> Any:
        if isinstance(given, dict) and "detector" not in given:
            raise PydanticCustomError(OLDER, "a detector in the bundle, which finds its cells")
        return given

    @property
    def needs(self) -> tuple[str, ...]:
        """Files of the bundle that the stage requires."""
        return (self.detector,)


StageEntry = Annotated[CellImageEntry | CentredCropEntry, Field(discriminator="kind")]
"""A stage in a manifest, by its `kind`."""


class Stage(ABC):
    """Cuts the cell out of an image, as a square.

    Results are kept in the cache unless `keep` is off. `seen` counts the outcomes.
    """

    name: str
    """Name of the segmenter."""

    def __init__(self, digest: str, *, keep: bool) -> None:
        self.digest = digest
        self.digest_by_content = sha256_text(digest, "packed, by the file's content")
        self.keep = keep
        self._lock = threading.Lock()
        self.seen: Counter[Outcome] = Counter()

    @abstractmethod
    def cut(self, image: NDArray[np.uint8]) -> CellImage:
        """The cell image and its outcome, computed anew; image (H, W, 3)."""

    @abstractmethod
    def once(self) -> Self:
        """The same stage without the cache, for images that are read once."""

    @abstractmethod
    def entry(self) -> StageEntry:
        """Its entry in a manifest."""

    def files(self) -> dict[str, bytes]:
        """Files that a bundle stores for it."""
        return {}

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Image (H, W, 3) -> cell image (side, side, 3)."""
        return self.counted(image).pixels

    def counted(self, image: NDArray[np.uint8]) -> CellImage:
        """The cell image with its outcome, which counts in `seen`."""
        made = self.make(image)
        with self._lock:
            self.seen[made.outcome] += 1
        return made

    def make(self, image: NDArray[np.uint8]) -> CellImage:
        """The cell image and its outcome, from the cache where it is known."""
        if not self.keep:
            return self.cut(image)
        cache = FeatureCache(default_cache_dir())
        content = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
        known = cache.get(self.digest, [content], np.uint8).get(content)
        if known is not None:
            return unpacked(known)
        made = self.cut(image)
        cache.put(self.digest, {content: packed(made)})
        return made


def cut_by(stages: Sequence[Stage], image: NDArray[np.uint8]) -> CellImage:
    """What the stages, one after the other, make of an image (H, W, 3), with the last one's outcome."""
    made = CellImage(image, "cell")
    for stage in stages:
        made = stage.make(made.pixels)
    return made


def packed(made: CellImage) -> NDArray[np.uint8]:
    """A cell image with its outcome as one flat array, for the cache."""
    return np.concatenate([np.array([OUTCOMES.index(made.outcome)], np.uint8), made.pixels.ravel()])


def unpacked(known: NDArray[np.uint8]) -> CellImage:
    """The cell image that `packed` has stored."""
    side = math.isqrt(known[1:].size // 3)
    return CellImage(known[1:].reshape(side, side, 3), OUTCOMES[int(known[0])])


class CellImageStage(Stage):
    """The white cell alone: largest part of the mask, cut to its box, the rest gray (BC-SAM, section 2.2.1)."""

    def __init__(self, segmenter: Segmenter, config: CellImageConfig, *, keep: bool = True) -> None:
        digest = sha256_text("cell image", segmenter.digest, config.model_dump_json())
        super().__init__(digest, keep=keep)
        self.segmenter = segmenter
        self.config = config
        self.name = segmenter.name

    def cut(self, image: NDArray[np.uint8]) -> CellImage:
        """The cell under the segmenter's mask."""
        source = cut_source(image, self.config)
        return cell_image(source, self.segmenter(source), self.config)

    def once(self) -> CellImageStage:
        """The same stage without the cache."""
        return CellImageStage(self.segmenter, self.config, keep=False)

    def entry(self) -> StageEntry:
        """Its entry in a manifest."""
        return CellImageEntry(segmenter=SEGMENTER if self.files() else CLASSICAL, config=self.config)

    def files(self) -> dict[str, bytes]:
        """The segmenter's graph, where it has one."""
        return {SEGMENTER: self.segmenter.graph.SerializeToString()} if isinstance(self.segmenter, GraphSegmenter) else {}


class CentredCropStage(Stage):
    """The white cell in its surroundings, centred and scaled by its nucleus (`centred_crop`), which the detector finds."""

    name = CENTRED

    def __init__(self, finder: CellFinder, config: CentredCropConfig, *, keep: bool = True) -> None:
        digest = sha256_text("centred crop", CENTRED_VERSION, finder.digest, config.model_dump_json())
        super().__init__(digest, keep=keep)
        self.finder = finder
        self.config = config

    def cut(self, image: NDArray[np.uint8]) -> CellImage:
        """The window around the nucleus."""
        found = self.finder.nucleus_of(image)
        made = centred_crop(image, found.spread, self.config)
        return made if found.outcome == "cell" else replace(made, outcome=found.outcome)

    def once(self) -> CentredCropStage:
        """The same stage without the cache."""
        return CentredCropStage(self.finder, self.config, keep=False)

    def entry(self) -> StageEntry:
        """Its entry in a manifest."""
        return CentredCropEntry(detector=DETECTOR, config=self.config)

    def files(self) -> dict[str, bytes]:
        """The detector's graph."""
        return {DETECTOR: self.finder.graph}


def stage_of(entry: StageEntry, folder: Path) -> Stage:
    """The stage that a manifest in `folder` describes."""
    if isinstance(entry, CentredCropEntry):
        with open_regular(folder / entry.detector) as file:
            content = file.read()
        maps = {"scores": (None, None, N_SCORES), "distances": (None, None, N_DISTANCES)}
        if reason := check_interface(_parsed(content, folder, "detector"), maps):
            raise BundleError(f"{one_line(folder / entry.detector)} is no detector", got=reason)
        return CentredCropStage(CellFinder(content), entry.config)
    if entry.segmenter == CLASSICAL:
        return CellImageStage(ClassicalSegmenter(), entry.config)
    with open_regular(folder / entry.segmenter) as file:
        graph = _parsed(file.read(), folder, "segmenter")
    if reason := check_interface(graph, {"cell_probability": (None, None)}):
        raise BundleError(f"{one_line(folder / entry.segmenter)} is no segmenter", got=reason)
    return CellImageStage(GraphSegmenter(entry.segmenter, graph), entry.config)


def _parsed(content: bytes, folder: Path, what: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:
        # protobuf's error classes differ between its backends
        raise BundleError(f"the {what} in {one_line(folder)} cannot be parsed", got=str(error)[:120]) from error
