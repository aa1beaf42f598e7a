"""Segmenters by name: the classical one, or the folder of a trained one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx

from hemalens.bundle.artifact import MANIFEST, ArtifactManifest, open_artifact, write_artifact
from hemalens.bundle.stages import (
    CENTRED,
    CLASSICAL,
    SEGMENTER,
    CellImageStage,
    CentredCropStage,
    ClassicalSegmenter,
    GraphSegmenter,
    Segmenter,
    Stage,
)
from hemalens.errors import BundleError, InputError, near_matches, one_line
from hemalens.files import is_regular, sha256_file
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig


class SegmenterManifest(ArtifactManifest):
    """The manifest of a trained segmenter.

    `from_scratch`: trained without published weights. `n_masks`: number of training masks.
    """

    kind: Literal["hemalens-segmenter"] = "hemalens-segmenter"
    architecture: str
    from_scratch: bool
    preprocessing: Preprocessing
    n_masks: int
    n_parameters: int
    n_trained_parameters: int


@dataclass(frozen=True)
class TrainedSegmenter:
    """An opened segmenter folder: its manifest, and its graph from image to full_map and cell_probability.

    `full_map` (n, c, g, g) is the feature map before the neck, `cell_probability` (n, s, s) the mask.
    """

    path: Path
    manifest: SegmenterManifest

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph, parsed; raises `BundleError` when it is not one."""
        try:
            return onnx.load_model(self.path / SEGMENTER)
        except Exception as error:
            # protobuf's error classes differ between its backends
            raise BundleError(f"the graph in {one_line(self.path)} cannot be parsed", got=str(error)[:120]) from error


def write_segmenter(path: Path, manifest: SegmenterManifest, files: dict[str, bytes]) -> TrainedSegmenter:
    """Write a segmenter atomically, and open it; raises `OutputError`."""
    write_artifact(path, manifest, files)
    return open_trained_segmenter(path)


def open_trained_segmenter(path: Path) -> TrainedSegmenter:
    """Open a segmenter folder after checking schema, sizes and digests; raises `BundleError`."""
    return TrainedSegmenter(path, open_artifact(path, SegmenterManifest, needs=SEGMENTER))


def open_segmenter(name: str, *, known: tuple[str, ...] = (CLASSICAL,)) -> Segmenter:
    """The segmenter "classical", or the trained one in the folder `name`; raises `InputError` or `BundleError`.

    The error lists the names `known`.
    """
    if name == CLASSICAL:
        return ClassicalSegmenter()
    if not os.path.isdir(name):
        raise InputError(
            f"there is no segmenter {name!r}",
            expected="a known name, or the folder of one trained with hemalens train bc_sam_segmenter",
            remedy=near_matches(name, known),
        )
    return GraphSegmenter(name, open_trained_segmenter(Path(name)).graph)


def segmenter_source(key: str, name: str) -> dict[str, str]:
    """The digest of the trained segmenter that a configuration's `key` names; empty for others."""
    manifest = Path(name) / MANIFEST
    return {key: sha256_file(manifest)} if name not in ("", CLASSICAL) and is_regular(manifest) else {}


def cell_image_stages(name: str | None) -> tuple[Stage, ...]:
    """The stage that cuts cells out with the segmenter `name`, or around the nucleus for "centred"; empty for None.

    Raises `InputError` or `BundleError`.
    """
    if name is None:
        return ()
    if name == CENTRED:
        return (CentredCropStage(CentredCropConfig()),)
    return (CellImageStage(open_segmenter(name, known=(CLASSICAL, CENTRED)), CellImageConfig()),)
