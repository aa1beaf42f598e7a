"""From the cells of a slide to its counts, notes on its fields, and the report of all slides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemalens.datasets.base import SYNTHETIC_MARKER
from hemalens.differential.confusion import Confusion, adjusted_slide
from hemalens.differential.rules import CountRules, lineage
from hemalens.differential.slides import Analyser, InFields, slide_result
from hemalens.errors import InputError, one_line
from hemalens.evaluation import formatting
from hemalens.evaluation.results import DataCard, PictureTable, Report
from hemalens.evaluation.results.slides import SlideResult
from hemalens.files import sha256_text
from hemalens.imaging.boxes import PLATELET, RED
from hemalens.report.compose import Results, make_report
from hemalens.runs.counting.decide import (
    BEYOND,
    BORDER_RULE,
    COUNTED_IN,
    IN_COPY_OF,
    UNREADABLE,
    counted_white,
    mark_beyond_target,
)
from hemalens.runs.counting.find import NO_LEUKOCYTE, FoundField
from hemalens.runs.counting.slides import Slide

ELSEWHERE, IN_COPY = "counted in an overlapping field", "in a copy of a field"
MOSTLY = 0.5
"""Share of the fields that look like single cells from which on a slide is taken for such images."""
MANY_FIELDS, MOSTLY_CENTRED = 10, 0.8
"""Of so many fields, the share with one white cell, in the middle, from which on they are single cells of any size."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How cells become a differential: the laboratory's rules, and the bundle's known confusion or None."""

    rules: CountRules
    confusion: Confusion | None = None


