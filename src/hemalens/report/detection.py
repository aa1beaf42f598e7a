"""Detectors in a report: scores of each kind, curves, counts of fields, and the worst fields, by laboratory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import WORST_COLUMNS, CountAgreement, Detection, Estimate, KindScores, Report
from hemalens.report import detection_figures as drawn
from hemalens.report.figures import Figures
from hemalens.report.tables import (
    Block,
    Cell,
    Column,
    Gallery,
    Group,
    Picture,
    Section,
    Table,
    Text,
    estimate_cell,
    number_columns,
    sentence,
    unreadable,
)

NOTE = (
    "AP50: average precision at an intersection over union (IoU) of 0.5, the mean over 101 recalls. Recall and precision "
    "are those at the operating score. By centre, a cell is found if the centre of a box lies in its annotated box; by "
    "IoU, if the two overlap by 0.5. Each cell and each box count once. Count error: mean absolute error in a field. "
    "Fields in which a kind is not boxed completely count for recall alone. n/a: nothing annotated, or nothing found."
)
COUNT_NOTE = (
    "Bias: cells found less cells annotated, mean over fields. Limits of agreement: bias with 1.96 standard deviations "
    "(Bland and Altman 1986). Error in per cent: over fields with an annotated cell. Total: all cells found against all "
    "annotated."
)
WORST_NOTE = (
    "The fields with most errors for each annotated cell, by centre. Left: annotated cells, missed ones red. Right: boxes "
    "at the operating score, false ones yellow."
)
MEASURES: tuple[tuple[str, Callable[[KindScores], Estimate | None], bool], ...] = (
    ("AP50", lambda scores: scores.ap50, False),
    ("Recall, centre", lambda scores: scores.recall_centre, False),
    ("Precision, centre", lambda scores: scores.precision_centre, False),
    ("Count error, %", lambda scores: scores.counts.absolute_error_percent if scores.counts else None, True),
)
"""Title, value, and whether the highest is the worst."""


def anchor(number: int) -> str:
    """The HTML id of a detector's section, counted from 1."""
    return f"detection-{number}"


def overview(detections: Sequence[Detection]) -> tuple[Table, ...]:
    """Every laboratory in one table for each kind, and the mean and worst of several laboratories."""
    if not detections:
        return ()
    columns = (
        Column("Laboratory", numeric=False, heads=True),
        Column("Trained on", numeric=False),
        *map(Column, ("Fields", "Cells", *(title for title, _, _ in MEASURES))),
    )
    groups = tuple(
        Group(Cell(name), tuple(_overview_row(i, each, scores) for i, each, scores in found))
        for name, found in _by_kind(detections).items()
    )
    table = Table(
        "Every laboratory, with 95 % intervals", columns, groups=groups, grouped_by="Kind", stacked=True, note=NOTE
    )
    return (table, *_mean_and_worst(detections))


def _overview_row(number: int, detection: Detection, scores: KindScores) -> tuple[Cell, ...]:
    cells = []
    for _, value, is_error in MEASURES:
        estimate = value(scores)
        cells.append(_amount(estimate) if is_error or estimate is None else estimate_cell(estimate))
    return (
        Cell(formatting.visible(detection.laboratory), href=f"#{anchor(number)}"),
        Cell(formatting.visible(detection.source)),
        Cell(formatting.count(scores.n_fields)),
        Cell(formatting.count(scores.n_boxes)),
        *cells,
    )


def _by_kind(detections: Sequence[Detection]) -> dict[str, list[tuple[int, Detection, KindScores]]]:
    found: dict[str, list[tuple[int, Detection, KindScores]]] = {}
    for number, each in enumerate(detections, start=1):
        for scores in each.kinds:
            found.setdefault(kind_name(scores), []).append((number, each, scores))
    return found


def kind_name(scores: KindScores) -> str:
    """A kind in the plural, with the classifier after which it is scored."""
    after = f" after {formatting.visible(scores.classifier)}" if scores.classifier else ""
    return f"{scores.kind}s{after}"


