"""`hemalens evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from hemalens.cli.options import Bundle, DropSeen, Json, MinPerClass, Out, Overwrite, Quiet, Seed, Talk, bundle_or_default
from hemalens.cli.report_tables import show_report


def evaluate(
    *,
    bundle: Bundle = None,
    data: Annotated[str, typer.Option("--data", metavar="SPEC", help="Labelled test data.")],
    out: Out,
    min_per_class: MinPerClass = 1,
    drop_seen: DropSeen = False,
    occlusion: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most cells shown with what the answer rests on; 0: none.")
    ] = 12,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test a bundle on labelled images it has not seen, and write a report."""
    from hemalens.runs.evaluate import evaluate as run

    talk = Talk(quiet, as_json)
    report = run(
        bundle_or_default(bundle, talk),
        data,
        out=out,
        min_per_class=min_per_class,
        drop_seen=drop_seen,
        n_occluded=occlusion,
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    )
    show_report(talk, report, out)
