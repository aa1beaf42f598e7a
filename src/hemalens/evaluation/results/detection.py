"""How well a detector finds the cells of fields: scores of each kind, counts of each field, and its worst fields."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hemalens.evaluation.results.base import Estimate, Part
from hemalens.evaluation.results.exhibits import Picture
from hemalens.imaging.boxes import Kind


class CurvePoint(Part):
    """Precision and recall, by IoU, of the boxes of this score and above."""

    score: float
    recall: float
    precision: float


class SizeRecall(Part):
    """Recall, by centre, of the `n_boxes` annotated cells whose longer side is from `low_px` to `high_px`."""

    low_px: float
    high_px: float
    n_boxes: int
    recall: Estimate


class CountAgreement(Part):
    """The number of cells found in a field less the number annotated: Bland and Altman's limits of agreement.

    `lower` and `upper` are `bias` less and plus 1.96 standard deviations. `absolute_error` is the mean over fields in
    cells, `absolute_error_percent` that in per cent of the annotated cells, over the `n_percent` fields that have any.
    `total_error_percent` compares the sums over all fields. `fields` has (annotated, found) of each field.
    """

    n_fields: int
    n_percent: int
    bias: Estimate
    lower: Estimate
    upper: Estimate
    absolute_error: Estimate
    absolute_error_percent: Estimate
    total_error_percent: Estimate
    fields: tuple[tuple[int, int], ...]


class KindScores(Part):
    """Scores of one kind of cell.

    `n_boxes` are annotated in all fields; `n_found` are the boxes above the operating score in the `n_complete` fields that
    are boxed completely, which alone count for precision, AP50 and counts. Above `operating_score` a box is a cell.
    `classifier` names the bundle after which the boxes are scored, and is empty without one. A value is None where nothing
    can be found, or nothing is.
    """

    kind: Kind
    classifier: str = ""
    n_fields: int
    n_complete: int
    n_boxes: int
    n_found: int
    operating_score: float = Field(ge=0, le=1)
    ap50: Estimate
    recall_centre: Estimate
    precision_centre: Estimate
    recall_iou: Estimate
    precision_iou: Estimate
    by_size: tuple[SizeRecall, ...] = ()
    counts: CountAgreement | None = None
    curve: tuple[CurvePoint, ...] = ()


class Detection(Part):
    """A detector tested on fields of one laboratory, or of several `together`.

    `n_units` are resampled: slides, or fields where no slide is known. `seen` states whether the detector was trained on
    these fields, as far as it records them.
    """

    name: str
    detector: str
    source: str
    target: str
    laboratory: str
    together: bool = False
    n_fields: int
    n_units: int
    unit: Literal["slide", "field"]
    seen: Literal["unknown", "left out", "none"]
    unreadable: dict[str, str] = Field(default_factory=dict)
    kinds: tuple[KindScores, ...]
    worst: tuple[Picture, ...] = ()
    intervals: str


WORST_COLUMNS = ("annotated", "found")
"""Titles of the pictures of a worst field."""
