"""The support vector machines answer as scikit-learn's, in Python and in the graph; their probabilities are likely ones."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hemalens.classifiers.heads import Head, make_head
from hemalens.classifiers.svm import NEAREST, VotingSVM, behind_winner, pairwise

KERNELS = {"svm_rbf": "rbf", "svm_poly": "poly", "svm_linear": "linear"}


def cells(n_classes: int, n: int = 500) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Overlapping classes of unlike size, and further rows: alike, and shifted twice."""
    rng = np.random.default_rng(n_classes)
    centres = rng.normal(0, 0.6, (n_classes, 12))
    share = np.geomspace(8, 1, n_classes)
    targets = np.r_[np.tile(np.arange(n_classes), 4), rng.choice(n_classes, n, p=share / share.sum())]
    scale = np.geomspace(0.05, 20, 12)
    rows = (centres[targets] + rng.normal(0, 1, (len(targets), 12))) * scale
    alike = (centres[rng.integers(0, n_classes, 1500)] + rng.normal(0, 1, (1500, 12))) * scale
    moved = [alike, 1.4 * alike + scale * rng.normal(0, 0.5, 12), 3 * alike + scale * rng.normal(0, 1.5, 12)]
    return rows.astype(np.float32), targets, [each.astype(np.float32) for each in moved]


@pytest.fixture(scope="module", params=[(name, k) for name in KERNELS for k in (2, 3, 8)], ids=str)
def fit(request: pytest.FixtureRequest) -> tuple[str, Head, Any, Any, list[np.ndarray]]:
    """A head with scikit-learn's own scaler and machine on the same rows."""
    name, k = request.param
    rows, targets, others = cells(k)
    scaler = StandardScaler().fit(rows)
    plain = SVC(kernel=KERNELS[name]).fit(scaler.transform(rows), targets)
    return name, make_head(name, seed=0).fit(rows, targets), scaler, plain, others


def test_answers_are_those_of_scikit_learn_on_shifted_data_too(fit: Any) -> None:
    _, head, scaler, plain, others = fit
    for rows in others:
        answers = plain.predict(scaler.transform(rows))
        np.testing.assert_array_equal(head.predict_proba(rows).argmax(axis=1), answers)
        # as the study stores them, and as a temperature leaves them
        np.testing.assert_array_equal((head.logits(rows) / 20).astype(np.float32).argmax(axis=1), answers)


def test_the_graph_gives_the_same_answers_and_probabilities(fit: Any) -> None:
    _, head, scaler, plain, others = fit
    session = onnxruntime.InferenceSession(head.graph().SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in others:
        (raw,) = session.run(None, {"embedding": rows})
        np.testing.assert_array_equal(raw.argmax(axis=1), plain.predict(scaler.transform(rows)))
        powers = np.exp(raw.astype(np.float64))
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), head.predict_proba(rows), atol=1e-4)


def test_the_largest_score_of_scikit_learn_differs_in_ties_alone() -> None:
    """SVC.predict counts votes; the arg max of its decision function breaks ties by confidence."""
    rows, targets, others = cells(8)
    scaler = StandardScaler().fit(rows)
    machine = SVC(kernel="rbf", decision_function_shape="ovo").fit(scaler.transform(rows), targets)
    every = scaler.transform(np.concatenate(others[:2]))
    winner, behind = behind_winner(pairwise(machine, every), 8)
    tied = (behind[0] == 0).sum(axis=1) > 1
    machine.set_params(decision_function_shape="ovr")
    by_score = machine.decision_function(every).argmax(axis=1)
    np.testing.assert_array_equal(by_score[~tied], winner[~tied])
    assert np.any(by_score[tied] != winner[tied])
    np.testing.assert_array_equal(winner, machine.predict(every))


def test_votes_and_confidence_of_a_tie() -> None:
    """0 beats 1, 1 beats 2, 2 beats 0 by far: all have one vote, and the first class wins."""
    winner, behind = behind_winner(np.array([[0.5, -3.0, 0.25]]), 3)
    assert winner.tolist() == [0]
    np.testing.assert_allclose(behind[0], [[0, 0, 0]])
    # confidences: 0.5 - 3, -0.5 + 0.25, 3 - 0.25
    np.testing.assert_allclose(behind[1], [[0, -2.5 + 0.25, -2.5 - 2.75]])


