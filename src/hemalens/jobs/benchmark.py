"""Compare methods under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hemalens.bundle import Bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.errors import InputError
from hemalens.evaluation.k_shot import KShotPlan
from hemalens.evaluation.protocols import FitFold, cross_domain, fit_whole
from hemalens.evaluation.results import DataCard, Evaluation, KShot, Report
from hemalens.graphs import cut
from hemalens.jobs.k_shot import NewLaboratory, check_laboratories, embed_laboratory, open_laboratories
from hemalens.jobs.prepare import Prepared, prepare
from hemalens.jobs.reporting import make_report
from hemalens.jobs.runs import claim_run, finish_run, fit_in
from hemalens.jobs.train import Say
from hemalens.methods import METHODS, Method, find_method
from hemalens.segmenters import cell_image_stages
from hemalens.stages import CellImageStage

Protocol = Literal["k-fold", "cross-domain", "k-shot"]


def benchmark(
    method_names: Sequence[str],
    source_spec: str,
    *,
    target_specs: Sequence[str] = (),
    protocol: Protocol,
    out: Path,
    labels: str = "five_class",
    n_folds: int = 5,
    k_shot: KShotRequest | None = None,
    min_per_class: int = 1,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    drop_unreadable: bool = False,
    cell_image: str | None = None,
    say: Say = lambda text: None,
) -> Report:
    """Run each method under the protocol on the same folds, and write one report into `out`; the same call resumes.

    A setting is METHOD.key=value, or key=value for all methods. `min_per_class` leaves smaller classes out, of the
    source's folds and of each target's test. `cell_image` names the segmenter that cuts the cells out first. `k_shot` is
    for the protocol of that name only; its drawings follow `seed`.
    """
    _check_request(method_names, protocol, target_specs, k_shot)
    chosen = [find_method(name) for name in dict.fromkeys(method_names)]
    configs = {method.name: _config_of(method, settings, {m.name for m in chosen}) for method in chosen}
    stages = cell_image_stages(cell_image)
    wanted: dict[str, Any] = {"labels": labels, "min_per_class": min_per_class, "stages": stages}
    source = prepare(source_spec, role="source", unreadable="drop" if drop_unreadable else "refuse", **wanted)
    task: _Folds | _KShot = (
        _KShot.open(source, target_specs, (k_shot or KShotRequest()).seeded(seed), **wanted)
        if protocol == "k-shot"
        else _Folds.open(source, target_specs, n_folds, **wanted)
    )
    for note in (*source.notes, *task.notes):
        say(note)
    request: dict[str, Any] = {
        "job": protocol,
        "configs": {name: config.model_dump(mode="json") for name, config in configs.items()},
        "source": source.dataset.fingerprint,
        "min_per_class": min_per_class,
        "before": [stage.digest for stage in stages],
        "seed": seed,
        **task.request(),
    }
    claim_run(out, request, overwrite=overwrite, say=say)
    found = _run_all(task, {method: configs[method.name] for method in chosen}, out / "fits", seed, say)
    report = make_report(
        f"{', '.join(configs)}: {protocol} from {source.dataset.name}",
        f"{protocol}, {task.described}",
        evaluations=found.evaluations,
        k_shot=found.k_shot,
        data=[source.card, *task.cards],
        methods=request["configs"],
        seed=seed,
    )
    finish_run(out, report)
    return report


@dataclass(frozen=True, slots=True)
class KShotRequest:
    """What the protocol k-shot is asked: the plan, a pool of labelled images of its own, the target's label map."""

    plan: KShotPlan = field(default_factory=KShotPlan)
    support_spec: str | None = None
    target_labels: str | None = None

    def seeded(self, seed: int) -> KShotRequest:
        """The same with drawings that follow `seed`."""
        return replace(self, plan=replace(self.plan, seed=seed))


