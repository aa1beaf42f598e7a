"""Score the boxes found in fields against the annotated ones: recall, precision, AP50, counts, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.fields.base import Field
from hemalens.evaluation.field_counts import count_agreement
from hemalens.evaluation.matching import Ranked, Rule, matched
from hemalens.evaluation.resampling import Resampled
from hemalens.evaluation.results import CurvePoint, Estimate, KindScores, SizeRecall
from hemalens.imaging.boxes import KINDS, Boxes

N_SIZES = 3
"""Groups of about as many cells by size."""
N_CURVE_POINTS = 150
"""Most points of a precision-recall curve."""
INTERVALS = (
    "95 %: percentile bootstrap over the tested {units} (1,000 repeats); a recall or precision of 0 or 1 has exact "
    "binomial limits (Clopper-Pearson)"
)


@dataclass(frozen=True, slots=True)
class TestedField:
    """A field and what the detector has found in it; `unit` numbers its slide, or the field itself, from 0."""

    field: Field
    found: Boxes
    unit: int

    __test__ = False  # not a test of pytest's


@dataclass(frozen=True, slots=True)
class KindMatches:
    """The boxes of one kind in one field, matched: `hit` of each found box, `seen` of each annotated one, by rule.

    `seen` counts boxes above the operating score alone, and `n_found` those boxes.
    """

    unit: int
    complete: bool
    operating_score: float
    scores: NDArray[np.float64]
    hit: dict[Rule, NDArray[np.bool_]]
    seen: dict[Rule, NDArray[np.bool_]]
    sides: NDArray[np.float64]
    above: NDArray[np.bool_]

    @property
    def n_found(self) -> int:
        """Found boxes above the operating score."""
        return int(self.above.sum())


RULES: tuple[Rule, ...] = ("centre", "iou")


def matches_of(tested: TestedField, kind: int, *, operating_score: float) -> KindMatches:
    """Match the boxes of one kind, an index into `KINDS`, in one field; above `operating_score` a box is a cell."""
    truth, found = tested.field.boxes.of_kind(kind), tested.found.of_kind(kind)
    above = found.scores > operating_score
    hit, seen = {}, {}
    for rule in RULES:
        rows = matched(truth.corners, found, rule)
        hit[rule] = rows >= 0
        seen[rule] = np.isin(np.arange(len(truth)), rows[above])
    complete = KINDS[kind] in tested.field.complete
    return KindMatches(tested.unit, complete, operating_score, found.scores, hit, seen, truth.sides, above)


def score_kind(matches: Sequence[KindMatches], kind: int, *, seed: int, classifier: str = "") -> KindScores:
    """The scores of one kind, an index into `KINDS`, from its matched boxes in each field.

    In fields where the kind is not boxed completely no box is a false positive: they count for recall alone.
    """
    _, units = np.unique([m.unit for m in matches], return_inverse=True)
    matches = [replace(m, unit=int(unit)) for m, unit in zip(matches, units, strict=True)]
    whole = [m for m in matches if m.complete]
    resampled = Resampled(1 + max((m.unit for m in matches), default=-1), seed=seed)

    def summed(values: Callable[[KindMatches], float], among: Sequence[KindMatches]) -> NDArray[np.float64]:
        return np.bincount([m.unit for m in among], [values(m) for m in among], resampled.n_units).astype(float)

    n_truth, n_found = summed(lambda m: len(m.sides), matches), summed(lambda m: m.n_found, whole)

    def recall(rule: Rule) -> Estimate:
        return resampled.proportion(summed(lambda m: m.seen[rule].sum(), matches), n_truth)

    def precision(rule: Rule) -> Estimate:
        return resampled.proportion(summed(lambda m: m.hit[rule][m.above].sum(), whole), n_found)

    ranked, n_whole = ranked_of(whole), summed(lambda m: len(m.sides), whole)
    units, annotated, found = np.array([(m.unit, len(m.sides), m.n_found) for m in whole], np.int64).reshape(-1, 3).T
    return KindScores(
        kind=KINDS[kind],
        classifier=classifier,
        n_fields=len(matches),
        n_complete=len(whole),
        n_boxes=round(n_truth.sum()),
        n_found=round(n_found.sum()),
        operating_score=max((m.operating_score for m in matches), default=0.0),
        ap50=resampled.estimate(lambda weights: ranked.average_precision(weights, n_whole)),
        recall_centre=recall("centre"),
        precision_centre=precision("centre"),
        recall_iou=recall("iou"),
        precision_iou=precision("iou"),
        by_size=_by_size(matches, resampled),
        counts=count_agreement(annotated, found, units, resampled),
        curve=_curve(ranked, round(n_whole.sum())),
    )


def ranked_of(matches: Sequence[KindMatches]) -> Ranked:
    """All found boxes of some fields with their hits by IoU, in descending score."""
    scores = np.concatenate([np.zeros(0), *(m.scores for m in matches)])
    hits = np.concatenate([np.zeros(0, bool), *(m.hit["iou"] for m in matches)])
    units = np.concatenate([np.zeros(0, np.int64), *(np.full(len(m.scores), m.unit) for m in matches)])
    return Ranked.of(scores, hits, units)


def _by_size(matches: Sequence[KindMatches], resampled: Resampled) -> tuple[SizeRecall, ...]:
    """Recall by centre of the smaller, middle and larger cells, by their longer side; equal sides stay together."""
    sides = np.concatenate([np.zeros(0), *(m.sides for m in matches)])
    if not len(sides):
        return ()
    seen = np.concatenate([m.seen["centre"] for m in matches])
    unit = np.concatenate([np.full(len(m.sides), m.unit) for m in matches])
    edges = np.unique(np.quantile(sides, np.linspace(0, 1, N_SIZES + 1), method="inverted_cdf"))
    edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (sides <= high) & ((sides >= low) if i == 0 else (sides > low))
        part, whole = (np.bincount(unit[chosen], minlength=resampled.n_units) for chosen in (inside & seen, inside))
        if inside.any():
            found.append(
                SizeRecall(
                    low_px=float(sides[inside].min()),
                    high_px=float(high),
                    n_boxes=int(inside.sum()),
                    recall=resampled.proportion(part.astype(float), whole.astype(float)),
                )
            )
    return tuple(found)


def _curve(ranked: Ranked, n_truth: int) -> tuple[CurvePoint, ...]:
    """At most `N_CURVE_POINTS` points of the precision-recall curve, evenly along it."""
    scores, recall, precision = ranked.curve(n_truth)
    along = np.cumsum(np.hypot(np.diff(recall, prepend=0), np.diff(precision, prepend=1)))
    marks = np.linspace(0, along[-1], N_CURVE_POINTS) if len(along) else np.zeros(0)
    chosen = np.unique(np.searchsorted(along, marks).clip(max=max(0, len(along) - 1)))
    return tuple(CurvePoint(score=float(scores[i]), recall=float(recall[i]), precision=float(precision[i])) for i in chosen)
