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
from hemalens.evaluation.fractions import FixedParts, FractionPlan, fraction_runs
from hemalens.evaluation.k_shot import KShotPlan
from hemalens.evaluation.protocols import FitFold, cross_domain, fit_whole
from hemalens.evaluation.results import DataCard, Evaluation, FractionCurve, KShot, Report
from hemalens.graphs import cut
from hemalens.jobs.auxiliary import mask_note, open_auxiliary, parts_for, refuse_learned
from hemalens.jobs.fractions import fixed_parts, tidy
from hemalens.jobs.k_shot import NewLaboratory, check_laboratories, embed_laboratory, open_laboratories
from hemalens.jobs.prepare import Prepared, prepare, tell
from hemalens.jobs.reporting import make_report
from hemalens.jobs.runs import asked_of, claim_run, finish_run, fit_in
from hemalens.jobs.train import Say
from hemalens.methods import METHODS, Method, find_method
from hemalens.sampling import Unreadable
from hemalens.segmenters import cell_image_stages
from hemalens.stages import CellImageStage

Protocol = Literal["k-fold", "cross-domain", "k-shot", "fractions"]


def benchmark(
    method_names: Sequence[str],
    source_spec: str,
    *,
    target_specs: Sequence[str] = (),
    protocol: Protocol,
    plan: Plan | None = None,
    out: Path,
    labels: str = "five_class",
    auxiliary_specs: Sequence[tuple[str, str]] = (),
    min_per_class: int = 1,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    drop_unreadable: bool = False,
    cell_image: str | None = None,
    say: Say = lambda text: None,
) -> Report:
    """Run each method under the protocol on the same folds, and write one report into `out`; the same call resumes.

    A setting is METHOD.key=value, or key=value for all. `min_per_class` leaves smaller classes out, of the source
    and of each target. Of `auxiliary_specs`, (role, name), each method gets those it has a use for. `cell_image` names the
    segmenter that cuts the cells out first. `plan` None is the published one; its drawings follow `seed`.
    """
    chosen = [find_method(name) for name in dict.fromkeys(method_names)]
    plan = _checked_plan(chosen, protocol, target_specs, plan)
    configs = {method.name: _config_of(method, settings, {m.name for m in chosen}) for method in chosen}
    stages = cell_image_stages(cell_image)
    wanted: dict[str, Any] = {"labels": labels, "min_per_class": min_per_class, "stages": stages}
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    source = prepare(source_spec, role="source", unreadable=unreadable, **wanted)
    task = _open_task(source, target_specs, plan, seed, **wanted)
    more = open_auxiliary(chosen, auxiliary_specs, labels=labels, unreadable=unreadable, stages=stages)
    auxiliary = {role: each.dataset for role, each in more.items()}
    refuse_learned(chosen, auxiliary, [source.dataset, *task.tested])
    about_masks = [mask_note(config, source.dataset) for config in configs.values()]
    tell(say, [source, *more.values()], *task.notes, *about_masks)
    request: dict[str, Any] = {
        "job": protocol,
        "configs": [asked_of(method, configs[method.name]) for method in chosen],
        "source": source.dataset.fingerprint,
        "auxiliary": {role: dataset.fingerprint for role, dataset in auxiliary.items()},
        "min_per_class": min_per_class,
        "before": [stage.digest for stage in stages],
        "seed": seed,
    }
    claim_run(out, request | task.request(), overwrite=overwrite, say=say)
    fits = {m: _fit_fold(m, configs[m.name], parts_for(m, auxiliary), say) for m in chosen}
    found = _run_all(task, fits, out / "fits", seed, say)
    report = make_report(
        f"{', '.join(configs)}: {protocol} from {source.dataset.name}",
        f"{protocol}, {task.described}",
        evaluations=found.evaluations,
        k_shot=found.k_shot,
        fractions=found.fractions,
        data=[source.card, *task.cards, *(each.card for each in more.values())],
        methods={name: config.model_dump(mode="json") for name, config in configs.items()},
        seed=seed,
    )
    return finish_run(out, report)


@dataclass(frozen=True, slots=True)
class Folds:
    """What the protocols k-fold and cross-domain are asked."""

    n_folds: int = 5


@dataclass(frozen=True, slots=True)
class KShotRequest:
    """What the protocol k-shot is asked: the plan, a pool of labelled images of its own, the target's label map."""

    plan: KShotPlan = field(default_factory=KShotPlan)
    support_spec: str | None = None
    target_labels: str | None = None

    def seeded(self, seed: int) -> KShotRequest:
        """The same with drawings that follow `seed`."""
        return replace(self, plan=replace(self.plan, seed=seed))


Plan = Folds | KShotRequest | FractionPlan


