"""Options and printing that several verbs share."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hemalens.errors import InputError
from hemalens.progress import set_quiet

if TYPE_CHECKING:
    from hemalens.evaluation.report.tables import Cell
    from hemalens.evaluation.results import ComparisonTable, FractionScores, Report

MAX_COLUMNS = 8
"""A wider table is not legible in a terminal of 80 columns."""
METHOD_WIDTH = 16
"""A method's name goes over several lines where it is longer, beside the rows of its numbers."""

Out = Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")]
Labels = Annotated[
    str, typer.Option(help="Label map: five_class, eight_class, thirteen_class, fab_eight, blast_or_not, as_labelled.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
DropUnreadable = Annotated[bool, typer.Option("--drop-unreadable", help="Go on without unreadable images, and count them.")]
MinPerClass = Annotated[int, typer.Option(min=1, help="Leave out classes of fewer images, and name them.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")]
FewShot = Annotated[
    list[str] | None,
    typer.Option(
        "--few-shot",
        metavar="KEY=VALUE",
        help="How a few cells classify the rest: rule=prototype, nearest_neighbour or logistic_regression; normalise, "
        "centre, n_prototypes, c; repeatable.",
    ),
]
DropSeen = Annotated[bool, typer.Option("--drop-seen", help="Leave out images that a bundle was trained on.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


CellImage = Annotated[
    str | None,
    typer.Option(
        "--cell-image",
        metavar="SEGMENTER",
        help="Cut the white cell out first: classical, or the folder of a trained segmenter.",
    ),
]


def role_specs(given: Sequence[str], option: str) -> list[tuple[str, str]]:
    """(role, dataset name) of each ROLE=SPEC; raises `InputError`."""
    pairs = []
    for text in given:
        role, separator, spec = text.partition("=")
        if not separator or not role or not spec:
            raise InputError(f"cannot read {option} {text!r}", expected="ROLE=SPEC, as in generic=matek19:my_data")
        pairs.append((role, spec))
    return pairs


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of an option like 1,2,5; raises `InputError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"cannot read {option}", expected="whole numbers, as in 1,2,5", got=repr(text)) from error


Auxiliary = Annotated[
    list[str] | None,
    typer.Option("--aux", metavar="ROLE=SPEC", help="Further data a method has a use for, as in pretraining=cam16:DIR."),
]


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of an option like 1,0.5,0.01; raises `InputError`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"cannot read {option}", expected="numbers, as in 1,0.5,0.01", got=repr(text)) from error


class Talk:
    """What a command says on the way, on standard error: nothing when quiet."""

    def __init__(self, quiet: bool, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        set_quiet(quiet)

    def say(self, text: str) -> None:
        """A note on the way."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def result(self, value: Any, lines: Sequence[str]) -> None:
        """The result on standard output: as JSON when asked for, otherwise as lines."""
        print(json.dumps(value, indent=2, ensure_ascii=False) if self.as_json else "\n".join(lines))


def show_report(talk: Talk, report: Report, out: Path) -> None:
    """Print a report's summary and where it lies."""
    if talk.as_json:
        print(report.model_dump_json(indent=2))
        return
    if report.synthetic:
        print("These images are synthetic: drawn by the program, not photographed.")
    if report.efficiency:
        print_efficiency(report)
    if report.evaluations:
        print_evaluations(report)
    if report.k_shot:
        print_k_shot(report)
    if report.fractions:
        print_fractions(report)
    for table in report.tables:
        if len(table.columns) <= MAX_COLUMNS:
            print_table(table)
        else:
            print(f"in the report: {table.title}")
    print(f"report: {out / 'report.html'}")


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


def print_k_shot(report: Report) -> None:
    """A table of the k-shot results for each new laboratory, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False, highlight=False)
    for target in dict.fromkeys(result.target for result in report.k_shot):
        here = [result for result in report.k_shot if result.target == target]
        title = f"{target}: k labelled images a class memorised" + (", TRANSDUCTIVE" if here[0].transductive else "")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("embedder", overflow="fold")
        for name in ("k", "balanced\naccuracy", "95 %", "accuracy", "majority\nrate"):
            table.add_column(name, justify="right", no_wrap=True)
        for result in here:
            for shots in result.shots:
                balanced = shots.balanced_accuracy
                table.add_row(
                    result.method if shots is result.shots[0] else "",
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


def print_fractions(report: Report) -> None:
    """A table of the trainings on fractions of the labels for each target, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation.report import formatting, fractions

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
    from hemalens.evaluation.report import formatting

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
    """The tables of what networks cost, 80 columns wide; what qualifies a value stands below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation.report import efficiency

    console = Console(soft_wrap=False, highlight=False)
    for table, note in efficiency.tables(report.efficiency):
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
        console.print(Text(note))


def _stacked(cells: Sequence[Cell]) -> list[str]:
    """Each cell with what qualifies it on lines of its own, as rich takes text without markup."""
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
