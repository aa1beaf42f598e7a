"""`hemalens quickstart` and `hemalens train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemalens.cli.options import (
    Auxiliary,
    CellImage,
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
    role_specs,
)
from hemalens.cli.report_tables import show_report
from hemalens.errors import InputError

if TYPE_CHECKING:
    from hemalens.evaluation.results import Report

METHOD_NAMES = (
    "linear_probe, finetune, robust, bloodshot, bc_sam, mask_augmentation, combined_network, mobilevit; bc_sam_segmenter."
)
TrainingData = Annotated[
    list[str], typer.Option("--train", metavar="SPEC", help="Training data, as in folder:my_cells; repeatable.")
]


def quickstart(
    *,
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw synthetic cells of two laboratories; train in one, test in both, adapt with a few cells, predict."""
    from hemalens.cli.quickstart import quickstart as run

    talk = Talk(quiet, as_json)
    report, predicted = run(out=out, seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
    if not as_json:
        print(f"predictions of lab_b: {out / 'predictions.csv'} ({predicted.n_rows} rows)")


def train(
    *,
    method: Annotated[str, typer.Argument(help=METHOD_NAMES)],
    data: TrainingData,
    out: Out,
    validation: Annotated[
        str | None, typer.Option("--val", metavar="SPEC", help="Validation data; otherwise a part of the training data.")
    ] = None,
    auxiliary: Auxiliary = None,
    cell_image: CellImage = None,
    labels: Labels = "five_class",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of the method, TOML.")] = None,
    settings: Set = None,
    weights: Annotated[
        str | None, typer.Option(help="Backbone weights: package, hub, none, or a FILE. Short for --set weights=...")
    ] = None,
    test_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="Held out, never trained on, reported.")] = 0.2,
    validation_fraction: Annotated[float, typer.Option(min=0.01, max=0.9, help="Of the rest.")] = 0.15,
    min_per_class: MinPerClass = 1,
    seed: Seed = 0,
    drop_unreadable: DropUnreadable = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a method, save its bundle, and test it on a part it has not seen. The same command resumes a stopped run.

    bc_sam_segmenter learns from masks instead of labels, and saves a segmenter.
    """
    from hemalens.methods import SEGMENTERS

    talk = Talk(quiet, as_json)
    shared: dict[str, Any] = {
        "out": out,
        "test_fraction": test_fraction,
        "config_file": config,
        "settings": [*(settings or []), *([f"weights={weights}"] if weights else [])],
        "seed": seed,
        "overwrite": overwrite,
        "drop_unreadable": drop_unreadable,
        "say": talk.say,
    }
    if method in SEGMENTERS:
        of_labels: dict[str, Any] = {"--labels": labels != "five_class", "--min-per-class": min_per_class > 1}
        useless = of_labels | {"--val": validation, "--aux": auxiliary, "--cell-image": cell_image}
        return _train_segmenter(talk, data, useless, shared)
    from hemalens.runs.train import train as run

    report = run(
        method,
        data,
        labels=labels,
        validation_spec=validation,
        auxiliary_specs=role_specs(auxiliary or [], "--aux"),
        cell_image=cell_image,
        validation_fraction=validation_fraction,
        min_per_class=min_per_class,
        **shared,
    )
    return _finish(talk, report, out, "bundle")


def _train_segmenter(talk: Talk, data: list[str], useless: dict[str, Any], shared: dict[str, Any]) -> None:
    from hemalens.runs.segment import train_segmenter

    given = [option for option, value in useless.items() if value]
    if given:
        raise InputError("a segmenter learns from masks alone", got=", ".join(given), remedy="Leave these options out.")
    _finish(talk, train_segmenter(data, **shared), shared["out"], "segmenter")


def _finish(talk: Talk, report: Report, out: Path, what: str) -> None:
    show_report(talk, report, out)
    if not talk.as_json:
        print(f"{what}: {out / what}")
