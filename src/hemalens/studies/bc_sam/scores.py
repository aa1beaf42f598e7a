"""The heads of the BC-SAM study: fitted on each fold of one laboratory, tested there and in the other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation import metrics
from hemalens.evaluation.evaluate import DatasetPredictions, TestPlan, plan_test, score
from hemalens.evaluation.results import Estimate, Evaluation
from hemalens.studies.bc_sam.latents import Protocol, Row, Side
from hemalens.training.probe import fit_head


@dataclass(frozen=True, slots=True)
class WholeTest:
    """Accuracy and majority rate of each fold on all its test images, as published.

    An image of a type that the model cannot know counts as wrong; `n_unknown` (distinct images) are such.
    """

    accuracies: tuple[float, ...]
    majority_rates: tuple[float, ...]
    n_unknown: int

    @classmethod
    def of(
        cls, side: Side, tested: Sequence[NDArray[np.int64]], predictions: Sequence[metrics.Predictions], plan: TestPlan
    ) -> WholeTest:
        """From the images (positions) that each fold tests, and the predictions for those of known types."""
        targets = side.dataset.targets
        known = np.array([name in plan.tested for name in side.dataset.classes])
        n_right = [int(np.sum(answers.target == answers.predicted)) for answers in predictions]
        everything = np.unique(np.concatenate(list(tested)))
        return cls(
            tuple(n / len(chosen) for n, chosen in zip(n_right, tested, strict=True)),
            tuple(float(np.bincount(targets[chosen]).max() / len(chosen)) for chosen in tested),
            int(np.sum(~known[targets[everything]])),
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One row and head, trained on one laboratory and tested in one."""

    row: str
    protocol: Protocol | None
    head: str
    source: str
    target: str
    evaluation: Evaluation
    """On the types that the model can know."""
    predictions: tuple[metrics.Predictions, ...]
    """Those of each fold's model on these types, for paired comparisons."""
    whole: WholeTest

    @property
    def known_accuracies(self) -> tuple[float, ...]:
        """Accuracy of each fold on the types that the model can know."""
        return tuple(float(np.mean(answers.target == answers.predicted)) for answers in self.predictions)

    @property
    def task(self) -> tuple[Protocol | None, str, str, str]:
        """What must be the same in a comparison: protocol, head, source and target."""
        return self.protocol, self.head, self.source, self.target


@dataclass(frozen=True, slots=True)
class FoldProbabilities:
    """Probabilities (n, k) of one fold's model for all images of the source and of the target."""

    source: NDArray[np.float32]
    target: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Direction:
    """From one side to the other; classes of the source with enough images in a side are tested there."""

    source: Side
    target: Side
    source_plan: TestPlan
    target_plan: TestPlan

    @classmethod
    def of(cls, source: Side, target: Side, min_per_class: int) -> Direction:
        """A direction; raises `DatasetError` where the two share too few classes."""
        labels = source.dataset.classes
        return cls(
            source,
            target,
            plan_test(labels, source.dataset),
            plan_test(labels, target.dataset, min_per_class=min_per_class),
        )

    def probabilities(self, row: Row, head: str, *, seed: int) -> list[FoldProbabilities]:
        """Probabilities of the head, fitted on each training fold of the source, for all images of both sides."""
        found = []
        for (train, _), embeddings in zip(self.source.folds, row.embeddings, strict=True):
            here, there = embeddings[self.source.rows], embeddings[self.target.rows]
            model = fit_head(head, here[train], self.source.dataset.subset(train), seed=seed)
            source, target = (model.predict_proba(side).astype(np.float32) for side in (here, there))
            found.append(FoldProbabilities(source, target))
        return found

    def cells(
        self, row: Row, head: str, probabilities: Sequence[FoldProbabilities], *, parts: bool, seed: int
    ) -> list[Cell]:
        """[source, target] from `probabilities`. With `parts` each fold's model is tested on one fold of the target only.

        An autoencoder that has seen the target's training folds must be tested so.
        """
        source_tests = [test for _, test in self.source.folds]
        everything = np.arange(len(self.target.dataset))
        target_tests = [self.target.folds[fold][1] if parts else everything for fold in range(len(source_tests))]
        found = []
        for side, plan, tests, own in (
            (self.source, self.source_plan, source_tests, [p.source for p in probabilities]),
            (self.target, self.target_plan, target_tests, [p.target for p in probabilities]),
        ):
            predictions = [
                _tested(side, given, embeddings[side.rows], chosen, plan)
                for given, embeddings, chosen in zip(own, row.embeddings, tests, strict=True)
            ]
            evaluation = score(
                predictions,
                plan,
                target=side.dataset,
                method=f"{row.name}, {head}",
                source_name=self.source.dataset.name,
                seed=seed,
                transductive=row.protocol == "transductive",
            )
            origin = Origin(row.name, row.protocol, head, self.source.key)
            found.append(make_cell(origin, side, evaluation, plan, predictions=predictions, tests=tests))
        return found


