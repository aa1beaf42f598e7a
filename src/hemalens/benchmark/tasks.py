"""Tasks of a benchmark: one source under one protocol, with everything that is tested there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hemalens.benchmark.config import BenchmarkConfig, ProtocolName
from hemalens.benchmark.protocols.finetuning import FinetuningCurves
from hemalens.benchmark.protocols.folds import FitFold, Fold, fit_folds, fit_whole, split_folds
from hemalens.benchmark.protocols.fraction_parts import fixed_parts, tidy
from hemalens.benchmark.protocols.fractions import FixedParts, FractionPlan, fraction_runs
from hemalens.benchmark.protocols.labelling_curve import LabellingCurves
from hemalens.benchmark.protocols.targets import (
    KShotCurves,
    LaboratoryCurves,
    NewLaboratory,
    draw,
    open_laboratories,
    refuse_source,
)
from hemalens.benchmark.protocols.unlabelled import UnlabelledCurves
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.stages import Stage
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import Unreadable
from hemalens.errors import InputError
from hemalens.evaluation.evaluate import evaluate_with_answers, plan_test
from hemalens.evaluation.results import DataCard, Evaluation, FractionCurve, KShot
from hemalens.runs.inputs import Inputs, open_inputs

N_EMBEDDED = 300
"""Embeddings of a test that are kept for a joint figure."""


class Outcome(BaseModel):
    """What came of one test of a task; `model` is the folder of the (first) bundle, in that of the fits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluations: tuple[Evaluation, ...] = ()
    k_shot: tuple[KShot, ...] = ()
    fractions: tuple[FractionCurve, ...] = ()
    model: str = ""
    points: tuple[tuple[str, str], ...] = ()
    """Label and predicted label of each embedding that is kept."""


@dataclass(frozen=True, slots=True)
class Tested:
    """An outcome with embeddings (n, d) of some of the tested images."""

    outcome: Outcome
    embeddings: NDArray[np.float16] | None = None


class Task(Protocol):
    """One source under one protocol, tested on one thing after another."""

    @property
    def protocol(self) -> ProtocolName:
        """The protocol's name."""

    @property
    def source(self) -> Inputs:
        """What is learned from."""

    @property
    def tests(self) -> tuple[str, ...]:
        """The name of what each test is on."""

    @property
    def tested(self) -> list[CellDataset]:
        """All images that are tested."""

    @property
    def cards(self) -> list[DataCard]:
        """What the report says of what is tested."""

    @property
    def notes(self) -> list[str]:
        """What is said of it on the terminal."""

    @property
    def described(self) -> str:
        """The protocol in words."""

    def request(self, i: int) -> dict[str, Any]:
        """All that test `i` depends on, but for the method, the source and the seed."""

    def run(self, i: int, fit: FitFold, run_dir: Path, seed: int) -> Tested:
        """Train where that is not done yet, and run test `i`."""


@dataclass(frozen=True, slots=True)
class _OnTargets:
    """A source, and targets that are tested whole."""

    source: Inputs
    targets: Sequence[Inputs]

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

    folds: Sequence[Fold]
    min_per_class: int

    @property
    def protocol(self) -> ProtocolName:
        return "cross-domain" if self.targets else "k-fold"

    @property
    def tests(self) -> tuple[str, ...]:
        return (self.source.dataset.name, *(target.dataset.name for target in self.targets))

    @property
    def described(self) -> str:
        return f"{len(self.folds)} folds" + (", each fold's model on every target whole" if self.targets else "")

    def check(self) -> None:
        """Raise `DatasetError`, before anything is trained, for a target that shares too few classes."""
        for target in self.tested:
            plan_test(self.source.dataset.classes, target, min_per_class=self.min_per_class)

    def request(self, i: int) -> dict[str, Any]:
        target = self.targets[i - 1].dataset.fingerprint if i else None
        return {"protocol": "folds", "target": target, "n_folds": len(self.folds), "min_per_class": self.min_per_class}

    def run(self, i: int, fit: FitFold, run_dir: Path, seed: int) -> Tested:
        """The folds' models on the source's own folds (0), or all of them on target `i` - 1."""
        source = self.source.dataset
        bundles = fit_folds(fit, self.folds, seed=seed, run_dir=run_dir)
        test = partial(evaluate_with_answers, bundles, source_name=source.name, seed=seed)
        if i == 0:
            found, answers = test([fold.test for fold in self.folds], target=source)
        else:
            target = self.tested[i - 1]
            found, answers = test([target] * len(bundles), target=target, min_per_class=self.min_per_class)
        first = answers[0]
        chosen = np.sort(np.random.default_rng(seed).permutation(len(first.records))[:N_EMBEDDED])
        best = first.probabilities.argmax(axis=1)
        points = tuple((str(first.records[n].label), found.classes[best[n]]) for n in chosen)
        outcome = Outcome(evaluations=(found,), model=_inside(bundles[0].path, run_dir), points=points)
        return Tested(outcome, first.embeddings[chosen].astype(np.float16))


