"""Scores over left-out laboratories and seeds: the mean and the worst of each form of a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation import metrics
from hemalens.evaluation.results import Estimate, FormScores, ImitatedScores, LaboratoryScores, LeftOut, LeftOutTest, Worst

NONE = "none"
"""The form of a model that is not adapted."""
HARM = 0.01
"""A loss of balanced accuracy above this counts as harm."""
N_RESAMPLED = 1000
Floats = NDArray[np.floating[Any]]


def left_out_scores(tests: Sequence[LeftOutTest], *, seed: int) -> tuple[LeftOut, ...]:
    """The scores of each method over the laboratories and seeds of its tests, in their order."""
    by_method: dict[str, list[LeftOutTest]] = {}
    for test in tests:
        by_method.setdefault(test.method, []).append(test)
    return tuple(_method(own, seed=seed) for own in by_method.values())


def _method(tests: Sequence[LeftOutTest], *, seed: int) -> LeftOut:
    forms = [form.form for form in tests[0].forms]
    grouped = any(test.grouped for test in tests)
    return LeftOut(
        name=f"{tests[0].method}: all but one",
        method=tests[0].method,
        laboratories=tuple(dict.fromkeys(test.laboratory for test in tests)),
        seeds=tuple(sorted({test.seed for test in tests})),
        n_tests=len(tests),
        forms=tuple(_form(form, tests, seed=seed) for form in forms),
        imitated=tuple(_imitated(form, tests, seed=seed) for form in forms) if any(t.imitated for t in tests) else (),
        intervals="95 %: bootstrap of the mean over seeds and, within their classes, over the tested "
        f"{'groups or images' if grouped else 'images'} (1,000 repeats); of these laboratories, not of others",
    )


def _form(form: str, tests: Sequence[LeftOutTest], *, seed: int) -> FormScores:
    by_laboratory: dict[str, list[LeftOutTest]] = {}
    for test in tests:
        by_laboratory.setdefault(test.laboratory, []).append(test)
    tested = [_Tested.of(form, own, np.random.default_rng([seed, i])) for i, own in enumerate(by_laboratory.values())]
    scores = [each.scores() for each in tested]
    value, name, at = min((v, s.laboratory, at) for s in scores for at, v in s.by_seed.items())
    return FormScores(
        form=form,
        transductive=any(each.transductive for test in tests for each in test.forms if each.form == form),
        laboratories=tuple(scores),
        mean=_mean([each.balanced_accuracy for each in tested]),
        accuracy=_mean([each.accuracy for each in tested]),
        majority_rate=float(np.mean([each.majority_rate for each in scores])),
        worst=Worst(value=value, laboratory=name, seed=at),
    )


@dataclass(frozen=True, slots=True)
class _Score:
    """A score of each seed (s,), and the mean over resampled seeds and units, (repeats,)."""

    by_seed: Floats
    resampled: Floats

    def estimate(self) -> Estimate:
        std = float(self.by_seed.std(ddof=1)) if len(self.by_seed) > 1 else None
        low, high = _limits(self.resampled)
        return Estimate(value=float(np.nanmean(self.by_seed)), low=low, high=high, std=std)


@dataclass(frozen=True, slots=True)
class _Tested:
    """The tests of one form in one laboratory, one a seed."""

    tests: Sequence[LeftOutTest]
    balanced_accuracy: _Score
    accuracy: _Score
    recall: dict[str, _Score]
    majority_rate: float

    @classmethod
    def of(cls, form: str, tests: Sequence[LeftOutTest], rng: np.random.Generator) -> _Tested:
        models = [_predictions(form, test) for test in tests]
        k, shape = len(tests[0].classes), (len(tests), len(models[0]))
        flat = [model for own in models for model in own]
        counts = np.stack([metrics.confusion(m.target, m.predicted, k) for m in flat]).reshape(*shape, k, k)
        drawn = metrics.resampled_confusions(flat, k, rng=rng, n_repeats=N_RESAMPLED)
        if drawn is None:  # a test without images is refused before the training
            drawn = np.zeros((len(flat), N_RESAMPLED, k, k), np.int64)
        drawn = drawn.reshape(*shape, N_RESAMPLED, k, k)
        # with many labelled cells few of a class are tested: a resample without any of them does not count
        present = drawn.sum(axis=-1) > 0
        expected = counts.sum(axis=-1)[:, :, None] > 0
        whole = (present | ~expected).all(axis=-1)
        draws = rng.integers(len(tests), size=(len(tests), N_RESAMPLED))

        def score(of: Any, used: NDArray[np.bool_]) -> _Score:
            values, scores = np.asarray(of(counts), float), np.where(used, np.asarray(of(drawn), float), np.nan)
            # draws of labelled cells are averaged within their seed, and seeds are resampled
            means = np.take_along_axis(_mean_of_known(scores, 1), draws, axis=0)
            return _Score(_mean_of_known(values, 1), _mean_of_known(means, 0))

        names = tests[0].tested_classes
        return cls(
            tests,
            score(metrics.balanced_accuracy, whole),
            score(metrics.accuracy, np.ones_like(whole)),
            {name: score(lambda c, i=i: metrics.recall(c)[..., i], present[..., i]) for i, name in enumerate(names)},
            float(np.mean(metrics.majority_rate(counts))),
        )

    def scores(self) -> LaboratoryScores:
        first = self.tests[0]
        values = self.balanced_accuracy.by_seed
        return LaboratoryScores(
            laboratory=first.laboratory,
            n_images=len(first.truth),
            balanced_accuracy=self.balanced_accuracy.estimate(),
            accuracy=self.accuracy.estimate(),
            majority_rate=self.majority_rate,
            recall={name: score.estimate() for name, score in self.recall.items()},
            by_seed={test.seed: float(value) for test, value in zip(self.tests, values, strict=True)},
            left_out=first.left_out,
            unreadable=first.unreadable,
        )


def _predictions(form: str, test: LeftOutTest) -> list[metrics.Predictions]:
    """The predictions of each draw."""
    truth, units = np.array(test.truth, np.int64), np.array(test.units, np.int64)
    rows = [np.array(row, np.int64) for each in test.forms if each.form == form for row in each.answers]
    return [metrics.Predictions(truth[row >= 0], row[row >= 0], units[row >= 0]) for row in rows]


def _mean(scores: Sequence[_Score]) -> Estimate:
    """The mean over laboratories; `std` is that of the seeds' means, where every laboratory has all seeds."""
    low, high = _limits(np.mean([score.resampled for score in scores], axis=0))
    lengths = {len(score.by_seed) for score in scores}
    std = None
    if len(lengths) == 1 and lengths.pop() > 1:
        std = float(np.mean([score.by_seed for score in scores], axis=0).std(ddof=1))
    return Estimate(value=float(np.mean([np.nanmean(score.by_seed) for score in scores])), low=low, high=high, std=std)


