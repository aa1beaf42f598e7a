"""The bundle: a folder with a manifest and an ONNX graph; what is deployed, without a pickle."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemalens.datasets.base import CellDataset
from hemalens.errors import BundleError, one_line
from hemalens.files import atomic_dir, sha256_file
from hemalens.images import Preprocessing
from hemalens.taxonomy import cell_types

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
SEEN = "seen_images.txt"
"""Digests of the images a model has seen in training or validation, so that a test on them is noticed."""
MAX_MANIFEST_BYTES = 16_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassEntry(_Part):
    """One class of the label order, with its ICSH name and LOINC code where it is a cell type of the taxonomy."""

    code: str
    name: str
    loinc: str | None = None


Role = Literal["train", "validation", "auxiliary", "support"]


class DataEntry(_Part):
    """One dataset a model has seen: in which role, its fingerprint, counts, licence, and what was dropped from it."""

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


class FileEntry(_Part):
    """Size and digest of one file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    n_bytes: int = Field(ge=0)


class ExpectedAccuracy(_Part):
    """What an adapted bundle may be expected to score, by leaving each support image out once.

    `n` images could be answered so (their class has another image or group); `low` and `high` are exact binomial limits,
    95 %. `tells` is False when the support is too small to tell, and `verdict` says it in words.
    """

    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    balanced_accuracy: float | None
    majority_rate: float | None
    tells: bool
    verdict: str


class Adaptation(_Part):
    """How a bundle was adapted to a new laboratory: from which bundles, by which images, and what to expect of it.

    `base_model_sha256` are the digests of the base bundles' graphs, `support_images` the content digests of the support.
    """

    base_model_sha256: tuple[str, ...]
    few_shot: dict[str, Any]
    support_images: tuple[str, ...]
    new_classes: tuple[str, ...]
    expected: ExpectedAccuracy


class Manifest(_Part):
    """All that a bundle says of itself."""

    kind: Literal["hemalens-bundle"] = "hemalens-bundle"
    schema_version: Literal[1] = 1
    created: str
    method: str
    config: dict[str, Any]
    label_map: str
    classes: tuple[ClassEntry, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    before_graph: tuple[str, ...] = ()
    embedding_size: int
    frozen_backbone: bool
    temperature: float = Field(gt=0)
    data: tuple[DataEntry, ...]
    metrics: dict[str, Any] = Field(default_factory=dict)
    adaptation: Adaptation | None = None
    parity: float
    versions: dict[str, str]
    files: dict[str, FileEntry] = Field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class codes in label order."""
        return tuple(entry.code for entry in self.classes)

    @property
    def synthetic(self) -> bool:
        """Whether any training image was drawn, not photographed."""
        return any(entry.synthetic for entry in self.data if entry.role in ("train", "support"))


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    @cached_property
    def graph_bytes(self) -> bytes:
        """The serialised graph."""
        return (self.path / MODEL).read_bytes()

    @cached_property
    def seen(self) -> frozenset[str]:
        """Content digests of the images seen in training and validation; empty where the bundle keeps none."""
        file = self.path / SEEN
        return frozenset(file.read_text(encoding="ascii").split()) if file.is_file() else frozenset()

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph, parsed; raises `BundleError` when it is not one."""
        try:
            return onnx.load_model_from_string(self.graph_bytes)
        except Exception as error:
            # protobuf's own error classes differ between its backends
            raise BundleError(f"the graph in {one_line(self.path)} cannot be parsed", got=str(error)[:120]) from error


def seen_images(contents: Iterable[str]) -> bytes:
    """The content of `SEEN` for images of these content digests."""
    return ("\n".join(sorted(set(contents))) + "\n").encode("ascii")


def class_entries(classes: tuple[str, ...]) -> tuple[ClassEntry, ...]:
    """Entries of a label order; a class that is no cell type of the taxonomy keeps its own name."""
    types = cell_types()
    return tuple(
        ClassEntry(code=c, name=types[c].name, loinc=types[c].loinc) if c in types else ClassEntry(code=c, name=c)
        for c in classes
    )


def library_versions() -> dict[str, str]:
    """Versions of what shapes a bundle, as far as it is installed."""
    versions = {}
    for package in ("hemalens", "numpy", "onnx", "onnxruntime", "scikit-learn", "torch", "timm", "lightning", "skl2onnx"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_bundle(path: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all, and open it again; `files` must hold the graph.

    Raises `OutputError` when it cannot be written.
    """
    with atomic_dir(path) as folder:
        entries = {}
        for name, content in files.items():
            (folder / name).write_bytes(content)
            entries[name] = FileEntry(sha256=sha256_file(folder / name), n_bytes=len(content))
        complete = manifest.model_copy(update={"files": entries})
        (folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return open_bundle(path)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle folder after checking schema, sizes and digests; raises `BundleError` for anything amiss."""
    if not path.is_dir():
        raise BundleError(f"there is no bundle folder {one_line(path)}", expected=f"a folder with {MANIFEST} and {MODEL}")
    manifest = _read_manifest(path)
    if MODEL not in manifest.files:
        raise BundleError(f"the manifest of {one_line(path)} names no {MODEL}")
    for name, entry in manifest.files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(
                f"{one_line(name)} of the bundle {one_line(path)} is missing", remedy="Copy the whole folder."
            )
        if file.stat().st_size != entry.n_bytes or sha256_file(file) != entry.sha256:
            raise BundleError(
                f"{one_line(name)} of the bundle {one_line(path)} is damaged",
                expected=f"{entry.n_bytes} bytes with sha256 {entry.sha256[:12]}...",
                got=f"{file.stat().st_size} bytes",
                remedy="Copy it again from where it came.",
            )
    return Bundle(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file() or file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{one_line(path)} is no bundle", expected=f"a {MANIFEST} in it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"the manifest of {one_line(path)} is damaged", got=str(error)) from error
    if not isinstance(content, dict) or content.get("kind") != "hemalens-bundle":
        raise BundleError(f"{one_line(path)} is no hemalens bundle", expected='"kind": "hemalens-bundle" in its manifest')
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"the bundle {one_line(path)} is newer than this program",
            expected=f"schema version {SCHEMA_VERSION} or older",
            got=str(version),
            remedy="Upgrade hemalens.",
        )
    try:
        return Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"the manifest of {one_line(path)} is damaged", expected=first["msg"], got=f"key {key!r}"
        ) from error
