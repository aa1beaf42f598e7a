"""Segmenters by name: the classical one, or the folder of a trained one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import onnx

from hemalens.bundle.artifact import MANIFEST, ArtifactManifest
from hemalens.bundle.detector import default_detector
from hemalens.bundle.folders import open_artifact, parsed, write_artifact
from hemalens.bundle.self_test import check_runner
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
from hemalens.bundle.vouching import drop_statement
from hemalens.errors import BundleError, InputError, near_matches, one_line
from hemalens.files import is_regular, sha256_file
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig


class SegmenterManifest(ArtifactManifest):
    """The manifest of a trained segmenter.

    `from_scratch`: trained without published weights. `n_masks`: number of training masks.
    """

    graph_file: ClassVar[str] = SEGMENTER
    stated: ClassVar[tuple[str, ...]] = ("architecture", "preprocessing")
    tested: ClassVar[tuple[str, ...]] = ("cell_probability",)

    kind: Literal["hemalens-segmenter"] = "hemalens-segmenter"
    architecture: str
    from_scratch: bool
    preprocessing: Preprocessing
    n_masks: int
    n_parameters: int
    n_trained_parameters: int

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the graph's outputs, without the first axis."""
        return {"cell_probability": (None, None), "full_map": (None, None, None)}


@dataclass(frozen=True)
class TrainedSegmenter:
    """An opened segmenter folder: its manifest, and its graph from image to full_map and cell_probability.

    `full_map` (n, c, g, g) is the feature map before the neck, `cell_probability` (n, s, s) the mask.
    """

    path: Path
    manifest: SegmenterManifest

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph, parsed, without the statement of its manifest."""
        graph = parsed((self.path / SEGMENTER).read_bytes(), self.path)
        drop_statement(graph)
        return graph

    def check_test(self) -> None:
        """Run the segmenter's own test; raises `BundleError` where it fails, or the graph cannot be run."""
        try:
            runner = GraphRunner(self.graph.SerializeToString(), tuple(self.manifest.outputs), n_workers=1)
        except Exception as error:
            # ONNX Runtime has its own class for each kind of invalid graph
            raise BundleError(f"the graph in {one_line(self.path)} cannot be run", got=str(error)[:120]) from error
        if reason := check_runner(runner, self.manifest):
            raise BundleError(
                f"the segmenter {one_line(self.path)} fails its own test", got=reason, remedy="Copy the folder again."
            )


def write_segmenter(path: Path, manifest: SegmenterManifest, files: dict[str, bytes]) -> TrainedSegmenter:
    """Write a segmenter atomically, and open it; raises `OutputError`."""
    write_artifact(path, manifest, files)
    return open_trained_segmenter(path)


def open_trained_segmenter(path: Path) -> TrainedSegmenter:
    """Open a segmenter folder after checking schema, sizes and digests; raises `BundleError`."""
    return TrainedSegmenter(path, open_artifact(path, SegmenterManifest))


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
    segmenter = open_trained_segmenter(Path(name))
    segmenter.check_test()
    return GraphSegmenter(name, segmenter.graph)


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
        detector = default_detector()
        detector.check_test()
        return (CentredCropStage(detector.finder, CentredCropConfig()),)
    return (CellImageStage(open_segmenter(name, known=(CLASSICAL, CENTRED)), CellImageConfig()),)
