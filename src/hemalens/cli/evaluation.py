"""`hemalens evaluate` and `hemalens benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hemalens.cli.common import (
    Auxiliary,
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
    numbers,
    role_specs,
    show_report,
    whole_numbers,
)

if TYPE_CHECKING:
    from hemalens.evaluation.fractions import FractionPlan
    from hemalens.jobs.benchmark import KShotRequest

Targets = Annotated[list[str] | None, typer.Option("--target", metavar="SPEC", help="Data to test on; repeatable.")]
Protocol = Annotated[Literal["k-fold", "cross-domain", "k-shot", "fractions"], typer.Option(help="How it is split.")]
Shots = Annotated[str | None, typer.Option(metavar="K,K", help="k-shot: labelled images a class; 1,2,3,5,10,15,20,30,50.")]
Repeats = Annotated[int, typer.Option(min=2, help="k-shot: drawings of the labelled images for each k.")]
WithoutReplacement = Annotated[
    bool, typer.Option("--without-replacement", help="k-shot: no image is drawn twice (published: with).")
]
Support = Annotated[str | None, typer.Option(metavar="SPEC", help="k-shot: draw from here, test all of the target.")]
Fractions = Annotated[
    str | None, typer.Option(metavar="F,F", help="fractions: shares of the training part; 1,0.5,0.1,0.01.")
]
Seeds = Annotated[int, typer.Option(min=1, help="fractions: how often each is drawn and trained.")]
Strict = Annotated[bool, typer.Option("--strict", help="fractions: a class left without an image is an error.")]
Selection = Annotated[
    Literal["validation", "published-selection"],
    typer.Option(help="fractions: what chooses the epoch; published-selection takes the test images, and flatters."),
]
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


def _k_shot_request(
    shots: str | None,
    repeats: int,
    few_shot: list[str] | None,
    support: str | None,
    target_labels: str | None,
    *,
    replacement: bool,
) -> KShotRequest:
    from hemalens.evaluation.k_shot import PUBLISHED_SHOTS, KShotPlan
    from hemalens.fewshot import FewShotConfig
    from hemalens.jobs.benchmark import KShotRequest

    known = PUBLISHED_SHOTS if shots is None else whole_numbers(shots, "--shots")
    plan = KShotPlan(known, repeats, replacement, FewShotConfig.load(None, few_shot or []))
    return KShotRequest(plan, support, target_labels)


def _fraction_plan(fractions: str | None, seeds: int, selection: Selection, *, strict: bool) -> FractionPlan:
    from hemalens.evaluation.fractions import PUBLISHED_FRACTIONS, FractionPlan

    shares = PUBLISHED_FRACTIONS if fractions is None else numbers(fractions, "--fractions")
    return FractionPlan(shares, seeds, selection, strict)


def benchmark(
    *,
    methods: Annotated[str, typer.Option("--methods", metavar="A,B", help="Methods, separated by commas.")],
    source: Annotated[str, typer.Option("--source", metavar="SPEC", help="Data to learn from.")],
    out: Out,
    target: Targets = None,
    protocol: Protocol = "cross-domain",
    labels: Labels = "five_class",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the source, for k-fold and cross-domain.")] = 5,
    shots: Shots = None,
    repeats: Repeats = 100,
    without_replacement: WithoutReplacement = False,
    support: Support = None,
    target_labels: TargetLabels = None,
    few_shot: FewShot = None,
    fractions: Fractions = None,
    seeds: Seeds = 3,
    strict: Strict = False,
    selection: Selection = "validation",
    auxiliary: Auxiliary = None,
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
    from hemalens.jobs.benchmark import Folds, Plan
    from hemalens.jobs.benchmark import benchmark as run

    talk = Talk(quiet, as_json)
    plan: Plan = Folds(folds)
    k_shot_said = any((shots, without_replacement, support, target_labels, few_shot))
    fractions_said = any((fractions, strict, selection != "validation"))
    # options of another protocol make its plan, which the job refuses
    if (protocol == "fractions" and not k_shot_said) or (protocol != "fractions" and fractions_said):
        plan = _fraction_plan(fractions, seeds, selection, strict=strict)
    elif protocol == "k-shot" or k_shot_said:
        plan = _k_shot_request(shots, repeats, few_shot, support, target_labels, replacement=not without_replacement)
    report = run(
        [name.strip() for name in methods.split(",") if name.strip()],
        source,
        target_specs=target or [],
        protocol=protocol,
        plan=plan,
        out=out,
        labels=labels,
        auxiliary_specs=role_specs(auxiliary or [], "--aux"),
        min_per_class=min_per_class,
        settings=settings or [],
        seed=seed,
        overwrite=overwrite,
        drop_unreadable=drop_unreadable,
        cell_image=cell_image,
        say=talk.say,
    )
    show_report(talk, report, out)