@dataclass(slots=True)
class _Found:
    evaluations: list[Evaluation] = field(default_factory=list)
    k_shot: list[KShot] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Folds:
    """k-fold on the source; each fold's model also on every target."""

    source: Prepared
    targets: Sequence[Prepared]
    n_folds: int
    min_per_class: int

    @classmethod
    def open(
        cls,
        source: Prepared,
        specs: Sequence[str],
        n_folds: int,
        *,
        labels: str,
        min_per_class: int,
        stages: tuple[CellImageStage, ...],
    ) -> _Folds:
        targets = [prepare(spec, labels=labels, role="target", unreadable="keep", stages=stages) for spec in specs]
        return cls(source, targets, n_folds, min_per_class)

    @property
    def notes(self) -> list[str]:
        return [note for target in self.targets for note in target.notes]

    @property
    def cards(self) -> list[DataCard]:
        return [target.card for target in self.targets]

    @property
    def described(self) -> str:
        return f"{self.n_folds} folds" + (", each fold's model on every target whole" if self.targets else "")

    def request(self) -> dict[str, Any]:
        return {"targets": [target.dataset.fingerprint for target in self.targets], "n_folds": self.n_folds}

    def run(self, method: Method, fit: FitFold, run_dir: Path, seed: int, found: _Found) -> None:
        found.evaluations += cross_domain(
            fit,
            self.source.dataset,
            [target.dataset for target in self.targets],
            n_folds=self.n_folds,
            seed=seed,
            run_dir=run_dir,
            min_per_class=self.min_per_class,
        )


@dataclass(frozen=True, slots=True)
class _KShot:
    """One embedder from the whole source, but for a validation part; a few labelled images of every target."""

    source: Prepared
    laboratories: list[NewLaboratory]
    asked: KShotRequest

    @classmethod
    def open(
        cls,
        source: Prepared,
        specs: Sequence[str],
        asked: KShotRequest,
        *,
        labels: str,
        min_per_class: int,
        stages: tuple[CellImageStage, ...],
    ) -> _KShot:
        found = open_laboratories(
            specs,
            asked.support_spec,
            labels=asked.target_labels or labels,
            min_per_class=min_per_class,
            stages=stages,
        )
        check_laboratories(found, asked.plan, source.dataset)
        return cls(source, found, asked)

    @property
    def notes(self) -> list[str]:
        return [note for laboratory in self.laboratories for note in laboratory.notes]

    @property
    def cards(self) -> list[DataCard]:
        return [card for laboratory in self.laboratories for card in laboratory.cards]

    @property
    def described(self) -> str:
        plan = self.asked.plan
        return f"{', '.join(map(str, plan.shots))} labelled images a class, {plan.n_repeats} repeats, {plan.classifier}" + (
            " (transductive)" if plan.classifier.transductive else ""
        )

    def request(self) -> dict[str, Any]:
        parts = [part for lab in self.laboratories for part in (lab.target, lab.pool) if part is not None]
        plan = {**asdict(self.asked.plan), "classifier": self.asked.plan.classifier.model_dump(mode="json")}
        return {"targets": [part.fingerprint for part in parts], "k_shot": plan}

    def run(self, method: Method, fit: FitFold, run_dir: Path, seed: int, found: _Found) -> None:
        name = self.source.dataset.name
        bundle = fit_whole(fit, self.source.dataset, seed=seed, run_dir=run_dir)
        encoder = cut(bundle.graph, ["image"], ["embedding"])
        for laboratory in self.laboratories:
            seen = embed_laboratory(laboratory, encoder, seed=seed)
            found.k_shot.append(seen.score(self.asked.plan, method=method.name, source=name))


def _run_all(task: _Folds | _KShot, configs: Mapping[Method, StrictConfig], fits: Path, seed: int, say: Say) -> _Found:
    found = _Found()
    for method, config in configs.items():
        say(f"{method.name}: {task.described}")
        task.run(method, _fit_fold(method, config, say), fits / method.name, seed, found)
    return found


def _check_request(
    method_names: Sequence[str], protocol: str, target_specs: Sequence[str], k_shot: KShotRequest | None
) -> None:
    if k_shot is not None and protocol != "k-shot":
        raise InputError(
            f"the protocol {protocol} memorises no images",
            remedy="Leave the options of k-shot out, or say --protocol k-shot.",
        )
    if not method_names:
        raise InputError("no method is named", expected=f"one or more of {', '.join(METHODS)}", remedy="Say --methods A,B.")
    if protocol != "k-fold" and not target_specs:
        raise InputError(f"the protocol {protocol} needs a target", remedy="Name one or more with --target SPEC.")
    if protocol == "k-fold" and target_specs:
        raise InputError(
            "the protocol k-fold takes no target", remedy="Leave --target out, or say --protocol cross-domain or k-shot."
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
