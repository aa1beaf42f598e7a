"""Paired significance tests of methods on the same test images, with p-values corrected for multiple comparisons.

`compare` gives the p-values of all pairs: `sign_flip_p_value` (McNemar's exact test) for the accuracy, a paired bootstrap
and random sign flips for the balanced accuracy, `holm` for the correction. `standings` names the best method, if any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.splits import seeded
from hemalens.errors import InputError, ReportError, one_line
from hemalens.evaluation import metrics
from hemalens.evaluation.results import Comparison, Estimate, Evaluation, ImageAnswers

ALPHA = 0.05
N_REPEATS = 10_000
REPEATS_A_PAIR = 100
"""The least number of repeats a pair: the smallest p-value of n repeats, 2 / (n + 1), stays below 0.05 after correction."""
CHUNK = 500
"""Repeats at a time, to limit memory."""
TIE = 1e-12
"""Balanced accuracies that differ by less are the same number, rounded differently."""

# ----------------------------------------------------------------------------------------------------------- comparisons


def compare(evaluations: Sequence[Evaluation], *, seed: int) -> tuple[Comparison, ...]:
    """Every pair of methods that were trained on one source and tested on the same images of one target.

    Accuracy: exact sign flips of the units' differences in correct predictions. This is McNemar's exact test (1947) where
    each image is a unit and each method has one model. Balanced accuracy: the difference of the means over the models, with
    the 95 % percentile interval of a paired bootstrap over the units within their classes. Its p-value is the larger of
    that of the bootstrap and that of sign flips of each unit's contribution: the bootstrap alone has almost no variance in
    a class of two images. `holm` corrects both p-values for all pairs of a source and target.

    The tests generalise to other test images, not to other trainings. `not_compared` lists the pairs that are left out.
    Raises `ReportError` for inconsistent predictions.
    """
    found: list[Comparison] = []
    for here in _by_source_and_target(evaluations):
        groups = _groups(here)
        n_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
        n_repeats = max(N_REPEATS, REPEATS_A_PAIR * n_pairs)
        found += _corrected([pair for group in groups for pair in _pairs(group, n_repeats, seed)])
    return tuple(found)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for multiple comparisons, step down (Holm 1979); raises `InputError` for one outside [0, 1]."""
    for value in p:
        if not 0 <= value <= 1:
            raise InputError("invalid p-value", expected="a number in [0, 1]", got=str(value))
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def sign_flip_p_value(differences: NDArray[np.int64]) -> float:
    """Two-sided exact p-value of a sum of whole numbers (n,) under random signs.

    The distribution of the sum is a convolution of binomials, one for each size of number.
    """
    from scipy.stats import binom

    chances = np.ones(1)  # of the sums from -reach to +reach
    for size, n in zip(*np.unique(np.abs(differences[differences != 0]), return_counts=True), strict=True):
        of_size = np.zeros(2 * size * n + 1)
        of_size[:: 2 * size] = binom.pmf(np.arange(n + 1), n, 0.5)
        chances = np.convolve(chances, of_size)
    reach = len(chances) // 2
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(differences.sum()))
    return min(1.0, float(chances[far].sum()))


