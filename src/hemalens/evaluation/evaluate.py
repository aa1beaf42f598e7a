"""Test a bundle, or the bundles of several folds, on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import Bundle
from hemalens.cache import FeatureCache
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import units
from hemalens.errors import DatasetError, one_line
from hemalens.evaluation import metrics
from hemalens.evaluation.projection import scatter
from hemalens.evaluation.results import (
    ClassScores,
    Estimate,
    Evaluation,
    ImageAnswers,
    ReliabilityBin,
    Scatter,
    Scores,
    WrongCell,
)
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import require_probabilities, run_rows
from hemalens.progress import track

N_WRONG = 12


@dataclass(frozen=True, slots=True)
class DatasetPredictions:
    """Predictions of one model on a dataset: probabilities (n, k) and embeddings (n, d) of its readable records."""

    records: tuple[Record, ...]
    index: NDArray[np.int64]
    """Position of each readable record in the dataset, (n,)."""
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    unreadable: dict[str, str]


def predict_dataset(bundle: Bundle, dataset: CellDataset) -> DatasetPredictions:
    """Run a bundle over a dataset. Embeddings of a frozen backbone come from and go to the cache."""
    graph = bundle.tested_graph
    cache = FeatureCache(default_cache_dir()) if bundle.manifest.frozen_backbone else None
    encoder = cut(graph, ["image"], ["embedding"])
    with track("testing", len(dataset)) as progress:
        found = extract(dataset.through(bundle.stages).records, encoder, cache=cache, progress=progress)
    if len(found.readable) == 0:
        raise DatasetError(f"no image of {dataset.name} can be read", got=next(iter(found.errors.values()), "no image"))
    head = cut(graph, ["embedding"], ["probabilities"]).SerializeToString()
    probabilities = run_rows(head, {"embedding": found.embeddings}, ["probabilities"])["probabilities"]
    require_probabilities(probabilities, len(bundle.manifest.labels), one_line(bundle.path))
    return DatasetPredictions(
        records=tuple(dataset.records[i] for i in found.readable),
        index=found.readable,
        probabilities=probabilities,
        embeddings=found.embeddings,
        unreadable={dataset.records[i].name: error for i, error in found.errors.items()},
    )


@dataclass(frozen=True, slots=True)
class TestPlan:
    """The classes of a target that are tested for a model of `labels`, and the reasons why others are left out."""

    labels: tuple[str, ...]
    tested: tuple[str, ...]
    left_out: dict[str, str]

    __test__ = False  # not a test of pytest's


def plan_test(labels: Sequence[str], target: CellDataset, *, min_per_class: int = 1) -> TestPlan:
    """Shared classes with at least `min_per_class` target images; raises `DatasetError` when fewer than two are shared."""
    counts = target.class_counts
    left_out: dict[str, str] = {}
    for label in labels:
        n = counts.get(label, 0)
        if n < min_per_class:
            left_out[label] = (
                f"{n} image(s) in the target, at least {min_per_class} requested" if n else "not in the target"
            )
    left_out |= {label: "unknown to the model" for label in target.classes if label not in labels}
    tested = tuple(label for label in labels if label not in left_out)
    if len(tested) < 2:
        raise DatasetError(
            f"{target.name} shares too few classes with the model",
            expected=f"at least two of {', '.join(labels)}",
            got=", ".join(f"{name} ({n})" for name, n in counts.items()),
            remedy="Choose the --labels the model was trained with.",
        )
    return TestPlan(tuple(labels), tested, left_out)


def evaluate(
    bundles: Sequence[Bundle],
    tests: Sequence[CellDataset],
    *,
    target: CellDataset,
    source_name: str,
    seed: int,
    min_per_class: int = 1,
) -> Evaluation:
    """Test each bundle on its dataset of `tests` (parts of `target`, or all of it each time) and pool the predictions.

    Scores are means over the bundles; intervals come from a bootstrap over the target's units. Raises `SplitError` for a
    bundle that was trained on an image it is tested on.
    """
    return evaluate_with_predictions(
        bundles, tests, target=target, source_name=source_name, seed=seed, min_per_class=min_per_class
    )[0]


def evaluate_with_predictions(
    bundles: Sequence[Bundle],
    tests: Sequence[CellDataset],
    *,
    target: CellDataset,
    source_name: str,
    seed: int,
    min_per_class: int = 1,
) -> tuple[Evaluation, tuple[DatasetPredictions, ...]]:
    """`evaluate`, and each bundle's predictions for its images of the tested classes."""
    plan = plan_test(bundles[0].manifest.labels, target, min_per_class=min_per_class)
    for bundle, test in zip(bundles, tests, strict=True):
        refuse_leaks(bundle.seen, test)
    contents = set(target.contents)
    predictions = tuple(
        predict_dataset(bundle, test.only_classes(plan.tested)) for bundle, test in zip(bundles, tests, strict=True)
    )
    evaluation = score(
        predictions,
        plan,
        target=target,
        method=bundles[0].manifest.method,
        source_name=source_name,
        seed=seed,
        transductive=any(not bundle.seen_unlabelled.isdisjoint(contents) for bundle in bundles),
    )
    return evaluation, predictions


