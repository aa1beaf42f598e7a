"""The report as plain data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hemalens.datasets.table_text import html_table
from hemalens.evaluation.results.base import Part
from hemalens.evaluation.results.comparisons import Comparison
from hemalens.evaluation.results.costs import Efficiency
from hemalens.evaluation.results.curves import FractionCurve, KShot
from hemalens.evaluation.results.detection import Detection
from hemalens.evaluation.results.evaluations import Evaluation, NamedScatter
from hemalens.evaluation.results.exhibits import ComparisonTable, PictureTable
from hemalens.evaluation.results.review import ReviewCheck
from hemalens.evaluation.results.slides import CountComparison, SlideResult
from hemalens.evaluation.results.training_curves import TrainingCurve


class DataCard(Part):
    """One dataset of a report; `class_counts` counts the images of each type, or the boxes of each kind in fields."""

    role: str
    name: str
    n_images: int
    class_counts: dict[str, int]
    excluded: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    licence: str
    citation: str
    fingerprint: str
    synthetic: bool
    counted: Literal["images", "boxes"] = "images"
    audit: dict[str, str] = Field(default_factory=dict)
    """The results of the audit of the files, by the name of each check; empty without an audit."""


class MethodCard(Part):
    """A method of a report: what it is, its publication, and its training data.

    `name` is its name in the report, `method` that in the program. `learned_from` has a line for each dataset, with its
    role.
    """

    name: str
    method: str
    what: str = ""
    publication: str = ""
    learned_from: tuple[str, ...] = ()


class Failure(Part):
    """A part of a benchmark that failed."""

    method: str
    protocol: str
    source: str
    target: str = ""
    error: str


class Report(Part):
    """Everything a report shows.

    `summary` are whole sentences, and so are the `differences` of a study from its paper. `evaluations` are in the order
    of the table.
    """

    kind: Literal["hemalens-report"] = "hemalens-report"
    schema_version: Literal[1] = 1
    title: str
    created: str
    command: str
    protocol: str
    summary: tuple[str, ...]
    differences: tuple[str, ...] = ()
    synthetic: bool
    data: tuple[DataCard, ...]
    evaluations: tuple[Evaluation, ...]
    slides: tuple[SlideResult, ...] = ()
    count_comparisons: tuple[CountComparison, ...] = ()
    detections: tuple[Detection, ...] = ()
    k_shot: tuple[KShot, ...] = ()
    fractions: tuple[FractionCurve, ...] = ()
    efficiency: tuple[Efficiency, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    failures: tuple[Failure, ...] = ()
    scatters: tuple[NamedScatter, ...] = ()
    tables: tuple[ComparisonTable, ...] = ()
    pictures: tuple[PictureTable, ...] = ()
    review: ReviewCheck | None = None
    curves: tuple[TrainingCurve, ...] = ()
    methods: dict[str, dict[str, Any]]
    method_cards: tuple[MethodCard, ...] = ()
    environment: dict[str, str]
    seed: int

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        return html_table(self.title, [(f"{n}.", sentence) for n, sentence in enumerate(self.summary, 1)])
