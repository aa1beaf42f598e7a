"""`hemalens evaluate` and `hemalens benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from hemalens.errors import InputError

if TYPE_CHECKING:
    from hemalens.evaluation.fractions import FractionPlan
    from hemalens.jobs.benchmark import KShotRequest, Plan

Targets = Annotated[list[str] | None, typer.Option("--target", metavar="SPEC", help="Data to test on; repeatable.")]
Protocol = Annotated[
    Literal["k-fold", "cross-domain", "k-shot", "fractions", "efficiency"],
    typer.Option(help="How it is split; efficiency: what networks cost, counted and timed."),
]
Methods = Annotated[
    str | None, typer.Option("--methods", metavar="A,B", help="Methods, separated by commas; not for efficiency.")
]
Source = Annotated[str | None, typer.Option("--source", metavar="SPEC", help="Data to learn from; not for efficiency.")]
Backbones = Annotated[
    list[str] | None,
    typer.Option("--backbone", metavar="NAME[@PX]", help="efficiency: a timm network of random weights; repeatable."),
]
Bundles = Annotated[
    list[Path] | None, typer.Option("--bundle", metavar="DIR", help="efficiency: a bundle, tested on --target; repeatable.")
]
DropSeen = Annotated[bool, typer.Option("--drop-seen", help="Leave out images that a bundle was trained on.")]
Classes = Annotated[int, typer.Option(min=1, help="efficiency: classes of the backbones' head.")]
Rounds = Annotated[int, typer.Option(min=1, help="efficiency: rounds of timing in which all networks take turns.")]
Threads = Annotated[int | None, typer.Option(min=1, help="efficiency: threads of a network; all cores.")]
OF_EFFICIENCY = ("--backbone", "--bundle", "--drop-seen", "--classes", "--rounds", "--threads")
FOR_EFFICIENCY = frozenset(
    (*OF_EFFICIENCY, "--protocol", "--target", "--min-per-class", "--seed", "--out", "--overwrite", "--quiet", "--json")
)
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
    drop_seen: DropSeen = False,
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


def _said(context: typer.Context) -> list[str]:
    """The options that stand on the command line, by their long names, in the order of the help."""
    # typer's own click has no public names
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name and getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
    ]


def _check_options(context: typer.Context, protocol: str) -> None:
    """Raise `InputError` for options of the protocol efficiency elsewhere, and for others with it."""
    said = _said(context)
    if protocol == "efficiency":
        useless = [option for option in said if option not in FOR_EFFICIENCY]
        remedy = f"Leave these out; it takes {', '.join(OF_EFFICIENCY)} and --target."
    else:
        useless = [option for option in said if option in OF_EFFICIENCY]
        remedy = "Leave these out, or say --protocol efficiency."
    if useless:
        raise InputError(f"the protocol {protocol} has no use for some options", got=", ".join(useless), remedy=remedy)


def _plan(protocol: str, folds: int, few: dict[str, Any], fewer: dict[str, Any]) -> Plan:
    """The plan that the options make, `few` those of k-shot and `fewer` those of fractions.

    Options of another protocol make its plan, which the job refuses.
    """
    from hemalens.jobs.benchmark import Folds

    k_shot_said = any((few["shots"], not few["replacement"], few["support"], few["target_labels"], few["few_shot"]))
    fractions_said = any((fewer["fractions"], fewer["strict"], fewer["selection"] != "validation"))
    if (protocol == "fractions" and not k_shot_said) or (protocol != "fractions" and fractions_said):
        return _fraction_plan(**fewer)
    return _k_shot_request(**few) if protocol == "k-shot" or k_shot_said else Folds(folds)


def _learned_from(protocol: str, methods: str | None, source: str | None) -> tuple[list[str], str]:
    """The names of the methods and the source; raises `InputError` where one is not given."""
    if methods is None or source is None:
        missing = [option for option, value in (("--methods", methods), ("--source", source)) if value is None]
        raise InputError(
            f"the protocol {protocol} needs {' and '.join(missing)}", remedy="Say --methods A,B --source SPEC."
        )
    return [name.strip() for name in methods.split(",") if name.strip()], source


def _one_target(targets: Sequence[str]) -> str | None:
    if len(targets) > 1:
        raise InputError("the protocol efficiency takes one target", got=", ".join(targets), remedy="Run it once for each.")
    return targets[0] if targets else None


def benchmark(
    *,
    context: typer.Context,
    out: Out,
    methods: Methods = None,
    source: Source = None,
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
    backbone: Backbones = None,
    bundle: Bundles = None,
    drop_seen: DropSeen = False,
    classes: Classes = 8,
    rounds: Rounds = 5,
    threads: Threads = None,
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
    """Compare methods on the same folds, or what networks cost. The same command resumes a stopped run.

    A setting for one method is written METHOD.KEY=VALUE.
    """
    _check_options(context, protocol)
    talk = Talk(quiet, as_json)
    shared = {"out": out, "min_per_class": min_per_class, "seed": seed, "overwrite": overwrite, "say": talk.say}
    if protocol == "efficiency":
        numbers = {"n_classes": classes, "n_rounds": rounds, "n_threads": threads, "drop_seen": drop_seen}
        _efficiency(talk, backbone or [], bundle or [], _one_target(target or []), numbers | shared)
        return
    few: dict[str, Any] = {"shots": shots, "repeats": repeats, "replacement": not without_replacement}
    few |= {"support": support, "target_labels": target_labels, "few_shot": few_shot}
    fewer = {"fractions": fractions, "seeds": seeds, "strict": strict, "selection": selection}
    plan = _plan(protocol, folds, few, fewer)
    wanted = {"protocol": protocol, "plan": plan, "labels": labels, "settings": settings or []}
    data = {"target_specs": target or [], "auxiliary_specs": role_specs(auxiliary or [], "--aux"), "cell_image": cell_image}
    _methods(talk, _learned_from(protocol, methods, source), wanted | data | shared | {"drop_unreadable": drop_unreadable})


def _efficiency(talk: Talk, backbones: list[str], bundles: list[Path], target: str | None, shared: dict[str, Any]) -> None:
    from hemalens.jobs.efficiency import efficiency as run

    show_report(talk, run(backbones, bundles, target_spec=target, **shared), shared["out"])


def _methods(talk: Talk, learned_from: tuple[list[str], str], shared: dict[str, Any]) -> None:
    from hemalens.jobs.benchmark import benchmark as run

    show_report(talk, run(*learned_from, **shared), shared["out"])
