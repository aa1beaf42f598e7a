"""The bundle: the folder that is deployed, with a manifest and an ONNX graph; no pickle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx
from pydantic import Field, model_validator

from hemalens.bundle.adaptations import Adaptation, Unlabelled
from hemalens.bundle.artifact import MANIFEST, ArtifactManifest, Part
from hemalens.bundle.folders import open_artifact, parsed, write_artifact
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.bundle.review import roles_of
from hemalens.bundle.seen import SEEN, read_digests, seen_images
from hemalens.bundle.self_test import check_runner
from hemalens.bundle.stages import Stage, StageEntry, stage_of
from hemalens.bundle.vouching import drop_statement
from hemalens.datasets.table_text import html_table
from hemalens.errors import BundleError, one_line, public
from hemalens.files import PathLike, as_path, is_regular
from hemalens.graphs.build import temperature_of
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.reading import Preprocessing
from hemalens.taxonomy import cell_types
from hemalens.trust.conformal import COVERAGE
from hemalens.trust.monitor import Monitor
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, read_reference
from hemalens.trust.review import Reviewer, ReviewThresholds

MODEL = "model.onnx"
SEEN_UNLABELLED = "seen_unlabelled_images.txt"
"""Digests of images used without their labels: a test on them is transductive."""
CARD = "MODEL_CARD.md"
"""The model card, rendered from the manifest and the test reports."""
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


class Manifest(ArtifactManifest):
    """The manifest of a bundle. `before_graph` lists the stages of an image before the graph.

    `parity` is the largest difference of a probability from the trained model, or with a `quantisation` from its base.
    `embedding_parts` are the widths of concatenated embeddings. `fine` names the columns of the graph's output `FINE`: at
    least one for each class, and none of another class. `review`: thresholds of the cells that a person must look at.
    """

    graph_file: ClassVar[str] = MODEL
    stated: ClassVar[tuple[str, ...]] = (
        "label_map", "classes", "fine", "temperature", "preprocessing", "before_graph", "embedding_size", "embedding_parts",
    )  # fmt: skip
    unstated: ClassVar[tuple[str, ...]] = ("review",)
    tested: ClassVar[tuple[str, ...]] = ("probabilities", FINE)
    n_drawn: ClassVar[int] = 8

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
    review: ReviewThresholds | None = None

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> Manifest:
        k, subtypes = len(self.classes), [entry.code for entry in self.fine]
        if self.fine and {entry.of for entry in self.fine} != set(self.labels):
            raise ValueError("subtypes of every class and of no other")
        if len(set(self.labels)) < k or len(set(subtypes)) < len(subtypes):
            raise ValueError("every class and subtype once")
        if self.nucleus_sizes and len(self.nucleus_sizes) != k:
            raise ValueError("nucleus sizes of every class")
        if self.embedding_parts and sum(self.embedding_parts) != self.embedding_size:
            raise ValueError("parts that make up the embedding")
        return self

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the graph's outputs, without the first axis."""
        subtypes = {FINE: (len(self.fine),)} if self.fine else {}
        return {"probabilities": (len(self.classes),), "embedding": (self.embedding_size,), **subtypes}

    def contradiction(self, graph: onnx.ModelProto) -> str | None:
        """Inputs, outputs or the temperature of the graph where they are not those of the manifest."""
        found = super().contradiction(graph)
        known = temperature_of(graph)
        if found or known is None or math.isclose(known, self.temperature, rel_tol=1e-5):
            return found
        return f"the temperature {known:.6g}, not {self.temperature:.6g}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class codes in label order."""
        return tuple(entry.code for entry in self.classes)

    @property
    def calibrated_confidence(self) -> bool:
        """Whether the mean confidence estimates the accuracy on the target data (docs/reference/results/domain-shift.md).

        True of unlabelled adaptation with nucleus sizes, at the training temperature.
        """
        how = self.unlabelled
        if how is None or self.adaptation is not None:
            return False
        return how.size_widening is not None

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
        """Content digests of the training and validation images; empty without such a file, otherwise `BundleError`."""
        return self._digests(SEEN)

    @cached_property
    def seen_unlabelled(self) -> frozenset[str]:
        """Content digests of the images used without labels."""
        return self._digests(SEEN_UNLABELLED)

    def _digests(self, name: str) -> frozenset[str]:
        if name not in self.manifest.files:
            return frozenset()
        return read_digests(self.path / name, kind="bundle")

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
        return tuple(stage_of(entry, self.path) for entry in self.manifest.before_graph)

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph, parsed, without the statement of its manifest."""
        graph = parsed(self.graph_bytes, self.path)
        drop_statement(graph)
        return graph

    def runner(self, outputs: Sequence[str], *, n_workers: int | None = None) -> GraphRunner:
        """A runner of the graph that gives `outputs`, after the bundle's own test; raises `BundleError`.

        `runtime_parity.use_runtime` lets another runtime compute it.
        """
        try:
            runner = GraphRunner(self.graph_bytes, outputs, n_workers=n_workers)
        except Exception as error:
            # ONNX Runtime has its own class for each kind of invalid graph
            raise BundleError(f"the graph in {one_line(self.path)} cannot be run", got=str(error)[:120]) from error
        if reason := check_runner(runner, self.manifest):
            how = self.manifest.quantisation
            other = (
                " Older processors need one quantised with --set reduce_range=true."
                if how and how.precision == "int8"
                else ""
            )
            raise BundleError(
                f"the bundle {one_line(self.path)} fails its own test",
                got=reason,
                remedy=f"Copy the folder again.{other}",
            )
        return runner

    @cached_property
    def tested_graph(self) -> onnx.ModelProto:
        """The graph, after the bundle's own test; raises `BundleError` where it fails, or the graph cannot be run."""
        self.runner(tuple(self.manifest.outputs), n_workers=1)
        return self.graph

    @property
    def reviewer(self) -> Reviewer | None:
        """What finds the cells to review, by the thresholds of the manifest; None where it has none."""
        manifest, reference = self.manifest, self.reference
        if manifest.review is None:
            return None
        return Reviewer(manifest.review, roles_of(manifest.labels), None if reference is None else reference.geometry)

    def monitor(self, *, coverage: float | None = COVERAGE, seed: int = 0) -> Monitor:
        """A monitor that compares predictions with this bundle's reference statistics; arguments as in `Monitor`."""
        mature = roles_of(self.manifest.labels).mature
        return Monitor(
            self.reference,
            calibrated_confidence=self.manifest.calibrated_confidence,
            coverage=coverage,
            reviewer=self.reviewer,
            home="held-out images" if self.manifest.adaptation is None else "labelled images",
            elsewhere="imitated laboratories" if self.manifest.unlabelled is None else "imitated laboratories of the base",
            mature=mature if mature.any() and not mature.all() else None,
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
    return within if not is_regular(path / MANIFEST) and is_regular(within / MANIFEST) else path


@public
def open_bundle(path: BundleLike) -> Bundle:
    """Open a bundle's folder, or that of a run, after checking schema, sizes, digests, and manifest against graph.

    An opened bundle is returned as it is. Raises `BundleError`.
    """
    if isinstance(path, Bundle):
        return path
    path = bundle_folder(path)
    manifest = open_artifact(path, Manifest)
    for entry in manifest.before_graph:
        for name in entry.needs:
            if name not in manifest.files:
                raise BundleError(f"the manifest of {one_line(path)} names no {one_line(name)}")
    return Bundle(path, manifest)
