"""`hemalens quickstart` and `hemalens train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import (
    ADVANCED,
    Auxiliary,
    CellImage,
    DropUnreadable,
    FollowLinks,
    Json,
    Labels,
    MinPerClass,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Set,
    Strict,
    Talk,
    role_specs,
)
from hemalens.cli.report_tables import show_report

METHOD_NAMES = (
    "linear_probe, finetune, robust, bloodshot, bc_sam, mask_augmentation, combined_network, mobilevit, bc_sam_segmenter, "
    "detector."
)

if TYPE_CHECKING:
    from hemalens.evaluation.results import Report

TrainingData = Annotated[
    list[str], typer.Option("--train", metavar="SPEC", help="Training data, as in folder:my_cells; repeatable.")
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="package, hub, none, or FILE.", rich_help_panel=ADVANCED),
]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings of the method, TOML.", rich_help_panel=ADVANCED)
]
Devices = Annotated[
    int | None,
    typer.Option(metavar="N", help="GPUs that share a batch.", rich_help_panel=ADVANCED),
]
Validation = Annotated[
    str | None,
    typer.Option(
        "--val",
        metavar="SPEC",
        help="Validation data, else split off.",
        rich_help_panel=ADVANCED,
    ),
]
TestFraction = Annotated[
    float,
    typer.Option(min=0, max=0.9, metavar="X", help="Held out as test.", rich_help_panel=ADVANCED),
]
ValidationFraction = Annotated[
    float,
    typer.Option(min=0.01, max=0.9, metavar="X", help="Part of the others, for validation.", rich_help_panel=ADVANCED),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Laboratory left out; repeatable.", rich_help_panel=ADVANCED),
]


def quickstart(
    *,
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the whole workflow on two synthetic laboratories: train, evaluate, adapt, predict, and count a smear.

    \b
    Examples:
    hemalens quickstart
    hemalens quickstart --out runs/first_try --overwrite
    """
    from hemalens.cli.quickstart import quickstart as run

    talk = Talk(quiet, as_json)
    report, predicted = run(out=out, seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
    if not as_json:
        print(f"predictions of lab_b: {out / 'predictions.csv'} ({predicted.n_rows} rows)")
        print(f"the smear, field by field: {out / 'count' / 'report.html'}")


def train(
    *,
    method: Annotated[str, typer.Argument(metavar="METHOD", help=METHOD_NAMES)],
    data: TrainingData,
    out: Out,
    labels: Labels = "five_class",
    cell_image: CellImage = None,
    settings: Set = None,
    weights: Weights = None,
    config: ConfigFile = None,
    devices: Devices = None,
    validation: Validation = None,
    test_fraction: TestFraction = 0.2,
    validation_fraction: ValidationFraction = 0.15,
    auxiliary: Auxiliary = None,
    min_per_class: MinPerClass = 1,
    leave_out: LeaveOut = None,
    follow_links: FollowLinks = False,
    drop_unreadable: DropUnreadable = False,
    strict: Strict = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train and test a method, and save its bundle. The same command resumes.

    \b
    Examples:
    hemalens train linear_probe --train folder:my_cells --out runs/probe
    hemalens train robust --train folder:cells --cell-image centred --out runs/net
    """
    from hemalens.runs.train import TrainOptions

    talk = Talk(quiet, as_json)
    options = TrainOptions(
        labels=labels,
        validation_spec=validation,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        min_per_class=min_per_class,
        auxiliary_specs=tuple(role_specs(auxiliary or [], "--aux")),
        cell_image=cell_image,
        config_file=config,
        drop_unreadable=drop_unreadable,
        strict=strict,
        leave_out=tuple(leave_out or ()),
    )
    named = {"weights": weights, "devices": devices}
    chosen = [*(settings or []), *(f"{name}={value}" for name, value in named.items() if value is not None)]
    made, run = _run_of(method)
    report = run(data, out=out, settings=chosen, options=options, seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
    if not as_json:
        print(f"{made}: {out / made}")


def _run_of(method: str) -> tuple[str, Callable[..., Report]]:
    """What a method makes, "bundle", "segmenter" or "detector", and the function that trains it."""
    from functools import partial

    from hemalens.methods import DETECTORS, SEGMENTERS
    from hemalens.runs.segment import train_segmenter
    from hemalens.runs.train import train as train_method
    from hemalens.runs.train_detector import train_detector

    if method in DETECTORS:
        return "detector", train_detector
    if method in SEGMENTERS:
        return "segmenter", train_segmenter
    return "bundle", partial(train_method, method)