def _mean_and_worst(detections: Sequence[Detection]) -> tuple[Table, ...]:
    """The mean over laboratories and the worst one; nothing for a single laboratory."""
    alone = [each for each in detections if not each.together]
    if len(alone) < 2:
        return ()
    rows = []
    for name, found in _by_kind(alone).items():
        for title, value, is_error in MEASURES:
            known = [(e.value, each.laboratory) for _, each, s in found if (e := value(s)) and e.value is not None]
            if known:
                worst, where = max(known) if is_error else min(known)
                mean = sum(v for v, _ in known) / len(known)
                shown = _one_decimal if is_error else formatting.score
                rows.append(
                    (
                        Cell(name),
                        Cell(title),
                        Cell(str(len(known))),
                        Cell(shown(mean)),
                        Cell(shown(worst)),
                        Cell(formatting.visible(where) if min(known)[0] < max(known)[0] else "all alike"),
                    )
                )
    columns = (
        Column("Kind", numeric=False, heads=True),
        Column("Measure", numeric=False),
        *map(Column, ("Laboratories", "Mean", "Worst")),
        Column("Worst laboratory", numeric=False),
    )
    caption = "Mean over laboratories, each counted once, and the worst of them"
    return (Table(caption, columns, tuple(rows), heading="Mean and worst laboratory"),)


def section(number: int, report: Report) -> Section:
    """The section of a detector in one laboratory, by its number from 1."""
    detection, name = report.detections[number - 1], anchor(number)
    blocks: list[Block] = [
        Text(_setting(detection), "setting"),
        _scores(detection),
        Text(sentence(detection.intervals)),
        *_figures(detection, name),
        *_counts(detection),
        *_sizes(detection),
        *_worst(detection),
        *unreadable(detection.unreadable),
    ]
    return Section(name, formatting.visible(detection.name), tuple(blocks), "chapter")


SEEN = {
    "unknown": "not known whether the detector was trained on these fields",
    "left out": "fields of the training left out",
    "none": "no field of the training",
}


def _setting(detection: Detection) -> str:
    units = f" of {formatting.counted(detection.n_units, 'slide')}" if detection.unit == "slide" else ""
    parts = (
        formatting.visible(detection.detector),
        f"trained on {formatting.visible(detection.source)}, tested on {formatting.visible(detection.target)}",
        f"{formatting.counted(detection.n_fields, 'field')}{units}",
        f"operating scores {_operating(detection)}",
        SEEN[detection.seen],
    )
    return " \N{MIDDLE DOT} ".join(parts)


def _operating(detection: Detection) -> str:
    return ", ".join(f"{each.operating_score:g} ({each.kind})" for each in detection.kinds if not each.classifier)


def _scores(detection: Detection) -> Table:
    titles = ("Cells", "Boxes", "AP50", "Recall, centre", "Precision, centre", "Recall, IoU", "Precision, IoU")
    rows = tuple(
        (
            Cell(kind_name(scores)),
            Cell(formatting.count(scores.n_boxes)),
            Cell(formatting.count(scores.n_found)),
            *map(
                estimate_cell,
                (scores.ap50, scores.recall_centre, scores.precision_centre, scores.recall_iou, scores.precision_iou),
            ),
        )
        for scores in detection.kinds
    )
    where = formatting.visible(detection.laboratory)
    return Table(
        "Scores of each kind, with 95 % intervals", number_columns("Kind", titles), rows,
        stacked=True, heading="Kinds of cells", where=where,
    )  # fmt: skip


def _figures(detection: Detection, name: str) -> Iterator[Figures]:
    curves = [(kind_name(s), s) for s in detection.kinds if s.curve and not s.classifier]
    if curves:
        yield drawn.curve_figures(curves, name=f"{name}-curves")
    counted = [(kind_name(s), s.counts) for s in detection.kinds if s.counts and s.counts.bias.value is not None]
    if counted:
        yield drawn.agreement_figures(counted, name=f"{name}-counts")


