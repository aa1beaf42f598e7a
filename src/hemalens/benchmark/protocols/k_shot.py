"""The protocol k-shot: memorise k labelled images a class of a new laboratory, classify the rest, again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.source_head import BaseHead
from hemalens.cache import FeatureCache
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.classifiers.heads import make_head
from hemalens.datasets.base import CellDataset
from hemalens.datasets.episodes import Episode, draw_episodes, refuse_overlap
from hemalens.datasets.splits import k_fold, seeded, units
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation import metrics
from hemalens.evaluation.projection import scatter
from hemalens.evaluation.results import Estimate, KShot, Shots, Supervised
from hemalens.files import default_cache_dir
from hemalens.graphs.features import extract
from hemalens.progress import track

PUBLISHED_SHOTS = (1, 2, 3, 5, 10, 15, 20, 30, 50)
N_SUPERVISED_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Embedded:
    """A dataset's readable images with their embeddings (n, d), and the errors of the others by path.

    `head` is what a bundle itself makes of an embedding, where the embedder is a bundle's; `parts` are the widths of
    embeddings that stand side by side.
    """

    dataset: CellDataset
    embeddings: NDArray[np.float64]
    unreadable: dict[str, str] = field(default_factory=dict)
    head: BaseHead | None = None
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class KShotPlan:
    """How often k images a class are drawn, for which k, and what classifies by them.

    With `replacement` an image may be drawn twice (as published).
    """

    shots: tuple[int, ...] = PUBLISHED_SHOTS
    n_repeats: int = 100
    replacement: bool = True
    classifier: FewShotConfig = field(default_factory=FewShotConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            raise SplitError("cannot use these k", expected="different whole numbers from 1 on", got=str(list(self.shots)))
        if self.n_repeats < 2:
            raise SplitError("too few repeats", expected="at least 2, for a spread", got=str(self.n_repeats))


def embed(encoder: onnx.ModelProto, dataset: CellDataset) -> Embedded:
    """Embeddings by a graph from `image` to `embedding`, through the cache."""
    with track(f"embedding {dataset.name}", len(dataset)) as progress:
        found = extract(dataset.records, encoder, cache=FeatureCache(default_cache_dir()), progress=progress)
    if len(found.readable) == 0:
        raise DatasetError(f"no image of {dataset.name} can be read", got=next(iter(found.errors.values()), "no image"))
    unreadable = {str(dataset.records[i].path): error for i, error in found.errors.items()}
    return Embedded(dataset.subset(found.readable), found.embeddings.astype(np.float64), unreadable)


def check_k_shot(target: CellDataset, pool: CellDataset | None, plan: KShotPlan) -> None:
    """Raise `SplitError` for what would fail later: too large a k, or a pool that overlaps with the target."""
    if pool is not None:
        refuse_overlap(pool, target)
    for k in plan.shots:
        _episodes(target, pool, plan, k)


def k_shot(
    target: Embedded,
    pool: Embedded | None,
    plan: KShotPlan,
    *,
    method: str,
    source: str,
    supervised: Supervised | None = None,
    left_out: dict[str, str] | None = None,
) -> KShot:
    """Scores for each k: means over the repeats, with intervals over repeats and test units.

    `pool` holds the images to memorise from, with the target's classes; without one they come from the target, and the rest
    of it is tested. Raises `SplitError` as `check_k_shot` does.
    """
    if pool is not None:
        refuse_overlap(pool.dataset, target.dataset)
    shots = []
    predicted = np.zeros((1, len(target.dataset)), np.int64)
    with track("k-shot", len(plan.shots) * plan.n_repeats) as progress:
        for k in plan.shots:
            episodes = _episodes(target.dataset, pool.dataset if pool else None, plan, k)
            predicted = _predicted(target, pool, episodes, plan, lambda: progress(1))
            shots.append(scores(k, target.dataset, episodes, predicted, seed=plan.seed))
    labels, records = _answerable(target, plan.classifier), target.dataset.records
    told = [(str(r.label), labels[p], r.domain) for r, p in zip(records, predicted[0], strict=True)]
    return KShot(
        name=f"{method}: {source} -> {target.dataset.name}",
        method=method,
        source=source,
        target=target.dataset.name,
        support=pool.dataset.name if pool else f"{target.dataset.name} itself, the rest is tested",
        classifier=str(plan.classifier),
        replacement=plan.replacement,
        transductive=plan.classifier.transductive,
        n_images=len(target.dataset),
        classes=target.dataset.classes,
        left_out=left_out or {},
        unreadable=target.unreadable | (pool.unreadable if pool else {}),
        shots=tuple(shots),
        supervised=supervised,
        scatter=scatter(target.embeddings, told, seed=plan.seed),
        intervals="95 %: bootstrap of the mean over repeats (drawings of the support) and, within their classes, over the "
        f"tested {'groups' if any(r.group is not None for r in records) else 'images'} (1,000 repeats)",
    )


def _episodes(target: CellDataset, pool: CellDataset | None, plan: KShotPlan, k: int) -> list[Episode]:
    return draw_episodes(target, pool, k_shot=k, n_repeats=plan.n_repeats, seed=plan.seed, replacement=plan.replacement)


def _predicted(
    target: Embedded, pool: Embedded | None, episodes: list[Episode], plan: KShotPlan, done: Callable[[], None]
) -> NDArray[np.int64]:
    """Answers of every episode's classifier for every target image, (n_repeats, n); only its query counts.

    An answer is an index into the target's classes, and behind them those of the base's head, where it is kept.
    """
    source = pool or target
    classes, head = _answerable(target, plan.classifier), target.head if plan.classifier.uses_base else None
    before = head.logits(target.embeddings, classes) if head else None
    of_source = before if head is None or pool is None else head.logits(pool.embeddings, classes)
    unit = units(source.dataset)
    answers = np.zeros((len(episodes), len(target.dataset)), np.int64)
    for row, episode in zip(answers, episodes, strict=True):
        classifier = plan.classifier.make(random_state=plan.seed)
        support = source.embeddings[episode.support]
        # what is memorised is no unlabelled target image
        unlabelled = target.embeddings[episode.query] if plan.classifier.transductive else None
        truth = source.dataset.targets[episode.support]
        if of_source is None:
            classifier.fit(support, truth, unlabelled)
        else:
            known = of_source[episode.support]
            classifier.fit(support, truth, unlabelled, base=known, unit=unit[episode.support], parts=target.parts)
        row[:] = classifier.predict(target.embeddings, before)
        done()
    return answers


def _answerable(target: Embedded, classifier: FewShotConfig) -> tuple[str, ...]:
    """What is answered: the target's classes, and behind them those that a base's head knows beside them."""
    keeps = classifier.uses_base and target.head is not None
    return target.head.classes_with(target.dataset.classes) if keeps and target.head else target.dataset.classes


def scores(k: int, target: CellDataset, episodes: list[Episode], predicted: NDArray[np.int64], *, seed: int) -> Shots:
    """Scores of answers (n_repeats, n), each on its episode's query; one beyond the target's classes is wrong."""
    unit, n_classes = units(target), max(len(target.classes), int(predicted.max(initial=0)) + 1)
    models = [
        metrics.Answers(target.targets[e.query], p[e.query], unit[e.query])
        for e, p in zip(episodes, predicted, strict=True)
    ]
    counts = np.stack([metrics.confusion(m.target, m.predicted, n_classes) for m in models])
    resampled = metrics.resampled_confusions(models, n_classes, rng=np.random.default_rng(seed))
    if resampled is None:  # every episode tests every class
        raise DatasetError(f"no image of {target.name} is left to test")

    # few images of a class are tested where most are memorised: a resample without any says nothing of it, and its score
    # would be that of the other classes
    present = resampled.sum(axis=-1) > 0  # (repeats, resamples, k)
    whole = present[..., : len(target.classes)].all(axis=-1)

    def estimate(score: Callable[[metrics.Confusion], Any], tells: NDArray[np.bool_] | None = None) -> Estimate:
        values, again = np.asarray(score(counts), float), score(resampled)
        told = again if tells is None else np.where(tells, again, np.nan)
        low, high = metrics.two_way_interval(told, rng=np.random.default_rng(seed))
        return Estimate(value=float(values.mean()), low=low, high=high, std=float(values.std(ddof=1)))

    return Shots(
        k=k,
        n_repeats=len(episodes),
        accuracy=estimate(metrics.accuracy),
        majority_rate=float(np.mean(metrics.majority_rate(counts))),
        balanced_accuracy=estimate(metrics.balanced_accuracy, whole),
        macro_f1=estimate(metrics.macro_f1, whole),
        f1={
            label: estimate(lambda c, i=i: metrics.f1(c)[..., i], present[..., i])  # type: ignore[misc]
            for i, label in enumerate(target.classes)
        },
    )


def supervised_reference(target: Embedded, pool: Embedded | None, *, seed: int) -> Supervised | None:
    """Logistic regression on all labels: of the pool, or of the target's other folds; None where folds cannot be made."""
    dataset = target.dataset
    unit = units(dataset)
    if pool is not None:
        head = make_head("lr", seed=seed)
        head.fit(pool.embeddings, pool.dataset.targets)
        answers = [metrics.Answers(dataset.targets, head.predict_proba(target.embeddings).argmax(axis=1), unit)]
        what = f"logistic regression on all {len(pool.dataset)} images of {pool.dataset.name}"
    else:
        smallest = min(len(np.unique(unit[dataset.targets == i])) for i in range(len(dataset.classes)))
        n_folds = min(N_SUPERVISED_FOLDS, smallest)
        if n_folds < 2:
            return None
        position = {id(record): i for i, record in enumerate(dataset.records)}
        answers = []
        for train, test in k_fold(dataset, n_folds, seeded(seed, "supervised")):
            learn, held = (np.array([position[id(r)] for r in part.records]) for part in (train, test))
            head = make_head("lr", seed=seed)
            head.fit(target.embeddings[learn], dataset.targets[learn])
            found = head.predict_proba(target.embeddings[held]).argmax(axis=1)
            answers.append(metrics.Answers(dataset.targets[held], found, unit[held]))
        what = f"logistic regression on all labels, {n_folds} folds of {dataset.name}"
    pooled = metrics.Answers(
        *(np.concatenate([getattr(a, name) for a in answers]) for name in ("target", "predicted", "unit"))
    )

    def estimate(score: Callable[[metrics.Confusion], Any]) -> Estimate:
        k = len(dataset.classes)
        low, high = metrics.bootstrap_interval(score, [pooled], k, rng=np.random.default_rng(seed))
        return Estimate(value=float(score(metrics.confusion(pooled.target, pooled.predicted, k))), low=low, high=high)

    return Supervised(what=what, accuracy=estimate(metrics.accuracy), balanced_accuracy=estimate(metrics.balanced_accuracy))
