"""The bundle: the folder that is deployed, with a manifest and an ONNX graph; no pickle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import onnx
from pydantic import Field, model_validator

from hemalens.bundle.artifact import MANIFEST, WEIGHTS, ArtifactManifest, Part, open_artifact, write_artifact
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.bundle.stages import SEGMENTER, Stage, StageEntry, stage_of
from hemalens.datasets.table_text import html_table
from hemalens.errors import BundleError, one_line, public
from hemalens.files import PathLike, as_path
from hemalens.imaging.reading import Preprocessing
from hemalens.taxonomy import cell_types
from hemalens.trust.conformal import COVERAGE
from hemalens.trust.monitor import Monitor
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, read_reference

MODEL = "model.onnx"
SEEN = "seen_images.txt"
"""Digests of the training and validation images: `evaluate` refuses a test on them."""
SEEN_UNLABELLED = "seen_unlabelled_images.txt"
"""Digests of images used without their labels: a test on them is transductive."""
STATISTICS = "embedding_statistics.npy"
"""A file of the default model that nothing reads."""
CARD = "MODEL_CARD.md"
"""The model card, rendered from the manifest and the test reports."""
FILES = (MANIFEST, MODEL, SEEN, SEEN_UNLABELLED, STATISTICS, REFERENCE_FILE, WEIGHTS, SEGMENTER, CARD)
"""All files that a bundle may hold."""
FINE = "fine_probabilities"
"""Graph output where the manifest names subtypes: their probabilities given the class, (n, f)."""


class ClassEntry(Part):
    """One class of the label order, with its ICSH name and LOINC code where it is a cell type of the taxonomy."""

    code: str
    name: str
    loinc: str | None = None


class FineEntry(ClassEntry):
    """One subtype within the class of code `of`.

    A class without subtypes has one entry, itself.
    """

    of: str


class ExpectedAccuracy(Part):
    """Expected accuracy of an adapted bundle, by leave-one-out over its support images.

    `n` images enter: their class has another image or group. `low` and `high` are exact binomial limits, 95 %. `tells` is
    False when the support is too small for an estimate; `verdict` states the result in words.
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
    """How a bundle was adapted to a target laboratory by labelled images, and its expected accuracy.

    `base_model_sha256` are the digests of the base bundles' graphs, or of the ImageNet network's weights. `beside` names
    the encoders whose embeddings are concatenated to the first. `support_images` are content digests.
    """

    base_model_sha256: tuple[str, ...]
    beside: tuple[str, ...] = ()
    few_shot: dict[str, Any]
    support_images: tuple[str, ...]
    new_classes: tuple[str, ...]
    expected: ExpectedAccuracy


Precision = Literal["int8", "fp16"]


class Quantisation(Part):
    """How a bundle was quantised, and how its predictions differ from those of its base.

    `base_model_sha256` is the digest of the base's graph, `fingerprint` that of the images for calibration (int8) or
    comparison (fp16). On those images: `largest_difference` and `mean_difference` of a probability, and `agreement`, the
    fraction of equal labels. With subtypes also the largest difference of p(class) x p(type | class), and the fraction of
    equal subtypes. `size_ratio` is the graph's size over the base's. An adapted bundle keeps its base's entry.
    """

    precision: Precision
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
    """How a bundle was adapted to a laboratory's unlabelled images.

    `settings` are those of `UnlabelledConfig`; `n_images` and `fingerprint` describe the images used, `n_unreadable` those
    left out. `base_model_sha256` is the digest of the graph before. With nucleus sizes, `typical_nucleus_px` is the
    laboratory's median diameter, `size_widening` the factor on the scales, and the embedding ends with the log relative
    diameter. `bias` is added to the logits (k,). `neighbours` is the number of neighbours, `beside` names the encoders that
    find them.
    """

    settings: dict[str, Any]
    base_model_sha256: str
    n_images: int = Field(ge=1)
    n_unreadable: int = Field(ge=0)
    fingerprint: str
    typical_nucleus_px: float | None = Field(default=None, gt=0)
    size_widening: float | None = Field(default=None, ge=1)
    bias: tuple[float, ...] | None = None
    neighbours: int | None = None
    beside: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        """Drop the fields of older versions where they are null."""
        old = ("prior", "taught")
        return {k: v for k, v in values.items() if k not in old or v is not None} if isinstance(values, dict) else values


