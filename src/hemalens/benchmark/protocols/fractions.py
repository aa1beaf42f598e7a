"""The protocol fractions: a method trained on 100, 50, 10 and 1 % of the labels, always tested on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.benchmark.protocols.folds import FitFold
from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import nested_fractions, seeded, units
from hemalens.errors import SplitError
from hemalens.evaluation import metrics
from hemalens.evaluation.evaluate import TestPlan, answer, plan_test
from hemalens.evaluation.results import Estimate, FractionCurve, FractionScores, Selection

PUBLISHED_FRACTIONS = (1.0, 0.5, 0.1, 0.01)


@dataclass(frozen=True, slots=True)
class FractionPlan:
    """Which fractions, how often each is drawn and trained, and on which images the epoch is chosen.

    `strict`: a fraction that leaves a class without an image is an error; otherwise the class keeps one.
    """

    fractions: tuple[float, ...] = PUBLISHED_FRACTIONS
    n_seeds: int = 3
    selection: Selection = "validation"
    strict: bool = False
    seed: int = 0


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

    def check(self, plan: FractionPlan) -> None:
        """Raise `SplitError` before anything is trained: overlaps, nothing to do, or a fraction that cannot be drawn."""
        if not plan.fractions or plan.n_seeds < 1:
            raise SplitError(
                "the protocol fractions has nothing to train",
                expected="a fraction and a seed, or more",
                got=f"{len(plan.fractions)} fraction(s), {plan.n_seeds} seed(s)",
            )
        learned = {content for part in (self.train, *self.given.values()) for content in part.contents}
        refuse_leaks(learned, self.validation)
        if plan.selection == "validation":
            learned |= set(self.validation.contents)
        for test in self.tests:
            refuse_leaks(learned, test)
        if plan.selection == "published-selection" and len(self.tests) != 1:
            raise SplitError(
                "published-selection chooses the epoch on the test images",
                expected="one test set",
                got=str(len(self.tests)),
            )
        self.learning(plan, 0)

    def learning(self, plan: FractionPlan, draw: int) -> dict[float, CellDataset]:
        """The training part of each fraction in one draw, largest first; smaller ones lie inside larger ones."""
        wanted = sorted(set(plan.fractions), reverse=True)
        drawn = nested_fractions(self.train, wanted, seeded(plan.seed, "fractions", str(draw)), strict=plan.strict)
        return {fraction: self.given.get(fraction, drawn[fraction]) for fraction in wanted}


@dataclass(frozen=True, slots=True)
class FractionRun:
    """A method's curve on one test set, and what its models answered there: for each fraction one entry a seed."""

    curve: FractionCurve
    answers: Mapping[float, Sequence[metrics.Answers]]
    n_labels: int


def fraction_runs(
    fit: FitFold, parts: FixedParts, plan: FractionPlan, *, method: str, source: str, run_dir: Path
) -> list[FractionRun]:
    """Train on every fraction `n_seeds` times, and test each model on every test set; a run for each set.

    With the plan's "published-selection" the test images choose the epoch. Raises `SplitError` as `FixedParts.check` does.
    """
    parts.check(plan)
    held = parts.validation if plan.selection == "validation" else parts.tests[0]
    plans: dict[int, TestPlan] = {}
    found: dict[tuple[int, float], list[metrics.Answers]] = {}
    unreadable: list[dict[str, str]] = [{} for _ in parts.tests]
    learned: dict[float, list[CellDataset]] = {}
    transductive = [False] * len(parts.tests)
    for draw in range(plan.n_seeds):
        for fraction, part in parts.learning(plan, draw).items():
            run = run_dir / f"{fraction:g}" / f"seed_{draw}"
            bundle = fit(part, held, seeded(plan.seed, "fit", f"{fraction:g}", str(draw)), run)
            learned.setdefault(fraction, []).append(part)
            for i, test in enumerate(parts.tests):
                plans[i] = plan_test(bundle.manifest.labels, test)
                if plan.selection == "validation":
                    refuse_leaks(bundle.seen, test)
                transductive[i] |= not bundle.seen_unlabelled.isdisjoint(test.contents)
                found.setdefault((i, fraction), []).append(_answered(bundle, test, plans[i], unreadable[i]))
    curves = [
        FractionCurve(
            name=f"{method}: {source} -> {test.name}",
            method=method,
            source=source,
            target=test.name,
            selection=plan.selection,
            transductive=transductive[i],
            n_images=len(found[i, plan.fractions[0]][0].target),
            n_validation=0 if plan.selection == "published-selection" else len(held),
            classes=plans[i].tested,
            left_out=plans[i].left_out,
            unreadable=unreadable[i],
            fractions=tuple(_scores(f, learned[f], found[i, f], plans[i], plan.seed) for f in learned),
            intervals="95 %: bootstrap of the mean over the seeds (draws of the fraction and trainings) and, within their "
            f"classes, over the tested {'groups' if any(r.group is not None for r in test.records) else 'images'} "
            "(1,000 repeats)",
        )
        for i, test in enumerate(parts.tests)
    ]
    return [FractionRun(curve, {f: found[i, f] for f in learned}, len(plans[i].labels)) for i, curve in enumerate(curves)]


def balanced_accuracy_gain(run: FractionRun, reference: FractionRun, fraction: float, *, seed: int) -> Estimate:
    """Balanced accuracy of `run` less that of `reference` at a fraction: mean over seeds, paired by seed and test image.

    Both must have answered the same images, with the same seeds; the interval resamples both.
    """
    ours, theirs = run.answers[fraction], reference.answers[fraction]
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


def _answered(bundle: Bundle, test: CellDataset, plan: TestPlan, unreadable: dict[str, str]) -> metrics.Answers:
    tested = test.only_classes(plan.tested)
    unit = units(tested)
    said = answer(bundle, tested)
    unreadable.update(said.unreadable)
    truth = np.array([plan.labels.index(str(record.label)) for record in said.records], np.int64)
    return metrics.Answers(truth, said.probabilities.argmax(axis=1).astype(np.int64), unit[said.index])


def _scores(
    fraction: float, learned: Sequence[CellDataset], models: Sequence[metrics.Answers], plan: TestPlan, seed: int
) -> FractionScores:
    k = len(plan.labels)
    counts = np.stack([metrics.confusion(m.target, m.predicted, k) for m in models])
    resampled = metrics.resampled_confusions(models, k, rng=np.random.default_rng(seed))

    def estimate(score: Callable[[metrics.Confusion], Any]) -> Estimate:
        values = np.asarray(score(counts), float)
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        if resampled is None:
            return Estimate(value=float(values.mean()), std=std)
        low, high = metrics.two_way_interval(np.asarray(score(resampled), float), rng=np.random.default_rng(seed))
        return Estimate(value=float(values.mean()), low=low, high=high, std=std)

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
