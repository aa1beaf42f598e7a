"""Cells to review: the order of urgency, thresholds and their calibration on held-out cells."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from hemalens.trust.reference import Geometry, ImitatedImages, ReferenceStatistics, fit_reference
from hemalens.trust.review import (
    FALSE_ALARMS,
    FALSE_ALARMS_ELSEWHERE,
    FEWEST,
    REASONS,
    Reviewer,
    ReviewThresholds,
    Roles,
    ToReview,
    calibrate,
    in_words,
    most_urgent,
    rank,
)

K, D = 6, 10
ROLES = Roles(
    tuple("abcdef"),
    mature=np.array([1, 1, 1, 0, 0, 0], bool),
    urgent=np.array([0, 0, 0, 1, 1, 0], bool),
    unknown=np.arange(K) == 5,
)
NEVER = ReviewThresholds(urgent=1.0, distance=1e9, near_tie=0.0, n_cells=20, false_alarms=0.0, near_ties=0.0)
SURE = np.array([False])
SEEDS = st.integers(0, 10**6)


def _cells(n: int, seed: int, *, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), probabilities (n, k) and classes (n,)."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(K, size=n)
    embeddings = 4 * np.eye(D)[targets] + noise * rng.normal(size=(n, D))
    powers = np.exp(1.5 * embeddings[:, :K])
    return embeddings, powers / powers.sum(axis=1, keepdims=True), targets


def _reference(seed: int, n: int = 400, noise: float = 1.0) -> ReferenceStatistics:
    learned, _, classes = _cells(300, seed + 1)
    return fit_reference(Geometry.fit(learned, classes, K), *_cells(n, seed, noise=noise))


def _row(*values: float) -> np.ndarray:
    return np.array([values]) / np.sum(values)


# ------------------------------------------------------------------------------------------------------------- reasons


def test_a_sure_cell_of_a_mature_type_has_no_reason() -> None:
    assert most_urgent(NEVER, ROLES, _row(98, 1, 1, 0, 0, 0), np.zeros(1), SURE) == [None]


@pytest.mark.parametrize(
    ("probabilities", "change", "score", "doubtful", "reason"),
    [
        (_row(10, 0, 0, 80, 10, 0), {}, 0.0, False, "blast or immature cell"),
        (_row(60, 0, 0, 20, 20, 0), {"urgent": 0.39}, 0.0, False, "blast or immature cell"),
        (_row(60, 0, 0, 20, 20, 0), {"urgent": 0.41}, 0.0, False, None),
        (_row(10, 0, 0, 0, 0, 90), {}, 0.0, False, "unknown type"),
        (_row(99, 1, 0, 0, 0, 0), {"distance": 7.0}, 7.1, False, "unknown type"),
        (_row(99, 1, 0, 0, 0, 0), {"distance": 7.0}, 6.9, False, None),
        (_row(99, 1, 0, 0, 0, 0), {}, 0.0, True, "doubtful cell"),
        (_row(55, 45, 0, 0, 0, 0), {"near_tie": 0.11}, 0.0, False, "near tie"),
        (_row(55, 45, 0, 0, 0, 0), {"near_tie": 0.09}, 0.0, False, None),
        # all of them: the most urgent one
        (_row(35, 34, 0, 31, 0, 0), {"urgent": 0.2, "near_tie": 0.5}, 1e10, True, "blast or immature cell"),
        (_row(55, 45, 0, 0, 0, 0), {"near_tie": 0.5}, 1e10, True, "unknown type"),
        (_row(55, 45, 0, 0, 0, 0), {"near_tie": 0.5}, 0.0, True, "doubtful cell"),
    ],
)
def test_a_cell_has_the_most_urgent_reason_that_applies(
    probabilities: np.ndarray, change: dict[str, float], score: float, doubtful: bool, reason: str | None
) -> None:
    thresholds = NEVER.model_copy(update=change)
    assert most_urgent(thresholds, ROLES, probabilities, np.array([score]), np.array([doubtful])) == [reason]


def test_without_a_distance_or_a_threshold_on_it_none_is_used() -> None:
    sure = _row(99, 1, 0, 0, 0, 0)
    assert most_urgent(NEVER.model_copy(update={"distance": 1.0}), ROLES, sure, None, SURE) == [None]
    assert most_urgent(NEVER.model_copy(update={"distance": None}), ROLES, sure, np.array([9.0]), SURE) == [None]


def test_ranks_follow_the_order_of_urgency() -> None:
    assert REASONS == ("blast or immature cell", "unknown type", "doubtful cell", "near tie", "foreign laboratory")
    assert [rank(reason) for reason in REASONS] == [1, 2, 3, 4, 5]
    assert rank(None) is None
    assert in_words({"unknown type": 2, "near tie": 1}) == "2 unknown type, 1 near tie"
    assert in_words({}) == "no cell"


@pytest.mark.parametrize(
    ("probabilities", "score", "atypical", "doubtful", "reason"),
    [
        (_row(99, 1, 0, 0, 0, 0), 0.0, True, False, "foreign laboratory"),
        (_row(99, 1, 0, 0, 0, 0), 0.0, False, False, None),
        (_row(99, 1, 0, 0, 0, 0), 9.0, False, False, "foreign laboratory"),
        (_row(9, 1, 0, 0, 0, 90), 9.0, True, False, "unknown type"),
        (_row(9, 1, 0, 90, 0, 0), 9.0, True, False, "blast or immature cell"),
        (_row(51, 49, 0, 0, 0, 0), 9.0, True, False, "near tie"),
        (_row(51, 49, 0, 0, 0, 0), 9.0, True, True, "doubtful cell"),
    ],
)
def test_in_a_foreign_laboratory_a_distance_is_no_unknown_type(
    probabilities: np.ndarray, score: float, atypical: bool, doubtful: bool, reason: str | None
) -> None:
    thresholds = NEVER.model_copy(update={"distance": 8.0, "near_tie": 0.1})
    given = thresholds, ROLES, probabilities, np.array([score]), np.array([doubtful])
    assert most_urgent(*given, atypical=np.array([atypical])) == [reason]


def test_reasons_are_counted_until_the_shift_is_known() -> None:
    counted = ToReview()
    counted.add(None, "foreign laboratory")
    counted.add(None, None)
    counted.add("unknown type", "unknown type")
    counted.add("unknown type", "near tie")
    counted.add("blast or immature cell", "blast or immature cell")
    assert list(counted.counts.items()) == [("blast or immature cell", 1), ("unknown type", 2)]
    assert list(counted.foreign()) == [5, 0, 0, 4, 0]
    assert list(counted.counts.items()) == [
        ("blast or immature cell", 1), ("unknown type", 1), ("near tie", 1), ("foreign laboratory", 1),
    ]  # fmt: skip


@hypothesis.given(seed=SEEDS, name=st.sampled_from(["urgent", "distance", "near_tie"]), value=st.floats(0, 1))
def test_a_stricter_threshold_only_adds_cells(seed: int, name: str, value: float) -> None:
    rng = np.random.default_rng(seed)
    _, probabilities, _ = _cells(40, seed, noise=2)
    scores, doubtful = rng.uniform(size=40), rng.random(40) < 0.2
    base = NEVER.model_copy(update={"urgent": 0.5, "distance": 0.5, "near_tie": 0.5})
    lax = base.model_copy(update={name: value})
    stricter = base.model_copy(update={name: min(1.0, value + 0.1) if name == "near_tie" else max(0.0, value - 0.1)})
    few, many = (most_urgent(each, ROLES, probabilities, scores, doubtful) for each in (lax, stricter))
    for before, after in zip(few, many, strict=True):
        assert after is None if before is None and after is None else after is not None
        if before is not None:
            assert after is not None
            assert REASONS.index(after) <= REASONS.index(before), "no cell becomes less urgent"


def test_the_reviewer_measures_the_distance_in_the_embedding() -> None:
    reference = _reference(3)
    assert reference.geometry is not None
    assert reference.scores is not None
    limit = float(np.quantile(reference.scores, 0.5))
    reviewer = Reviewer(NEVER.model_copy(update={"distance": limit}), ROLES, reference.geometry)
    embeddings, probabilities, _ = _cells(60, 8)
    scores = reference.geometry.scores(reference.geometry.project(embeddings))
    mature = ROLES.mature[probabilities.argmax(axis=1)]
    found = [why for why, _ in reviewer.reasons(probabilities, embeddings, np.zeros(60, bool))]
    assert [why == "unknown type" for why in np.array(found, object)[mature]] == (scores[mature] > limit).tolist()
    assert reviewer.reasons(probabilities[:0], embeddings[:0], np.zeros(0, bool)) == []


# --------------------------------------------------------------------------------------------------------- calibration


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=SEEDS, noise=st.floats(0.5, 1.2), n=st.integers(60, 400))
def test_at_most_one_in_twenty_calibration_cells_is_a_false_alarm(seed: int, noise: float, n: int) -> None:
    reference = _reference(seed, n, noise)
    thresholds = calibrate(reference, ROLES)
    known = ROLES.mature[reference.targets]
    if thresholds is None:
        assert known.sum() < FEWEST
        return
    reasons = most_urgent(thresholds, ROLES, reference.probabilities, reference.scores, np.zeros(n, bool))
    alarms = np.array([why in REASONS[:2] for why in reasons])[known]
    by_label = (~ROLES.mature)[reference.probabilities.argmax(axis=1)][known]
    assert thresholds.n_cells == known.sum()
    assert thresholds.false_alarms == pytest.approx(alarms.mean())
    assert alarms.mean() <= max(FALSE_ALARMS, by_label.mean())
    best = np.sort(reference.probabilities[known], axis=1)
    ties = best[:, -1] - best[:, -2] < thresholds.near_tie
    assert thresholds.near_ties == pytest.approx(ties.mean())
    assert ties.mean() <= 0.05


def test_calibration_uses_up_the_false_alarms_and_finds_what_is_unknown() -> None:
    reference = _reference(5, 1200)
    thresholds = calibrate(reference, ROLES)
    assert thresholds is not None
    assert 0.03 < thresholds.false_alarms <= FALSE_ALARMS
    assert thresholds.distance is not None
    far = 12 * np.eye(D)[[7]] + np.zeros((1, D))
    reviewer = Reviewer(thresholds, ROLES, reference.geometry)
    assert reviewer.reasons(_row(99, 1, 0, 0, 0, 0), far, SURE) == [("unknown type", "foreign laboratory")]


def test_more_alarms_by_label_than_allowed_leave_the_thresholds_at_the_largest_values() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(K), 100)
    targets = rng.integers(3, size=100)
    thresholds = calibrate(ReferenceStatistics(probabilities, targets), ROLES)
    assert thresholds is not None
    called = ~ROLES.mature[probabilities.argmax(axis=1)]
    assert called.mean() > FALSE_ALARMS
    assert thresholds.false_alarms == pytest.approx(called.mean())
    assert thresholds.urgent == pytest.approx(probabilities[:, 3:5].sum(axis=1)[~called].max())


def test_what_a_bundle_lacks_has_no_threshold() -> None:
    _, probabilities, targets = _cells(200, 4)
    plain = calibrate(ReferenceStatistics(probabilities, targets), ROLES)
    assert plain is not None
    assert plain.distance is None
    none = np.zeros(K, bool)
    mature_only = calibrate(_reference(4), Roles(ROLES.labels, np.ones(K, bool), none, none))
    assert mature_only is not None
    assert mature_only.urgent is None
    assert calibrate(_reference(4), Roles(ROLES.labels, none, none, none)) is None
    few = ReferenceStatistics(probabilities[: FEWEST - 1], np.zeros(FEWEST - 1, np.int64))
    assert calibrate(few, ROLES) is None


@pytest.mark.parametrize(
    "change",
    [
        {"urgent": 1.1}, {"urgent": -0.1}, {"near_tie": -0.5}, {"false_alarms": 1.5}, {"near_ties": -1.0},
        {"distance": float("nan")}, {"distance": float("inf")}, {"urgent": "0.5"}, {"near_tie": None}, {"n_cells": 3},
        {"n_cells": 20.5}, {"more": 1},
    ],
)  # fmt: skip
def test_thresholds_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ReviewThresholds.model_validate({**NEVER.model_dump(), **change})


# ----------------------------------------------------------------------------------------------------------- elsewhere


def test_a_foreign_laboratory_has_its_own_threshold_of_the_urgent() -> None:
    thresholds = NEVER.model_copy(update={"urgent": 0.1, "urgent_elsewhere": 0.5})
    suspect, surer = _row(70, 0, 0, 15, 15, 0), _row(45, 0, 0, 45, 10, 0)
    here = [most_urgent(thresholds, ROLES, row, np.zeros(1), SURE)[0] for row in (suspect, surer)]
    there = [most_urgent(thresholds, ROLES, row, np.zeros(1), SURE, atypical=SURE)[0] for row in (suspect, surer)]
    assert here == ["blast or immature cell"] * 2
    assert there == [None, "blast or immature cell"]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=SEEDS, n=st.integers(1, 400))
def test_few_mature_cells_of_imitated_laboratories_are_above_it(seed: int, n: int) -> None:
    _, probabilities, targets = _cells(n, seed, noise=3.0)
    imitated = ImitatedImages(probabilities, targets, np.zeros(n, np.int64))
    thresholds = calibrate(replace(_reference(seed), imitated=imitated), ROLES)
    assert thresholds is not None
    mature = ROLES.mature[targets]
    if not mature.any():
        assert thresholds.urgent_elsewhere is None
        return
    mass = probabilities[mature][:, ROLES.urgent].sum(axis=1)
    assert thresholds.urgent_elsewhere is not None
    assert (mass > thresholds.urgent_elsewhere + 1e-12).sum() <= FALSE_ALARMS_ELSEWHERE * mature.sum()
    assert (mass >= thresholds.urgent_elsewhere - 1e-12).sum() > FALSE_ALARMS_ELSEWHERE * mature.sum()


def test_without_imitated_laboratories_there_is_none() -> None:
    thresholds = calibrate(_reference(0), ROLES)
    assert thresholds is not None
    assert thresholds.urgent_elsewhere is None
