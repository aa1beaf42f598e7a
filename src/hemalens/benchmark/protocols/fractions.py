"""The protocol fractions: a method trained on 100, 50, 10 and 1 % of the labels, always tested on the same images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from hemalens.benchmark.protocols.base import FitFold, Outcome, SourceProtocol, Task, relative_path
from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.benchmark.protocols.folds import VALIDATION_FRACTION
from hemalens.benchmark.protocols.scoring import Score, mean_estimate, unit_name
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import check_classes, hold_out, nested_fractions, seeded, units
from hemalens.errors import SplitError
from hemalens.evaluation import metrics
from hemalens.evaluation.evaluate import TestPlan, plan_test, predict_dataset
from hemalens.evaluation.formatting import percent
from hemalens.evaluation.results import Estimate, FractionCurve, FractionScores, Selection, TrainingCurve
from hemalens.runs.curves import read_curves
from hemalens.runs.inputs import Inputs

PUBLISHED_FRACTIONS = (1.0, 0.5, 0.1, 0.01)
TEST_FRACTION = 0.2


class FractionsProtocol(SourceProtocol):
    """Each of `fractions` of the training part, drawn and trained `seeds` times.

    `selection` names the images that choose the epoch. `strict`: a fraction that leaves a class without an image is an
    error; otherwise the class keeps one.
    """

    takes_target: ClassVar[bool] = True

    fractions: tuple[float, ...] = Field(default=PUBLISHED_FRACTIONS, strict=False)
    seeds: int = Field(default=3, ge=1)
    selection: Selection = "validation"
    strict: bool = False

    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task: one validation part, one test part and every target, the same for all fractions."""
        opened = data.targets(targets, min_per_class=data.min_per_class)
        datasets = tuple(target.dataset for target in opened)
        parts = fixed_parts(source.dataset, datasets, seed=data.seed)
        shown = ", ".join(f"{100 * fraction:g} %" for fraction in self.fractions)
        return FractionsTask(
            protocol=name,
            description=f"{shown} of {len(parts.train)} training images, {self.seeds} seeds",
            source=source,
            seed=data.seed,
            tested=datasets,
            cards=tuple(target.card for target in opened),
            notes=tuple(note for target in opened for note in target.notes),
            config=self,
            parts=parts,
        )


# --------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True, slots=True)
class FixedParts:
    """What stays the same for every fraction: the whole training part, validation and test.

    `given` are fractions of the training part that come with the data; the others are drawn. None of them shares an image
    with `validation` or `tests`.
    """

    train: CellDataset
    validation: CellDataset
    tests: tuple[CellDataset, ...]
    given: Mapping[float, CellDataset] = field(default_factory=dict)

    def check(self, config: FractionsProtocol, *, seed: int) -> None:
        """Raise `SplitError` before anything is trained: overlaps, nothing to do, or a fraction that cannot be drawn."""
        if not config.fractions:
            raise SplitError(
                "the protocol fractions has nothing to train",
                expected="one or more fractions",
            )
        learned = frozenset[str]().union(*map(traces, (self.train, *self.given.values())))
        refuse_leaks(learned, self.validation)
        if config.selection == "validation":
            learned |= traces(self.validation)
        for test in self.tests:
            refuse_leaks(learned, test)
        if config.selection == "published-selection" and len(self.tests) != 1:
            raise SplitError(
                "published-selection chooses the epoch on the test images",
                expected="one test set",
                got=str(len(self.tests)),
            )
        self.training(config, 0, seed=seed)

    def training(self, config: FractionsProtocol, draw: int, *, seed: int) -> dict[float, CellDataset]:
        """The training part of each fraction in one draw, largest first; smaller ones lie inside larger ones."""
        fractions = sorted(set(config.fractions), reverse=True)
        drawn = nested_fractions(self.train, fractions, seeded(seed, "fractions", str(draw)), strict=config.strict)
        return {fraction: self.given.get(fraction, drawn[fraction]) for fraction in fractions}


def fixed_parts(source: CellDataset, targets: Sequence[CellDataset] = (), *, seed: int) -> FixedParts:
    """A fifth of the source for the test, 15 % of the rest for validation, the remainder for training; targets whole."""
    check_classes(source, n_units=3, purpose="training, validation and test")
    rest, test = hold_out(source, TEST_FRACTION, seeded(seed, "test"))
    train, validation = hold_out(rest, VALIDATION_FRACTION, seeded(seed, "validation"))
    return FixedParts(train, validation, (replace(test, name=f"{source.name}, test part"), *targets))