def _counts(detection: Detection) -> tuple[Table, ...]:
    counted = [(kind_name(scores), scores.counts) for scores in detection.kinds if scores.counts]
    if not counted:
        return ()
    titles = ("Fields", "Bias", "Lower limit", "Upper limit", "Mean absolute error", "In per cent", "Total, per cent")
    rows = tuple((Cell(name), *_count_cells(counts)) for name, counts in counted)
    where = formatting.visible(detection.laboratory)
    caption = "Cells found in a field against those annotated, with 95 % intervals"
    return (Table(caption, number_columns("Kind", titles), rows, stacked=True, note=COUNT_NOTE, where=where),)


def _count_cells(counts: CountAgreement) -> tuple[Cell, ...]:
    values = (
        *(counts.bias, counts.lower, counts.upper, counts.absolute_error),
        *(counts.absolute_error_percent, counts.total_error_percent),
    )
    return (Cell(formatting.count(counts.n_fields)), *map(_amount, values))


def _one_decimal(value: float) -> str:
    return f"{value:z.1f}"


def _amount(estimate: Estimate | None) -> Cell:
    """A number of cells, or per cent, with one decimal more than whole ones need."""
    if estimate is None or estimate.value is None:
        return Cell(formatting.MISSING)
    digits = 2 if max(map(abs, (estimate.value, estimate.low or 0, estimate.high or 0))) < 10 else 1
    notes: tuple[str, ...] = ()
    if estimate.low is not None and estimate.high is not None:
        notes = (f"{estimate.low:z.{digits}f} to {estimate.high:z.{digits}f}",)
    return Cell(f"{estimate.value:z.{digits}f}", notes)


def _sizes(detection: Detection) -> tuple[Table, ...]:
    """Recall of small, middle and large cells."""
    rows = tuple(
        (
            Cell(kind_name(scores)),
            Cell(f"{size.low_px:.0f}{formatting.EN_DASH}{size.high_px:.0f}"),
            Cell(formatting.count(size.n_boxes)),
            estimate_cell(size.recall, drawn=True),
        )
        for scores in detection.kinds
        for size in scores.by_size
    )
    if not rows:
        return ()
    columns = number_columns("Kind", ("Longer side, px", "Cells", "Recall, centre"))
    return (Table("Recall by size of the cell", columns, rows, where=formatting.visible(detection.laboratory)),)


def _worst(detection: Detection) -> tuple[Gallery, ...]:
    if not detection.worst:
        return ()
    pictures = tuple(
        Picture(
            tuple(zip(WORST_COLUMNS, each.pictures, strict=True)),
            formatting.visible(each.caption),
            formatting.visible(each.name),
        )
        for each in detection.worst
    )
    listed = f"The HTML report shows {formatting.counted(len(pictures), 'field')} ({', '.join(WORST_COLUMNS)}):"
    return (Gallery(pictures, "Worst fields", WORST_NOTE, len(WORST_COLUMNS), listed, "fields"),)


def sentences(detections: Sequence[Detection]) -> list[str]:
    """One sentence for each laboratory."""
    found = []
    for each in detections:
        parts = []
        for scores in each.kinds:
            text = f"{kind_name(scores)} recall {formatting.score(scores.recall_centre.value)}"
            text += f", precision {formatting.score(scores.precision_centre.value)}"
            parts.append(text)
        fields = formatting.counted(each.n_fields, "field")
        found.append(f"{each.detector}, {each.source} -> {each.laboratory}, {fields}, by centre: {'; '.join(parts)}.")
    unknown = dict.fromkeys(each.detector for each in detections if each.seen == "unknown")
    return [
        *found,
        *(f"{name} does not record which fields it was trained on: some may be among these." for name in unknown),
    ]
