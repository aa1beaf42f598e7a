"""Reports on the terminal, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hemalens.cli.options import Talk, as_json

if TYPE_CHECKING:
    from hemalens.evaluation.results import ComparisonTable, FractionScores, KShot, Report
    from hemalens.report.tables import Cell

MAX_COLUMNS = 8
"""A wider table is not legible in a terminal of 80 columns."""
MAX_ROWS = 12
"""More evaluations than this are summarised in sentences; the tables are in the report."""
METHOD_WIDTH = 16
"""Longer names of methods are wrapped."""


def show_report(talk: Talk, report: Report, out: Path) -> None:
    """Print the tables of a report and its path; of a large report, the summary only."""
    from hemalens.evaluation import formatting

    if talk.as_json:
        print(as_json(report.model_dump(mode="json")))
        return
    notice = formatting.synthetic_notice(report)
    if notice:
        print_sentence(notice)
    for failure in report.failures:
        where = f"{failure.method}, {failure.source} -> {failure.target}, {failure.protocol}"
        print_sentence(f"FAILED: {where}: {failure.error}")
    if len(report.evaluations) > MAX_ROWS:
        for sentence in report.summary:
            print_sentence(sentence)
    else:
        _print_tables(report)
    for table in report.tables:
        if len(table.columns) <= MAX_COLUMNS:
            print_table(table)
        else:
            print(f"in the report: {table.title}")
    print(f"report: {out / 'report.html'}")


def _print_tables(report: Report) -> None:
    from hemalens.report import comparisons, trust

    if report.efficiency:
        print_efficiency(report)
    if report.evaluations:
        print_evaluations(report)
        for sentence in (sentence for e in report.evaluations for sentence in trust.sentences(e)):
            print_sentence(sentence)
        for sentence in comparisons.sentences(report.comparisons, report.evaluations):
            print_sentence(sentence)
    if report.left_out:
        print_left_out(report)
    if report.detections:
        print_detections(report)
    if report.k_shot:
        print_k_shot(report)
    if report.fractions:
        print_fractions(report)


def print_sentence(sentence: str) -> None:
    """A sentence on lines of at most 80 characters."""
    print("\n".join(textwrap.wrap(sentence, 80, subsequent_indent="  ")))


def print_evaluations(report: Report) -> None:
    """A table of the evaluations, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trained on -> tested on", overflow="fold")
    for name in ("images", "balanced\naccuracy", "95 %", "accuracy", "majority\nrate"):
        table.add_column(name, justify="right", no_wrap=True)
    for e in report.evaluations:
        balanced = e.scores.balanced_accuracy
        interval = "n/a" if balanced.low is None else f"{balanced.low:.3f}–{balanced.high:.3f}"
        numbers = (balanced.value, e.scores.accuracy.value, e.scores.majority_rate)
        shown = ["n/a" if value is None else f"{value:.3f}" for value in numbers]
        table.add_row(e.name, str(e.n_images), shown[0], interval, shown[1], shown[2])
    console = Console(soft_wrap=False, highlight=False)
    console.print(table)
    for e in report.evaluations:
        for label, reason in e.left_out.items():
            console.print(f"{e.target}: class {label} not tested: {reason}", markup=False)