def _mean_of_known(values: Floats, axis: int) -> NDArray[np.float64]:
    """The mean along an axis without NaN; NaN where nothing else is."""
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    mean: NDArray[np.float64] = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return mean


def _limits(means: Floats) -> tuple[float | None, float | None]:
    """95 % percentile limits; None where no mean is known."""
    if np.isnan(means).all():
        return None, None
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


# ------------------------------------------------------------------------------------------------ imitated laboratories


def _imitated(form: str, tests: Sequence[LeftOutTest], *, seed: int) -> ImitatedScores:
    """The scores of one form in all imitated laboratories, each the mean over the seeds of the trainings."""
    found = [(test, each) for test in tests for each in test.imitated]
    scores: dict[tuple[str, int], list[float]] = {}
    gains: dict[tuple[str, int], list[float]] = {}
    mixes: dict[str, list[float]] = {}
    for test, each in found:
        scores.setdefault((test.laboratory, each.seed), []).append(each.balanced_accuracy[form])
        mixes.setdefault(each.mix, []).append(each.balanced_accuracy[form])
        if form != NONE:
            gains.setdefault((test.laboratory, each.seed), []).append(each.gains[form])
    value, name, at = min((each.balanced_accuracy[form], each_of.laboratory, each_of.seed) for each_of, each in found)
    return ImitatedScores(
        form=form,
        n_laboratories=len(scores),
        n_tests=len(found),
        balanced_accuracy=_over_laboratories(list(scores.values()), seed=seed),
        worst=Worst(value=value, laboratory=name, seed=at),
        gain=_over_laboratories(list(gains.values()), seed=seed) if gains else None,
        n_harmed=sum(each.gains[form] < -HARM for _, each in found) if gains else None,
        by_mix={mix: float(np.mean(values)) for mix, values in mixes.items()},
    )


def _over_laboratories(values: Sequence[Sequence[float]], *, seed: int) -> Estimate:
    """The mean over imitated laboratories, with an interval by resampling them."""
    means = np.array([np.mean(each) for each in values])
    if len(means) < 2:
        return Estimate(value=float(means.mean()))
    drawn = np.random.default_rng(seed).integers(len(means), size=(N_RESAMPLED, len(means)))
    low, high = np.percentile(means[drawn].mean(axis=1), [2.5, 97.5])
    return Estimate(value=float(means.mean()), low=float(low), high=float(high), std=float(means.std(ddof=1)))
