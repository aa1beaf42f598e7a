"""The detector as a folder: graph, manifest and model card, as bundles have them; and the one in the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hemalens.bundle.artifact import ArtifactManifest, DataEntry
from hemalens.bundle.folders import open_artifact, write_artifact
from hemalens.bundle.seen import SEEN, read_digests
from hemalens.bundle.self_test import check_runner
from hemalens.bundle.stages import DETECTOR
from hemalens.datasets.fields.base import FieldDataset
from hemalens.detection.finder import CellFinder
from hemalens.detection.maps import N_DISTANCES, N_SCORES
from hemalens.errors import BundleError, one_line
from hemalens.files import open_regular
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.reading import Preprocessing

FOLDER = Path(__file__).parent / "default_detector"
"""Folder of the package's detector; CONTRIBUTING.md describes how it is made."""


class DetectorManifest(ArtifactManifest):
    """The manifest of a detector.

    `n_fields`: number of training fields; `n_boxes`: boxes of each kind in them. `laboratories`: training fields of each
    laboratory; `left_out`: fields of those that were kept from the training. `nuclei`: white cells, those with a nucleus to
    learn from, and those of these whose nucleus a mask gives.
    """

    graph_file: ClassVar[str] = DETECTOR
    stated: ClassVar[tuple[str, ...]] = ("preprocessing",)
    tested: ClassVar[tuple[str, ...]] = ("scores",)

    kind: Literal["hemalens-detector"] = "hemalens-detector"
    preprocessing: Preprocessing
    n_fields: int
    n_boxes: dict[str, int]
    n_parameters: int
    laboratories: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    nuclei: dict[str, int] = Field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the graph's outputs, without the first axis."""
        return {"scores": (None, None, N_SCORES), "distances": (None, None, N_DISTANCES)}


@dataclass(frozen=True)
class Detector:
    """An opened detector folder: its manifest, and the finder that runs its graph."""

    path: Path
    manifest: DetectorManifest

    @cached_property
    def graph(self) -> bytes:
        """The serialised graph."""
        with open_regular(self.path / DETECTOR) as file:
            return file.read()

    @cached_property
    def seen(self) -> frozenset[str]:
        """Content digests of the training fields; empty without such a file, otherwise `BundleError`."""
        return read_digests(self.path / SEEN, kind="detector") if SEEN in self.manifest.files else frozenset()

    @cached_property
    def finder(self) -> CellFinder:
        """Finds cells with the graph."""
        return CellFinder(self.graph)

    def check_test(self) -> None:
        """Run the detector's own test; raises `BundleError` where it fails, or the graph cannot be run."""
        try:
            runner = GraphRunner(self.graph, tuple(self.manifest.outputs), n_workers=1)
        except Exception as error:
            # ONNX Runtime has its own class for each kind of invalid graph
            raise BundleError(f"the graph in {one_line(self.path)} cannot be run", got=str(error)[:120]) from error
        if reason := check_runner(runner, self.manifest):
            raise BundleError(
                f"the detector {one_line(self.path)} fails its own test", got=reason, remedy="Copy the folder again."
            )


def field_entry(dataset: FieldDataset, dropped: dict[str, int]) -> DataEntry:
    """The entry of training fields, with the boxes of each kind as its counts; `dropped`: fields left out, by reason."""
    return DataEntry(
        role="train",
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        class_counts={str(kind): n for kind, n in dataset.counts.items()},
        licence=dataset.licence,
        citation=dataset.citation,
        synthetic=dataset.synthetic,
        dropped=dropped,
    )


def write_detector(path: Path, manifest: DetectorManifest, files: dict[str, bytes]) -> Detector:
    """Write a detector atomically, and open it; raises `OutputError`."""
    write_artifact(path, manifest, files)
    return open_detector(path)


def open_detector(path: Path) -> Detector:
    """Open a detector folder after checking schema, sizes and digests; raises `BundleError`."""
    return Detector(path, open_artifact(path, DetectorManifest))


@cache
def default_detector() -> Detector:
    """The package's detector; raises `BundleError` where this installation has none."""
    if not FOLDER.is_dir():
        raise BundleError(
            "this installation of hemalens has no detector",
            expected=f"a detector in {one_line(FOLDER)}",
            remedy="Give one; `hemalens train detector` makes it.",
        )
    return open_detector(FOLDER)
