"""Compare methods under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hemalens.bundle import Bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.errors import InputError
from hemalens.evaluation.protocols import FitFold, cross_domain
from hemalens.evaluation.report import write_report
from hemalens.evaluation.results import Evaluation, Report
from hemalens.jobs.prepare import prepare
from hemalens.jobs.reporting import make_report
from hemalens.jobs.runs import claim_run, finish_run, fit_in
from hemalens.jobs.train import Say
from hemalens.methods import METHODS, Method, find_method
from hemalens.sampling import Unreadable

Protocol = Literal["k-fold", "cross-domain"]


def benchmark(
    method_names: Sequence[str],
    source_spec: str,
    *,
    target_specs: Sequence[str] = (),
    protocol: Protocol,
    out: Path,
    labels: str = "five_class",
    n_folds: int = 5,
    min_per_class: int = 1,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    drop_unreadable: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Run each method under the protocol on the same folds, and write one report into `out`; the same call resumes.

    A setting is METHOD.key=value, or key=value for all methods. `min_per_class` leaves smaller classes out, of the
    source's folds and of each target's test.
    """
    _check_request(method_names, protocol, target_specs)
    chosen = [find_method(name) for name in dict.fromkeys(method_names)]
    configs = {method.name: _config_of(method, settings, {m.name for m in chosen}) for method in chosen}
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    source = prepare(source_spec, labels=labels, role="source", unreadable=unreadable, min_per_class=min_per_class)
    targets = [prepare(spec, labels=labels, role="target", unreadable="keep") for spec in target_specs]
    for note in (note for given in (source, *targets) for note in given.notes):
        say(note)
    request = {
        "job": protocol,
        "configs": {name: config.model_dump(mode="json") for name, config in configs.items()},
        "source": source.dataset.fingerprint,
        "targets": [target.dataset.fingerprint for target in targets],
        "n_folds": n_folds,
        "min_per_class": min_per_class,
        "seed": seed,
    }
    if claim_run(out, request, overwrite=overwrite):
        say("going on with the stopped run")
    evaluations: list[Evaluation] = []
    for method in chosen:
        fit = _fit_fold(method, configs[method.name], say)
        run_dir, sets = out / "fits" / method.name, [target.dataset for target in targets]
        say(f"{method.name}: {n_folds} folds of {source.dataset.name}")
        evaluations += cross_domain(
            fit, source.dataset, sets, n_folds=n_folds, seed=seed, run_dir=run_dir, min_per_class=min_per_class
        )
    report = make_report(
        f"{', '.join(configs)}: {protocol} from {source.dataset.name}",
        f"{protocol}, {n_folds} folds" + (", each fold's model on every target whole" if targets else ""),
        evaluations=evaluations,
        data=[source.card, *(target.card for target in targets)],
        methods={name: config.model_dump(mode="json") for name, config in configs.items()},
        seed=seed,
    )
    write_report(report, out)
    finish_run(out)
    return report


def _check_request(method_names: Sequence[str], protocol: str, target_specs: Sequence[str]) -> None:
    if not method_names:
        raise InputError("no method is named", expected=f"one or more of {', '.join(METHODS)}", remedy="Say --methods A,B.")
    if protocol == "cross-domain" and not target_specs:
        raise InputError("the protocol cross-domain needs a target", remedy="Name one or more with --target SPEC.")
    if protocol == "k-fold" and target_specs:
        raise InputError(
            "the protocol k-fold takes no target", remedy="Leave --target out, or say --protocol cross-domain."
        )


def _config_of(method: Method, settings: Sequence[str], methods: set[str]) -> StrictConfig:
    own = []
    for setting in settings:
        prefix, dot, rest = setting.partition(".")
        if dot and "=" not in prefix and prefix in methods:
            if prefix == method.name:
                own.append(rest)
        else:
            own.append(setting)
    return method.config.load(None, own)


def _fit_fold(method: Method, config: StrictConfig, say: Say) -> FitFold:
    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{method.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_in(run_dir, method, train, validation=validation, config=config, rng=rng)

    return fit
