"""The bundle: a folder with a manifest and an ONNX graph; what is deployed, without a pickle."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hemalens.bundle.artifact import MANIFEST, WEIGHTS, ArtifactManifest, Part, open_artifact, write_artifact
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.bundle.stages import SEGMENTER, Stage, StageEntry, stage_of
from hemalens.errors import BundleError, one_line
from hemalens.imaging.reading import Preprocessing
from hemalens.taxonomy import cell_types
from hemalens.trust.reference import HOME, Home, read_home

MODEL = "model.onnx"
SEEN = "seen_images.txt"
"""Digests of the images a model has seen in training or validation, so that a test on them is noticed."""
SEEN_UNLABELLED = "seen_unlabelled_images.txt"
"""Digests of the images a model has seen without their labels: a test on them is transductive."""
STATISTICS = "embedding_statistics.npy"
"""Mean and standard deviation of the embedding's features over training images, float32 (2, d)."""
CARD = "MODEL_CARD.md"
"""What a model is for, what it has learned from and where it fails; rendered from its manifest and its reports."""
FILES = (MANIFEST, MODEL, SEEN, SEEN_UNLABELLED, STATISTICS, HOME, WEIGHTS, SEGMENTER, CARD)
"""All that a bundle may hold."""
FINE = "fine_probabilities"
"""The graph's further output where the manifest names finer types: their probabilities given the class, (n, f)."""


class ClassEntry(Part):
    """One class of the label order, with its ICSH name and LOINC code where it is a cell type of the taxonomy."""

    code: str
    name: str
    loinc: str | None = None


class FineEntry(ClassEntry):
    """One finer type that a bundle tells apart within a class; `of` is the class's code.

    A class without finer types has one entry, itself.
    """

    of: str


class ExpectedAccuracy(Part):
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


class Adaptation(Part):
    """How a bundle was adapted to a new laboratory: from which bundles, by which images, and what to expect of it.

    `base_model_sha256` are the digests of the base bundles' graphs, or of the ImageNet network's weights; `beside` names
    those whose embeddings stand beside the first bundle's. `support_images` are the content digests of the support.
    """

    base_model_sha256: tuple[str, ...]
    beside: tuple[str, ...] = ()
    few_shot: dict[str, Any]
    support_images: tuple[str, ...]
    new_classes: tuple[str, ...]
    expected: ExpectedAccuracy


Precision = Literal["int8", "fp16"]


class Quantisation(Part):
    """How a bundle came to 8 or 16 bits a weight, and how far its answers lie from those of the bundle it was made from.

    `base_model_sha256` is the digest of that bundle's graph, `fingerprint` that of the images it was calibrated on (int8)
    or only compared on (fp16). On those images: `largest_difference` and `mean_difference` of a probability, and
    `agreement`, the share of equal answers in [0, 1]; with finer types also their largest difference, of
    p(class) x p(type | class), and the share of equal finest types. `size_ratio` is the graph's size over the other's. A
    bundle that is adapted keeps the entry: it tells of the bundle before the adaptation.
    """

    precision: Precision = "int8"
    method: str
    settings: dict[str, Any]
    base_model_sha256: str
    n_images: int = Field(ge=1)
    fingerprint: str
    largest_difference: float
    mean_difference: float
    agreement: float
    fine_largest_difference: float | None = None
    fine_agreement: float | None = None
    size_ratio: float


class Unlabelled(Part):
    """How a bundle was adapted to a laboratory by images without labels; nothing of it chose by a label.

    `settings` are those of `UnlabelledConfig`, `n_images` and `fingerprint` tell of the readable images it looked at,
    `n_unreadable` of those left out. `base_model_sha256` is the digest of the graph before. `prior` is the estimated share
    of each class in label order, where it was asked for. `taught` tells by class how many images' answers taught the
    head, where they did; a class with none keeps what the head knew. `typical_nucleus_px` is the laboratory's median
    diameter of a nucleus in pixels, and `size_widening` how much wider than at home sizes lie there, where size counts: the
    embedding then has the log of the diameter over the typical one behind it. `bias` is what is added for each class.
    `neighbours` is how many of the nearest images an answer leans on, `beside` names what helps to find them.
    """

    settings: dict[str, Any]
    base_model_sha256: str
    n_images: int = Field(ge=1)
    n_unreadable: int = Field(ge=0)
    fingerprint: str
    prior: tuple[float, ...] | None = None
    taught: dict[str, int] | None = None
    typical_nucleus_px: float | None = Field(default=None, gt=0)
    size_widening: float | None = Field(default=None, ge=1)
    bias: tuple[float, ...] | None = None
    neighbours: int | None = None
    beside: tuple[str, ...] = ()