@dataclass(frozen=True, slots=True)
class _OnLaboratories:
    """One embedder from the whole source, but for a validation part; few images of every target, with labels or not."""

    source: Inputs
    laboratories: Sequence[NewLaboratory]
    protocol: ProtocolName
    curves: LaboratoryCurves

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(laboratory.target.name for laboratory in self.laboratories)

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
        return self.curves.described

    def check(self) -> None:
        """Raise `SplitError` before anything is trained."""
        refuse_source(self.laboratories, self.source.dataset)
        self.curves.check(self.laboratories)

    def request(self, i: int) -> dict[str, Any]:
        laboratory = self.laboratories[i]
        parts = [part.fingerprint for part in (laboratory.target, laboratory.pool) if part is not None]
        return {"protocol": self.protocol, "target": parts, **self.curves.request()}

    def run(self, i: int, fit: FitFold, run_dir: Path, seed: int) -> Tested:
        """The bundle on laboratory `i`."""
        bundle = fit_whole(fit, self.source.dataset, seed=seed, run_dir=run_dir / "whole")
        found = draw(self.curves, bundle, self.laboratories[i], source=self.source.dataset.name, seed=seed)
        return Tested(Outcome(k_shot=tuple(found), model=_inside(bundle.path, run_dir)))


@dataclass(frozen=True, slots=True)
class _Fractions(_OnTargets):
    """The source in fractions; one validation part, one test part and every target, the same for all of them."""

    parts: FixedParts
    plan: FractionPlan

    @property
    def protocol(self) -> ProtocolName:
        return "fractions"

    @property
    def tests(self) -> tuple[str, ...]:
        return (", ".join(test.name for test in self.parts.tests),)

    @property
    def described(self) -> str:
        shown = ", ".join(f"{100 * fraction:g} %" for fraction in self.plan.fractions)
        return f"{shown} of {len(self.parts.train)} training images, {self.plan.n_seeds} seeds"

    def check(self) -> None:
        """Raise `SplitError` or `DatasetError` before anything is trained."""
        self.parts.check(self.plan)
        for test in self.parts.tests:
            plan_test(self.parts.train.classes, test)

    def request(self, i: int) -> dict[str, Any]:
        targets = [target.dataset.fingerprint for target in self.targets]
        return {"protocol": "fractions", "targets": targets, "plan": asdict(self.plan)}

    def run(self, i: int, fit: FitFold, run_dir: Path, seed: int) -> Tested:
        """All fractions on all test sets: they share their models."""
        first: list[str] = []

        def noting(train: CellDataset, validation: CellDataset, rng: np.random.Generator, folder: Path) -> Bundle:
            bundle = tidy(fit)(train, validation, rng, folder)
            first.append(_inside(bundle.path, run_dir))
            return bundle

        name = self.source.dataset.name
        runs = fraction_runs(noting, self.parts, self.plan, method="", source=name, run_dir=run_dir)
        return Tested(Outcome(fractions=tuple(run.curve for run in runs), model=first[0]))


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


