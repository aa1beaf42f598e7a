"""Protocols: which part is learned from and which is tested. They take a method as a callable and know nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import check_classes, hold_out, k_fold, seeded
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import Evaluation

FitFold = Callable[[CellDataset, CellDataset, np.random.Generator, Path], Bundle]
"""(train, validation, generator, run folder) -> bundle."""
VALIDATION_FRACTION = 0.15
"""Share of what is learned from that is kept for early stopping and calibration."""


def fit_whole(
    fit: FitFold, source: CellDataset, *, seed: int, run_dir: Path, validation_fraction: float = VALIDATION_FRACTION
) -> Bundle:
    """One model from all of the source, but for a validation part."""
    rest, validation = hold_out(source, validation_fraction, seeded(seed, "validation"))
    return fit(rest, validation, seeded(seed, "fit"), run_dir)


@dataclass(frozen=True, slots=True)
class Fold:
    """A part of the source to learn from, and the rest, to test on."""

    train: CellDataset
    test: CellDataset


def split_folds(source: CellDataset, targets: Sequence[CellDataset], *, n_folds: int, seed: int) -> list[Fold]:
    """Stratified folds of the source; groups and copies stay together.

    Raises `SplitError`, before hours of work, when a target holds an image of the source, or a training part would not give
    a validation part. `source` and `targets` must be clean (`sampling.clean`).
    """
    contents = set(source.contents)
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
    results = [evaluate(bundles, [fold.test for fold in folds], target=source, source_name=source.name, seed=seed)]
    for target in targets:
        results.append(
            evaluate(
                bundles,
                [target] * n_folds,
                target=target,
                source_name=source.name,
                seed=seed,
                min_per_class=min_per_class,
            )
        )
    return results
