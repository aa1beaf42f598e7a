"""The tables and lists of a report as plain text cells, from which HTML and Markdown are both written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hemalens.evaluation import formatting
from hemalens.evaluation.results import (
    ClassScores,
    ComparisonTable,
    DataCard,
    Estimate,
    Evaluation,
    MethodCard,
    Report,
    WrongCell,
)

# "0.91", "<0.01", "1,234", "0.91 ± 0.02", "0.91 (0.88–0.93)", "12 %"
OVERVIEW_NOTE = (
    "In small print: the 95 % interval, and SD, the standard deviation over folds. Majority rate: the accuracy of always "
    "answering the most frequent cell type. Chance: the balanced accuracy of guessing, one over the number of tested cell "
    "types. Tested classes only: the model may answer with tested cell types alone. ECE: expected calibration error. NLL: "
    "negative log-likelihood per image, in nats. n/a: not available."
)
_NUMBER = re.compile(r"[<>~+\-−]?\s?\d[\d\s.,%()±–-]*")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a value, what qualifies it (interval, spread), where it links to, and (low, value, high) to draw.

    `tag` is a warning that stands out beside the text.
    """

    text: str
    notes: tuple[str, ...] = ()
    href: str = ""
    limits: tuple[float, float, float] | None = None
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column; `numeric` columns are set flush right, the `heads` column names the row."""

    title: str
    numeric: bool = True
    heads: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that follow one another under a head of their own."""

    head: Cell
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its caption; every row has as many cells as there are columns.

    A table with `groups` has the rows of these; where heads between rows cannot be shown, they become a first column of
    the title `grouped_by`. In a `stacked` table the notes of a cell stand below its value, not beside it.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...] = ()
    groups: tuple[Group, ...] = ()
    grouped_by: str = ""
    stacked: bool = False


def anchor(number: int) -> str:
    """The HTML id of the section of an evaluation, counted from 1."""
    return f"evaluation-{number}"


def estimate_cell(estimate: Estimate, *, drawn: bool = False, with_spread: bool = False) -> Cell:
    """An estimate with its interval and its standard deviation, where there are such.

    `drawn` asks for the limits as numbers too, `with_spread` for a word where there is no standard deviation.
    """
    spread = formatting.spread(estimate) or (f"SD {formatting.MISSING}" if with_spread else "")
    notes = tuple(text for text in (formatting.interval(estimate), spread) if text)
    limits = None
    if drawn and estimate.value is not None and estimate.low is not None and estimate.high is not None:
        limits = (estimate.low, estimate.value, estimate.high)
    return Cell(formatting.score(estimate.value), notes, limits=limits)


def transfer(evaluation: Evaluation) -> str:
    """The pair "trained on → tested on" of an evaluation."""
    return f"{formatting.visible(evaluation.source)} {formatting.ARROW} {formatting.visible(evaluation.target)}"


def chance(evaluation: Evaluation) -> float | None:
    """The balanced accuracy of guessing, and of always giving the same answer; None without a tested class."""
    return 1 / len(evaluation.tested_classes) if evaluation.tested_classes else None


def score_cells(evaluation: Evaluation) -> tuple[tuple[str, Cell], ...]:
    """The scores of an evaluation by name, in the order in which they are printed everywhere."""
    scores = evaluation.scores
    return (
        ("Accuracy", estimate_cell(scores.accuracy)),
        ("Majority rate", Cell(formatting.score(scores.majority_rate))),
        ("Balanced accuracy", estimate_cell(scores.balanced_accuracy)),
        ("Chance", Cell(formatting.score(chance(evaluation)))),
        ("Macro F1", estimate_cell(scores.macro_f1)),
        ("Balanced accuracy, tested classes only", estimate_cell(scores.balanced_accuracy_restricted)),
        ("ECE", Cell(formatting.score(scores.ece))),
        ("NLL", Cell(formatting.score(scores.nll))),
    )