class Manifest(ArtifactManifest):
    """All that a bundle says of itself. `before_graph`: what happens to an image before the graph sees it.

    `parity` is the largest difference of a probability from the trained model; where there is a `quantisation`, from the
    bundle before it, and larger by nature. `embedding_parts` are the widths of embeddings that stand side by side. `fine`,
    where a bundle has it, names the columns of the graph's `FINE`: at least one for each class, and none that belongs to no
    class.
    """

    kind: Literal["hemalens-bundle"] = "hemalens-bundle"
    label_map: str
    classes: tuple[ClassEntry, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    before_graph: tuple[StageEntry, ...] = ()
    embedding_size: int
    embedding_parts: tuple[int, ...] = ()
    frozen_backbone: bool
    temperature: float = Field(gt=0)
    fine: tuple[FineEntry, ...] = ()
    nucleus_sizes: tuple[NucleusSize, ...] = ()
    adaptation: Adaptation | None = None
    quantisation: Quantisation | None = None
    unlabelled: Unlabelled | None = None

    @model_validator(mode="after")
    def _fine_types_of_all_classes(self) -> Manifest:
        if self.fine and {entry.of for entry in self.fine} != set(self.labels):
            raise ValueError("finer types of every class and of no other")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Class codes in label order."""
        return tuple(entry.code for entry in self.classes)

    @property
    def as_sure_as_right(self) -> bool:
        """Whether answers are given at the temperature of the training, beside sizes and a class bias.

        Their mean confidence was near the accuracy in new laboratories (docs/trust.md).
        """
        how = self.unlabelled
        if how is None or self.adaptation is not None or how.taught is not None or how.prior is not None:
            return False
        return how.size_widening is not None and how.bias is not None

    @property
    def trained_on(self) -> str:
        """Names of the sets it was trained on, as in "Acevedo-20 + BCCD"."""
        return " + ".join(entry.name for entry in self.data if entry.role == "train") or "unknown data"


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
    def seen_unlabelled(self) -> frozenset[str]:
        """Content digests of the images seen without labels; empty where there were none."""
        file = self.path / SEEN_UNLABELLED
        return frozenset(file.read_text(encoding="ascii").split()) if file.is_file() else frozenset()

    @cached_property
    def statistics(self) -> NDArray[np.float32] | None:
        """Mean and standard deviation (2, d) of the embedding over training images, as its head expects them; or None."""
        if STATISTICS not in self.manifest.files:
            return None
        try:
            found: NDArray[np.float32] = np.load(self.path / STATISTICS, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{STATISTICS} of {one_line(self.path)} cannot be read", got=str(error)[:120]) from error
        if found.shape != (2, self.manifest.embedding_size):
            raise BundleError(
                f"{STATISTICS} of {one_line(self.path)} belongs to another network",
                expected=f"shape (2, {self.manifest.embedding_size})",
                got=str(found.shape),
            )
        return found

    @cached_property
    def home(self) -> Home | None:
        """Held-out images of the bundle's own laboratory, to judge new ones by; None where it keeps none."""
        if HOME not in self.manifest.files:
            return None
        manifest = self.manifest
        try:
            content = (self.path / HOME).read_bytes()
        except OSError as error:
            raise BundleError(f"{HOME} of {one_line(self.path)} cannot be read", got=error.strerror) from error
        return read_home(content, n_features=manifest.embedding_size, n_classes=len(manifest.labels))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What an image goes through before the graph."""
        try:
            return tuple(stage_of(entry, self.path) for entry in self.manifest.before_graph)
        except Exception as error:
            raise BundleError(f"the segmenter in {one_line(self.path)} cannot be parsed", got=str(error)[:120]) from error

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


def statistics_bytes(embeddings: NDArray[Any]) -> bytes:
    """The content of `STATISTICS` for embeddings (n, d)."""
    wide = np.asarray(embeddings, np.float64)
    return array_bytes(np.stack([wide.mean(axis=0), wide.std(axis=0)]).astype(np.float32))


def array_bytes(values: NDArray[Any]) -> bytes:
    """An array as the content of a file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def class_entries(classes: tuple[str, ...]) -> tuple[ClassEntry, ...]:
    """Entries of a label order; a class that is no cell type of the taxonomy keeps its own name."""
    return tuple(ClassEntry(**_named(code)) for code in classes)


def fine_entries(types: Iterable[tuple[str, str]]) -> tuple[FineEntry, ...]:
    """Entries of finer types, each given as (code, code of its class)."""
    return tuple(FineEntry(**_named(code), of=of) for code, of in types)


def _named(code: str) -> dict[str, Any]:
    known = cell_types().get(code)
    return {"code": code, "name": known.name if known else code, "loinc": known.loinc if known else None}


def write_bundle(path: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all, and open it again; `files` must hold the graph.

    Raises `OutputError` when it cannot be written.
    """
    write_artifact(path, manifest, files)
    return open_bundle(path)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle folder after checking schema, sizes and digests; raises `BundleError` for anything amiss."""
    manifest = open_artifact(path, Manifest, needs=MODEL)
    for entry in manifest.before_graph:
        for name in entry.needs:
            if name not in manifest.files:
                raise BundleError(f"the manifest of {one_line(path)} names no {one_line(name)}")
    return Bundle(path, manifest)