def score(
    predictions: Sequence[DatasetPredictions],
    plan: TestPlan,
    *,
    target: CellDataset,
    method: str,
    source_name: str,
    seed: int,
    transductive: bool = False,
) -> Evaluation:
    """The evaluation of one model, or of the models of several folds, from their predictions for images of `target`.

    All images are of `plan.tested` classes. `transductive`: images were seen in training, without their labels.
    """
    labels = plan.labels
    unit_of = {id(record): u for record, u in zip(target.records, units(target), strict=True)}
    folds: list[_Fold] = []
    unreadable: dict[str, str] = {}
    for found in predictions:
        unreadable |= found.unreadable
        truth = np.array([labels.index(str(record.label)) for record in found.records], np.int64)
        unit = np.array([unit_of[id(record)] for record in found.records], np.int64)
        folds.append(_Fold(found, truth, unit))
    scores = _scores(folds, plan, seed)
    pooled = np.sum([metrics.confusion(f.truth, f.predicted, len(labels)) for f in folds], axis=0)
    tested_rows = [labels.index(label) for label in plan.tested]
    pooled_probabilities = np.concatenate([fold.predictions.probabilities for fold in folds])
    pooled_truth = np.concatenate([fold.truth for fold in folds])
    n_images = len({id(record) for fold in folds for record in fold.predictions.records})
    any_group = any(record.group is not None for record in target.records)
    n_each = "group" if any_group else "image"
    return Evaluation(
        name=f"{method}: {source_name} -> {target.name}" + (" (transductive)" if transductive else ""),
        method=method,
        source=source_name,
        target=target.name,
        transductive=transductive,
        n_images=n_images,
        n_folds=len(folds),
        classes=labels,
        tested_classes=plan.tested,
        left_out=plan.left_out,
        unreadable=unreadable,
        scores=scores,
        per_class=_class_scores(pooled, plan, round(len(pooled_truth) / n_images)),
        confusion=tuple(tuple(int(v) for v in pooled[row]) for row in tested_rows),
        reliability=tuple(
            ReliabilityBin.model_validate(row) for row in metrics.reliability(pooled_probabilities, pooled_truth)
        ),
        scatter=_scatter_of_fold(folds[0], labels, seed),
        most_confident_errors=_wrong_cells(folds, labels),
        answers=_image_answers(folds),
        intervals=f"95 %: scores by a bootstrap over the tested {n_each}s within their classes (1,000 repeats), "
        "precision and recall exact binomial (Clopper-Pearson)",
    )


@dataclass(frozen=True, slots=True)
class _Fold:
    predictions: DatasetPredictions
    truth: NDArray[np.int64]
    unit: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = self.predictions.probabilities.argmax(axis=1).astype(np.int64)
        return best

    def restricted(self, allowed: list[int]) -> NDArray[np.int64]:
        """Predictions when only the classes `allowed` may be chosen."""
        chosen: NDArray[np.int64] = np.array(allowed, np.int64)[self.predictions.probabilities[:, allowed].argmax(axis=1)]
        return chosen


