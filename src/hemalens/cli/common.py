"""Options and printing that several verbs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemalens.progress import set_quiet

if TYPE_CHECKING:
    from hemalens.evaluation.results import Report

Out = Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")]
Labels = Annotated[
    str, typer.Option(help="Label map: five_class, eight_class, thirteen_class, fab_eight, blast_or_not, as_labelled.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
DropUnreadable = Annotated[bool, typer.Option("--drop-unreadable", help="Go on without unreadable images, and count them.")]
MinPerClass = Annotated[int, typer.Option(min=1, help="Leave out classes of fewer images, and name them.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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
    print_evaluations(report)
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