@dataclass(frozen=True, slots=True)
class Origin:
    """A row and head, trained on one laboratory."""

    row: str
    protocol: Protocol | None
    head: str
    source: str


def make_cell(
    origin: Origin,
    side: Side,
    evaluation: Evaluation,
    plan: TestPlan,
    *,
    predictions: Sequence[DatasetPredictions],
    tests: Sequence[NDArray[np.int64]],
) -> Cell:
    """The cell of one side, from the predictions of each fold for its test images (positions) `tests`."""
    place = {id(record): i for i, record in enumerate(side.dataset.records)}
    kept = []
    for fold in predictions:
        target = [plan.labels.index(str(record.label)) for record in fold.records]
        unit = side.units[[place[id(record)] for record in fold.records]]
        answers = fold.probabilities.argmax(axis=1).astype(np.int64)
        kept.append(metrics.Predictions(np.array(target, np.int64), answers, unit))
    whole = WholeTest.of(side, tests, kept, plan)
    return Cell(origin.row, origin.protocol, origin.head, origin.source, side.key, evaluation, tuple(kept), whole)


def _tested(
    side: Side,
    probabilities: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    chosen: NDArray[np.int64],
    plan: TestPlan,
) -> DatasetPredictions:
    """The predictions for the chosen images of the tested classes."""
    kept = np.array([i for i in chosen if side.dataset.records[i].label in plan.tested], np.int64)
    return DatasetPredictions(
        records=tuple(side.dataset.records[i] for i in kept),
        index=kept,
        probabilities=probabilities[kept],
        embeddings=embeddings[kept],
        unreadable={},
    )


def difference(cell: Cell, other: Cell, *, seed: int) -> Estimate:
    """Balanced accuracy of `cell` minus that of `other`, on the same test images, with a paired 95 % interval."""
    n_classes = len(cell.evaluation.classes)
    both = [*cell.predictions, *other.predictions]
    counts = np.stack([metrics.confusion(a.target, a.predicted, n_classes) for a in both])
    resampled = metrics.resampled_confusions(both, n_classes, rng=np.random.default_rng(seed))
    value = _mean_difference(metrics.balanced_accuracy(counts)[:, None], len(cell.predictions))
    if resampled is None:
        return Estimate(value=None)
    low, high = np.nanpercentile(_mean_difference(metrics.balanced_accuracy(resampled), len(cell.predictions)), [2.5, 97.5])
    return Estimate(value=float(value[0]), low=float(low), high=float(high))


def _mean_difference(scores: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Mean over the first `n` models minus the mean over the others: (models, repeats) -> (repeats,)."""
    apart: NDArray[np.float64] = np.nanmean(scores[:n], axis=0) - np.nanmean(scores[n:], axis=0)
    return apart


@dataclass(frozen=True, slots=True)
class Gain:
    """Balanced accuracy of an autoencoder's row minus that of the features, under one head, in one direction."""

    row: str
    protocol: Protocol | None
    head: str
    source: str
    target: str
    difference: Estimate


def find_gains(cells: Sequence[Cell], plain: Sequence[Cell], *, seed: int) -> list[Gain]:
    """The difference of every row of latents from the features tested in the same way; nothing without the latter."""
    gains = []
    for cell in cells:
        other = next((each for each in plain if each.task == cell.task), None) if cell.protocol else None
        if other is not None:
            gain = difference(cell, other, seed=seed)
            gains.append(Gain(cell.row, cell.protocol, cell.head, cell.source, cell.target, gain))
    return gains
