"""`hemalens benchmark`: compare methods, test one saved bundle in new laboratories, or measure networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hemalens.cli.benchmark_options import (
    BUNDLE_OPTIONS,
    BUNDLE_PROTOCOLS,
    CONFIG_OPTIONS,
    DEFAULTS,
    DETECTOR_OPTIONS,
    EFFICIENCY_OPTIONS,
    LEFT_OUT_PROTOCOL,
    UNTRAINED_OPTIONS,
    given_options,
    protocols_using,
)
from hemalens.cli.options import (
    Auxiliary,
    CellImage,
    DropSeen,
    DropUnreadable,
    FewShot,
    FollowLinks,
    Json,
    Labels,
    MinPerClass,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Set,
    Talk,
)
from hemalens.cli.report_tables import show_report
from hemalens.cli.trial_table import trial_progress
from hemalens.errors import HemalensError, InputError

if TYPE_CHECKING:
    from hemalens.benchmark.config import BenchmarkConfig
    from hemalens.evaluation.results import Report

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The whole benchmark as YAML; options override it.")
]
Methods = Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Methods, separated by commas.")]
Sources = Annotated[list[str] | None, typer.Option("--source", metavar="SPEC", help="Training data; repeatable.")]
Targets = Annotated[list[str] | None, typer.Option("--target", metavar="SPEC", help="Test data; repeatable.")]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="How data are split and tested: k-fold, cross-domain (default), k-shot, finetuning (all weights), labelling "
        "(active learning), unlabelled (adaptation without labels), fractions (of the labels), efficiency (cost of "
        "networks), leave-one-laboratory-out (trained on all others; also detectors, on fields). Repeatable.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes at once, where memory allows.")]
Folds = Annotated[
    int | None, typer.Option(min=2, metavar="N", show_default=DEFAULTS["--folds"], help="Folds of the source.")
]
Projection = Annotated[
    Literal["PCA", "UMAP"] | None,
    typer.Option(
        metavar="PCA|UMAP",
        show_default=DEFAULTS["--projection"],
        help="Plane of the report's embeddings; UMAP needs the extra `figures`.",
    ),
]
Backbones = Annotated[
    list[str] | None,
    typer.Option("--backbone", metavar="NAME[@PX]", help="A timm network with random weights; repeatable."),
]
Bundles = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="A saved bundle instead of --methods: one for k-shot, finetuning, labelling and unlabelled, one or more for "
        "efficiency.",
    ),
]
Classes = Annotated[
    int | None, typer.Option(min=1, metavar="N", show_default=DEFAULTS["--classes"], help="Classes of the backbones' head.")
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", show_default=DEFAULTS["--rounds"], help="Rounds of timing in which all networks take turns."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", show_default=DEFAULTS["--threads"], help="Threads of a network.")
]
Shots = Annotated[str | None, typer.Option(metavar="K,K", show_default=DEFAULTS["--shots"], help="Images a class.")]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=2, metavar="N", show_default=DEFAULTS["--repeats"], help="Drawings of the labelled images for each k."
    ),
]
WithoutReplacement = Annotated[
    bool, typer.Option("--without-replacement", help="Draw no image twice (published: with replacement).")
]
Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="BUNDLE", help="Concatenate the embedding of this bundle, or of the word imagenet; repeatable."),
]
Support = Annotated[
    str | None, typer.Option(metavar="SPEC", help="Draw labelled images from here, and test all of the target.")
]
TargetLabels = Annotated[
    str | None, typer.Option(metavar="MAP", help="Label map of the target, where it is not that of the source.")
]
Finetuning = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="shots=1,10; repeats=3; beside=imagenet; training=steps=100,optimiser.learning_rate=0.0005; repeatable.",
    ),
]
Labelling = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="budgets=8,16,24,40,60,80; strategies=random,typical; repeats, test_fraction, few_shot.rule; repeatable.",
    ),
]
Unlabelled = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="images=8,16,32,64,128; pieces=neighbours,class_means; repeats, test_fraction; repeatable.",
    ),
]
LeaveOneOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-one-laboratory-out",
        metavar="KEY=VALUE",
        help="seeds=3; adapt=none,unlabelled,shots,unlabelled+shots; shots=10; repeats=5; imitated, mixes, images; "
        "repeatable.",
    ),
]
Fractions = Annotated[
    str | None,
    typer.Option(metavar="F,F", show_default=DEFAULTS["--fractions"], help="Fractions of the training part."),
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", show_default=DEFAULTS["--seeds"], help="Draws and trainings of each fraction."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail where a fraction leaves a class without an image.")]
Selection = Annotated[
    Literal["validation", "published-selection"] | None,
    typer.Option(
        metavar="NAME",
        show_default=DEFAULTS["--selection"],
        help="Images that choose the epoch: validation, or published-selection, which uses the test set (optimistic).",
    ),
]


def benchmark(
    *,
    context: typer.Context,
    config: ConfigFile = None,
    methods: Methods = None,
    source: Sources = None,
    target: Targets = None,
    protocol: Protocols = None,
    out: Out,
    folds: Folds = None,
    shots: Shots = None,
    repeats: Repeats = None,
    without_replacement: WithoutReplacement = False,
    support: Support = None,
    target_labels: TargetLabels = None,
    few_shot: FewShot = None,
    beside: Beside = None,
    finetuning: Finetuning = None,
    labelling: Labelling = None,
    unlabelled: Unlabelled = None,
    leave_one_laboratory_out: LeaveOneOut = None,
    fractions: Fractions = None,
    seeds: Seeds = None,
    strict: Strict = False,
    selection: Selection = None,
    backbone: Backbones = None,
    bundle: Bundles = None,
    drop_seen: DropSeen = False,
    classes: Classes = None,
    rounds: Rounds = None,
    threads: Threads = None,
    labels: Labels = "five_class",
    projection: Projection = None,
    auxiliary: Auxiliary = None,
    cell_image: CellImage = None,
    min_per_class: MinPerClass = 1,
    settings: Set = None,
    seed: Seed = 0,
    drop_unreadable: DropUnreadable = False,
    follow_links: FollowLinks = False,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods x protocols x sources x targets in one report, or measure the cost of networks.

    The same command resumes a stopped run. A setting of one method is METHOD.KEY=VALUE.

    \b
    Examples:
    hemalens benchmark --methods linear_probe,finetune --source acevedo20:DATA --target folder:other_lab --out runs/compare
    hemalens benchmark --bundle runs/robust/bundle --protocol k-shot --target folder:other_lab --out runs/k_shot
    """
    _dispatch(Talk(quiet, as_json), given_options(context), config, out, n_workers=workers, overwrite=overwrite)


