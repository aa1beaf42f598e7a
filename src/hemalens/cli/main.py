"""The `hemalens` command: its subcommands in panels, and the exit codes of errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hemalens import __version__
from hemalens.cli import adapt, benchmark, data, evaluate, predict, quantize, segment, study, suggest, train
from hemalens.cli.benchmark_options import BenchmarkCommand
from hemalens.errors import HemalensError, InputError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

START, TARGET, TOOLS, RESEARCH = "Train and predict", "Adapt to a new laboratory", "Tools", "Benchmarks and data"

app = typer.Typer(
    name="hemalens",
    help="Classify single blood-cell images across laboratories.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        print(f"hemalens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Classify single blood-cell images across laboratories."""


for name, function, panel, line in (
    ("quickstart", train.quickstart, START, "Train, test, adapt and predict on synthetic cells."),
    ("train", train.train, START, "Train a classifier and test it on held-out images."),
    ("predict", predict.predict, START, "Classify images into a CSV or Parquet table."),
    ("evaluate", evaluate.evaluate, START, "Test a bundle on labelled images and write a report."),
    ("adapt", adapt.adapt, TARGET, "Adapt a bundle with few labelled or many unlabelled cells."),
    ("suggest", suggest.suggest, TARGET, "Choose the cells to label next."),
    ("segment", segment.segment, TOOLS, "Segment the white cell in each image."),
    ("quantize", quantize.quantize, TOOLS, "Make a bundle smaller: int8 or fp16."),
):
    app.command(name, rich_help_panel=panel, short_help=line)(function)
app.command("benchmark", cls=BenchmarkCommand, rich_help_panel=RESEARCH, short_help="Compare methods across laboratories.")(
    benchmark.benchmark
)
app.add_typer(study.app, name="study", rich_help_panel=RESEARCH, short_help="Reproduce a published study.")
app.add_typer(data.app, name="data", rich_help_panel=RESEARCH, short_help="List, audit, download and draw datasets.")


def main() -> None:
    """Run the command; exit with 0 (success), 1 (a bug) or 2 (wrong usage or input)."""
    try:
        app(prog_name="hemalens")
    except InputError as error:
        _fail(f"error: {error}", 2)
    except HemalensError as error:
        _fail(f"failure: {error}", 1)
    except SystemExit as ending:
        # typer exits silently on Ctrl-C
        if ending.code == INTERRUPTED:
            _fail("stopped; run the same command again to resume", INTERRUPTED)
        if not ending.code:
            _note_damage()
        raise
    except BrokenPipeError:
        # the reader of our output has closed the pipe, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _note_damage() -> None:
    """Say what was damaged in the cache, where the command has used it."""
    cache = sys.modules.get("hemalens.cache")
    for note in cache.damage_notes() if cache else ():
        print(f"note: {note}", file=sys.stderr)
    if cache:
        cache.forget_damage()


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