class Opener:
    """Opens the data of a benchmark, each dataset once."""

    def __init__(self, config: BenchmarkConfig, stages: tuple[Stage, ...]) -> None:
        self.config = config
        self.stages = stages
        self._known: dict[tuple[object, ...], Any] = {}

    def __call__(self, spec: str, role: str, *, unreadable: Unreadable, min_per_class: int) -> Inputs:
        """A dataset in a role."""
        config, stages = self.config, self.stages
        wanted: dict[str, Any] = {"labels": config.labels, "role": role, "unreadable": unreadable}
        make: Callable[[], Inputs] = partial(open_inputs, spec, **wanted, min_per_class=min_per_class, stages=stages)
        found: Inputs = self._once((spec, role, unreadable, min_per_class), make)
        return found

    def laboratories(self, specs: Sequence[str]) -> list[NewLaboratory]:
        """The targets of k-shot, finetuning, labelling and unlabelled, each with its pool."""
        part, config = self.config.k_shot, self.config
        labels = part.target_labels or config.labels
        wanted: dict[str, Any] = {"labels": labels, "min_per_class": config.min_per_class, "stages": self.stages}
        if part.support is not None:
            return open_laboratories(specs, part.support, **wanted)
        found = []
        for spec in specs:
            found += self._once(("laboratory", spec), partial(open_laboratories, [spec], None, **wanted))
        return found

    def _once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def open_tasks(config: BenchmarkConfig, opener: Opener) -> list[Task]:
    """The tasks of all sources and protocols, checked; nothing is trained. Raises `InputError`."""
    unreadable: Unreadable = "drop" if config.drop_unreadable else "refuse"
    tasks: list[Task] = []
    names: dict[str, str] = {}
    for spec in config.sources:
        source = opener(spec, "source", unreadable=unreadable, min_per_class=config.min_per_class)
        targets = config.targets_of(spec)
        for protocol in config.trained():
            task: _Folds | _OnLaboratories | _Fractions
            curves = curves_of(config, protocol)
            if curves is not None:
                task = _OnLaboratories(source, opener.laboratories(targets), protocol, curves)
            elif protocol == "fractions":
                plan = config.fractions.plan(config.seed)
                kept = [opener(t, "target", unreadable="keep", min_per_class=config.min_per_class) for t in targets]
                parts = fixed_parts(source.dataset, [target.dataset for target in kept], seed=plan.seed)
                task = _Fractions(source, kept, parts, plan)
            else:
                known = targets if protocol == "cross-domain" else ()
                kept = [opener(target, "target", unreadable="keep", min_per_class=1) for target in known]
                others = [target.dataset for target in kept]
                folds = split_folds(source.dataset, others, n_folds=config.folds, seed=config.seed)
                task = _Folds(source, kept, folds, config.min_per_class)
            task.check()
            tasks.append(task)
            names |= dict(zip(targets, (tested.name for tested in task.tested), strict=False))
        names[spec] = source.dataset.name
    _refuse_same_names(names)
    return tasks


def curves_of(config: BenchmarkConfig, protocol: ProtocolName) -> LaboratoryCurves | None:
    """What a protocol draws of a bundle on each laboratory; None for one of another kind."""
    if protocol == "k-shot":
        return KShotCurves(config.k_shot.plan(config.seed), config.k_shot.beside)
    if protocol == "finetuning":
        return FinetuningCurves(config.finetuning.plan(config.seed))
    if protocol == "labelling":
        return LabellingCurves(config.labelling.plan(config.seed))
    if protocol == "unlabelled":
        return UnlabelledCurves(config.unlabelled.plan(config.seed))
    return None


def _refuse_same_names(names: Mapping[str, str]) -> None:
    """Raise `InputError` where two sets, by spec, have one name: the report would take one for the other."""
    for spec, name in names.items():
        others = [other for other, its in names.items() if its == name and other != spec]
        if others:
            raise InputError(
                f"two sets are called {name!r}",
                got=f"{spec} and {others[0]}",
                remedy="Give the folder or the table of one of them another name.",
            )


def refuse_learned_elsewhere(tasks: Sequence[Task], learned: CellDataset) -> None:
    """Raise `SplitError` when a test holds an image of a set whose labels are learned."""
    for task in tasks:
        for tested in (task.source.dataset, *task.tested):
            refuse_leaks(set(learned.contents), tested)