def halved(train: CellDataset, held: CellDataset, *, seed: int) -> FixedParts:
    """All of `train` for training; one half of `held` for validation, the other for the test."""
    held = held.under(train.classes)
    validation, test = hold_out(held, 0.5, seeded(seed, "validation"))
    return FixedParts(train, validation, (replace(test, name=f"{held.name}, test half"),))


def tested_whole(train: CellDataset, held: CellDataset) -> FixedParts:
    """All of `train` for training, all of `held` for the test, which also chooses the epoch (published-selection)."""
    held = held.under(train.classes)
    return FixedParts(train, held, (held,))


# ------------------------------------------------------------------------------------------------------------ training


def without_checkpoints(fit: FitFold) -> FitFold:
    """The same fit, which deletes its checkpoints once the bundle is written: a curve is dozens of models."""

    def fit_and_delete(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        bundle = fit(train, validation, rng, run_dir)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        return bundle

    return fit_and_delete


@dataclass(frozen=True, slots=True)
class FractionRun:
    """A method's curve on one test set, and its models' predictions there: for each fraction one entry a seed.

    `training` are the training curves of those models, in one group a fraction.
    """

    curve: FractionCurve
    predictions: Mapping[float, Sequence[metrics.Predictions]]
    n_labels: int
    training: Sequence[TrainingCurve] = ()


def fraction_runs(
    fit: FitFold,
    parts: FixedParts,
    config: FractionsProtocol,
    *,
    method: str,
    source: str,
    run_dir: Path,
    seed: int,
) -> list[FractionRun]:
    """Train on every fraction `seeds` times, and test each model on every test set; a run for each set.

    With "published-selection" the test images choose the epoch. Raises `SplitError` as `FixedParts.check` does.
    """
    parts.check(config, seed=seed)
    held = parts.validation if config.selection == "validation" else parts.tests[0]
    plans: dict[int, TestPlan] = {}
    found: dict[tuple[int, float], list[metrics.Predictions]] = {}
    unreadable: list[dict[str, str]] = [{} for _ in parts.tests]
    learned: dict[float, list[CellDataset]] = {}
    transductive = [False] * len(parts.tests)
    training: list[TrainingCurve] = []
    watched = "validation" if config.selection == "validation" else "test"
    for draw in range(config.seeds):
        for fraction, part in parts.training(config, draw, seed=seed).items():
            run = run_dir / f"{fraction:g}" / f"seed_{draw}"
            bundle = fit(part, held, seeded(seed, "fit", f"{fraction:g}", str(draw)), run)
            learned.setdefault(fraction, []).append(part)
            group = f"{percent(fraction)} of the labels"
            training += read_curves([run], method, group=group, part=watched)
            for i, test in enumerate(parts.tests):
                plans[i] = plan_test(bundle.manifest.labels, test)
                if config.selection == "validation":
                    refuse_leaks(bundle.seen, test)
                transductive[i] |= not bundle.seen_unlabelled.isdisjoint(test.contents)
                found.setdefault((i, fraction), []).append(_predict(bundle, test, plans[i], unreadable[i]))
    curves = [
        FractionCurve(
            name=f"{method}: {source} -> {test.name}",
            method=method,
            source=source,
            target=test.name,
            selection=config.selection,
            transductive=transductive[i],
            n_images=len(found[i, config.fractions[0]][0].target),
            n_validation=0 if config.selection == "published-selection" else len(held),
            classes=plans[i].tested,
            left_out=plans[i].left_out,
            unreadable=unreadable[i],
            fractions=tuple(_scores(f, learned[f], found[i, f], plans[i], seed) for f in learned),
            intervals="95 %: bootstrap of the mean over the seeds (draws of the fraction and trainings) and, within their "
            f"classes, over the tested {unit_name(test)} (1,000 repeats)",
        )
        for i, test in enumerate(parts.tests)
    ]
    return [
        FractionRun(curve, {f: found[i, f] for f in learned}, len(plans[i].labels), training)
        for i, curve in enumerate(curves)
    ]


def balanced_accuracy_gain(run: FractionRun, reference: FractionRun, fraction: float, *, seed: int) -> Estimate:
    """Balanced accuracy of `run` less that of `reference` at a fraction: mean over seeds, paired by seed and test image.

    Both were tested on the same images, with the same seeds; the interval resamples both.
    """
    ours, theirs = run.predictions[fraction], reference.predictions[fraction]
    resampled = metrics.resampled_confusions([*ours, *theirs], run.n_labels, rng=np.random.default_rng(seed))
    counts = [metrics.confusion(m.target, m.predicted, run.n_labels) for m in (*ours, *theirs)]
    values = np.asarray(metrics.balanced_accuracy(np.stack(counts)), float)
    gains = values[: len(ours)] - values[len(ours) :]
    if resampled is None:
        return Estimate(value=float(gains.mean()))
    scores = np.asarray(metrics.balanced_accuracy(resampled), float)
    low, high = metrics.two_way_interval(scores[: len(ours)] - scores[len(ours) :], rng=np.random.default_rng(seed))
    std = float(gains.std(ddof=1)) if len(gains) > 1 else None
    return Estimate(value=float(gains.mean()), low=low, high=high, std=std)


def _predict(bundle: Bundle, test: CellDataset, plan: TestPlan, unreadable: dict[str, str]) -> metrics.Predictions:
    tested = test.only_classes(plan.tested)
    unit = units(tested)
    found = predict_dataset(bundle, tested)
    unreadable.update(found.unreadable)
    truth = np.array([plan.labels.index(str(record.label)) for record in found.records], np.int64)
    return metrics.Predictions(truth, found.probabilities.argmax(axis=1).astype(np.int64), unit[found.index])


def _scores(
    fraction: float, learned: Sequence[CellDataset], models: Sequence[metrics.Predictions], plan: TestPlan, seed: int
) -> FractionScores:
    k = len(plan.labels)
    counts = np.stack([metrics.confusion(m.target, m.predicted, k) for m in models])
    resampled = metrics.resampled_confusions(models, k, rng=np.random.default_rng(seed))

    def estimate(score: Score) -> Estimate:
        return mean_estimate(score, counts, resampled, seed=seed)

    def recall_of(label: str) -> Estimate:
        i = plan.labels.index(label)
        return estimate(lambda counts: metrics.recall(counts)[..., i])

    first = learned[0]
    return FractionScores(
        fraction=fraction,
        n_train=len(first),
        n_masks=sum(record.mask_path is not None for record in first.records),
        class_counts=first.class_counts,
        n_seeds=len(models),
        accuracy=estimate(metrics.accuracy),
        majority_rate=float(np.mean(metrics.majority_rate(counts))),
        balanced_accuracy=estimate(metrics.balanced_accuracy),
        macro_f1=estimate(metrics.macro_f1),
        recall={label: recall_of(label) for label in plan.tested},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FractionsTask(Task):
    """The source in fractions; all test sets share their models, so they are one test."""

    config: FractionsProtocol
    parts: FixedParts

    @property
    def tests(self) -> tuple[str, ...]:
        """One test of all test sets."""
        return (", ".join(test.name for test in self.parts.tests),)

    def check(self) -> None:
        """Raise `SplitError` or `DatasetError` before anything is trained."""
        self.parts.check(self.config, seed=self.seed)
        for test in self.parts.tests:
            plan_test(self.parts.train.classes, test)

    def request(self, i: int) -> dict[str, Any]:
        """The targets' images and the protocol's settings."""
        targets = [dataset.fingerprint for dataset in self.tested]
        return {"protocol": "fractions", "targets": targets, "settings": self.config.model_dump(mode="json")}

    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """All fractions on all test sets."""
        models: list[str] = []

        def fit_and_note(train: CellDataset, validation: CellDataset, rng: np.random.Generator, folder: Path) -> Bundle:
            bundle = without_checkpoints(fit)(train, validation, rng, folder)
            models.append(relative_path(bundle, run_dir))
            return bundle

        name = self.source.dataset.name
        runs = fraction_runs(fit_and_note, self.parts, self.config, method="", source=name, run_dir=run_dir, seed=self.seed)
        training = tuple(c.model_copy(update={"group": f"{name}, {c.group}"}) for c in runs[0].training)
        return Outcome(fractions=tuple(run.curve for run in runs), curves=training, model=models[0])
