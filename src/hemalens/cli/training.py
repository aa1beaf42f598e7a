"""`hemalens quickstart` and `hemalens train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hemalens.cli.common import (
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
    show_report,
)


def quickstart(
    *,
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw synthetic cells of two laboratories; train in one, test in both, adapt with a few cells, predict."""
    from hemalens.jobs.quickstart import quickstart as run

    talk = Talk(quiet, as_json)
    report, predicted = run(out=out, seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
    if not as_json:
        print(f"predictions of lab_b: {out / 'predictions.csv'} ({predicted.n_rows} rows)")


def train(
    *,
    method: Annotated[str, typer.Argument(help="linear_probe, finetune, bloodshot, bc_sam or bc_sam_segmenter.")],
    data: Annotated[
        list[str], typer.Option("--train", metavar="SPEC", help="Training data, as in folder:my_cells; repeatable.")
    ],
    out: Out,
    validation: Annotated[
        str | None, typer.Option("--val", metavar="SPEC", help="Validation data; otherwise a part of the training data.")
    ] = None,
    auxiliary: Annotated[
        list[str] | None,
        typer.Option("--aux", metavar="ROLE=SPEC", help="Images to learn from without their labels; repeatable."),
    ] = None,
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
    chosen = [*(settings or []), *([f"weights={weights}"] if weights else [])]
    if method in SEGMENTERS:
        from hemalens.jobs.segment import train_segmenter

        report = train_segmenter(
            data,
            out=out,
            test_fraction=test_fraction,
            config_file=config,
            settings=chosen,
            seed=seed,
            overwrite=overwrite,
            drop_unreadable=drop_unreadable,
            say=talk.say,
        )
        show_report(talk, report, out)
        if not as_json:
            print(f"segmenter: {out / 'segmenter'}")
        return
    from hemalens.jobs.train import train as run

    report = run(
        method,
        data,
        out=out,
        labels=labels,
        validation_spec=validation,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        min_per_class=min_per_class,
        config_file=config,
        auxiliary_specs=role_specs(auxiliary or [], "--aux"),
        cell_image=cell_image,
        settings=chosen,
        seed=seed,
        overwrite=overwrite,
        drop_unreadable=drop_unreadable,
        say=talk.say,
    )
    show_report(talk, report, out)
    if not as_json:
        print(f"bundle: {out / 'bundle'}")