@dataclass(slots=True)
class _Found:
    evaluations: list[Evaluation] = field(default_factory=list)
    k_shot: list[KShot] = field(default_factory=list)
    fractions: list[FractionCurve] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _OnTargets:
    """A source, and targets that are tested whole."""

    source: Prepared
    targets: Sequence[Prepared]

    @property
    def notes(self) -> list[str]:
        return [note for target in self.targets for note in target.notes]

    @property
    def cards(self) -> list[DataCard]:
        return [target.card for target in self.targets]

    @property
    def tested(self) -> list[CellDataset]:
        return [target.dataset for target in self.targets]


@dataclass(frozen=True, slots=True)
class _Folds(_OnTargets):
    """k-fold on the source; each fold's model also on every target."""

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
    def tested(self) -> list[CellDataset]:
        return [laboratory.target for laboratory in self.laboratories]

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


@dataclass(frozen=True, slots=True)
class _Fractions(_OnTargets):
    """The source in fractions; one validation part, one test part and every target, the same for all of them."""

    parts: FixedParts
    plan: FractionPlan

    @classmethod
    def open(
        cls,
        source: Prepared,
        specs: Sequence[str],
        plan: FractionPlan,
        *,
        labels: str,
        min_per_class: int,
        stages: tuple[CellImageStage, ...],
    ) -> _Fractions:
        wanted: dict[str, Any] = {"labels": labels, "min_per_class": min_per_class, "stages": stages}
        targets = [prepare(spec, role="target", unreadable="keep", **wanted) for spec in specs]
        parts = fixed_parts(source.dataset, [target.dataset for target in targets], seed=plan.seed)
        parts.check(plan)
        return cls(source, targets, parts, plan)

    @property
    def described(self) -> str:
        shown = ", ".join(f"{100 * fraction:g} %" for fraction in self.plan.fractions)
        return f"{shown} of {len(self.parts.train)} training images, {self.plan.n_seeds} seeds"

    def request(self) -> dict[str, Any]:
        return {"targets": [t.dataset.fingerprint for t in self.targets], "fractions": asdict(self.plan)}

    def run(self, method: Method, fit: FitFold, run_dir: Path, seed: int, found: _Found) -> None:
        name = self.source.dataset.name
        runs = fraction_runs(tidy(fit), self.parts, self.plan, method=method.name, source=name, run_dir=run_dir)
        found.fractions += [run.curve for run in runs]


_Task = _Folds | _KShot | _Fractions


def _open_task(source: Prepared, target_specs: Sequence[str], plan: Plan, seed: int, **wanted: Any) -> _Task:
    if isinstance(plan, KShotRequest):
        return _KShot.open(source, target_specs, plan.seeded(seed), **wanted)
    if isinstance(plan, FractionPlan):
        return _Fractions.open(source, target_specs, replace(plan, seed=seed), **wanted)
    return _Folds.open(source, target_specs, plan.n_folds, **wanted)


def _run_all(task: _Task, fits: Mapping[Method, FitFold], folder: Path, seed: int, say: Say) -> _Found:
    found = _Found()
    for method, fit in fits.items():
        say(f"{method.name}: {task.described}")
        task.run(method, fit, folder / method.name, seed, found)
    return found


PLANS: Mapping[str, type[Plan]] = {
    "k-fold": Folds,
    "cross-domain": Folds,
    "k-shot": KShotRequest,
    "fractions": FractionPlan,
}


def _checked_plan(methods: Sequence[Method], protocol: str, target_specs: Sequence[str], plan: Plan | None) -> Plan:
    """The plan, or the protocol's own; raises `InputError` for one of another protocol, or too few or too many targets."""
    wanted = PLANS[protocol]
    if plan is not None and not isinstance(plan, wanted):
        other, what = {
            Folds: ("k-fold", "has no folds"),
            KShotRequest: ("k-shot", "memorises no images"),
            FractionPlan: ("fractions", "draws no fractions"),
        }[type(plan)]
        raise InputError(
            f"the protocol {protocol} {what}", remedy=f"Leave the options of {other} out, or say --protocol {other}."
        )
    if not methods:
        raise InputError("no method is named", expected=f"one or more of {', '.join(METHODS)}", remedy="Say --methods A,B.")
    if protocol in ("cross-domain", "k-shot") and not target_specs:
        raise InputError(f"the protocol {protocol} needs a target", remedy="Name one or more with --target SPEC.")
    if protocol == "k-fold" and target_specs:
        raise InputError(
            "the protocol k-fold takes no target", remedy="Leave --target out, or say --protocol cross-domain or k-shot."
        )
    return plan or wanted()


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


def _fit_fold(method: Method, config: StrictConfig, auxiliary: Mapping[str, CellDataset], say: Say) -> FitFold:
    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{method.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_in(run_dir, method, train, validation=validation, config=config, rng=rng, auxiliary=auxiliary)

    return fit