def _dispatch(
    talk: Talk, given: dict[str, Any], config: Path | None, out: Path, *, n_workers: int, overwrite: bool
) -> None:
    """The kind of benchmark that the options ask for."""
    named, trains = list(given.get("--protocol", ())), "--methods" in given or config is not None
    if named == ["efficiency"] and not trains:
        _measure_networks(talk, given, out, overwrite=overwrite)
    elif LEFT_OUT_PROTOCOL in named and _on_fields(given):
        _compare_detectors(talk, given, named, out, overwrite=overwrite)
    elif "--bundle" in given and named and set(named) <= set(BUNDLE_PROTOCOLS) and not trains:
        _test_bundle(talk, given, named, out, overwrite=overwrite)
    else:
        _compare_methods(talk, config, given, out, n_workers=n_workers, overwrite=overwrite)


def _on_fields(given: dict[str, Any]) -> bool:
    """Whether a benchmark is one of detectors: by its method, or by sources that are all fields."""
    from hemalens.runs.evaluate_fields import is_fields

    sources = given.get("--source", ())
    return given.get("--methods") == "detector" or (bool(sources) and all(map(is_fields, sources)))


def _compare_methods(
    talk: Talk, file: Path | None, given: dict[str, Any], out: Path, *, n_workers: int, overwrite: bool
) -> None:
    from hemalens.benchmark.run import benchmark as run

    config = _config(file, given)
    _check_options(given, config.protocols)
    for option in UNTRAINED_OPTIONS:
        if option in given:
            raise InputError(
                f"{option} is for benchmarks without methods", remedy="Leave it out: the models of the methods are timed."
            )
    with trial_progress(talk) as on_trial:
        report = run(config, out=out, n_workers=n_workers, overwrite=overwrite, say=talk.say, on_trial=on_trial)
    _show(talk, report, out)


def _show(talk: Talk, report: Report, out: Path) -> None:
    """Print a report; raises `HemalensError` where parts of it failed."""
    show_report(talk, report, out)
    if report.failures:
        raise HemalensError(
            f"{len(report.failures)} part(s) of the benchmark failed",
            got=report.failures[0].error.rstrip("."),
            remedy="They are in the report; the same command tries them again.",
        )