def overview(report: Report) -> Table:
    """One row for each evaluation."""
    names = (
        *("Accuracy", "Majority rate", "Balanced accuracy", "Chance", "Macro F1"),
        *("Bal. acc., tested classes", "ECE", "NLL"),
    )
    columns = (
        Column("No."),
        Column("Method", numeric=False, heads=True),
        Column(f"Trained on {formatting.ARROW} tested on", numeric=False),
        *(Column(name) for name in (*names, "Images", "Folds")),
    )
    rows = tuple(
        (
            Cell(str(number), href=f"#{anchor(number)}"),
            Cell(
                formatting.visible(evaluation.method),
                href=f"#{anchor(number)}",
                tag=formatting.TRANSDUCTIVE if evaluation.transductive else "",
            ),
            Cell(transfer(evaluation)),
            *(cell for _, cell in score_cells(evaluation)),
            Cell(formatting.count(evaluation.n_images)),
            Cell(str(evaluation.n_folds)),
        )
        for number, evaluation in enumerate(report.evaluations, start=1)
    )
    return Table("Every evaluation, with 95 % intervals", columns, rows)


def failures(report: Report) -> Table:
    """Every part of a benchmark that ended with an error."""
    names = ("Method", "Protocol", "Source", "Target", "Error")
    return Table(
        "Parts that ended with an error and have no result; the others went on",
        tuple(Column(name, numeric=False, heads=i == 0) for i, name in enumerate(names)),
        tuple(
            tuple(
                Cell(formatting.visible(text) or formatting.MISSING)
                for text in (failure.method, failure.protocol, failure.source, failure.target, failure.error)
            )
            for failure in report.failures
        ),
    )


def transductive(report: Report) -> str:
    """What the word means that marks some evaluations, or an empty text where it marks none."""
    if not any(evaluation.transductive for evaluation in report.evaluations):
        return ""
    return f"{formatting.TRANSDUCTIVE.capitalize()}: tested images were seen in training, without their labels."


def per_class(evaluation: Evaluation) -> Table:
    """Precision and recall of each class with their exact limits."""
    columns = (
        Column("Cell type", numeric=False, heads=True),
        Column("Images"),
        Column("Answers"),
        Column("Precision"),
        Column("Recall"),
        Column("F1"),
    )
    return Table(
        "Scores of each cell type, with exact 95 % binomial limits",
        columns,
        tuple(_class_row(scores) for scores in evaluation.per_class),
    )


def _class_row(scores: ClassScores) -> tuple[Cell, ...]:
    return (
        Cell(formatting.label(scores.label)),
        Cell(formatting.count(scores.n)),
        Cell(formatting.count(scores.n_answered)),
        estimate_cell(scores.precision, drawn=True),
        estimate_cell(scores.recall, drawn=True),
        Cell(formatting.score(scores.f1)),
    )


def confusion(evaluation: Evaluation) -> Table:
    """The confusion counts: rows are true, columns predicted."""
    columns = (
        Column("True \\ predicted", numeric=False, heads=True),
        *(Column(formatting.label(code)) for code in evaluation.classes),
    )
    rows = tuple(
        (Cell(formatting.label(code)), *(Cell(str(n)) for n in counts))
        for code, counts in zip(evaluation.tested_classes, evaluation.confusion, strict=True)
    )
    return Table("Confusion counts: true cell types in rows, predicted ones in columns", columns, rows)


def reliability(evaluation: Evaluation) -> Table:
    """The bins of the reliability diagram that hold images."""
    columns = (
        Column("Confidence", numeric=False, heads=True),
        Column("Images"),
        Column("Mean confidence"),
        Column("Accuracy"),
    )
    rows = tuple(
        (
            Cell(f"{bin_.low:.2f}{formatting.EN_DASH}{bin_.high:.2f}"),
            Cell(formatting.count(bin_.n)),
            Cell(formatting.score(bin_.confidence)),
            Cell(formatting.score(bin_.accuracy)),
        )
        for bin_ in evaluation.reliability
        if bin_.n
    )
    return Table("Accuracy against the best probability", columns, rows)