def _scores(folds: list[_Fold], plan: TestPlan, seed: int) -> Scores:
    k = len(plan.labels)
    allowed = [plan.labels.index(label) for label in plan.tested]
    free = [metrics.Predictions(f.truth, f.predicted, f.unit) for f in folds]
    bound = [metrics.Predictions(f.truth, f.restricted(allowed), f.unit) for f in folds]
    # one generator for each: the intervals of a score are the same whatever else is computed
    drawn = [metrics.resampled_confusions(each, k, rng=np.random.default_rng(seed)) for each in (free, bound)]

    def estimate(score: Callable[[metrics.Confusion], Any], models: list[metrics.Predictions]) -> Estimate:
        values = np.array([score(metrics.confusion(m.target, m.predicted, k)) for m in models])
        low, high = metrics.percentile_interval(score, drawn[0] if models is free else drawn[1])
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        return Estimate(value=float(values.mean()), low=low, high=high, std=std)

    counts = [metrics.confusion(f.truth, f.predicted, k) for f in folds]
    probabilities = [f.predictions.probabilities for f in folds]
    pairs = list(zip(probabilities, [f.truth for f in folds], strict=True))
    return Scores(
        accuracy=estimate(metrics.accuracy, free),
        majority_rate=float(np.mean([metrics.majority_rate(c) for c in counts])),
        balanced_accuracy=estimate(metrics.balanced_accuracy, free),
        macro_f1=estimate(metrics.macro_f1, free),
        balanced_accuracy_restricted=estimate(metrics.balanced_accuracy, bound),
        ece=float(np.mean([metrics.expected_calibration_error(p, t) for p, t in pairs])),
        nll=float(np.mean([metrics.negative_log_likelihood(p, t) for p, t in pairs])),
    )


def _class_scores(counts: metrics.Confusion, plan: TestPlan, n_times: int) -> tuple[ClassScores, ...]:
    """Per class; when every image has `n_times` predictions, the limits count it once (counts averaged, rounded)."""
    rows = []
    precision, recall, f1 = metrics.precision(counts), metrics.recall(counts), metrics.f1(counts)
    for label in plan.tested:
        i = plan.labels.index(label)
        right, n, n_predicted = (round(int(v) / n_times) for v in (counts[i, i], counts[i].sum(), counts[:, i].sum()))
        rows.append(
            ClassScores(
                label=label,
                n=n,
                n_answered=n_predicted,
                precision=_proportion(float(precision[i]), right, n_predicted),
                recall=_proportion(float(recall[i]), right, n),
                f1=None if np.isnan(f1[i]) else float(f1[i]),
            )
        )
    return tuple(rows)


def _proportion(value: float, successes: int, n: int) -> Estimate:
    if np.isnan(value) or n == 0:
        return Estimate(value=None)
    low, high = metrics.exact_interval(min(successes, n), n)
    return Estimate(value=value, low=low, high=high)


def _image_answers(folds: list[_Fold]) -> ImageAnswers:
    """Every tested image once, in the order of their content ids."""
    place: dict[str, tuple[int, int]] = {}
    for fold in folds:
        for record, unit, truth in zip(fold.predictions.records, fold.unit, fold.truth, strict=True):
            place[record.content_id()] = (int(unit), int(truth))
    contents = sorted(place)
    at = {content: i for i, content in enumerate(contents)}
    answers = np.full((len(folds), len(contents)), -1)
    for row, fold in zip(answers, folds, strict=True):
        row[[at[record.content_id()] for record in fold.predictions.records]] = fold.predicted
    return ImageAnswers(
        images=tuple(content[:16] for content in contents),
        units=tuple(place[content][0] for content in contents),
        truth=tuple(place[content][1] for content in contents),
        answers=tuple(tuple(row) for row in answers.tolist()),
    )


def _scatter_of_fold(fold: _Fold, labels: tuple[str, ...], seed: int) -> Scatter | None:
    records, predicted = fold.predictions.records, fold.predicted
    points = [(labels[t], labels[p], r.domain) for t, p, r in zip(fold.truth, predicted, records, strict=True)]
    return scatter(fold.predictions.embeddings, points, seed=seed)


def _wrong_cells(folds: list[_Fold], labels: tuple[str, ...]) -> tuple[WrongCell, ...]:
    """The wrong predictions with the highest probability, each image once."""
    worst: dict[str, tuple[float, Record, str, str]] = {}
    for fold in folds:
        best = fold.predictions.probabilities.max(axis=1)
        for i in np.flatnonzero(fold.predicted != fold.truth):
            record = fold.predictions.records[i]
            entry = (float(best[i]), record, labels[fold.truth[i]], labels[fold.predicted[i]])
            if record.name not in worst or worst[record.name][0] < entry[0]:
                worst[record.name] = entry
    ranked = sorted(worst.values(), key=lambda entry: (-entry[0], entry[1].name))[:N_WRONG]
    return tuple(
        WrongCell(
            name=record.file_name, label=label, predicted=predicted, probability=p, thumbnail=thumbnail(record.read())
        )
        for p, record, label, predicted in ranked
    )
