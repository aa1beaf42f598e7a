"""Results of trainings on fractions of the labels as tables, words and curves, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import FractionCurve, FractionScores
from hemalens.report import curve_lines as lines
from hemalens.report import curves
from hemalens.report.curve_lines import Line, Naming, Section, Target
from hemalens.report.curves import Axis, Curve
from hemalens.report.tables import Cell, Column, Group, Table, estimate_cell

INTRODUCTION = (
    "Every method is trained on all labelled images of the training part and on random fractions of them, and always "
    "tested on the same images. Every score is the mean over the seeds; each seed draws the fractions and trains anew."
)
OVERVIEW_NOTE = (
    "In small print: the 95 % interval. The columns are fractions of the labelled images of the training part. "
    "Chance: the balanced accuracy of guessing. Majority rate: the accuracy of always answering the most frequent cell "
    "type. n/a: not available."
)
CAPTION = (
    "Scores against the fraction of the labels,",
    "on a logarithmic axis: left few, right all. Points: means over the seeds; upright lines: 95 % intervals. "
    "At each fraction the methods stand side by side.",
)
_SPREAD = ", and SD, the standard deviation over seeds"
_NAMINGS: tuple[Naming[FractionCurve], ...] = (
    lambda curve: (curve.method,),
    lambda curve: (curve.method, curve.selection),
    lambda curve: (curve.name,),
    lambda curve: (curve.name, curve.selection),
    lambda curve: (curve.method, curve.selection, curve.source),
)


def is_flattered(curve: FractionCurve) -> bool:
    """Whether the epoch was chosen on the tested images."""
    return curve.selection == "published-selection"


def tag(curve: FractionCurve) -> str:
    """What must stand wherever the scores of a curve are shown, or an empty text."""
    words = ((formatting.TRANSDUCTIVE, curve.transductive), (formatting.EPOCH_CHOSEN, is_flattered(curve)))
    return ", ".join(text for text, holds in words if holds)


def targets(results: Sequence[FractionCurve]) -> tuple[Target[FractionCurve], ...]:
    """The curves by target, in the order in which the targets come first."""
    return lines.targets(results, anchor="fractions", namings=_NAMINGS, tag=tag)


def ascending(curve: FractionCurve) -> tuple[FractionScores, ...]:
    """The scores of a curve, smallest fraction first."""
    return tuple(sorted(curve.fractions, key=lambda scores: scores.fraction))


def _fractions(results: Sequence[FractionCurve]) -> tuple[float, ...]:
    """Every fraction of any curve, ascending."""
    return tuple(sorted({scores.fraction for curve in results for scores in curve.fractions}))


def overview(results: Sequence[FractionCurve]) -> Table:
    """Balanced accuracy of every method (row) for every fraction (column), by target."""
    fractions = _fractions(results)
    return Table(
        "Balanced accuracy with fewer labelled images, with 95 % intervals",
        (
            Column("Method", numeric=False, heads=True),
            *(Column(title) for title in (*map(formatting.percent, fractions), *lines.GUESSES)),
        ),
        groups=tuple(
            Group(
                Cell(target.name, href=f"#{target.anchor}"),
                tuple(_overview_row(line, fractions) for line in target.lines),
            )
            for target in targets(results)
        ),
        grouped_by="Target",
        stacked=True,
    )


def _overview_row(line: Line[FractionCurve], fractions: Sequence[float]) -> tuple[Cell, ...]:
    by_fraction = {scores.fraction: scores.balanced_accuracy for scores in line.result.fractions}
    estimates = (by_fraction.get(fraction) for fraction in fractions)
    cells = (estimate_cell(e.model_copy(update={"std": None})) if e else Cell(formatting.MISSING) for e in estimates)
    rates = [scores.majority_rate for scores in line.result.fractions]
    return (Cell(line.name, tag=line.tag), *cells, *lines.guesses(line.result.classes, rates))


def section(target: Target[FractionCurve]) -> Section:
    """What the report says of one target."""
    return Section(
        anchor=target.anchor,
        target=target.name,
        heading=f"Fewer labelled images: {target.name}",
        introduction=INTRODUCTION,
        warnings=_warnings(target),
        caption=CAPTION,
        n_classes=len(target.classes),
        facts=lines.facts(
            target.lines,
            (
                ("Trained on", _training_part),
                ("Validation", _validation),
                ("Tested", lambda curve: f"{formatting.counted(curve.n_images, 'image')}, the same at every fraction"),
                ("Cell types", lines.cell_types),
                ("Seeds", _seeds),
                ("Epoch chosen on", _selection),
                ("Transductive", _transductive),
                ("Intervals", lines.intervals),
                ("Not tested", lines.not_tested),
            ),
        ),
        tables=(
            ("Every score", scores(target)),
            ("Every cell type", recalls(target)),
            ("Labels used", training_images(target)),
        ),
        unreadable=lines.unreadable(target.lines),
    )


def _warnings(target: Target[FractionCurve]) -> tuple[str, ...]:
    flattered = lines.warning(
        target.lines,
        is_flattered,
        head=formatting.EPOCH_CHOSEN.capitalize(),
        one="This method is scored at the epoch that does best on the very images it is tested on: "
        "its scores are too favourable.",
        several="These methods are scored at the epoch that does best on the very images they are tested on: "
        "their scores are too favourable.",
        others="The scores of the others are not: compare with care.",
    )
    transductive = lines.warning(
        target.lines,
        lambda curve: curve.transductive,
        head="Transductive",
        one="In its training this method had seen the tested images, without their labels.",
        several="In their training these methods had seen the tested images, without their labels.",
        others="The others had not: compare with care.",
    )
    return (*flattered, *transductive)


def _training_part(curve: FractionCurve) -> str:
    largest = ascending(curve)[-1]
    n = f"{formatting.counted(largest.n_train, 'image')}, {formatting.counted(largest.n_masks, 'mask')}"
    return f"{formatting.visible(curve.source)}: {n} at {formatting.percent(largest.fraction)}"


def _validation(curve: FractionCurve) -> str:
    return formatting.counted(curve.n_validation, "image") if curve.n_validation else "none"


def _seeds(curve: FractionCurve) -> str:
    by_n: dict[int, list[str]] = {}
    for part in ascending(curve):
        by_n.setdefault(part.n_seeds, []).append(formatting.percent(part.fraction))
    if len(by_n) == 1:
        return f"{formatting.count(next(iter(by_n)))} at every fraction"
    return ", ".join(f"{formatting.count(n)} at {formatting.listed(fractions)}" for n, fractions in by_n.items())


def _selection(curve: FractionCurve) -> str:
    return "the tested images, so the scores are too favourable" if is_flattered(curve) else "the validation images"


def _transductive(curve: FractionCurve) -> str:
    return "yes: the tested images were seen in training, without their labels" if curve.transductive else "no"


def figures(target: Target[FractionCurve]) -> tuple[str, str]:
    """Balanced accuracy and accuracy against the fraction as two SVGs."""
    fractions = _fractions([line.result for line in target.lines])
    axis = Axis("fraction of the labelled images trained on", {f: formatting.percent(f) for f in fractions})
    shown = formatting.listed(list(axis.ticks.values()))
    methods = formatting.counted(len(target.lines), "method")
    return curves.line_figures(
        [
            Curve(style, tuple((s.fraction, s) for s in ascending(line.result)), len(line.result.classes))
            for line, style in zip(target.lines, curves.line_styles(target.lines), strict=True)
        ],
        axis,
        name=target.anchor,
        against=f"on {target.name} against the fraction of the labelled images trained on, {shown}, {methods}",
    )


def scores(target: Target[FractionCurve]) -> Table:
    """All scores of every method at every fraction."""
    names = ("Images", "Balanced accuracy", "Accuracy", "Majority rate", "Macro F1")
    has_spread = any(
        estimate.std is not None
        for line in target.lines
        for part in line.result.fractions
        for estimate in (part.balanced_accuracy, part.accuracy, part.macro_f1)
    )
    return Table(
        f"Scores on {target.name}: means over the seeds with 95 % intervals{_SPREAD if has_spread else ''}",
        (Column("Labels", heads=True), *(Column(name) for name in names)),
        groups=tuple(
            Group(
                Cell(line.name, tag=line.tag),
                tuple(_score_row(part, with_spread=has_spread) for part in ascending(line.result)),
            )
            for line in target.lines
        ),
        grouped_by="Method",
    )


def _score_row(scores: FractionScores, *, with_spread: bool) -> tuple[Cell, ...]:
    return (
        Cell(formatting.percent(scores.fraction)),
        Cell(formatting.count(scores.n_train), (formatting.counted(scores.n_masks, "mask"),)),
        estimate_cell(scores.balanced_accuracy, drawn=True, with_spread=with_spread),
        estimate_cell(scores.accuracy, with_spread=with_spread),
        Cell(formatting.score(scores.majority_rate)),
        estimate_cell(scores.macro_f1, with_spread=with_spread),
    )


def recalls(target: Target[FractionCurve]) -> Table:
    """Recall of every cell type for every method and fraction."""
    parts = [part for line in target.lines for part in line.result.fractions]
    classes = tuple(dict.fromkeys((*target.classes, *(code for part in parts for code in part.recall))))
    spread = _SPREAD if any(recall.std is not None for part in parts for recall in part.recall.values()) else ""
    return Table(
        f"Recall of each cell type on {target.name}: means over the seeds with 95 % intervals{spread}",
        (Column("Labels", heads=True), *(Column(formatting.label(code)) for code in classes)),
        groups=tuple(
            Group(
                Cell(line.name, tag=line.tag),
                tuple(_recall_row(part, classes) for part in ascending(line.result)),
            )
            for line in target.lines
        ),
        grouped_by="Method",
        stacked=True,
    )


def _recall_row(scores: FractionScores, classes: Sequence[str]) -> tuple[Cell, ...]:
    found = (scores.recall.get(code) for code in classes)
    return (
        Cell(formatting.percent(scores.fraction)),
        *(estimate_cell(recall) if recall else Cell(formatting.MISSING) for recall in found),
    )


def training_images(target: Target[FractionCurve]) -> Table:
    """Images of each cell type that were trained on at every fraction; once where it is the same for every method."""
    trained_on = (code for line in target.lines for part in line.result.fractions for code in part.class_counts)
    classes = tuple(dict.fromkeys((*target.classes, *trained_on)))
    groups = tuple(
        Group(
            Cell(line.name, tag=line.tag),
            tuple(_count_row(part, classes) for part in ascending(line.result)),
        )
        for line in target.lines
    )
    if len(groups) > 1 and len({group.rows for group in groups}) == 1:
        groups = (Group(Cell("Every method"), groups[0].rows),)
    return Table(
        "Labelled images trained on, of each cell type",
        (Column("Labels", heads=True), *(Column(formatting.label(code)) for code in classes)),
        groups=groups,
        grouped_by="Method",
    )


def _count_row(scores: FractionScores, classes: Sequence[str]) -> tuple[Cell, ...]:
    counts = (scores.class_counts.get(code, 0) for code in classes)
    return (Cell(formatting.percent(scores.fraction)), *(Cell(formatting.count(n)) for n in counts))
