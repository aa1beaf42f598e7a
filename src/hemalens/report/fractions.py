"""Results of trainings on fractions of the labels, as tables and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hemalens.evaluation import formatting
from hemalens.evaluation.results import FractionCurve, FractionScores
from hemalens.report import curve_sections as sections
from hemalens.report.curve_sections import Naming, Point, Target, Words
from hemalens.report.tables import Cell, Group, Section, Table

OVERVIEW_NOTE = (
    "In small print: the 95 % interval. Columns: fractions of the labelled images of the training part. Chance: the "
    "balanced accuracy of guessing. Majority rate: the accuracy of always predicting the most frequent cell type. n/a: not "
    "available."
)
_WORDS = Words(
    anchor="fractions",
    heading="Fewer labelled images",
    introduction="Each method is trained on all labelled images of the training part and on random fractions of them. The "
    "test images are the same for all. Scores are means over seeds; each seed draws the fractions and trains anew.",
    caption="Scores against the fraction of the labels, on a logarithmic axis; higher is better. Points: means over the "
    "seeds; vertical lines: 95 % intervals. At each fraction the methods are drawn side by side.",
    axis="fraction of the labelled images trained on",
    against="the fraction of the labelled images trained on",
    column="Labels",
    counted="Images",
    score="Recall",
    repeats="seeds",
)
_NAMINGS: tuple[Naming[FractionCurve], ...] = (
    lambda curve: (curve.method,),
    lambda curve: (curve.method, curve.selection),
    lambda curve: (curve.name,),
    lambda curve: (curve.name, curve.selection),
    lambda curve: (curve.method, curve.selection, curve.source),
)


def is_optimistic(curve: FractionCurve) -> bool:
    """Whether the epoch is chosen on the test images."""
    return curve.selection == "published-selection"


def tag(curve: FractionCurve) -> str:
    """The warning shown with the scores of a curve, or an empty text."""
    words = ((formatting.TRANSDUCTIVE, curve.transductive), (formatting.EPOCH_CHOSEN, is_optimistic(curve)))
    return ", ".join(text for text, holds in words if holds)


def targets(results: Sequence[FractionCurve]) -> tuple[Target[FractionCurve], ...]:
    """The curves by target, in the order in which the targets come first."""
    return sections.targets(results, anchor=_WORDS.anchor, namings=_NAMINGS, tag=tag, points=_points)


def ascending(curve: FractionCurve) -> tuple[FractionScores, ...]:
    """The scores of a curve, smallest fraction first."""
    return tuple(sorted(curve.fractions, key=lambda scores: scores.fraction))


def _points(curve: FractionCurve) -> tuple[Point, ...]:
    return tuple(
        Point(
            part.fraction,
            formatting.percent(part.fraction),
            Cell(formatting.count(part.n_train), (formatting.counted(part.n_masks, "mask"),)),
            part,
            part.recall,
        )
        for part in ascending(curve)
    )


def overview(results: Sequence[FractionCurve]) -> Table:
    """Balanced accuracy of every method (row) for every fraction (column), by target."""
    caption = "Balanced accuracy with fewer labelled images, with 95 % intervals"
    return sections.overview(targets(results), caption, OVERVIEW_NOTE)


def section(target: Target[FractionCurve]) -> Section:
    """The section of one target."""
    return sections.section(
        target,
        _WORDS,
        warnings=_warnings(target),
        terms=(
            ("Trained on", _training_part),
            ("Validation", _validation),
            ("Tested", lambda curve: f"{formatting.counted(curve.n_images, 'image')}, the same at every fraction"),
            ("Cell types", sections.cell_types),
            ("Seeds", _seeds),
            ("Epoch chosen on", _selection),
            ("Transductive", _transductive),
            ("Intervals", sections.intervals),
            ("Not tested", sections.not_tested),
        ),
        tables=(training_images(target),),
    )


def _warnings(target: Target[FractionCurve]) -> tuple[str, ...]:
    optimistic = sections.warning(
        target.lines,
        is_optimistic,
        head=formatting.EPOCH_CHOSEN.capitalize(),
        one="This method is scored at its best epoch on the test images: its scores are optimistic.",
        several="These methods are scored at their best epoch on the test images: their scores are optimistic.",
        others="The scores of the others are not: compare with care.",
    )
    transductive = sections.warning(
        target.lines,
        lambda curve: curve.transductive,
        head="Transductive",
        one="This method saw the test images in training, without their labels.",
        several="These methods saw the test images in training, without their labels.",
        others="The others did not: compare with care.",
    )
    return (*optimistic, *transductive)


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
    return "the test images: the scores are optimistic" if is_optimistic(curve) else "the validation images"


def _transductive(curve: FractionCurve) -> str:
    return "yes: the test images were seen in training, without their labels" if curve.transductive else "no"


def training_images(target: Target[FractionCurve]) -> Table:
    """Training images of each cell type at every fraction; once where all methods have the same."""
    trained_on = (code for line in target.lines for part in line.result.fractions for code in part.class_counts)
    classes = tuple(dict.fromkeys((*target.classes, *trained_on)))
    table = sections.by_method(
        target,
        "Labelled training images of each cell type",
        ("Labels", *map(formatting.label, classes)),
        lambda line: tuple(_count_row(part, classes) for part in ascending(line.result)),
        heading="Training images",
    )
    if len(table.groups) > 1 and len({group.rows for group in table.groups}) == 1:
        return replace(table, groups=(Group(Cell("Every method"), table.groups[0].rows),))
    return table


def _count_row(scores: FractionScores, classes: Sequence[str]) -> tuple[Cell, ...]:
    counts = (scores.class_counts.get(code, 0) for code in classes)
    return (Cell(formatting.percent(scores.fraction)), *(Cell(formatting.count(n)) for n in counts))
