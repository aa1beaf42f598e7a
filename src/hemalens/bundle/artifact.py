"""Artifacts: the parts of a manifest that bundles and segmenters share."""

from __future__ import annotations

import importlib.metadata
from abc import abstractmethod
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field

from hemalens.datasets.base import CellDataset
from hemalens.graphs.checks import Shape, check_interface

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
OLDER = "older"
"""Kind of a validation error: a manifest from before a part was required."""
WEIGHTS = "weights.safetensors"
PACKAGES = (
    "hemalens",
    "numpy",
    "onnx",
    "onnxruntime",
    "scikit-image",
    "scikit-learn",
    "torch",
    "timm",
    "transformers",
    "lightning",
    "skl2onnx",
)
"""Packages whose versions a manifest records."""


class Part(BaseModel):
    """Base of all parts of a manifest: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Role = Literal["train", "validation", "watched", "pretraining", "auxiliary", "support", "calibration", "unlabelled"]
"""What images have served for in a model; "watched": for the scores in the history of the training, and nothing else."""


class DataEntry(Part):
    """A dataset that a model has seen: role, fingerprint, counts, licence, and what was dropped."""

    role: Role
    name: str
    fingerprint: str
    class_counts: dict[str, int]
    licence: str
    citation: str
    synthetic: bool
    dropped: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, dataset: CellDataset, role: Role, dropped: dict[str, int] | None = None) -> DataEntry:
        """The entry of a dataset."""
        return cls(
            role=role,
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            class_counts=dataset.class_counts,
            licence=dataset.licence,
            citation=dataset.citation,
            synthetic=dataset.synthetic,
            dropped=dropped or {},
        )

    @classmethod
    def each(cls, dataset: CellDataset, role: Role) -> tuple[DataEntry, ...]:
        """An entry for each source of a dataset, each with its own licence."""
        return tuple(cls.of(part, role) for part in dataset.by_source())


class FileEntry(Part):
    """Size and digest of a file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    n_bytes: int = Field(ge=0)


class SelfTest(Part):
    """The outputs of a graph on the drawn image of `seed` and `side_px`, to 4 digits.

    Of a two-dimensional output, the means of its parts. `tolerance`: largest difference with which the graph is used.
    """

    MOST: ClassVar[float] = 0.5

    seed: int = Field(ge=0)
    side_px: int = Field(ge=16, le=256)
    outputs: dict[str, tuple[float, ...]]
    tolerance: float = Field(gt=0, le=MOST)


class ArtifactManifest(Part):
    """The part of a manifest that bundles and segmenters share.

    `self_test` is measured when the folder is written. Of the fields `stated` the graph keeps the values, of the others
    digests.
    """

    graph_file: ClassVar[str]
    """Name of the file with the graph."""
    stated: ClassVar[tuple[str, ...]] = ()
    """Fields that say what the graph's outputs mean."""
    unstated: ClassVar[tuple[str, ...]] = ()
    """Fields that a graph states nothing of while they are None: graphs of older bundles do not know them."""
    tested: ClassVar[tuple[str, ...]] = ()
    """Outputs in [0, 1] that the self-test compares."""
    n_drawn: ClassVar[int] = 1
    """Images that the self-test is chosen from."""

    kind: str
    schema_version: Literal[2] = 2
    created: str
    method: str
    config: dict[str, Any]
    data: tuple[DataEntry, ...]
    metrics: dict[str, Any] = Field(default_factory=dict)
    parity: float
    versions: dict[str, str]
    files: dict[str, FileEntry] = Field(default_factory=dict)
    self_test: SelfTest | None = None

    @property
    @abstractmethod
    def outputs(self) -> dict[str, Shape]:
        """Shapes of the graph's outputs, without the first axis."""

    def contradiction(self, graph: onnx.ModelProto) -> str | None:
        """What in the graph itself contradicts the manifest, or None."""
        return check_interface(graph, self.outputs)

    @property
    def synthetic(self) -> bool:
        """Whether any training image is synthetic."""
        return any(entry.synthetic for entry in self.data if entry.role in ("train", "support"))


def library_versions() -> dict[str, str]:
    """Versions of the installed packages that a manifest records."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
