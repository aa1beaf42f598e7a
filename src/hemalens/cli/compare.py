"""`hemalens compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import Json, Overwrite, Quiet, Seed, Talk

if TYPE_CHECKING:
    from hemalens.evaluation.results import CountComparison


def compare(
    *,
    first: Annotated[str, typer.Argument(metavar="A", help="A folder of `hemalens count`, or a table: type, count.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another; none where A has two counts.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="A slide or column of A; give it twice.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="The laboratory's rules of counting, a TOML file.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PATH", help="Where the report goes.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two counts of white cells, type by type: the same, different, or too few cells.

    \b
    Examples:
    hemalens compare runs/monday runs/friday
    hemalens compare runs/monday reader.csv --out runs/reader
    hemalens compare two_readers.csv
    """
    from hemalens.cli.report_tables import print_sentence
    from hemalens.report.count_comparisons import sentence
    from hemalens.runs.compare import CompareOptions
    from hemalens.runs.compare import compare as run

    talk = Talk(quiet, as_json)
    options = CompareOptions(rules_file=None if rules is None else str(rules), names=tuple(name or ()))
    made = run(first, second, out=out, options=options, seed=seed, overwrite=overwrite, say=talk.say)
    if as_json:
        talk.result(made.model_dump(mode="json"), [])
        return
    for compared in made.count_comparisons:
        _print(compared)
        print_sentence(sentence(compared))
    print_sentence("Research use: a morphologist confirms every result.")
    if out is not None:
        print(f"report: {out / 'report.html'}")


def _print(compared: CountComparison) -> None:
    """The table of a comparison, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.report.count_comparisons import table

    made = table(compared)
    shown = Table(title=Text(made.caption), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.padding = (0, 0, 0, 0)
    for column, width in zip(made.columns, (14, 11, 11, 14, 6, 8, 6), strict=True):
        shown.add_column(Text(column.title), justify="right" if column.numeric else "left", width=width, overflow="fold")
    for row in made.rows:
        shown.add_row(*(Text("\n".join((cell.text, *cell.notes))) for cell in row))
    Console(soft_wrap=False, highlight=False).print(shown)
