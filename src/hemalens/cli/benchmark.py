"""`hemalens benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hemalens.cli.options import (
    Auxiliary,
    CellImage,
    DropSeen,
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
    whole_numbers,
)
from hemalens.cli.report_tables import show_report
from hemalens.cli.trial_table import watching
from hemalens.errors import HemalensError, InputError

if TYPE_CHECKING:
    from hemalens.benchmark.config import BenchmarkConfig

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="All of this in a YAML file; options come on top.")
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes side by side, where memory allows.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="SPEC", help="Data to test on; repeatable. A source is not its own.")
]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="How it is split: k-fold, cross-domain (unless said otherwise), k-shot, finetuning (with all weights), "
        "labelling (which cells to label), "
        "unlabelled (how few images without labels suffice), fractions; efficiency: what networks cost, counted and timed. "
        "Repeatable.",
    ),
]
Methods = Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Methods, separated by commas.")]
Sources = Annotated[list[str] | None, typer.Option("--source", metavar="SPEC", help="Data to learn from; repeatable.")]
Projection = Annotated[
    Literal["PCA", "UMAP"], typer.Option(help="Plane of the report's embeddings; UMAP needs the extra [figures].")
]
Backbones = Annotated[
    list[str] | None,
    typer.Option("--backbone", metavar="NAME[@PX]", help="efficiency: a timm network of random weights; repeatable."),
]
Bundles = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="A saved bundle in place of methods: efficiency (repeatable), or one for k-shot, finetuning, labelling, "
        "unlabelled.",
    ),
]
Classes = Annotated[int, typer.Option(min=1, help="efficiency: classes of the backbones' head.")]
Rounds = Annotated[int, typer.Option(min=1, help="efficiency: rounds of timing in which all networks take turns.")]
Threads = Annotated[int | None, typer.Option(min=1, help="efficiency: threads of a network; all cores.")]
Shots = Annotated[str | None, typer.Option(metavar="K,K", help="k-shot: labelled images a class; 1,2,3,5,10,15,20,30,50.")]
Repeats = Annotated[int, typer.Option(min=2, help="k-shot: drawings of the labelled images for each k.")]
WithoutReplacement = Annotated[
    bool, typer.Option("--without-replacement", help="k-shot: no image is drawn twice (published: with).")
]
Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="BUNDLE", help="k-shot: as in adapt, a bundle or the word imagenet beside; repeatable."),
]
Support = Annotated[str | None, typer.Option(metavar="SPEC", help="k-shot: draw from here, test all of the target.")]
Finetuning = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="finetuning: shots=1,10; repeats=3; beside=imagenet; training=steps=100,optimiser.learning_rate=0.0005; "
        "repeatable.",
    ),
]
Labelling = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="labelling: budgets=8,16,24,40,60,80; strategies=random,typical; repeats, test_fraction, few_shot.rule; "
        "repeatable.",
    ),
]
Unlabelled = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="unlabelled: images=8,16,32,64,128; pieces=batch_norm,size+class_bias; strength, "
        "repeats, test_fraction, beside=imagenet; repeatable.",
    ),
]
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

Taken = tuple[tuple[str, ...], Callable[[Any], Any]]


def _as_is(value: Any) -> Any:
    return value


def _sets_by_role(given: Sequence[str]) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for role, spec in role_specs(given, "--aux"):
        roles.setdefault(role, []).append(spec)
    return roles


def _few_shot(given: Sequence[str]) -> dict[str, Any]:
    from hemalens.classifiers.few_shot import FewShotConfig

    return FewShotConfig.load(None, given).model_dump()


def _part(name: str) -> Callable[[Any], Any]:
    """How settings of a protocol are read into its part of the configuration."""

    def read(given: Sequence[str]) -> dict[str, Any]:
        from hemalens.benchmark import config as benchmark_config

        values: dict[str, Any] = getattr(benchmark_config, name).load(None, given).model_dump()
        return values

    return read


KEYS: dict[str, Taken] = {
    "--methods": (("methods",), lambda text: [name.strip() for name in text.split(",") if name.strip()]),
    "--source": (("sources",), list),
    "--target": (("targets",), list),
    "--protocol": (("protocols",), list),
    "--labels": (("labels",), _as_is),
    "--min-per-class": (("min_per_class",), _as_is),
    "--aux": (("auxiliary",), _sets_by_role),
    "--cell-image": (("cell_image",), _as_is),
    "--drop-unreadable": (("drop_unreadable",), _as_is),
    "--seed": (("seed",), _as_is),
    "--folds": (("folds",), _as_is),
    "--projection": (("projection",), _as_is),
    "--shots": (("k_shot", "shots"), lambda text: whole_numbers(text, "--shots")),
    "--repeats": (("k_shot", "repeats"), _as_is),
    "--without-replacement": (("k_shot", "replacement"), lambda said: not said),
    "--support": (("k_shot", "support"), _as_is),
    "--target-labels": (("k_shot", "target_labels"), _as_is),
    "--few-shot": (("k_shot", "few_shot"), _few_shot),
    "--beside": (("k_shot", "beside"), list),
    "--finetuning": (("finetuning",), _part("FinetuningPart")),
    "--labelling": (("labelling",), _part("LabellingPart")),
    "--unlabelled": (("unlabelled",), _part("UnlabelledPart")),
    "--fractions": (("fractions", "fractions"), lambda text: numbers(text, "--fractions")),
    "--seeds": (("fractions", "seeds"), _as_is),
    "--selection": (("fractions", "selection"), _as_is),
    "--strict": (("fractions", "strict"), _as_is),
    "--rounds": (("efficiency", "rounds"), _as_is),
    "--threads": (("efficiency", "threads"), _as_is),
}
"""The key of the configuration that an option sets, and how its value is read."""
WITHOUT_METHODS = ("--backbone", "--bundle", "--drop-seen", "--classes")
"""Options that go where nothing is trained."""
ON_BUNDLE = ("k-shot", "finetuning", "labelling", "unlabelled")
"""Protocols that take a saved bundle."""
OF_CURVES = [option for option, (path, _) in KEYS.items() if path[0].replace("_", "-") in ON_BUNDLE]
"""Their options."""
USED_BY: dict[str, tuple[str, ...]] = {
    "--folds": ("k-fold", "cross-domain"),
    **{option: ("k-shot",) for option, (path, _) in KEYS.items() if path[0] == "k_shot"},
    "--finetuning": ("finetuning",),
    "--labelling": ("labelling",),
    "--unlabelled": ("unlabelled",),
    **{option: ("fractions",) for option, (path, _) in KEYS.items() if path[0] == "fractions"},
    **{option: ("efficiency",) for option, (path, _) in KEYS.items() if path[0] == "efficiency"},
    **dict.fromkeys(WITHOUT_METHODS, ("efficiency",)),
    "--bundle": ("efficiency", *ON_BUNDLE),
}
FOR_COSTS = frozenset(
    {*WITHOUT_METHODS, "--rounds", "--threads", "--protocol", "--target", "--min-per-class", "--seed", "--out"}
    | {"--overwrite", "--quiet", "--json"}
)
"""Options that the protocol efficiency takes without methods."""


FOR_BUNDLES = frozenset(
    set(OF_CURVES) - {"--support", "--target-labels"}
    | {"--bundle", "--protocol", "--target", "--min-per-class", "--seed", "--out", "--overwrite", "--quiet", "--json"}
)
"""Options that k-shot, finetuning, labelling and unlabelled take with a bundle in place of methods."""


def _said(context: typer.Context) -> list[str]:
    """The options that stand on the command line, by their long names, in the order of the help."""
    # typer's own click has no public names
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name and getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
    ]


def _given(context: typer.Context) -> dict[str, Any]:
    """The value of every option, by its long name."""
    parameters = [p for p in context.command.params if p.name in context.params]
    return {max(p.opts, key=len): context.params[str(p.name)] for p in parameters}


def _check_options(
    said: Sequence[str], protocols: Sequence[str], *, trains: bool, taken: frozenset[str] = FOR_COSTS
) -> None:
    """Raise `InputError` for options that nothing which is asked for has a use for."""
    named = " and ".join(protocols)
    for option in said:
        used_by = USED_BY.get(option)
        if used_by is not None and not set(used_by) & set(protocols):
            raise InputError(
                f"{option} has no use in the protocol {named}",
                remedy=f"Leave it out, or say --protocol {' or '.join(used_by)}.",
            )
        if trains and option in WITHOUT_METHODS:
            raise InputError(f"{option} goes without methods", remedy="Leave it out: the models of the methods are timed.")
        if not trains and option not in taken:
            raise InputError(
                f"{option} has no use in the protocol {named} without --methods",
                remedy=f"Leave it out; taken are {', '.join(sorted(taken))}.",
            )


def _put(values: dict[str, Any], option: str, said: Any) -> None:
    """Set the key of an option in a configuration's values."""
    (*parts, last), read = KEYS[option]
    for part in parts:
        values = values.setdefault(part, {})
    values[last] = read(said)


