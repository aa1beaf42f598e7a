"""What the protocol fractions keeps fixed for one source: what is held out, what is tested."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hemalens.benchmark.protocols.folds import FitFold
from hemalens.benchmark.protocols.fractions import FixedParts
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import check_classes, hold_out, seeded

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.15


def fixed_parts(source: CellDataset, targets: Sequence[CellDataset] = (), *, seed: int) -> FixedParts:
    """A fifth of the source for the test, 15 % of the rest for validation, the remainder to learn from; targets whole."""
    check_classes(source, n_units=3, purpose="training, validation and test")
    rest, test = hold_out(source, TEST_FRACTION, seeded(seed, "test"))
    train, validation = hold_out(rest, VALIDATION_FRACTION, seeded(seed, "validation"))
    return FixedParts(train, validation, (replace(test, name=f"{source.name}, test part"), *targets))


def tidy(fit: FitFold) -> FitFold:
    """The same fit, which leaves no checkpoints once its bundle is written: a curve is dozens of models."""

    def fit_and_tidy(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        bundle = fit(train, validation, rng, run_dir)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        return bundle

    return fit_and_tidy


def halved(train: CellDataset, held: CellDataset, *, seed: int) -> FixedParts:
    """All of `train` to learn from; one half of `held` for validation, the other for the test."""
    held = held.under(train.classes)
    validation, test = hold_out(held, 0.5, seeded(seed, "validation"))
    return FixedParts(train, validation, (replace(test, name=f"{held.name}, test half"),))


def tested_whole(train: CellDataset, held: CellDataset) -> FixedParts:
    """All of `train` to learn from, all of `held` for the test, on which the epoch is chosen too (published-selection)."""
    held = held.under(train.classes)
    return FixedParts(train, held, (held,))