def _pairs(group: list[_Method], n_repeats: int, seed: int) -> list[Comparison]:
    """The uncorrected comparisons of every pair of a group."""
    first, second = np.triu_indices(len(group), k=1)
    if len(first) == 0:
        return []
    counts = _count_correct(group)
    added = counts.added()
    differences = added[:, first] - added[:, second]
    values = differences.sum(axis=0)
    flips = _random_flip_p_values(differences, n_repeats, seeded(seed, "comparisons", "flips"))
    scores = _bootstrap(counts, n_repeats, seeded(seed, "comparisons", "bootstrap"))
    right = counts.right.sum(axis=(2, 3)).astype(np.int64)  # (units, methods)
    share = 1 / group[0].tested.sum(axis=0)  # of a prediction in its image, (images,)
    alone = counts.n_units == len(group[0].images) and bool((share == 1).all())
    found = []
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        drawn = scores[:, i] - scores[:, j]
        low, high = np.percentile(drawn, [2.5, 97.5])
        p_accuracy = sign_flip_p_value(right[:, i] - right[:, j])
        p_difference = max(_bootstrap_p_value(drawn), float(flips[k]))
        found.append(
            Comparison(
                source=group[i].evaluation.source,
                target=group[i].evaluation.target,
                first=group[i].evaluation.method,
                second=group[j].evaluation.method,
                n_images=len(share),
                n_units=counts.n_units,
                n_models=len(group[i].right),
                first_only=float(((group[i].right & ~group[j].right) * share).sum()),
                second_only=float(((group[j].right & ~group[i].right) * share).sum()),
                test="McNemar, exact" if alone else "sign flips, exact",
                p_accuracy=p_accuracy,
                p_accuracy_holm=p_accuracy,
                difference=Estimate(value=float(values[k]), low=float(low), high=float(high)),
                p_difference=p_difference,
                p_difference_holm=p_difference,
                first_transductive=group[i].evaluation.transductive,
                second_transductive=group[j].evaluation.transductive,
            )
        )
    return found


def _corrected(family: list[Comparison]) -> list[Comparison]:
    """The pairs of one source and target with corrected p-values and the better method."""
    accuracy, difference = holm([c.p_accuracy for c in family]), holm([c.p_difference for c in family])
    return [
        pair.model_copy(
            update={
                "p_accuracy_holm": p_accuracy,
                "p_difference_holm": p,
                "better": None if p >= ALPHA else pair.first if (pair.difference.value or 0.0) > 0 else pair.second,
            }
        )
        for pair, p_accuracy, p in zip(family, accuracy, difference, strict=True)
    ]


# ------------------------------------------------------------------------------------------------- bootstrap, sign flips


@dataclass(frozen=True, slots=True)
class _Counts:
    """Correct predictions of every unit, (units, methods, models, classes), and its images, (units, models, classes)."""

    right: NDArray[np.float32]
    images: NDArray[np.float32]

    @property
    def n_units(self) -> int:
        return len(self.right)

    def added(self) -> NDArray[np.float64]:
        """Contribution of each unit to the balanced accuracy of each method, mean over its models: (units, methods)."""
        images = self.images.sum(axis=0, dtype=np.float64)  # (models, classes)
        present = images > 0
        weight = present / np.maximum(images, 1) / present.sum(axis=1, keepdims=True) / len(images)
        added: NDArray[np.float64] = np.einsum("umkc,kc->um", self.right, weight)
        return added


