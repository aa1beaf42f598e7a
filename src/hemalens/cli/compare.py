"""`hemalens compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import Json, Overwrite, Quiet, Seed, Talk
from hemalens.cli.shares import limits, percent
from hemalens.errors import InputError

if TYPE_CHECKING:
    from hemalens.evaluation.results import CountComparison, Report

WIDTHS = (14, 11, 11, 14, 6, 8, 6)
"""Columns of a comparison in the terminal."""
SHARES = (1, 2)
"""Its columns of the two counts, which have their names."""


def compare(
    *,
    first: Annotated[str, typer.Argument(metavar="A", help="A folder of `hemalens count`, or a table: type, count.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another; none where A has two counts.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="A slide or column of A; give it twice.")
    ] = None,
    reviewed: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Correct the count A by the cells that you have reviewed.")
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
    """Compare two counts of white cells, type by type, or correct one by reviewed cells.

    Two counts of a type are the same, different, or of too few cells.

    \b
    Examples:
    hemalens compare runs/monday runs/friday
    hemalens compare runs/monday reader.csv --out runs/reader
    hemalens compare two_readers.csv
    hemalens compare runs/monday --reviewed runs/monday/review.csv
    """
    from hemalens.cli.report_tables import print_sentence
    from hemalens.report.count_comparisons import sentence
    from hemalens.runs.compare import CompareOptions
    from hemalens.runs.compare import compare as run
    from hemalens.runs.reviewed import apply_review

    talk = Talk(quiet, as_json)
    if reviewed is not None:
        _check_alone(second, name, rules)
        _reviewed(apply_review(first, reviewed, out=out, seed=seed, overwrite=overwrite), talk)
        if out is not None and not as_json:
            print(f"report: {out / 'report.html'}")
        return
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


def _check_alone(second: str | None, names: list[str] | None, rules: Path | None) -> None:
    """Raise `InputError` for what --reviewed does not take: the slides and the rules are those of the count."""
    given = {"a second count": second, "--name": names, "--rules": rules}
    found = [what for what, value in given.items() if value]
    if found:
        raise InputError("--reviewed corrects one count", expected="the folder of the count alone", got=" and ".join(found))


def _reviewed(made: Report, talk: Talk) -> None:
    """The count of each slide, and the shares that the reviewed cells give, 80 columns wide."""
    lines = []
    for slide in made.slides:
        lines.append(f"{slide.name}: {slide.total} white cells, {slide.n_reviewed} reviewed")
        lines.append(f"{'type':<24}{'n':>5}{'%':>7}  {'95 % limits':<14}{'reviewed %':>11}  95 % limits")
        for each in slide.types:
            if each.total_of:
                continue
            shown = (
                f"{each.code.replace('_', ' ')[:23]:<24}{each.count:>5}{percent(each.share):>7}  {limits(each.share):<14}"
            )
            if each.reviewed is not None:
                shown += f"{percent(each.reviewed):>11}  {limits(each.reviewed)}"
            lines.append(shown.rstrip())
        lines.append("")
    lines.append("Research use: a morphologist confirms every result.")
    talk.result(made.model_dump(mode="json"), lines)


def _print(compared: CountComparison) -> None:
    """The table of a comparison, 80 columns wide; long names are A and B in its head, and stated in full above it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hemalens.evaluation.formatting import count as formatted
    from hemalens.evaluation.formatting import visible
    from hemalens.report.count_comparisons import table

    made = table(compared)
    titles = [column.title for column in made.columns]
    caption = made.caption
    if any(len(word) > WIDTHS[i] for i in SHARES for word in titles[i].split()):
        titles[SHARES[0]], titles[SHARES[1]] = "A, %", "B, %"
        caption = "\n".join(
            f"{letter}: {visible(name)} ({formatted(n)} white cells)"
            for letter, name, n in (("A", compared.first, compared.n_first), ("B", compared.second, compared.n_second))
        )
    shown = Table(title=Text(caption), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.padding = (0, 0, 0, 0)
    for column, title, width in zip(made.columns, titles, WIDTHS, strict=True):
        shown.add_column(Text(title), justify="right" if column.numeric else "left", width=width, overflow="fold")
    for row in made.rows:
        shown.add_row(*(Text("\n".join((cell.text, *cell.notes))) for cell in row))
    Console(soft_wrap=False, highlight=False).print(shown)