def by_definition(winner: int, votes: np.ndarray, confidence: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Probabilities of one row from the votes and the confidence of each class."""
    shares = []
    for i in range(len(votes)):
        c = confidence[winner] - confidence[i]
        z = (
            numbers[0]
            + numbers[1] * (votes[winner] - votes[i])
            + numbers[2] * np.sign(c) * np.log(1 + abs(c))
            + numbers[3 + i]
        )
        shares.append(1.0 if i == winner else 1 / (1 + np.exp(max(z, NEAREST))))
    return np.array(shares) / sum(shares)


def counted(decisions: np.ndarray, k: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Winner, votes and confidence from one row of pairwise decisions."""
    votes, confidence = np.zeros(k), np.zeros(k)
    for value, (i, j) in zip(decisions, combinations(range(k), 2), strict=True):
        votes[i if value > 0 else j] += 1
        confidence[i] += value
        confidence[j] -= value
    return int(votes.argmax()), votes, confidence


def test_probabilities_follow_the_formula_and_are_the_likeliest() -> None:
    rows, targets, others = cells(4, n=150)
    svm = VotingSVM("poly", random_state=0).fit(rows, targets)
    own = svm.machine_.decision_function(others[1][:20])
    for row, p in zip(own, svm.predict_proba(others[1][:20]), strict=True):
        np.testing.assert_allclose(p, by_definition(*counted(row, 4), svm.calibration_), atol=1e-12)

    decisions = np.zeros((len(rows), 6))
    for train, held in StratifiedKFold(3).split(rows, targets):
        machine = SVC(kernel="poly", decision_function_shape="ovo").fit(rows[train], targets[train])
        decisions[held] = machine.decision_function(rows[held])
    parts = [counted(row, 4) for row in decisions]

    def loss(numbers: np.ndarray) -> float:
        fitted = [by_definition(*part, numbers)[target] for part, target in zip(parts, targets, strict=True)]
        return float(-np.log(fitted).sum() + (numbers[3:] ** 2).sum() / 2)

    best = loss(svm.calibration_)
    assert (svm.calibration_[1:3] >= 0).all()
    for i in range(7):
        for step in (-0.3, 0.3):
            moved = svm.calibration_.copy()
            moved[i] = max(moved[i] + step, 0) if i in (1, 2) else moved[i] + step
            assert loss(moved) >= best - 1e-3


@pytest.mark.parametrize("kernel", KERNELS.values())
def test_probabilities_are_likelier_than_by_a_sigmoid_for_each_class(kernel: str) -> None:
    rows, targets, _ = cells(8, n=1600)
    rows = StandardScaler().fit_transform(rows)
    ours = VotingSVM(kernel).fit(rows[:800], targets[:800])
    platt = CalibratedClassifierCV(SVC(kernel=kernel), ensemble=False, cv=3).fit(rows[:800], targets[:800])
    held = np.arange(800, len(rows))
    losses = [-np.log(each.predict_proba(rows[held])[np.arange(len(held)), targets[held]]).mean() for each in (ours, platt)]
    assert losses[0] < losses[1]


def test_weights_count_as_copies_of_the_machine_and_of_its_calibration() -> None:
    rows, targets, others = cells(3, n=120)
    weights = np.where(targets == 2, 4.0, 1.0)
    plain, weighted = VotingSVM("rbf").fit(rows, targets), VotingSVM("rbf").fit(rows, targets, weights)
    reference = SVC(kernel="rbf").fit(rows, targets, weights)
    np.testing.assert_array_equal(weighted.predict(others[0]), reference.predict(others[0]))
    assert weighted.predict_proba(others[0])[:, 2].mean() > plain.predict_proba(others[0])[:, 2].mean()


def test_a_class_of_two_images_has_no_probabilities() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    with pytest.raises(ValueError, match="fewer than 3 images"):
        VotingSVM("rbf").fit(rows, np.array([0, 0, 0, 0, 1, 1]))
