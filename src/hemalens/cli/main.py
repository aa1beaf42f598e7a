"""The `hemalens` command: all verbs, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hemalens import __version__
from hemalens.cli import adapt as adaptation
from hemalens.cli import benchmark, data
from hemalens.cli import evaluate as evaluation
from hemalens.cli import predict as prediction
from hemalens.cli import quantize as quantization
from hemalens.cli import segment as segmentation
from hemalens.cli import study as studies
from hemalens.cli import suggest as suggestion
from hemalens.cli import train as training
from hemalens.cli.benchmark_options import BenchmarkCommand
from hemalens.errors import HemalensError, InputError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it."""

app = typer.Typer(
    name="hemalens",
    help="Classify single blood-cell images so that the answer still holds in the next laboratory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hemalens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    """Classify single blood-cell images so that the answer still holds in the next laboratory."""


app.command("quickstart")(training.quickstart)
app.add_typer(data.app, name="data")
app.command("train")(training.train)
app.command("suggest")(suggestion.suggest)
app.command("adapt")(adaptation.adapt)
app.command("quantize")(quantization.quantize)
app.command("predict")(prediction.predict)
app.command("segment")(segmentation.segment)
app.command("evaluate")(evaluation.evaluate)
app.command("benchmark", cls=BenchmarkCommand)(benchmark.benchmark)
app.add_typer(studies.app, name="study")


def main() -> None:
    """Run the command; exit with 0 (done), 1 (a failure of ours) or 2 (wrong usage or input)."""
    try:
        app(prog_name="hemalens")
    except InputError as error:
        _fail(f"error: {error}", 2)
    except HemalensError as error:
        _fail(f"failure: {error}", 1)
    except SystemExit as ending:
        # typer turns Ctrl-C into an exit without a word
        if ending.code == INTERRUPTED:
            _fail("stopped; the same command goes on where it can", INTERRUPTED)
        raise
    except BrokenPipeError:
        # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
