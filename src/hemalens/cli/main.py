"""The `hemalens` command: its subcommands in panels, and the exit codes of errors."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from hemalens import __version__
from hemalens.cli import adapt, benchmark, compare, count, data, evaluate, predict, quantize, segment, study, suggest, train
from hemalens.cli.benchmark_options import BenchmarkCommand
from hemalens.cli.help import Verb, Verbs
from hemalens.cli.process import (
    USAGE_ERROR,
    Printed,
    Stopped,
    keep_caches_together,
    open_streams,
    silence,
    stopped_by_signals,
    usage_line,
)
from hemalens.errors import HemalensError, InputError, system_error, visible

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

START, TARGET, TOOLS, RESEARCH = "Train and predict", "Adapt to a new laboratory", "Tools", "Benchmarks and data"

app = typer.Typer(
    name="hemalens",
    cls=Verbs,
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
    ("quickstart", train.quickstart, START, "Train, test, adapt, predict and count on synthetic cells."),
    ("train", train.train, START, "Train a classifier and test it on held-out images."),
    ("predict", predict.predict, START, "Classify images into a CSV or Parquet table."),
    ("count", count.count, START, "Count the cells of slides: a differential from fields."),
    ("evaluate", evaluate.evaluate, START, "Test a bundle on labelled images and write a report."),
    ("adapt", adapt.adapt, TARGET, "Adapt a bundle with few labelled or many unlabelled cells."),
    ("suggest", suggest.suggest, TARGET, "Choose the cells to label next."),
    ("compare", compare.compare, TOOLS, "Compare two counts, or correct one by reviewed cells."),
    ("segment", segment.segment, TOOLS, "Segment the white cell in each image."),
    ("quantize", quantize.quantize, TOOLS, "Make a bundle smaller: int8 or fp16."),
):
    app.command(name, cls=Verb, rich_help_panel=panel, short_help=line)(function)
app.command("benchmark", cls=BenchmarkCommand, rich_help_panel=RESEARCH, short_help="Compare methods across laboratories.")(
    benchmark.benchmark
)
app.add_typer(study.app, name="study", rich_help_panel=RESEARCH, short_help="Reproduce a published study.")
app.add_typer(data.app, name="data", rich_help_panel=RESEARCH, short_help="List, audit, download and synthesize datasets.")


def main() -> None:
    """Run the command; exit with 0 (success), 1 (a bug), 2 (wrong usage or input), or 128 and the number of a signal."""
    open_streams()
    keep_caches_together()
    try:
        with stopped_by_signals(), redirect_stdout(Printed(sys.stdout)):
            _run()
            sys.stdout.flush()
    except InputError as error:
        _fail(f"error: {error}", 2)
    except HemalensError as error:
        _fail(f"failure: {error}", 1)
    except Stopped as stopped:
        _fail(f"stopped by {stopped.name}; run the same command again to resume", 128 + stopped.number)
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to resume", INTERRUPTED)
    except Exception as error:
        known = system_error(error)
        if known is None:
            raise
        _fail(f"error: {known}", 2)


@cache
def _command() -> Any:
    """The whole command line, which takes a while to build."""
    return typer.main.get_command(app)


def _run() -> None:
    """Run the command that the arguments name, without typer's own handling of errors."""
    try:
        with _command().make_context("hemalens", sys.argv[1:]) as context:
            context.command.invoke(context)
    except typer.Exit as ending:
        if ending.exit_code:
            raise SystemExit(ending.exit_code) from None
    except USAGE_ERROR as error:
        line = usage_line(error)
        if not line:
            # the help was the answer
            raise SystemExit(2) from None
        _fail(line, 2)
    _note_damage()


def _note_damage() -> None:
    """Say what was damaged in the cache, where the command has used it."""
    cache = sys.modules.get("hemalens.cache")
    for each in cache.damage_notes() if cache else ():
        print(f"note: {each}", file=sys.stderr)
    if cache:
        cache.forget_damage()


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(visible(message), file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    sys.exit(code)