def pairs(caption: str, names: tuple[str, str], values: Mapping[str, Any]) -> Table:
    """A table of two columns from a mapping; nested mappings become dotted names."""
    rows = tuple(tuple(Cell(formatting.visible(text)) for text in pair) for pair in _flattened(values))
    return Table(caption, (Column(names[0], numeric=False, heads=True), Column(names[1], numeric=False)), rows)


def method_card(card: MethodCard) -> tuple[tuple[str, str], ...]:
    """What is known of a method, as pairs of a heading and a text."""
    told = {
        "Program": card.method if card.method != card.name else "",
        "What it is": card.what,
        "Publication": card.publication,
        "Learned from": "; ".join(card.learned_from),
    }
    return tuple((name, formatting.visible(text)) for name, text in told.items() if text)


def configuration(name: str, values: Mapping[str, Any]) -> Table:
    """The configuration of a method, one setting a row."""
    return pairs(f"Configuration of {formatting.visible(name)}", ("Setting", "Value"), values)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield (
                f"{prefix}{name}",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            )


def class_counts(card: DataCard) -> Table:
    """Images of each cell type in one dataset."""
    rows = tuple((Cell(formatting.label(code)), Cell(formatting.count(n))) for code, n in card.class_counts.items())
    return Table("Images of each cell type", (Column("Cell type", numeric=False, heads=True), Column("Images")), rows)


def reasons(counts: Mapping[str, int]) -> tuple[str, ...]:
    """What was excluded or dropped, one line for each reason, with its count."""
    return tuple(f"{formatting.visible(reason)}: {formatting.count(n)}" for reason, n in counts.items())


def audit(card: DataCard) -> tuple[str, ...]:
    """What the audit of a dataset found, one line for each check; it says so where there was none."""
    found = tuple(f"{formatting.visible(check)}: {formatting.visible(finding)}" for check, finding in card.audit.items())
    return found or ("not made",)


def left_out(reason_of: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that are not tested, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for code, reason in reason_of.items():
        by_reason.setdefault(formatting.visible(reason), []).append(formatting.label(code))
    return tuple(f"{formatting.listed(names)}: {reason}" for reason, names in by_reason.items())


def setting(evaluation: Evaluation) -> str:
    """Method, source and target, images and folds of an evaluation on one line."""
    parts = [
        formatting.visible(evaluation.method),
        f"trained on {formatting.visible(evaluation.source)}, tested on {formatting.visible(evaluation.target)}",
        formatting.counted(evaluation.n_images, "image"),
        formatting.counted(evaluation.n_folds, "fold"),
    ]
    return " \N{MIDDLE DOT} ".join(parts)


def comparison(table: ComparisonTable) -> Table:
    """A study's own table; a column of nothing but numbers, as values or as text, is set flush right."""
    columns = tuple(
        Column(formatting.visible(title), numeric=i > 0 and all(_is_number(row[i]) for row in table.rows), heads=i == 0)
        for i, title in enumerate(table.columns)
    )
    rows = tuple(tuple(_comparison_cell(value) for value in row) for row in table.rows)
    return Table(formatting.visible(table.title), columns, rows)


def _is_number(value: str | float | None) -> bool:
    return not isinstance(value, str) or _NUMBER.fullmatch(value) is not None


def _comparison_cell(value: str | int | float | None) -> Cell:
    if isinstance(value, int):
        return Cell(formatting.count(value))
    return Cell(formatting.visible(value) if isinstance(value, str) else formatting.score(value))


def wrong_call(cell: WrongCell) -> str:
    """What a wrongly classified cell is, was called, and how confidently: "neutrophil called monocyte, 0.98"."""
    called = f"{formatting.label(cell.label)} called {formatting.label(cell.predicted)}"
    return f"{called}, {formatting.probability(cell.probability)}"
