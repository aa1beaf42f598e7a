"""Test a detector on fields: find the cells of each, and score them by laboratory and together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.fields.base import Field
from hemalens.detection.fields import LEAST_SCORES
from hemalens.detection.finder import CellFinder
from hemalens.detection.pixels import ArrayPixels, cut_out
from hemalens.errors import DatasetError, ImageError
from hemalens.evaluation.detection import INTERVALS, KindMatches, TestedField, matches_of, score_kind
from hemalens.evaluation.field_pictures import MatchedField, worst_fields
from hemalens.evaluation.results import Detection
from hemalens.graphs.runtime import n_cores
from hemalens.imaging.boxes import AROUND_CELL, KINDS, WHITE, Boxes
from hemalens.inference.predictor import Predictor
from hemalens.progress import track
from hemalens.taxonomy import cell_types

CURVE_SCORE = 0.02
"""Score above which boxes are part of AP50 and of the precision-recall curve."""
NUCLEATED = ("leukocyte", "erythroblast")
"""What is boxed as a white cell: leukocytes, and nucleated red cells."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A bundle's predictor by name: white cells that it calls something else are left out."""

    name: str
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class FoundCells:
    """The boxes found in a field, and those left after a classifier; None without one."""

    field: Field
    found: Boxes
    classified: Boxes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What a detector found in all readable fields, and the errors of the others by name."""

    fields: tuple[FoundCells, ...]
    unreadable: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestedDetector:
    """Names of a detector, of what it is trained on and tested on, and whether it has seen the fields."""

    detector: str
    source: str
    target: str
    seen: Literal["unknown", "left out", "none"] = "unknown"
    classifier: str = ""

    __test__ = False  # not a test of pytest's


def find_in_fields(finder: CellFinder, fields: Sequence[Field], *, classifier: Classifier | None = None) -> Tested:
    """Find the cells of all fields; raises `DatasetError` where none can be read."""

    def look(field: Field) -> FoundCells | str:
        try:
            image = field.read()
        except ImageError as error:
            return str(error)
        found = finder.in_field(image, least_score=CURVE_SCORE)
        return FoundCells(field, found, _classified(image, found, classifier) if classifier else None)

    read: list[FoundCells] = []
    unreadable: dict[str, str] = {}
    with track("finding cells", len(fields)) as progress, ThreadPoolExecutor(n_cores()) as pool:
        for field, seen in zip(fields, pool.map(look, fields), strict=True):
            progress(1)
            if isinstance(seen, str):
                unreadable[field.record.name] = seen
            else:
                read.append(seen)
    if not read:
        raise DatasetError("no field can be read", got=next(iter(unreadable.values()), "no field"))
    return Tested(fields=tuple(read), unreadable=unreadable)


def _classified(image: NDArray[np.uint8], found: Boxes, classifier: Classifier) -> Boxes:
    """The boxes above the operating score without the white cells that the classifier calls something else."""
    found = found[found.scores > np.asarray(LEAST_SCORES)[found.kinds]]
    white = np.flatnonzero(found.kinds == WHITE)
    kept = np.ones(len(found), bool)
    pixels = ArrayPixels(image)
    windows = [cut_out(pixels, found.corners[i], AROUND_CELL) for i in white]
    for i, prediction in zip(white, classifier.predictor.predict(windows) if windows else (), strict=True):
        kept[i] = is_white_cell(prediction.label)
    return found[kept]


def is_white_cell(label: str | None) -> bool:
    """Whether a label names what is boxed as a white cell, nucleated red cells among them; a type of one's own does."""
    if label is None:
        return False
    known = cell_types()
    return label not in known or known[label].lineage()[-1] in NUCLEATED


def laboratories(tested: Tested) -> list[str]:
    """The laboratories of the fields, in order."""
    return list(dict.fromkeys(each.field.record.domain for each in tested.fields))


def score_fields(tested: Tested, names: TestedDetector, *, seed: int) -> list[Detection]:
    """The scores in each laboratory, and of several those together."""
    units = units_of([each.field for each in tested.fields])
    matched = [_matched(each, unit) for each, unit in zip(tested.fields, units, strict=True)]
    labs = laboratories(tested)
    found = [
        _score(
            [m for m, each in zip(matched, tested.fields, strict=True) if each.field.record.domain == lab],
            names,
            lab,
            seed=seed,
        )
        for lab in labs
    ]
    if len(labs) > 1:
        found.append(_score(matched, names, f"{len(labs)} laboratories together", seed=seed, together=True))
    # an unreadable field belongs to one result alone
    found[-1] = found[-1].model_copy(update={"unreadable": tested.unreadable})
    return found


def _matched(each: FoundCells, unit: int) -> tuple[MatchedField, KindMatches | None]:
    """The matches of each kind in a field, and those of white cells after a classifier."""
    tested = TestedField(each.field, each.found, unit)
    kinds = tuple(matches_of(tested, kind, operating_score=LEAST_SCORES[kind]) for kind in range(len(KINDS)))
    if each.classified is None:
        return MatchedField(tested, kinds), None
    left = replace(tested, found=each.classified)
    return MatchedField(tested, kinds), matches_of(left, WHITE, operating_score=LEAST_SCORES[WHITE])


def _score(
    matched: Sequence[tuple[MatchedField, KindMatches | None]],
    names: TestedDetector,
    laboratory: str,
    *,
    seed: int,
    together: bool = False,
) -> Detection:
    fields = [field for field, _ in matched]
    slides = any(each.tested.field.record.group is not None for each in fields)
    kinds = [score_kind([each.matches[kind] for each in fields], kind, seed=seed) for kind in range(len(KINDS))]
    left = [white for _, white in matched if white is not None]
    if left:
        kinds.insert(1, score_kind(left, WHITE, seed=seed, classifier=names.classifier))
    unit: Literal["slide", "field"] = "slide" if slides else "field"
    return Detection(
        name=f"{names.detector}: {names.source} -> {laboratory}",
        detector=names.detector,
        source=names.source,
        target=names.target,
        laboratory=laboratory,
        together=together,
        n_fields=len(fields),
        n_units=len({each.tested.unit for each in fields}),
        unit=unit,
        seen=names.seen,
        kinds=tuple(kinds),
        worst=() if together else worst_fields(fields),
        intervals=INTERVALS.format(units=f"{unit}s"),
    )


def units_of(fields: Sequence[Field]) -> list[int]:
    """The number of each field's slide, from 0; of a field without a slide, one that it shares with its copies."""
    keys = [
        ("copy", field.record.content_id()) if field.record.group is None else (field.record.domain, field.record.group)
        for field in fields
    ]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [number[key] for key in keys]
