"""`hemalens evaluate` and `hemalens benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hemalens.cli.common import (
    DropUnreadable,
    Json,
    Labels,
    MinPerClass,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Set,
    Talk,
    show_report,
)


def evaluate(
    *,
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    data: Annotated[str, typer.Option("--data", metavar="SPEC", help="Labelled test data.")],
    out: Out,
    min_per_class: MinPerClass = 1,
    drop_seen: Annotated[bool, typer.Option("--drop-seen", help="Leave out images the bundle was trained on.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test a bundle on labelled images it has not seen, and write a report."""
    from hemalens.jobs.evaluate import evaluate as run

    talk = Talk(quiet, as_json)
    report = run(
        bundle,
        data,
        out=out,
        min_per_class=min_per_class,
        drop_seen=drop_seen,
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    )
    show_report(talk, report, out)


def benchmark(
    *,
    methods: Annotated[str, typer.Option("--methods", metavar="A,B", help="Methods, separated by commas.")],
    source: Annotated[str, typer.Option("--source", metavar="SPEC", help="Data to learn from.")],
    out: Out,
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="SPEC", help="Data to test on; repeatable.")
    ] = None,
    protocol: Annotated[Literal["k-fold", "cross-domain"], typer.Option(help="How it is split.")] = "cross-domain",
    labels: Labels = "five_class",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the source.")] = 5,
    min_per_class: MinPerClass = 1,
    settings: Set = None,
    seed: Seed = 0,
    drop_unreadable: DropUnreadable = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same folds. The same command resumes a stopped run.

    A setting for one method is written METHOD.KEY=VALUE.
    """
    from hemalens.jobs.benchmark import benchmark as run

    talk = Talk(quiet, as_json)
    report = run(
        [name.strip() for name in methods.split(",") if name.strip()],
        source,
        target_specs=target or [],
        protocol=protocol,
        out=out,
        labels=labels,
        n_folds=folds,
        min_per_class=min_per_class,
        settings=settings or [],
        seed=seed,
        overwrite=overwrite,
        drop_unreadable=drop_unreadable,
        say=talk.say,
    )
    show_report(talk, report, out)
