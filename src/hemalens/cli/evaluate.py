"""`hemalens evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from hemalens.cli.options import (
    Bundle,
    DropSeen,
    FollowLinks,
    Json,
    MinPerClass,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Talk,
    bundle_or_default,
)
from hemalens.cli.report_tables import show_report


def evaluate(
    *,
    bundle: Bundle = None,
    data: Annotated[str, typer.Option("--data", metavar="SPEC", help="Labelled test data, as in folder:other_lab.")],
    out: Out,
    occlusion: Annotated[
        int, typer.Option(min=0, metavar="N", help="Maximum number of cells with an occlusion map; 0 for none.")
    ] = 12,
    min_per_class: MinPerClass = 1,
    drop_seen: DropSeen = False,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test a bundle on labelled images that it has not seen, and write a report.

    \b
    Examples:
    hemalens evaluate --data folder:other_lab --out runs/other_lab
    hemalens evaluate runs/probe/bundle --data jtsc:zheng2018 --min-per-class 12 --out runs/jtsc
    """
    from hemalens.runs.evaluate import EvaluateOptions
    from hemalens.runs.evaluate import evaluate as run

    talk = Talk(quiet, as_json)
    report = run(
        bundle_or_default(bundle, talk),
        data,
        out=out,
        options=EvaluateOptions(min_per_class=min_per_class, drop_seen=drop_seen, n_occluded=occlusion),
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    )
    show_report(talk, report, out)