@dataclass(frozen=True, slots=True)
class SlideCounts:
    """What a slide holds: its differential, and what became of its fields.

    `n_counted` fields enter the count: those that are readable, and no copies. `n_empty` of them hold no cell.
    """

    slide: Slide
    result: SlideResult
    n_counted: int
    n_empty: int
    n_copies: int
    n_overlapping: int
    n_unreadable: int
    n_single_cells: int
    first_error: str | None
    contents: frozenset[str]
    n_sizes: int
    not_adjusted: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the fields, in sentences."""
        name, n = f"slide {one_line(self.slide.name)}", len(self.slide.fields)
        found = []
        if self.n_unreadable:
            found.append(f"{name}: {self.n_unreadable} of {n} field(s) cannot be read, first: {self.first_error}")
        if self.n_copies:
            found.append(f"{name}: {self.n_copies} of {n} field(s) are copies of others, and are not counted")
        if self.n_overlapping:
            found.append(f"{name}: {self.n_overlapping} field(s) overlap others; each cell in common is counted once")
        if self.n_single_cells >= max(1, MOSTLY * self.n_counted):
            found.append(
                f"{name}: {self.n_single_cells} of {n} field(s) look like single cells; use `hemalens predict` for these"
            )
        if self.n_sizes > 1:
            found.append(f"{name}: fields of {self.n_sizes} sizes; each is searched at its own scale")
        if self.not_adjusted is not None:
            found.append(f"{name}: no adjusted shares; {self.not_adjusted}")
        return tuple(found)


def counts_of(slide: Slide, fields: Sequence[FoundField], by: Rules, labels: Sequence[str]) -> SlideCounts:
    """The counts of a slide whose cells have been decided on; marks those beyond the target."""
    rules, cells = by.rules, [cell.type for cell in counted_white(fields)]
    mark_beyond_target(fields, rules)
    readable = [found for found in fields if found.error is None]
    used = [found for found in readable if not found.copy_of]
    others = Counter(cell.kind for found in used for cell in found.cells if not cell.reason)
    result = slide_result(
        slide.name,
        cells,
        rules,
        fields=InFields(n_fields=len(used), red_cells=others[RED], platelets=others[PLATELET]),
        analyser=Analyser(white_count=slide.white_count, red_count=slide.red_count),
        classes=[label for label in labels if rules.is_white_cell(label)],
        not_counted=_reasons(fields),
    )
    known = {code for label in labels for code in lineage(label)}
    # a type that the bundle cannot find was not counted: 0 would say that the slide has none
    beside = tuple(each for each in result.beside if each.count or each.code in known)
    result, not_adjusted = _adjusted(result.model_copy(update={"beside": beside}), cells, by)
    errors = [found.error for found in fields if found.error is not None]
    return SlideCounts(
        slide=slide,
        result=result,
        n_counted=len(used),
        n_empty=sum(not any(_is_cell(cell.reason) for cell in found.cells) for found in used),
        n_copies=len(readable) - len(used),
        n_overlapping=sum(bool(found.overlaps) for found in used),
        n_unreadable=len(errors),
        n_single_cells=_n_single(used),
        first_error=errors[0] if errors else None,
        contents=frozenset(found.content for found in readable),
        n_sizes=len({found.shape for found in readable}),
        not_adjusted=not_adjusted,
    )


def _adjusted(result: SlideResult, cells: Sequence[str], by: Rules) -> tuple[SlideResult, str | None]:
    """The slide with shares corrected for the known confusion; without them, why not."""
    if by.confusion is None:
        return result, None
    try:
        return adjusted_slide(result, cells, by.confusion, by.rules), None
    except InputError as error:
        return result, str(error)


def _n_single(used: Sequence[FoundField]) -> int:
    """Fields that look like single-cell images: each by itself, or many of them by their one cell in the middle."""
    alone, centred = sum(found.single_cell for found in used), sum(found.one_in_the_middle for found in used)
    return max(alone, centred) if len(used) >= MANY_FIELDS and centred >= MOSTLY_CENTRED * len(used) else alone


def _is_cell(reason: str) -> bool:
    return not reason.startswith(NO_LEUKOCYTE)


def _reasons(fields: Iterable[FoundField]) -> dict[str, int]:
    """White cells that are not counted, by the reason in general."""
    found: Counter[str] = Counter()
    for field in fields:
        for cell in field.cells:
            if cell.is_white and cell.reason and not cell.reason.startswith(BEYOND):
                found[_in_general(cell.reason)] += 1
    return dict(found)


def _in_general(reason: str) -> str:
    """A reason without the name of a field, and without the message of an error."""
    if reason.startswith(IN_COPY_OF):
        return IN_COPY
    if reason.startswith(COUNTED_IN):
        return ELSEWHERE
    return UNREADABLE if reason.startswith(UNREADABLE) else reason


def shared_contents(slides: Sequence[SlideCounts]) -> list[str]:
    """Notes on fields that several slides share: the same slide given twice, or a file in the wrong folder."""
    owners = defaultdict(list)
    for counts in slides:
        for content in counts.contents:
            owners[content].append(counts.slide.name)
    pairs = Counter(tuple(names[:2]) for names in owners.values() if len(names) > 1)
    return [
        f"slides {one_line(first)} and {one_line(second)} share {formatting.counted(n, 'field')}, byte for byte; "
        "both count them"
        for (first, second), n in sorted(pairs.items())
    ]


def report_of(
    slides: Sequence[SlideCounts],
    source: Path,
    settings: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[PictureTable],
    notes: Sequence[str],
) -> Report:
    """The report of a count; `settings` are those of the bundle, the detector and the count."""
    n = sum(counts.n_counted for counts in slides)
    title = f"Cells counted on {formatting.counted(len(slides), 'slide')}"
    return make_report(
        title,
        f"{formatting.counted(n, 'field')} counted. {BORDER_RULE}",
        Results(slides=[counts.result for counts in slides], pictures=pictures, remarks=notes),
        data=[_card(slides, source)],
        methods=settings,
        seed=0,
    )


def _card(slides: Sequence[SlideCounts], source: Path) -> DataCard:
    types: Counter[str] = Counter()
    for counts in slides:
        types.update({each.code: each.count for each in counts.result.types if not each.total_of})
        types.update({each.code: each.count for each in counts.result.beside})
    dropped = {
        "unreadable": sum(counts.n_unreadable for counts in slides),
        "copies": sum(counts.n_copies for counts in slides),
    }
    folder = source if source.is_dir() else source.parent
    return DataCard(
        role="counted",
        name=source.name or str(source),
        n_images=sum(len(counts.slide.fields) for counts in slides),
        class_counts=dict(types),
        dropped={reason: n for reason, n in dropped.items() if n},
        licence="the user's own",
        citation="the user's own images",
        fingerprint=sha256_text(*sorted(content for counts in slides for content in counts.contents)),
        synthetic=any((place / SYNTHETIC_MARKER).exists() for place in (folder, *folder.parents[:2])),
    )
