"""The protocols k-fold and cross-domain: folds of the source, whose models are also tested on every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from hemalens.benchmark.protocols.base import FitFold, Outcome, SourceProtocol, Task, relative_path
from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import check_classes, hold_out, k_fold, seeded
from hemalens.evaluation.evaluate import DatasetPredictions, evaluate_with_predictions, plan_test
from hemalens.evaluation.results import Evaluation
from hemalens.runs.curves import read_curves
from hemalens.runs.inputs import Inputs

VALIDATION_FRACTION = 0.15
"""Fraction of the training images that is kept for early stopping and calibration."""
N_EMBEDDED = 300
"""Embeddings of a test that are kept for a joint figure."""


def fit_whole(
    fit: FitFold, source: CellDataset, *, seed: int, run_dir: Path, validation_fraction: float = VALIDATION_FRACTION
) -> Bundle:
    """One model from all of the source, except for a validation part."""
    rest, validation = hold_out(source, validation_fraction, seeded(seed, "validation"))
    return fit(rest, validation, seeded(seed, "fit"), run_dir)


@dataclass(frozen=True, slots=True)
class Fold:
    """A training part of the source, and the rest, to test on."""

    train: CellDataset
    test: CellDataset


def split_folds(source: CellDataset, targets: Sequence[CellDataset], *, n_folds: int, seed: int) -> list[Fold]:
    """Stratified folds of the source; groups and copies stay together.

    Raises `SplitError`, before hours of work, when a target holds an image of the source, or a training part would not give
    a validation part. `source` and `targets` must be clean (`splits.clean`).
    """
    contents = traces(source)
    for target in targets:
        refuse_leaks(contents, target)
    folds = [Fold(train, test) for train, test in k_fold(source, n_folds, seeded(seed, "k_fold"))]
    for fold in folds:
        check_classes(fold.train, n_units=2, purpose="a validation part in every fold")
    return folds


def fit_folds(
    fit: FitFold, folds: Sequence[Fold], *, seed: int, run_dir: Path, validation_fraction: float = VALIDATION_FRACTION
) -> list[Bundle]:
    """A model for each fold, in `run_dir`/fold_N; its validation part is taken out of the fold's training part."""
    bundles = []
    for number, fold in enumerate(folds):
        rest, validation = hold_out(fold.train, validation_fraction, seeded(seed, "validation", str(number)))
        bundles.append(fit(rest, validation, seeded(seed, "fit", str(number)), run_dir / f"fold_{number}"))
    return bundles


def cross_domain(
    fit: FitFold,
    source: CellDataset,
    targets: Sequence[CellDataset],
    *,
    n_folds: int,
    seed: int,
    run_dir: Path,
    validation_fraction: float = VALIDATION_FRACTION,
    min_per_class: int = 1,
) -> list[Evaluation]:
    """k-fold on the source; each fold's model is also tested on every target whole. The source's own result comes first.

    Without targets this is the `k-fold` protocol. Raises `SplitError` as `split_folds` does.
    """
    folds = split_folds(source, targets, n_folds=n_folds, seed=seed)
    bundles = fit_folds(fit, folds, seed=seed, run_dir=run_dir, validation_fraction=validation_fraction)
    return [
        evaluate_folds(bundles, folds, source, target, seed=seed, min_per_class=min_per_class)[0]
        for target in (None, *targets)
    ]


def evaluate_folds(
    bundles: Sequence[Bundle],
    folds: Sequence[Fold],
    source: CellDataset,
    target: CellDataset | None,
    *,
    seed: int,
    min_per_class: int,
) -> tuple[Evaluation, tuple[DatasetPredictions, ...]]:
    """Test the folds' models on a target whole, or (None) each on its own part of the source; with the predictions."""
    tests = [fold.test for fold in folds] if target is None else [target] * len(folds)
    return evaluate_with_predictions(
        bundles,
        tests,
        target=target or source,
        source_name=source.name,
        seed=seed,
        min_per_class=1 if target is None else min_per_class,
    )


class KFoldProtocol(SourceProtocol):
    """Stratified folds of the source; each is tested by the model of the others."""

    folds: int = Field(default=5, ge=2)

    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task; targets are not tested."""
        return self._task(name, source, [], data)

    def _task(self, name: str, source: Inputs, targets: Sequence[Inputs], data: BenchmarkData) -> Task:
        datasets = tuple(target.dataset for target in targets)
        folds = split_folds(source.dataset, datasets, n_folds=self.folds, seed=data.seed)
        return FoldsTask(
            protocol=name,
            description=f"{self.folds} folds" + (", each fold's model on every target whole" if targets else ""),
            source=source,
            seed=data.seed,
            tested=datasets,
            cards=tuple(target.card for target in targets),
            notes=tuple(note for target in targets for note in target.notes),
            folds=folds,
            min_per_class=data.min_per_class,
        )


class CrossDomainProtocol(KFoldProtocol):
    """k-fold on the source; each fold's model is also tested on every target whole."""

    needs_target: ClassVar[bool] = True
    takes_target: ClassVar[bool] = True

    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task; small classes of a target stay in its dataset, and are left out of the test."""
        return self._task(name, source, data.targets(targets, min_per_class=1), data)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsTask(Task):
    """k-fold on the source (test 0); each fold's model also on every target (tests 1, 2, ...)."""

    folds: Sequence[Fold]
    min_per_class: int

    @property
    def tests(self) -> tuple[str, ...]:
        """The source, then every target."""
        return (self.source.dataset.name, *(dataset.name for dataset in self.tested))

    def check(self) -> None:
        """Raise `DatasetError`, before anything is trained, for a target that shares too few classes."""
        for target in self.tested:
            plan_test(self.source.dataset.classes, target, min_per_class=self.min_per_class)

    def request(self, i: int) -> dict[str, Any]:
        """The target's images, and how they are tested."""
        target = self.tested[i - 1].fingerprint if i else None
        return {"protocol": "folds", "target": target, "n_folds": len(self.folds), "min_per_class": self.min_per_class}

    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """The folds' models on the source's own folds (0), or all of them on target `i` - 1."""
        source = self.source.dataset
        bundles = fit_folds(fit, self.folds, seed=self.seed, run_dir=run_dir)
        target = self.tested[i - 1] if i else None
        found, predictions = evaluate_folds(
            bundles, self.folds, source, target, seed=self.seed, min_per_class=self.min_per_class
        )
        first = predictions[0]
        chosen = np.sort(np.random.default_rng(self.seed).permutation(len(first.records))[:N_EMBEDDED])
        best = first.probabilities.argmax(axis=1)
        return Outcome(
            evaluations=(found,),
            curves=tuple(
                read_curves([bundle.path.parent for bundle in bundles], "", group=f"{source.name}, {len(bundles)} folds")
            ),
            model=relative_path(bundles[0], run_dir),
            points=tuple((str(first.records[n].label), found.classes[best[n]]) for n in chosen),
            embeddings=first.embeddings[chosen].astype(np.float16),
        )