def _compare_detectors(talk: Talk, given: dict[str, Any], protocols: list[str], out: Path, *, overwrite: bool) -> None:
    """Detectors trained without each laboratory in turn."""
    from hemalens.benchmark.detectors import DETECTOR, DetectorBenchmark, benchmark_detectors

    _check_options(given, [LEFT_OUT_PROTOCOL], allowed=DETECTOR_OPTIONS)
    methods = given.get("--methods", DETECTOR)
    if set(protocols) != {LEFT_OUT_PROTOCOL} or methods != DETECTOR:
        raise InputError(
            f"on fields, the protocol {LEFT_OUT_PROTOCOL} is for detectors, and stands alone",
            expected=f"--methods {DETECTOR} --protocol {LEFT_OUT_PROTOCOL}",
            got=f"--methods {methods} --protocol {','.join(protocols)}",
            remedy="Run the others by themselves.",
        )
    if "--source" not in given:
        raise InputError("a benchmark needs sources", remedy="Use --source, as in --source yolo:fields.")
    values = {"sources": given["--source"], "settings": given.get("--set", ()), "seed": given.get("--seed", 0)}
    config = DetectorBenchmark.from_mapping(values, source="benchmark")
    _show(talk, benchmark_detectors(config, out=out, overwrite=overwrite, say=talk.say), out)


def _test_bundle(talk: Talk, given: dict[str, Any], protocols: list[str], out: Path, *, overwrite: bool) -> None:
    """Protocols on a new laboratory with a saved bundle."""
    from hemalens.benchmark.config import BenchmarkConfig
    from hemalens.benchmark.protocols.laboratory import LaboratoryProtocol
    from hemalens.benchmark.saved_bundle import benchmark_bundle

    _check_options(given, protocols, allowed=BUNDLE_OPTIONS)
    bundles, values = given["--bundle"], _values(given)
    if len(bundles) > 1:
        raise InputError(
            "these protocols take one bundle", got=", ".join(map(str, bundles)), remedy="Run it once for each."
        )
    config = BenchmarkConfig.from_mapping({"sources": (), **values, "methods": ()}, source="benchmark")
    chosen = {name: config.protocol(name) for name in dict.fromkeys(protocols)}
    report = benchmark_bundle(
        bundles[0],
        config.targets,
        {name: each for name, each in chosen.items() if isinstance(each, LaboratoryProtocol)},
        out=out,
        min_per_class=config.min_per_class,
        seed=config.seed,
        overwrite=overwrite,
        say=talk.say,
    )
    show_report(talk, report, out)


def _measure_networks(talk: Talk, given: dict[str, Any], out: Path, *, overwrite: bool) -> None:
    """The protocol efficiency without methods."""
    from hemalens.benchmark.efficiency.config import NetworksConfig
    from hemalens.benchmark.efficiency.measure import measure_networks

    _check_options(given, ["efficiency"], allowed=tuple(EFFICIENCY_OPTIONS))
    targets = given.get("--target", [])
    if len(targets) > 1:
        raise InputError(
            "the protocol efficiency without --methods takes one target",
            got=", ".join(targets),
            remedy="Run it once for each.",
        )
    values = {key: given[option] for option, key in EFFICIENCY_OPTIONS.items() if key and option in given}
    if targets:
        values["target"] = targets[0]
    report = measure_networks(NetworksConfig.from_mapping(values), out=out, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)


def _check_options(given: dict[str, Any], protocols: Sequence[str], *, allowed: Sequence[str] | None = None) -> None:
    """Raise `InputError` for an option that no protocol uses, or that is not among `allowed`."""
    named = " and ".join(protocols)
    for option in given:
        users = protocols_using(option)
        if users and not set(users) & set(protocols):
            raise InputError(
                f"{option} does not apply to the protocol {named}",
                remedy=f"Leave it out, or use --protocol {' or '.join(users)}.",
            )
        if allowed is not None and option not in allowed:
            raise InputError(
                f"{option} does not apply to the protocol {named}{'' if '--methods' in allowed else ' without --methods'}",
                remedy=f"Leave it out; allowed are {', '.join(sorted(allowed))}.",
            )


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """The configuration's values that the options set."""
    values: dict[str, Any] = {}
    for option, text in given.items():
        if option in CONFIG_OPTIONS:
            (*parts, last), read = CONFIG_OPTIONS[option]
            place = values
            for part in parts:
                place = place.setdefault(part, {})
            place[last] = read(text)
    return values


def _config(file: Path | None, given: dict[str, Any]) -> BenchmarkConfig:
    """The file's configuration, overridden by the options; settings follow those of the file."""
    from hemalens.benchmark.config import BenchmarkConfig, read_yaml

    values = read_yaml(file) if file else {}
    for key, value in _values(given).items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict) and key != "auxiliary"
        values[key] = values[key] | value if both else value
    if "--set" in given:
        before = values.get("settings", [])
        values["settings"] = [*([before] if isinstance(before, str) else before), *given["--set"]]
    for option, key in (("--methods", "methods"), ("--source", "sources")):
        if key not in values:
            raise InputError(f"a benchmark needs {key}", remedy=f"Use {option}, or name them in a --config file.")
    return BenchmarkConfig.from_mapping(values, source=repr(str(file)) if file else "benchmark")