def _config(file: Path | None, given: dict[str, Any], said: Sequence[str]) -> BenchmarkConfig:
    """The file's configuration with what stands on the command line over it; settings come after those of the file."""
    from hemalens.benchmark.config import BenchmarkConfig, read_yaml

    values = read_yaml(file) if file else {}
    for option in said:
        if option not in KEYS:
            continue
        _put(values, option, given[option])
    if given["--set"]:
        before = values.get("settings", [])
        values["settings"] = [*([before] if isinstance(before, str) else before), *given["--set"]]
    for option, key in (("--methods", "methods"), ("--source", "sources")):
        if key not in values:
            raise InputError(f"a benchmark needs {key}", remedy=f"Say {option}, or name them in a --config file.")
    return BenchmarkConfig.from_mapping(values, source=repr(str(file)) if file else "benchmark")


def _one_target(targets: Sequence[str]) -> str | None:
    if len(targets) > 1:
        raise InputError(
            "the protocol efficiency without --methods takes one target",
            got=", ".join(targets),
            remedy="Run it once for each.",
        )
    return targets[0] if targets else None


def benchmark(
    *,
    context: typer.Context,
    out: Out,
    config: ConfigFile = None,
    methods: Methods = None,
    source: Sources = None,
    target: Targets = None,
    protocol: Protocols = None,
    labels: Labels = "five_class",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the source, for k-fold and cross-domain.")] = 5,
    projection: Projection = "PCA",
    shots: Shots = None,
    repeats: Repeats = 100,
    without_replacement: WithoutReplacement = False,
    support: Support = None,
    target_labels: TargetLabels = None,
    few_shot: FewShot = None,
    beside: Beside = None,
    finetuning: Finetuning = None,
    labelling: Labelling = None,
    unlabelled: Unlabelled = None,
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
    workers: Workers = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods x protocols x sources x targets, or what networks cost. The same command resumes a stopped run.

    A setting for one method is written METHOD.KEY=VALUE. What a change leaves alone is not run again.
    """
    talk, said, chosen = Talk(quiet, as_json), _said(context), list(protocol or ())
    trains = methods is not None or config is not None
    if chosen == ["efficiency"] and not trains:
        _check_options(said, chosen, trains=False)
        shared = {"out": out, "min_per_class": min_per_class, "seed": seed, "overwrite": overwrite, "say": talk.say}
        how = {"n_classes": classes, "n_rounds": rounds, "n_threads": threads, "drop_seen": drop_seen}
        _costs(talk, backbone or [], bundle or [], _one_target(target or []), shared | how)
    elif bundle and chosen and set(chosen) <= set(ON_BUNDLE) and not trains:
        _on_bundle(talk, context, bundle, chosen, said)
    else:
        asked = _config(config, _given(context), said)
        _check_options(said, asked.protocols, trains=True)
        _methods(talk, asked, {"out": out, "n_workers": workers, "overwrite": overwrite})


def _costs(talk: Talk, backbones: list[str], bundles: list[Path], target: str | None, shared: dict[str, Any]) -> None:
    from hemalens.benchmark.efficiency.measure import efficiency as run

    show_report(talk, run(backbones, bundles, target_spec=target, **shared), shared["out"])


def _on_bundle(talk: Talk, context: typer.Context, bundles: list[Path], protocols: list[str], said: Sequence[str]) -> None:
    """The protocols of a new laboratory with a saved bundle; the parts of the configuration are read as with methods."""
    from hemalens.benchmark.config import BenchmarkConfig
    from hemalens.benchmark.saved_bundle import bundle_curves as run
    from hemalens.benchmark.tasks import curves_of

    _check_options(said, protocols, trains=False, taken=FOR_BUNDLES)
    if len(bundles) > 1:
        raise InputError(
            "these protocols take one bundle", got=", ".join(map(str, bundles)), remedy="Run it once for each."
        )
    given, options = context.params, _given(context)
    values: dict[str, Any] = {"methods": (), "sources": (), "seed": given["seed"]}
    for option in said:
        if option in OF_CURVES:
            _put(values, option, options[option])
    asked = BenchmarkConfig.from_mapping(values, source="benchmark")
    curves = {protocol: curves_of(asked, protocol) for protocol in dict.fromkeys(protocols)}  # type: ignore[arg-type]
    shared = {key: given[key] for key in ("out", "min_per_class", "seed", "overwrite")}
    drawn = {protocol: curve for protocol, curve in curves.items() if curve is not None}
    show_report(talk, run(bundles[0], given["target"] or [], drawn, **shared, say=talk.say), given["out"])


def _methods(talk: Talk, config: BenchmarkConfig, shared: dict[str, Any]) -> None:
    from hemalens.benchmark.run import benchmark as run

    with watching(talk) as watch:
        report = run(config, **shared, say=talk.say, watch=watch)
    show_report(talk, report, shared["out"])
    if report.failures:
        raise HemalensError(
            f"{len(report.failures)} part(s) of the benchmark failed",
            got=report.failures[0].error.rstrip("."),
            remedy="They are in the report; the same command tries them again.",
        )
