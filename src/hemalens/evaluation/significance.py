"""Which of several methods is better on the same test images: paired tests, corrected for how many there are."""

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
"""So many repeats for each pair of a family, or more: the smallest p of n repeats, 2 / (n + 1), stays below 0.05 when it is
corrected for all pairs."""
CHUNK = 500
"""Repeats at a time: what is drawn for them must fit into memory."""
TIE = 1e-12
"""Balanced accuracies that differ by less are the same number, rounded differently."""

# ----------------------------------------------------------------------------------------------------------- comparisons


def compare(evaluations: Sequence[Evaluation], *, seed: int) -> tuple[Comparison, ...]:
    """Every pair of methods that were trained on one source and tested on the same images of one target.

    Accuracy: exact sign flips of the units' differences in right answers, which is McNemar's exact test (1947) where each
    image is a unit and has one answer of each method. Balanced accuracy: the difference of the means over the models, with
    the 95 % percentile interval of a paired bootstrap over the units within their classes; its p is the larger of that of
    this bootstrap and of sign flips of what each unit adds to the difference. The bootstrap alone takes a class of two
    images for certain. Both kinds of p are corrected by `holm` for all pairs of a source and target.

    Both ask about these models on other such images; that another training would give other models is not in them. What
    cannot be compared is told by `not_compared`. Raises `ReportError` for answers that contradict themselves.
    """
    found: list[Comparison] = []
    for here in _by_laboratories(evaluations):
        panels = _panels(here)
        n_pairs = sum(len(panel) * (len(panel) - 1) // 2 for panel in panels)
        n_repeats = max(N_REPEATS, REPEATS_A_PAIR * n_pairs)
        found += _corrected([pair for panel in panels for pair in _pairs(panel, n_repeats, seed)])
    return tuple(found)


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected for all of them, step down (Holm 1979); raises `InputError` for one outside [0, 1]."""
    for value in p:
        if not 0 <= value <= 1:
            raise InputError("a p that is no probability", expected="a number in [0, 1]", got=str(value))
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def sign_flip_p(differences: NDArray[np.int64]) -> float:
    """The chance that a sum of whole numbers (n,), each with a sign by toss of a coin, is as far from 0 as the given one.

    Exact: the distribution of the sum is that of binomials, one for each size of number, convolved.
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


def _pairs(panel: list[_Sheet], n_repeats: int, seed: int) -> list[Comparison]:
    """Every pair of a panel, not corrected yet."""
    first, second = np.triu_indices(len(panel), k=1)
    if len(first) == 0:
        return []
    tally = _tally(panel)
    added = tally.added()
    differences = added[:, first] - added[:, second]
    values = differences.sum(axis=0)
    flips = _flip_p(differences, n_repeats, seeded(seed, "comparisons", "flips"))
    scores = _bootstrap(tally, n_repeats, seeded(seed, "comparisons", "bootstrap"))
    right = tally.right.sum(axis=(2, 3)).astype(np.int64)  # (units, methods)
    share = 1 / panel[0].answered.sum(axis=0)  # of an answer in its image, (images,)
    alone = tally.n_units == len(panel[0].images) and bool((share == 1).all())
    found = []
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        drawn = scores[:, i] - scores[:, j]
        low, high = np.percentile(drawn, [2.5, 97.5])
        p_accuracy = sign_flip_p(right[:, i] - right[:, j])
        p_difference = max(_bootstrap_p(drawn), float(flips[k]))
        found.append(
            Comparison(
                source=panel[i].evaluation.source,
                target=panel[i].evaluation.target,
                first=panel[i].evaluation.method,
                second=panel[j].evaluation.method,
                n_images=len(share),
                n_units=tally.n_units,
                n_models=len(panel[i].right),
                first_only=float(((panel[i].right & ~panel[j].right) * share).sum()),
                second_only=float(((panel[j].right & ~panel[i].right) * share).sum()),
                test="McNemar, exact" if alone else "sign flips, exact",
                p_accuracy=p_accuracy,
                p_accuracy_holm=p_accuracy,
                difference=Estimate(value=float(values[k]), low=float(low), high=float(high)),
                p_difference=p_difference,
                p_difference_holm=p_difference,
                first_transductive=panel[i].evaluation.transductive,
                second_transductive=panel[j].evaluation.transductive,
            )
        )
    return found


def _corrected(family: list[Comparison]) -> list[Comparison]:
    """The pairs of one source and target with both kinds of p corrected, and the better one named."""
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


# -------------------------------------------------------------------------------------------------------- what is flipped


@dataclass(frozen=True, slots=True)
class _Tally:
    """Right answers of every unit, (units, methods, models, classes), and its images, (units, models, classes)."""

    right: NDArray[np.float32]
    images: NDArray[np.float32]

    @property
    def n_units(self) -> int:
        return len(self.right)

    def added(self) -> NDArray[np.float64]:
        """What each unit adds to the balanced accuracy of each method, the mean over its models: (units, methods)."""
        images = self.images.sum(axis=0, dtype=np.float64)  # (models, classes)
        present = images > 0
        weight = present / np.maximum(images, 1) / present.sum(axis=1, keepdims=True) / len(images)
        added: NDArray[np.float64] = np.einsum("umkc,kc->um", self.right, weight)
        return added


def _tally(panel: list[_Sheet]) -> _Tally:
    classes, truth = np.unique(panel[0].truth, return_inverse=True)
    unit, answered = np.asarray(panel[0].units), panel[0].answered
    n_units = int(unit.max()) + 1
    cell = unit * len(classes) + truth

    def count(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        counts = np.bincount(cell[mask], minlength=n_units * len(classes))
        return counts.reshape(n_units, len(classes)).astype(np.float32)

    right = np.stack([np.stack([count(model) for model in sheet.right], axis=1) for sheet in panel], axis=1)
    return _Tally(right, np.stack([count(model) for model in answered], axis=1))


def _bootstrap(tally: _Tally, n_repeats: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Balanced accuracy of each method, mean over its models, for units drawn within their class: (repeats, methods).

    The same units are drawn for all methods, and whichever methods there are.
    """
    stratum = tally.images.sum(axis=1).argmax(axis=1).astype(np.int64)
    right, images = tally.right.reshape(tally.n_units, -1), tally.images.reshape(tally.n_units, -1)
    found = []
    for start in range(0, n_repeats, CHUNK):
        n = min(CHUNK, n_repeats - start)
        # counts this small are exact in float32
        weights = metrics.unit_weights(stratum, rng=rng, n_repeats=n)
        drawn = (weights @ images).reshape(n, 1, *tally.images.shape[1:])
        recall = (weights @ right).reshape(n, *tally.right.shape[1:]) / np.maximum(drawn, 1).astype(np.float64)
        n_present = (drawn > 0).sum(axis=-1)
        of_model = recall.sum(axis=-1) / np.maximum(n_present, 1)
        # a model of which no image was drawn says nothing
        found.append(of_model.sum(axis=-1) / (n_present > 0).sum(axis=-1))
    return np.concatenate(found)


def _bootstrap_p(drawn: NDArray[np.float64]) -> float:
    """Two-sided p of differences (repeats,) drawn by the bootstrap: how rarely one lies beyond zero, never 0."""
    beyond = min(int((drawn <= TIE).sum()), int((drawn >= -TIE).sum()))
    return min(1.0, 2 * (1 + beyond) / (len(drawn) + 1))


def _flip_p(differences: NDArray[np.float64], n_repeats: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """As `sign_flip_p` for each column of (units, pairs), by random signs, the same for all pairs: (pairs,), never 0."""
    given = np.abs(differences.sum(axis=0)) - TIE
    as_far = np.zeros(differences.shape[1], np.int64)
    for start in range(0, n_repeats, CHUNK):
        n = min(CHUNK, n_repeats - start)
        signs = rng.integers(2, size=(n, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_far += (np.abs(signs @ differences) >= given).sum(axis=0)
    p: NDArray[np.float64] = (as_far + 1) / (n_repeats + 1)
    return p


# ---------------------------------------------------------------------------------------------------- what can be compared


@dataclass(frozen=True, slots=True)
class NotCompared:
    """Methods of one source and target that were not compared with `others`, or with none where these are empty; why."""

    source: str
    target: str
    methods: tuple[str, ...]
    others: tuple[str, ...]
    reason: str


def not_compared(evaluations: Sequence[Evaluation]) -> tuple[NotCompared, ...]:
    """What `compare` leaves out, and why: different images, different models, answers that are not kept, one name twice."""
    found: list[NotCompared] = []
    for here in _by_laboratories(evaluations):
        if len(here) < 2:
            continue
        source, target = here[0].source, here[0].target
        twice = _names_given_twice(here)
        found += [NotCompared(source, target, (name,), (), "several evaluations have this name") for name in twice]
        silent = tuple(e.method for e in here if e.method not in twice and _answers(e) is None)
        if silent:
            found.append(NotCompared(source, target, silent, (), "what they answered on each image is not kept"))
        for panel, other in combinations(_panels(here), 2):
            names, others = (tuple(sheet.evaluation.method for sheet in sheets) for sheets in (panel, other))
            found.append(NotCompared(source, target, names, others, _apart(panel[0], other[0])))
    return tuple(found)


def _by_laboratories(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations of each source and target, in the order in which these come first."""
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault((evaluation.source, evaluation.target), []).append(evaluation)
    return list(found.values())


def _names_given_twice(here: Sequence[Evaluation]) -> list[str]:
    return [name for name, n in Counter(evaluation.method for evaluation in here).items() if n > 1]


def _answers(evaluation: Evaluation) -> ImageAnswers | None:
    """The answers that are kept, or None where there are none."""
    return evaluation.answers if evaluation.answers is not None and evaluation.answers.images else None


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What the models of one method answered, images in the order of their ids; units are numbered as they come first.

    `right` and `answered` are (models, images).
    """

    evaluation: Evaluation
    images: tuple[str, ...]
    truth: tuple[str, ...]
    units: tuple[int, ...]
    right: NDArray[np.bool_]
    answered: NDArray[np.bool_]


def _panels(here: Sequence[Evaluation]) -> list[list[_Sheet]]:
    """The methods of one source and target that can be compared with one another, each in one panel."""
    twice = _names_given_twice(here)
    panels: list[list[_Sheet]] = []
    for evaluation in here:
        said = _answers(evaluation)
        if said is None or evaluation.method in twice:
            continue
        sheet = _sheet(evaluation, said)
        panel = next((panel for panel in panels if not _apart(panel[0], sheet)), None)
        if panel is None:
            panels.append([sheet])
        else:
            panel.append(sheet)
    return panels


def _apart(sheet: _Sheet, other: _Sheet) -> str:
    """Why two methods cannot be compared, or an empty text."""
    if sheet.images != other.images:
        n, m, both = len(sheet.images), len(other.images), len({*sheet.images} & {*other.images})
        return f"they were tested on other images ({n:,} and {m:,}, of which {both:,} are the same)"
    if sheet.truth != other.truth:
        return "the same images have other true cell types"
    if sheet.units != other.units:
        return "the same images are grouped in another way"
    if len(sheet.answered) != len(other.answered):
        return f"they have {len(sheet.answered)} and {len(other.answered)} models"
    if (sheet.answered != other.answered).any():
        return "their models were each tested on other images"
    return ""


def _sheet(evaluation: Evaluation, said: ImageAnswers) -> _Sheet:
    """The answers of an evaluation; raises `ReportError` where they contradict themselves."""
    n, n_classes = len(said.images), len(evaluation.classes)
    lengths = {n, len(said.units), len(said.truth), *map(len, said.answers)}
    if len(lengths) > 1 or len(set(said.images)) < n or not said.answers:
        raise _damaged(evaluation, "a unit, a true class and an answer of each model for each image, and no image twice")
    answers = np.array(said.answers, np.int64)
    truth = np.array(said.truth, np.int64)
    if truth.min() < 0 or truth.max() >= n_classes or answers.min() < -1 or answers.max() >= n_classes:
        raise _damaged(evaluation, f"places among its {n_classes} classes, and -1 for what was not asked")
    if (answers < 0).all(axis=0).any() or (answers < 0).all(axis=1).any():
        raise _damaged(evaluation, "an answer or more for every image and of every model")
    order = sorted(range(n), key=lambda i: said.images[i])
    number: dict[int, int] = {}
    return _Sheet(
        evaluation,
        images=tuple(said.images[i] for i in order),
        truth=tuple(evaluation.classes[said.truth[i]] for i in order),
        units=tuple(number.setdefault(said.units[i], len(number)) for i in order),
        right=(answers == truth)[:, order],
        answered=(answers >= 0)[:, order],
    )


def _damaged(evaluation: Evaluation, expected: str) -> ReportError:
    return ReportError(
        f"the answers of {one_line(evaluation.name)} contradict themselves",
        expected=expected,
        remedy="Make the report again.",
    )


# ------------------------------------------------------------------------------------------------------------ who is best


@dataclass(frozen=True, slots=True)
class Standing:
    """How the methods of one source and target stand to the one with the highest balanced accuracy.

    `not_bundle_and_images` are the others of which the data do not say that they are worse, `not_compared` those that were not
    compared with it.
    """

    highest: Evaluation
    n_methods: int
    n_comparisons: int
    not_bundle_and_images: tuple[Evaluation, ...]
    not_compared: tuple[Evaluation, ...]

    @property
    def is_best(self) -> bool:
        """Whether it is better than every other one by the corrected test."""
        return not self.not_bundle_and_images and not self.not_compared


def standings(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> tuple[Standing, ...]:
    """A standing for each source and target of which methods were compared, in the order of the evaluations."""
    found = []
    for here in _by_laboratories(evaluations):
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
