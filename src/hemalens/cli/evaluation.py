"""`hemalens evaluate` and `hemalens benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hemalens.cli.common import (
    CellImage,
    DropUnreadable,
    FewShot,
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
    whole_numbers,
)

Shots = Annotated[str | None, typer.Option(metavar="K,K", help="k-shot: labelled images a class; 1,2,3,5,10,15,20,30,50.")]
Repeats = Annotated[int, typer.Option(min=2, help="k-shot: drawings of the labelled images for each k.")]
WithoutReplacement = Annotated[
    bool, typer.Option("--without-replacement", help="k-shot: no image is drawn twice (published: with).")
]
Support = Annotated[str | None, typer.Option(metavar="SPEC", help="k-shot: draw from here, test all of the target.")]
TargetLabels = Annotated[
    str | None, typer.Option(metavar="MAP", help="k-shot: label map of the target, where it is not the source's.")
]


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
    protocol: Annotated[
        Literal["k-fold", "cross-domain", "k-shot"], typer.Option(help="How it is split.")
    ] = "cross-domain",
    labels: Labels = "five_class",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the source; not for k-shot.")] = 5,
    shots: Shots = None,
    repeats: Repeats = 100,
    without_replacement: WithoutReplacement = False,
    support: Support = None,
    target_labels: TargetLabels = None,
    few_shot: FewShot = None,
    cell_image: CellImage = None,
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
    from hemalens.evaluation.k_shot import PUBLISHED_SHOTS, KShotPlan
    from hemalens.fewshot import FewShotConfig
    from hemalens.jobs import benchmark as jobs

    talk = Talk(quiet, as_json)
    k_shot = None
    if protocol == "k-shot" or any((shots, without_replacement, support, target_labels, few_shot)):
        known = PUBLISHED_SHOTS if shots is None else whole_numbers(shots, "--shots")
        plan = KShotPlan(known, repeats, not without_replacement, FewShotConfig.load(None, few_shot or []))
        k_shot = jobs.KShotRequest(plan, support, target_labels)
    report = jobs.benchmark(
        [name.strip() for name in methods.split(",") if name.strip()],
        source,
        target_specs=target or [],
        protocol=protocol,
        out=out,
        labels=labels,
        n_folds=folds,
        k_shot=k_shot,
        min_per_class=min_per_class,
        settings=settings or [],
        seed=seed,
        overwrite=overwrite,
        drop_unreadable=drop_unreadable,
        cell_image=cell_image,
        say=talk.say,
    )
    show_report(talk, report, out)
