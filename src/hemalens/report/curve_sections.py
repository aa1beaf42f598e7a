"""Several results on one target as the lines of a figure: their names, warnings, facts and section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate, FractionCurve, FractionScores, KShot, Shots, Supervised
from hemalens.report import curves
from hemalens.report.curves import Axis, Curve, LineStyle
from hemalens.report.figures import Drawing, Figures, Key, Legend, Panel, line_colour
from hemalens.report.tables import (
    Block,
    Cell,
    Column,
    Facts,
    Group,
    Section,
    Table,
    Text,
    estimate_cell,
    interval_cell,
    left_out,
    number_columns,
    quoted,
    unreadable,
)

R_co = TypeVar("R_co", bound=KShot | FractionCurve, covariant=True)
T = TypeVar("T", bound=KShot | FractionCurve)
N_OTHERS = 3
"""This many methods or more with the same setting are called "the others"."""
Naming = Callable[[T], tuple[str, ...]]
"""The texts that make up the name of a result."""


@dataclass(frozen=True, slots=True)
class Point:
    """The scores at one x of a line, with its tick label, a count of images or repeats, and a score of each class."""

    x: float
    tick: str
    count: Cell
    scores: Shots | FractionScores
    by_class: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Line(Generic[R_co]):
    """One result with a name that differs from the others on its target; `tag` is a warning or an empty text."""

    name: str
    result: R_co
    tag: str
    points: tuple[Point, ...]

    @property
    def reference(self) -> Supervised | None:
        """The scores with all labels, where they are known."""
        return self.result.supervised if isinstance(self.result, KShot) else None


@dataclass(frozen=True, slots=True)
class Target(Generic[R_co]):
    """A target laboratory with its results, in the order of the report; `anchor` is the HTML id of its section."""

    anchor: str
    name: str
    lines: tuple[Line[R_co], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of any line, in the order in which they come first."""
        return tuple(dict.fromkeys(code for line in self.lines for code in line.result.classes))

    @property
    def points(self) -> list[Point]:
        """The points of all lines."""
        return [point for line in self.lines for point in line.points]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of the results of one kind.

    `axis` names x, `against` completes the alternative text of the figures, `counted` heads the counts, `score` names the
    score of each class, `repeats` what the means are over.
    """

    anchor: str
    heading: str
    introduction: str
    caption: str
    axis: str
    against: str
    column: str
    counted: str
    score: str
    repeats: str


def targets(
    results: Sequence[T],
    *,
    anchor: str,
    namings: Sequence[Naming[T]],
    tag: Callable[[T], str],
    points: Callable[[T], tuple[Point, ...]],
) -> tuple[Target[T], ...]:
    """Results by target, in the order in which the targets come first; ids are `anchor` with a number."""
    by_target: dict[str, list[T]] = {}
    for result in results:
        by_target.setdefault(result.target, []).append(result)
    return tuple(
        Target(
            f"{anchor}-{number}",
            formatting.visible(name),
            tuple(
                Line(words, result, tag(result), points(result))
                for words, result in zip(_names(here, namings), here, strict=True)
            ),
        )
        for number, (name, here) in enumerate(by_target.items(), start=1)
    )


def _names(results: Sequence[T], namings: Sequence[Naming[T]]) -> list[str]:
    """The first naming that is unique for all results; without any, the names with a number after each."""
    for naming in namings:
        names = [", ".join(map(formatting.visible, naming(result))) for result in results]
        if len(set(names)) == len(names):
            return names
    return [f"{formatting.visible(result.name)} ({number})" for number, result in enumerate(results, start=1)]


def section(
    target: Target[T],
    words: Words,
    *,
    warnings: Sequence[str],
    terms: Sequence[tuple[str, Callable[[T], str]]],
    tables: Sequence[Table] = (),
    embeddings: Sequence[Figures] = (),
) -> Section:
    """The section of one target: warnings, curves, facts, tables, embeddings, unreadable images."""
    found: list[Block] = [Text(words.introduction, "setting"), *(Text(warning, "notice") for warning in warnings)]
    panels = tuple(map(Panel, figures(target, words)))
    found.append(Figures(panels, words.caption, "How to read the curves.", (_legend(target),)))
    pairs = tuple((term, _shared(target.lines, of)) for term, of in terms)
    found += [Facts(pairs, heading="How it was measured"), scores(target, words), class_scores(target, words), *tables]
    found += [*embeddings, *unreadable(_unreadable(target.lines))]
    return Section(target.anchor, f"{words.heading}: {target.name}", tuple(found), "evaluation")


def figures(target: Target[T], words: Words) -> tuple[Drawing, Drawing]:
    """Balanced accuracy and accuracy against x."""
    axis = Axis(words.axis, dict(sorted({point.x: point.tick for point in target.points}.items())))
    shown = formatting.listed(list(axis.ticks.values())) if axis.ticks else formatting.MISSING
    methods = formatting.counted(len(target.lines), "method")
    lines = [
        Curve(style, tuple((p.x, p.scores) for p in line.points), len(line.result.classes), line.reference)
        for line, style in zip(target.lines, styles(target), strict=True)
    ]
    against = f"on {target.name} against {words.against}, {shown}, {methods}"
    return curves.line_figures(lines, axis, name=target.anchor, against=against)


def styles(target: Target[T]) -> tuple[LineStyle, ...]:
    """How each line of a target is drawn."""
    return tuple(LineStyle(i, hollow=bool(line.tag)) for i, line in enumerate(target.lines))


def _legend(target: Target[T]) -> Legend:
    keys = [
        Key(line.name, line_colour(style.number), style.marker, stroke="solid", hollow=style.hollow, tag=line.tag)
        for line, style in zip(target.lines, styles(target), strict=True)
    ]
    if any(line.reference for line in target.lines):
        keys.append(Key("with all labels", stroke="dashed"))
    n = len(target.classes)
    guessing = f"guessing: chance with {formatting.counted(n, 'cell type')}; always the most frequent cell type"
    return Legend("Methods", (*keys, Key(guessing, stroke="dotted")))


def overview(targets: Sequence[Target[T]], caption: str, note: str, *, prefix: str = "") -> Table:
    """Balanced accuracy of every method (row) at every x (column), by target."""
    lines = [line for target in targets for line in target.lines]
    ticks = dict(sorted({point.x: point.tick for line in lines for point in line.points}.items()))
    has_reference = any(line.reference for line in lines)
    titles = [
        *(prefix + tick for tick in ticks.values()),
        *(["All labels"] if has_reference else []),
        "Chance",
        "Majority rate",
    ]

    def row(line: Line[T]) -> tuple[Cell, ...]:
        by_x = {point.x: point.scores.balanced_accuracy for point in line.points}
        estimates = [by_x.get(x) for x in ticks]
        if has_reference:
            estimates.append(line.reference.balanced_accuracy if line.reference else None)
        return (Cell(line.name, tag=line.tag), *map(interval_cell, estimates), *_guesses(line))

    return Table(
        caption,
        number_columns("Method", titles),
        groups=tuple(
            Group(Cell(target.name, href=f"#{target.anchor}"), tuple(map(row, target.lines))) for target in targets
        ),
        grouped_by="Target",
        stacked=True,
        note=note,
    )


def scores(target: Target[T], words: Words) -> Table:
    """All scores of every method at every x, and with all labels."""
    spread = any(
        e.std is not None
        for point in target.points
        for e in (point.scores.balanced_accuracy, point.scores.accuracy, point.scores.macro_f1)
    )

    def rows(line: Line[T]) -> tuple[tuple[Cell, ...], ...]:
        found = [
            (
                Cell(point.tick),
                point.count,
                estimate_cell(point.scores.balanced_accuracy, drawn=True, with_spread=spread),
                estimate_cell(point.scores.accuracy, with_spread=spread),
                Cell(formatting.score(point.scores.majority_rate)),
                estimate_cell(point.scores.macro_f1, with_spread=spread),
            )
            for point in line.points
        ]
        if all_labels := line.reference:
            balanced = estimate_cell(all_labels.balanced_accuracy, drawn=True, with_spread=spread)
            none = Cell(formatting.MISSING)
            accuracy = estimate_cell(all_labels.accuracy, with_spread=spread)
            found.append((Cell("all labels"), none, balanced, accuracy, none, none))
        return tuple(found)

    titles = (words.column, words.counted, "Balanced accuracy", "Accuracy", "Majority rate", "Macro F1")
    caption = f"Scores on {target.name}: means over the {words.repeats} with 95 % intervals"
    caption += f", and SD, the standard deviation over {words.repeats}" if spread else ""
    return by_method(target, caption, titles, rows, heading="Scores")


def class_scores(target: Target[T], words: Words) -> Table:
    """A score of every cell type for every method at every x."""
    classes = tuple(dict.fromkeys((*target.classes, *(code for point in target.points for code in point.by_class))))

    def rows(line: Line[T]) -> tuple[tuple[Cell, ...], ...]:
        missing = Estimate(value=None)
        return tuple(
            (Cell(point.tick), *(estimate_cell(point.by_class.get(code, missing)) for code in classes))
            for point in line.points
        )

    caption = f"{words.score} of each cell type on {target.name}: means over the {words.repeats}"
    titles = (words.column, *map(formatting.label, classes))
    return by_method(target, caption, titles, rows, heading="Cell types", stacked=True)


def by_method(
    target: Target[T],
    caption: str,
    titles: Sequence[str],
    rows: Callable[[Line[T]], tuple[tuple[Cell, ...], ...]],
    *,
    heading: str,
    stacked: bool = False,
) -> Table:
    """A table with the rows of each method below its name; the first title names the rows."""
    columns = tuple(Column(title, heads=i == 0) for i, title in enumerate(titles))
    groups = tuple(Group(Cell(line.name, tag=line.tag), rows(line)) for line in target.lines)
    return Table(caption, columns, groups=groups, grouped_by="Method", stacked=stacked, heading=heading)


def _shared(lines: Sequence[Line[T]], words: Callable[[T], str]) -> tuple[str, ...]:
    """The text that all lines share, or each text after the names of its lines; many lines are "the others"."""
    by_text: dict[str, list[str]] = {}
    for line in lines:
        by_text.setdefault(words(line.result), []).append(line.name)
    if len(by_text) == 1:
        return tuple(by_text)
    most = max(map(len, by_text.values()))
    ordered = sorted(by_text.items(), key=lambda item: len(item[1]))
    heads = [quoted(names) for _, names in ordered[:-1]]
    heads.append("the others" if most >= N_OTHERS else quoted(ordered[-1][1]))
    return tuple(f"{head}: {text}" for head, (text, _) in zip(heads, ordered, strict=True))


def cell_types(result: KShot | FractionCurve) -> str:
    """Number and names of the classes of a result."""
    return f"{len(result.classes)}: {', '.join(map(formatting.label, result.classes))}"


def intervals(result: KShot | FractionCurve) -> str:
    """How the intervals of a result were made."""
    return formatting.visible(result.intervals)


def not_tested(result: KShot | FractionCurve) -> str:
    """The classes that are not tested, with the reasons."""
    return "; ".join(left_out(result.left_out)) or "every cell type is tested"


def warning(
    lines: Sequence[Line[T]], meant: Callable[[T], bool], *, head: str, one: str, several: str, others: str
) -> tuple[str, ...]:
    """A warning about the lines that are `meant`; nothing where there are none.

    It reads `one` or `several` by their number, then `others` where other lines are not meant.
    """
    names = [line.name for line in lines if meant(line.result)]
    if not names:
        return ()
    rest = f" {others}" if len(names) < len(lines) else ""
    return (f"{head}: {quoted(names)}. {one if len(names) == 1 else several}{rest}",)


def _guesses(line: Line[T]) -> tuple[Cell, Cell]:
    """The balanced accuracy of guessing, and the accuracy of always predicting the most frequent class, or its range."""
    n, rates = len(line.result.classes), [point.scores.majority_rate for point in line.points]
    ends = [formatting.score(end(rates)) for end in (min, max)] if rates else [formatting.MISSING]
    return Cell(formatting.score(1 / n if n else None)), Cell(formatting.EN_DASH.join(dict.fromkeys(ends)))


def _unreadable(lines: Sequence[Line[T]]) -> tuple[tuple[str, str], ...]:
    """File and reason of every image that could not be read, once; with the methods where it is not all of them."""
    found = Counter(item for line in lines for item in line.result.unreadable.items())
    rows = []
    for (file, reason), n in found.items():
        names = [line.name for line in lines if line.result.unreadable.get(file) == reason]
        whose = "" if n == len(lines) else f" ({quoted(names)})"
        rows.append((file, formatting.visible(reason) + whose))
    return tuple(rows)
