"""The cost of networks: counted, timed in one run, and scored where there are labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hemalens.benchmark.efficiency.config import EfficiencyConfig, NetworksConfig
from hemalens.benchmark.efficiency.networks import (
    Backbone,
    Network,
    SavedModel,
    named_backbones,
    saved_models,
    time_networks,
)
from hemalens.bundle.bundle import bundle_folder, open_bundle
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.open import spec_path
from hemalens.errors import InputError
from hemalens.evaluation import formatting
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import DataCard, Efficiency, Evaluation, Report, Timing
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs


def measure_networks(config: NetworksConfig, *, out: Path, overwrite: bool = False, say: Say = lambda text: None) -> Report:
    """Count and time backbones and bundles, test the bundles on labelled images, and write a report into `out`.

    Raises `SplitError` for an image that a bundle has seen, `ConfigError` for an unknown backbone or input size, and
    `BundleError` for a folder that is no bundle. A stopped run begins anew, since all networks are timed together.
    """
    networks: list[Network] = [
        *named_backbones(config.backbones, config.classes, config.seed),
        *saved_models([Path(path) for path in config.bundles]),
    ]
    _check(networks, config.target)
    tests = _open_tests(networks, config.target, drop_seen=config.drop_seen)
    report_inputs(say, tests.values())
    counted = [network.count() for network in networks]
    n_threads = config.n_threads
    request = {
        "job": "efficiency",
        "networks": [network.request for network in networks],
        "target": sorted({test.dataset.fingerprint for test in tests.values()}),
        "n_rounds": config.rounds,
        "n_threads": n_threads,
        "min_per_class": config.min_per_class,
        "seed": config.seed,
    }
    inputs = [*map(bundle_folder, config.bundles), *([spec_path(config.target)] if config.target else [])]
    with open_run(out, request, overwrite=overwrite, inputs=inputs, say=say) as folder:
        evaluations = _evaluate(networks, tests, seed=config.seed, min_per_class=config.min_per_class)
        how = f"{formatting.counted(config.rounds, 'round')}, {formatting.counted(n_threads, 'thread')}"
        say(f"timing {formatting.counted(len(networks), 'network')}: {how}")
        rows = _rows(networks, counted, time_networks(networks, config.rounds, n_threads), evaluations)
        report = make_report(
            f"Cost of {formatting.counted(len(networks), 'network')}",
            f"efficiency, all networks taking turns: {how}",
            Results(efficiency=rows, evaluations=list(evaluations.values()), remarks=_remarks(networks, rows)),
            data=_cards(tests),
            methods={network.name: network.settings for network in networks},
            seed=config.seed,
        )
        return finish_run(folder, report)


def measure_bundles(
    named: Mapping[str, tuple[Path, Evaluation | None]], config: EfficiencyConfig, *, say: Say = lambda text: None
) -> list[Efficiency]:
    """Count and time bundles under the given names, each with an evaluation of its method."""
    if not named:
        return []
    networks = [SavedModel(name, open_bundle(path)) for name, (path, _) in named.items()]
    say(f"timing {formatting.counted(len(networks), 'model')}: {formatting.counted(config.rounds, 'round')}")
    evaluations = {name: evaluation for name, (_, evaluation) in named.items() if evaluation is not None}
    counted = [network.count() for network in networks]
    return _rows(networks, counted, time_networks(networks, config.rounds, config.n_threads), evaluations)


def _rows(
    networks: Sequence[Network],
    counted: Sequence[Efficiency],
    timings: Sequence[Sequence[Timing]],
    evaluations: Mapping[str, Evaluation],
) -> list[Efficiency]:
    return [
        row.model_copy(update={"timings": tuple(times)} | _scores(network, evaluations))
        for network, row, times in zip(networks, counted, timings, strict=True)
    ]


def _check(networks: Sequence[Network], target_spec: str | None) -> None:
    if not networks:
        raise InputError(
            "no network is named", expected="backbones or bundles", remedy="Use --backbone NAME or --bundle DIR."
        )
    if target_spec is not None and not any(isinstance(network, SavedModel) for network in networks):
        raise InputError(
            "only a bundle can be tested on a target: a backbone has random weights",
            remedy="Leave --target out, or name a --bundle.",
        )


# --------------------------------------------------------------------------------------------------------------- scores


def _open_tests(networks: Sequence[Network], spec: str | None, *, drop_seen: bool) -> dict[str, Inputs]:
    """The target under the label map of each bundle, by the bundle's name; raises `SplitError` for a leak.

    With `drop_seen` all are tested without the images that any of them has seen.
    """
    tests: dict[str, Inputs] = {}
    seen = {content for network in networks if isinstance(network, SavedModel) for content in network.bundle.seen}
    for network in networks:
        if spec is None or isinstance(network, Backbone):
            continue
        bundle = network.bundle
        known = bundle.manifest.labels
        given = open_inputs(
            spec,
            labels=bundle.manifest.label_map,
            role="test",
            unreadable="keep",
            # an adapted bundle may know classes that its label map has no place for
            keep=lambda label, known=known: label in known,  # type: ignore[misc]
            stages=bundle.stages,
        )
        tests[network.name] = given.unseen(seen) if drop_seen else given
        refuse_leaks(bundle.seen, tests[network.name].dataset)
    return tests


def _evaluate(
    networks: Sequence[Network], tests: dict[str, Inputs], *, seed: int, min_per_class: int
) -> dict[str, Evaluation]:
    """The evaluation of each bundle that is tested, by its name."""
    found: dict[str, Evaluation] = {}
    for network in networks:
        if isinstance(network, Backbone) or network.name not in tests:
            continue
        dataset = tests[network.name].dataset
        source = network.bundle.manifest.trained_on
        evaluation = evaluate(
            [network.bundle], [dataset], target=dataset, source_name=source, seed=seed, min_per_class=min_per_class
        )
        # several bundles may be of one method
        task = evaluation.name.removeprefix(f"{evaluation.method}: ")
        found[network.name] = evaluation.model_copy(update={"name": f"{network.name}: {task}", "method": network.name})
    return found


def _scores(network: Network, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The fields of a row that come from its bundle's evaluation; scores over other classes belong to another test."""
    evaluation = evaluations.get(network.name)
    if evaluation is None:
        return {}
    task = (evaluation.target, len(evaluation.tested_classes), len(evaluation.classes))
    same = [e.tested_classes for e in evaluations.values() if (e.target, len(e.tested_classes), len(e.classes)) == task]
    number = list(dict.fromkeys(same)).index(evaluation.tested_classes) + 1
    n_tested, n_classes = len(evaluation.tested_classes), len(evaluation.classes)
    classes = f"{n_tested} cell types" if n_tested == n_classes else f"{n_tested} of {n_classes} cell types"
    other = f", another choice ({number})" if number > 1 else ""
    return {
        "name": f"{network.name}, {formatting.TRANSDUCTIVE}" if evaluation.transductive else network.name,
        "tested_on": f"{evaluation.target}, {classes}{other}",
        "n_images": evaluation.n_images,
        "accuracy": evaluation.scores.accuracy,
        "balanced_accuracy": evaluation.scores.balanced_accuracy,
        "majority_rate": evaluation.scores.majority_rate,
    }


def _cards(tests: dict[str, Inputs]) -> list[DataCard]:
    """The card of each test once: bundles of one label map share it."""
    cards: list[DataCard] = []
    for test in tests.values():
        if test.card not in cards:
            cards.append(test.card)
    return cards


def _remarks(networks: Sequence[Network], rows: Sequence[Efficiency]) -> list[str]:
    """What the table does not show: precisions that were not timed, work that is not counted."""
    remarks = []
    in_torch = [timing for row in rows for timing in row.timings if timing.runtime == "torch"]
    if in_torch and not any(timing.precision == "bf16" for timing in in_torch):
        remarks.append("bf16 is not timed: the processor does not multiply it.")
    staged = [n.name for n in networks if isinstance(n, SavedModel) and n.bundle.manifest.before_graph]
    if staged:
        remarks.append(f"Cutting the cell out beforehand is neither counted nor timed: {formatting.listed(staged)}.")
    return remarks
