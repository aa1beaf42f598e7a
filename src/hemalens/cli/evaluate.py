"""`hemalens evaluate`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from hemalens.cli.benchmark_options import given_options
from hemalens.cli.options import (
    DropSeen,
    FollowLinks,
    Json,
    MinPerClass,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Strict,
    Talk,
    bundle_or_default,
)
from hemalens.cli.report_tables import show_report
from hemalens.errors import InputError

FIELDS = "Detectors and fields"
"""The help panel of the options for detectors."""
FIELD_OPTIONS = ("--domain", "--bundle")
CELL_OPTIONS = ("--explain", "--min-per-class", "--strict")
"""Options of detectors alone, and of bundles alone."""


Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="BUNDLE", help="A folder of a bundle or a detector; by default the one that comes with hemalens."
    ),
]
Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SPEC",
        help="Test data: folder:other_lab; fields with boxes for a detector: yolo:fields, repeatable.",
    ),
]
Maps = Annotated[
    Literal["activation", "occlusion", "none"],
    typer.Option(
        "--explain",
        help="Maps in the report: exact ones of a linear head (activation), by covering parts (occlusion), or none.",
    ),
]
Domain = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Fields of this laboratory alone; repeatable.", rich_help_panel=FIELDS),
]
Behind = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="A bundle that classifies the white cells found; what it calls something else is left out.",
        rich_help_panel=FIELDS,
    ),
]


def evaluate(
    *,
    context: typer.Context,
    bundle: Model = None,
    data: Data,
    out: Out,
    explain: Maps = "activation",
    domain: Domain = None,
    behind: Behind = None,
    min_per_class: MinPerClass = 1,
    drop_seen: DropSeen = False,
    strict: Strict = False,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test a bundle on labelled images, or a detector on fields with boxes, that it has not seen, and write a report.

    \b
    Examples:
    hemalens evaluate --data folder:other_lab --out runs/other_lab
    hemalens evaluate runs/probe/bundle --data jtsc:zheng2018 --out runs/jtsc
    hemalens evaluate --data yolo:fields --out runs/fields
    """
    from hemalens.runs.evaluate import EvaluateOptions as CellOptions
    from hemalens.runs.evaluate import evaluate as run
    from hemalens.runs.evaluate_fields import FieldOptions, evaluate_fields, takes_fields

    talk, given = Talk(quiet, as_json), given_options(context)
    if takes_fields(bundle, data):
        _refuse(given, CELL_OPTIONS, "a detector, which is tested on fields")
        options = FieldOptions(domains=tuple(domain or ()), drop_seen=drop_seen, bundle=behind)
        report = evaluate_fields(bundle, data, out=out, options=options, seed=seed, overwrite=overwrite, say=talk.say)
    else:
        _refuse(given, FIELD_OPTIONS, "a bundle, which is tested on single-cell images")
        cells = CellOptions(min_per_class=min_per_class, drop_seen=drop_seen, explain=explain, strict=strict)
        model = bundle_or_default(bundle, talk)
        report = run(model, _one(data), out=out, options=cells, seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)


def _refuse(given: Collection[str], options: Collection[str], model: str) -> None:
    """Raise `InputError` for an option that a model does not take."""
    for option in options:
        if option in given:
            raise InputError(f"{option} does not apply to {model}", remedy="Leave it out.")


def _one(data: Sequence[str]) -> str:
    """The one dataset that a bundle is tested on; raises `InputError` for several."""
    if len(data) > 1:
        raise InputError(
            "a bundle is tested on one dataset",
            expected="one --data",
            got=" and ".join(data),
            remedy="Run it once for each.",
        )
    return data[0]