def print_detections(report: Report) -> None:
    """A table of detectors by laboratory and kind, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation import formatting
    from hemalens.report import detection

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("laboratory", overflow="fold")
    table.add_column("kind", overflow="fold")
    for name in ("cells", "AP50", "recall,\ncentre", "precision,\ncentre", "count\nerror, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.detections:
        for scores in each.kinds:
            error = scores.counts.absolute_error_percent.value if scores.counts else None
            values = (scores.ap50, scores.recall_centre, scores.precision_centre)
            first = each.laboratory if scores is each.kinds[0] else ""
            table.add_row(
                Text(formatting.visible(first)),
                Text(detection.kind_name(scores)),
                formatting.count(scores.n_boxes),
                *(formatting.score(value.value) for value in values),
                formatting.MISSING if error is None else f"{error:.1f}",
            )
    Console(soft_wrap=False, highlight=False).print(table)


def print_left_out(report: Report) -> None:
    """Tables of the balanced accuracy in laboratories left out, 80 columns wide: a row a laboratory, a column a form."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation import formatting
    from hemalens.report import left_out

    console = Console(soft_wrap=False, highlight=False)
    for result in report.left_out:
        seeds = formatting.counted(len(result.seeds), "seed")
        title = f"{formatting.visible(result.method)}: balanced accuracy, {seeds}"
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in left_out.by_laboratory(result)[0]:
            table.add_column(Text(column), justify="right" if table.columns else "left", overflow="fold")
        for row in left_out.by_laboratory(result)[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
        for sentence in left_out.harm_sentences(result):
            print_sentence(sentence)


COUNTED = {
    "shots": "k labelled images a class",
    "labelled": "k labelled images in all, tested on others",
    "unlabelled": "k images without labels, tested on others (inductive)",
}
"""The meaning of k in a table."""


def print_k_shot(report: Report) -> None:
    """A table of the k-shot results for each new laboratory, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False, highlight=False)
    several = len({result.source for result in report.k_shot}) > 1
    for target, against in dict.fromkeys((result.target, result.against) for result in report.k_shot):
        here = [result for result in report.k_shot if (result.target, result.against) == (target, against)]
        title = f"{target}: {COUNTED[against]}" + (", TRANSDUCTIVE" if here[0].transductive else "")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("embedder", overflow="fold")
        for name in ("k", "balanced\naccuracy", "95 %", "accuracy", "majority\nrate"):
            table.add_column(name, justify="right", no_wrap=True)
        for result in here:
            for shots in result.shots:
                balanced = shots.balanced_accuracy
                table.add_row(
                    _embedder(result, several) if shots is result.shots[0] else "",
                    str(shots.k),
                    f"{balanced.value:.3f}±{balanced.std:.3f}",
                    f"{balanced.low:.3f}–{balanced.high:.3f}",
                    f"{shots.accuracy.value:.3f}",
                    f"{shots.majority_rate:.3f}",
                )
            if result.supervised is not None:
                all_labels = result.supervised.balanced_accuracy
                interval = "n/a" if all_labels.low is None else f"{all_labels.low:.3f}–{all_labels.high:.3f}"
                accuracy = f"{result.supervised.accuracy.value:.3f}"
                table.add_row("", "all", f"{all_labels.value:.3f}", interval, accuracy, "")
        console.print(table)
        for label, reason in here[0].left_out.items():
            console.print(f"{target}: class {label} left out: {reason}", markup=False)


def _embedder(result: KShot, several: bool) -> str:
    words = [result.method, *([result.source] if several else []), *([result.variant] if result.variant else [])]
    return ", ".join(words)


def print_fractions(report: Report) -> None:
    """A table of the trainings on fractions of the labels for each target, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation import formatting
    from hemalens.report import fractions

    console = Console(soft_wrap=False, highlight=False)
    for target in fractions.targets(report.fractions):
        title = Text(f"{target.name}: trained on fractions of the labels")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("method", width=METHOD_WIDTH)
        for name in ("labels", "images", "balanced\naccuracy", "95 %", "accuracy", "majority\nrate"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in target.lines:
            name = f"{line.name} ({line.tag})" if line.tag else line.name
            rows = map(_fraction_row, fractions.ascending(line.result))
            for words, row in zip_longest(textwrap.wrap(name, METHOD_WIDTH), rows, fillvalue=()):
                table.add_row(Text("".join(words)), *row)
        console.print(table)
        left_out = {label: reason for line in target.lines for label, reason in line.result.left_out.items()}
        for label, reason in left_out.items():
            console.print(Text(f"{target.name}: class {formatting.visible(label)} left out: {formatting.visible(reason)}"))


def _fraction_row(scores: FractionScores) -> tuple[str, ...]:
    from hemalens.evaluation import formatting

    balanced = scores.balanced_accuracy
    return (
        formatting.percent(scores.fraction),
        formatting.count(scores.n_train),
        formatting.score(balanced.value) + ("" if balanced.std is None else f"±{balanced.std:.3f}"),
        formatting.interval(balanced) or formatting.MISSING,
        formatting.score(scores.accuracy.value),
        formatting.score(scores.majority_rate),
    )


def print_efficiency(report: Report) -> None:
    """The tables of the cost of networks, 80 columns wide; qualifiers of a value are below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.report import efficiency

    console = Console(soft_wrap=False, highlight=False)
    for table in efficiency.tables(report.efficiency):
        shown = Table(
            title=Text(table.caption), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for column in table.columns:
            justify: Literal["left", "right"] = "right" if column.numeric else "left"
            # numbers are never broken
            shown.add_column(column.title.replace(" ", "\n"), justify=justify, overflow="fold", no_wrap=column.numeric)
        for row in table.rows:
            shown.add_row(*_stacked(row))
        for group in table.groups:
            shown.add_row(Text(group.head.text))
            for row in group.rows:
                shown.add_row(*_stacked(row))
        console.print(shown)
        console.print(Text(table.note))


def _stacked(cells: Sequence[Cell]) -> list[str]:
    """Each cell with its qualifiers on lines of their own, without markup."""
    from rich.markup import escape

    return [escape("\n".join((cell.text, *cell.notes))) for cell in cells]


def print_table(table: ComparisonTable) -> None:
    """A study's table, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*("n/a" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console = Console(soft_wrap=False, highlight=False)
    console.print(shown)
    if table.note:
        console.print(table.note, markup=False)
