"""Artifacts: folders of a manifest and files with digests, written atomically and checked when opened; no pickle."""

from __future__ import annotations

import importlib.metadata
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemalens.datasets.base import CellDataset
from hemalens.errors import BundleError, one_line
from hemalens.files import atomic_dir, sha256_file

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
MAX_MANIFEST_BYTES = 16_000_000
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


class ArtifactManifest(Part):
    """The part of a manifest that bundles and segmenters share."""

    kind: str
    schema_version: Literal[1] = 1
    created: str
    method: str
    config: dict[str, Any]
    data: tuple[DataEntry, ...]
    metrics: dict[str, Any] = Field(default_factory=dict)
    parity: float
    versions: dict[str, str]
    files: dict[str, FileEntry] = Field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether any training image is synthetic."""
        return any(entry.synthetic for entry in self.data if entry.role in ("train", "support"))


M = TypeVar("M", bound=ArtifactManifest)


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


def write_artifact(path: Path, manifest: ArtifactManifest, files: dict[str, bytes]) -> None:
    """Write a folder atomically; raises `OutputError` when it cannot be written."""
    with atomic_dir(path, artifact_files) as folder:
        entries = {}
        for name, content in files.items():
            (folder / name).write_bytes(content)
            entries[name] = FileEntry(sha256=sha256_file(folder / name), n_bytes=len(content))
        complete = manifest.model_copy(update={"files": entries})
        (folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")


def artifact_files(path: Path) -> list[str] | None:
    """The files of the bundle or segmenter in a folder; None for a folder of something else."""
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        ours = content["kind"] in ("hemalens-bundle", "hemalens-segmenter")
        return [MANIFEST, *content["files"]] if ours else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def open_artifact(path: Path, model: type[M], *, needs: str) -> M:
    """The manifest of a folder, after checking schema, sizes and digests; the file `needs` is required.

    Raises `BundleError` for a missing or damaged folder, and for another kind.
    """
    kind = str(model.model_fields["kind"].default).removeprefix("hemalens-")
    if not path.is_dir():
        raise BundleError(f"there is no {kind} folder {one_line(path)}", expected=f"a folder with {MANIFEST} and {needs}")
    manifest = _read_manifest(path, model, kind)
    if needs not in manifest.files:
        raise BundleError(f"the manifest of {one_line(path)} names no {needs}")
    for name, entry in manifest.files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(
                f"{one_line(name)} of the {kind} {one_line(path)} is missing", remedy="Copy the whole folder."
            )
        if file.stat().st_size != entry.n_bytes or sha256_file(file) != entry.sha256:
            raise BundleError(
                f"{one_line(name)} of the {kind} {one_line(path)} is damaged",
                expected=f"{entry.n_bytes} bytes with sha256 {entry.sha256[:12]}...",
                got=f"{file.stat().st_size} bytes",
                remedy="Copy the folder again.",
            )
    return manifest


def _read_manifest(path: Path, model: type[M], kind: str) -> M:
    file = path / MANIFEST
    if not file.is_file() or file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{one_line(path)} is no {kind}", expected=f"a {MANIFEST} in it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"the manifest of {one_line(path)} is damaged", got=str(error)) from error
    if not isinstance(content, dict) or content.get("kind") != f"hemalens-{kind}":
        raise BundleError(f"{one_line(path)} is no hemalens {kind}", expected=f'"kind": "hemalens-{kind}" in its manifest')
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"the {kind} {one_line(path)} is newer than this program",
            expected=f"schema version {SCHEMA_VERSION} or older",
            got=str(version),
            remedy="Upgrade hemalens.",
        )
    try:
        return model.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"the manifest of {one_line(path)} is damaged", expected=first["msg"], got=f"key {key!r}"
        ) from error