class Manifest(ArtifactManifest):
    """The manifest of a bundle. `before_graph` lists the stages of an image before the graph.

    `parity` is the largest difference of a probability from the trained model, or with a `quantisation` from its base.
    `embedding_parts` are the widths of concatenated embeddings. `fine` names the columns of the graph's output `FINE`: at
    least one for each class, and none of another class.
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
    def _subtypes_cover_all_classes(self) -> Manifest:
        if self.fine and {entry.of for entry in self.fine} != set(self.labels):
            raise ValueError("subtypes of every class and of no other")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Class codes in label order."""
        return tuple(entry.code for entry in self.classes)

    @property
    def calibrated_confidence(self) -> bool:
        """Whether the mean confidence estimates the accuracy on the target data (docs/reference/results/domain-shift.md).

        True of unlabelled adaptation with nucleus sizes and a class bias at the training temperature.
        """
        how = self.unlabelled
        if how is None or self.adaptation is not None:
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

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        manifest = self.manifest
        rows = [("folder", self.path), ("method", manifest.method), ("trained on", manifest.trained_on)]
        return html_table("Bundle", [*rows, ("labels", ", ".join(manifest.labels)), ("made", manifest.created)])

    @cached_property
    def graph_bytes(self) -> bytes:
        """The serialised graph."""
        return (self.path / MODEL).read_bytes()

    @cached_property
    def seen(self) -> frozenset[str]:
        """Content digests of the training and validation images; empty without such a file."""
        file = self.path / SEEN
        return frozenset(file.read_text(encoding="ascii").split()) if file.is_file() else frozenset()

    @cached_property
    def seen_unlabelled(self) -> frozenset[str]:
        """Content digests of the images used without labels."""
        file = self.path / SEEN_UNLABELLED
        return frozenset(file.read_text(encoding="ascii").split()) if file.is_file() else frozenset()

    @cached_property
    def reference(self) -> ReferenceStatistics | None:
        """Reference statistics of the training data; None where the bundle has none."""
        if REFERENCE_FILE not in self.manifest.files:
            return None
        manifest = self.manifest
        try:
            content = (self.path / REFERENCE_FILE).read_bytes()
        except OSError as error:
            raise BundleError(f"{REFERENCE_FILE} of {one_line(self.path)} cannot be read", got=error.strerror) from error
        return read_reference(content, n_features=manifest.embedding_size, n_classes=len(manifest.labels))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of an image before the graph."""
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
            # protobuf's error classes differ between its backends
            raise BundleError(f"the graph in {one_line(self.path)} cannot be parsed", got=str(error)[:120]) from error

    def monitor(self, *, coverage: float | None = COVERAGE, seed: int = 0) -> Monitor:
        """A monitor that compares predictions with this bundle's reference statistics; arguments as in `Monitor`."""
        return Monitor(
            self.reference,
            calibrated_confidence=self.manifest.calibrated_confidence,
            coverage=coverage,
            seed=seed,
        )

    def derive(
        self,
        path: Path,
        manifest: Manifest,
        graph: bytes,
        *,
        others: Iterable[Bundle] = (),
        seen: Iterable[str] = (),
        seen_unlabelled: Iterable[str] = (),
        files: Mapping[str, bytes] | None = None,
    ) -> Bundle:
        """Write a bundle made from this one and `others`, with a manifest and graph of its own, and open it.

        It keeps this bundle's stages and the seen images of all of them, adds the content digests `seen` and
        `seen_unlabelled`, and stores `files`. Raises `OutputError` when it cannot be written.
        """
        sources = (self, *others)
        known = frozenset(seen).union(*(bundle.seen for bundle in sources))
        unlabelled = frozenset(seen_unlabelled).union(*(bundle.seen_unlabelled for bundle in sources))
        content = {MODEL: graph}
        if known:
            content[SEEN] = seen_images(known)
        if unlabelled:
            content[SEEN_UNLABELLED] = seen_images(unlabelled)
        for stage in self.stages:
            content |= stage.files()
        return write_bundle(path, manifest, content | dict(files or {}))


def seen_images(contents: Iterable[str]) -> bytes:
    """The content of `SEEN` for images of these content digests."""
    return ("\n".join(sorted(set(contents))) + "\n").encode("ascii")


def class_entries(classes: tuple[str, ...]) -> tuple[ClassEntry, ...]:
    """Entries of a label order; a class outside the taxonomy keeps its code as name."""
    return tuple(_class_entry(code) for code in classes)


def fine_entries(types: Iterable[tuple[str, str]]) -> tuple[FineEntry, ...]:
    """Entries of subtypes, each given as (code, code of its class)."""
    named = [(_class_entry(code), of) for code, of in types]
    return tuple(FineEntry(code=entry.code, name=entry.name, loinc=entry.loinc, of=of) for entry, of in named)


def _class_entry(code: str) -> ClassEntry:
    known = cell_types().get(code)
    return ClassEntry(code=code, name=known.name if known else code, loinc=known.loinc if known else None)


def write_bundle(path: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    """Write a bundle atomically, and open it; `files` must hold the graph.

    Raises `OutputError` when it cannot be written.
    """
    write_artifact(path, manifest, files)
    return open_bundle(path)


BundleLike = Bundle | PathLike
"""A bundle as users pass it: opened, its folder, or the folder of the run that has made it."""


def bundle_folder(given: BundleLike) -> Path:
    """The folder of a bundle; of a run folder, the one in it. Nothing is opened; raises `InputError` for no path."""
    if isinstance(given, Bundle):
        return given.path
    path = as_path(given, "the bundle")
    within = path / "bundle"
    return within if not (path / MANIFEST).exists() and (within / MANIFEST).is_file() else path


@public
def open_bundle(path: BundleLike) -> Bundle:
    """Open a bundle's folder, or that of a run, after checking schema, sizes and digests; raises `BundleError`.

    An opened bundle is returned as it is.
    """
    if isinstance(path, Bundle):
        return path
    path = bundle_folder(path)
    manifest = open_artifact(path, Manifest, needs=MODEL)
    for entry in manifest.before_graph:
        for name in entry.needs:
            if name not in manifest.files:
                raise BundleError(f"the manifest of {one_line(path)} names no {one_line(name)}")
    return Bundle(path, manifest)
