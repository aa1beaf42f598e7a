"""Protocols: which part is learned from and which is tested. They take a method as a callable and know nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hemalens.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.evaluation.evaluate import evaluate, refuse_leaks
from hemalens.evaluation.results import Evaluation
from hemalens.sampling import check_classes, hold_out, k_fold, seeded

FitFold = Callable[[CellDataset, CellDataset, np.random.Generator, Path], Bundle]
"""(train, validation, generator, run folder) -> bundle."""


def fit_whole(fit: FitFold, source: CellDataset, *, seed: int, run_dir: Path, validation_fraction: float = 0.15) -> Bundle:
    """One model from all of the source, but for a validation part for early stopping and calibration."""
    rest, validation = hold_out(source, validation_fraction, seeded(seed, "validation"))
    return fit(rest, validation, seeded(seed, "fit"), run_dir)


def cross_domain(
    fit: FitFold,
    source: CellDataset,
    targets: Sequence[CellDataset],
    *,
    n_folds: int,
    seed: int,
    run_dir: Path,
    validation_fraction: float = 0.15,
    min_per_class: int = 1,
) -> list[Evaluation]:
    """k-fold on the source; each fold's model is also tested on every target whole. The source's own result comes first.

    Without targets this is the `k-fold` protocol. Folds are stratified, groups and copies stay together; a validation
    part for early stopping and calibration is taken out of each fold's training part. `source` and `targets` must be
    clean (`sampling.clean`). Raises `SplitError` when a target holds an image of the source.
    """
    contents = set(source.contents)
    for target in targets:
        refuse_leaks(contents, target)
    folds = k_fold(source, n_folds, seeded(seed, "k_fold"))
    # every training part must still give a validation part: found out now, not after hours
    for train, _ in folds:
        check_classes(train, n_units=2, purpose="a validation part in every fold")
    bundles = []
    for number, (train, _) in enumerate(folds):
        rest, validation = hold_out(train, validation_fraction, seeded(seed, "validation", str(number)))
        bundles.append(fit(rest, validation, seeded(seed, "fit", str(number)), run_dir / f"fold_{number}"))
    results = [evaluate(bundles, [test for _, test in folds], target=source, source_name=source.name, seed=seed)]
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