def _count_correct(group: list[_Method]) -> _Counts:
    classes, truth = np.unique(group[0].truth, return_inverse=True)
    unit, tested = np.asarray(group[0].units), group[0].tested
    n_units = int(unit.max()) + 1
    cell = unit * len(classes) + truth

    def count(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        counts = np.bincount(cell[mask], minlength=n_units * len(classes))
        return counts.reshape(n_units, len(classes)).astype(np.float32)

    right = np.stack([np.stack([count(model) for model in method.right], axis=1) for method in group], axis=1)
    return _Counts(right, np.stack([count(model) for model in tested], axis=1))


def _bootstrap(counts: _Counts, n_repeats: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Balanced accuracy of each method, mean over its models, for units drawn within their class: (repeats, methods).

    The same units are drawn for all methods; the draws do not depend on the methods.
    """
    stratum = counts.images.sum(axis=1).argmax(axis=1).astype(np.int64)
    right, images = counts.right.reshape(counts.n_units, -1), counts.images.reshape(counts.n_units, -1)
    found = []
    for start in range(0, n_repeats, CHUNK):
        n = min(CHUNK, n_repeats - start)
        # counts this small are exact in float32
        weights = metrics.unit_weights(stratum, rng=rng, n_repeats=n)
        drawn = (weights @ images).reshape(n, 1, *counts.images.shape[1:])
        recall = (weights @ right).reshape(n, *counts.right.shape[1:]) / np.maximum(drawn, 1).astype(np.float64)
        n_present = (drawn > 0).sum(axis=-1)
        of_model = recall.sum(axis=-1) / np.maximum(n_present, 1)
        # a model without a drawn image is left out of the mean
        found.append(of_model.sum(axis=-1) / (n_present > 0).sum(axis=-1))
    return np.concatenate(found)


def _bootstrap_p_value(drawn: NDArray[np.float64]) -> float:
    """Two-sided p-value of bootstrap differences (repeats,), from the fraction beyond zero; never 0."""
    beyond = min(int((drawn <= TIE).sum()), int((drawn >= -TIE).sum()))
    return min(1.0, 2 * (1 + beyond) / (len(drawn) + 1))


def _random_flip_p_values(
    differences: NDArray[np.float64], n_repeats: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """p-values of each column of (units, pairs) by random signs, the same for all pairs: (pairs,), never 0."""
    given = np.abs(differences.sum(axis=0)) - TIE
    as_far = np.zeros(differences.shape[1], np.int64)
    for start in range(0, n_repeats, CHUNK):
        n = min(CHUNK, n_repeats - start)
        signs = rng.integers(2, size=(n, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_far += (np.abs(signs @ differences) >= given).sum(axis=0)
    p: NDArray[np.float64] = (as_far + 1) / (n_repeats + 1)
    return p


# ----------------------------------------------------------------------------------------------------- comparable methods


@dataclass(frozen=True, slots=True)
class NotCompared:
    """Methods of one source and target that were not compared with `others` (empty: with any), and the reason."""

    source: str
    target: str
    methods: tuple[str, ...]
    others: tuple[str, ...]
    reason: str


def not_compared(evaluations: Sequence[Evaluation]) -> tuple[NotCompared, ...]:
    """The pairs that `compare` leaves out, with the reason: other images or models, missing predictions, a name twice."""
    found: list[NotCompared] = []
    for here in _by_source_and_target(evaluations):
        if len(here) < 2:
            continue
        source, target = here[0].source, here[0].target
        twice = _repeated_names(here)
        found += [NotCompared(source, target, (name,), (), "several evaluations have this name") for name in twice]
        missing = tuple(e.method for e in here if e.method not in twice and _predictions(e) is None)
        if missing:
            found.append(NotCompared(source, target, missing, (), "their predictions of each image are missing"))
        for group, other in combinations(_groups(here), 2):
            names, others = (tuple(method.evaluation.method for method in methods) for methods in (group, other))
            found.append(NotCompared(source, target, names, others, _incomparable(group[0], other[0])))
    return tuple(found)


def _by_source_and_target(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations of each source and target, in the order of their first one."""
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault((evaluation.source, evaluation.target), []).append(evaluation)
    return list(found.values())


def _repeated_names(here: Sequence[Evaluation]) -> list[str]:
    return [name for name, n in Counter(evaluation.method for evaluation in here).items() if n > 1]


def _predictions(evaluation: Evaluation) -> ImageAnswers | None:
    """The stored predictions of each image, or None where there are none."""
    return evaluation.answers if evaluation.answers is not None and evaluation.answers.images else None


@dataclass(frozen=True, slots=True)
class _Method:
    """Predictions of the models of one method, images in the order of their ids; units are numbered by first occurrence.

    `right` and `tested` are (models, images).
    """

    evaluation: Evaluation
    images: tuple[str, ...]
    truth: tuple[str, ...]
    units: tuple[int, ...]
    right: NDArray[np.bool_]
    tested: NDArray[np.bool_]


def _groups(here: Sequence[Evaluation]) -> list[list[_Method]]:
    """Groups of comparable methods of one source and target."""
    twice = _repeated_names(here)
    groups: list[list[_Method]] = []
    for evaluation in here:
        stored = _predictions(evaluation)
        if stored is None or evaluation.method in twice:
            continue
        method = _method(evaluation, stored)
        group = next((group for group in groups if not _incomparable(group[0], method)), None)
        if group is None:
            groups.append([method])
        else:
            group.append(method)
    return groups


def _incomparable(method: _Method, other: _Method) -> str:
    """The reason why two methods are not comparable, or an empty text."""
    if method.images != other.images:
        n, m, both = len(method.images), len(other.images), len({*method.images} & {*other.images})
        return f"they were not tested on the same images ({n:,} and {m:,}; {both:,} in common)"
    if method.truth != other.truth:
        return "the same images have other true cell types"
    if method.units != other.units:
        return "the same images are grouped in another way"
    if len(method.tested) != len(other.tested):
        return f"they have {len(method.tested)} and {len(other.tested)} models"
    if (method.tested != other.tested).any():
        return "their models were not tested on the same images"
    return ""


def _method(evaluation: Evaluation, stored: ImageAnswers) -> _Method:
    """The predictions of an evaluation; raises `ReportError` where they are inconsistent."""
    n, n_classes = len(stored.images), len(evaluation.classes)
    lengths = {n, len(stored.units), len(stored.truth), *map(len, stored.answers)}
    if len(lengths) > 1 or len(set(stored.images)) < n or not stored.answers:
        raise _damaged(evaluation, "a unit, a true class and a prediction of each model for each image, and no image twice")
    predicted = np.array(stored.answers, np.int64)
    truth = np.array(stored.truth, np.int64)
    if truth.min() < 0 or truth.max() >= n_classes or predicted.min() < -1 or predicted.max() >= n_classes:
        raise _damaged(evaluation, f"indices of its {n_classes} classes, and -1 for untested images")
    if (predicted < 0).all(axis=0).any() or (predicted < 0).all(axis=1).any():
        raise _damaged(evaluation, "a prediction or more for every image and of every model")
    order = sorted(range(n), key=lambda i: stored.images[i])
    number: dict[int, int] = {}
    return _Method(
        evaluation,
        images=tuple(stored.images[i] for i in order),
        truth=tuple(evaluation.classes[stored.truth[i]] for i in order),
        units=tuple(number.setdefault(stored.units[i], len(number)) for i in order),
        right=(predicted == truth)[:, order],
        tested=(predicted >= 0)[:, order],
    )


def _damaged(evaluation: Evaluation, expected: str) -> ReportError:
    return ReportError(
        f"the predictions of {one_line(evaluation.name)} are inconsistent",
        expected=expected,
        remedy="Make the report again.",
    )


# --------------------------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True, slots=True)
class Standing:
    """The method with the highest balanced accuracy on one source and target, and how the others compare to it.

    `not_told_apart` are not significantly worse; `not_compared` were not compared with it.
    """

    highest: Evaluation
    n_methods: int
    n_comparisons: int
    not_told_apart: tuple[Evaluation, ...]
    not_compared: tuple[Evaluation, ...]

    @property
    def is_best(self) -> bool:
        """Whether it is significantly better than every other one, after correction."""
        return not self.not_told_apart and not self.not_compared


def standings(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> tuple[Standing, ...]:
    """A standing for each source and target with compared methods, in the order of the evaluations."""
    found = []
    for here in _by_source_and_target(evaluations):
        labs = (here[0].source, here[0].target)
        pairs = [c for c in comparisons if (c.source, c.target) == labs]
        if not pairs:
            continue
        better = {frozenset((pair.first, pair.second)): pair.better for pair in pairs}
        values = [-1.0 if e.scores.balanced_accuracy.value is None else e.scores.balanced_accuracy.value for e in here]
        highest = here[int(np.argmax(values))]
        others = [evaluation for evaluation in here if evaluation is not highest]
        known = [(e, frozenset((highest.method, e.method))) for e in others]
        apart = tuple(e for e, pair in known if pair in better and better[pair] != highest.method)
        found.append(Standing(highest, len(here), len(pairs), apart, tuple(e for e, pair in known if pair not in better)))
    return tuple(found)
