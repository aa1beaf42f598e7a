"""A support vector machine that answers as libsvm does, with probabilities whose largest is that answer; and its graph.

libsvm decides each pair of classes, and the class with the most pairs wins, the first of them in a tie. Calibrating the
scores of each class apart (Platt's sigmoid) can put another class first. Here the probabilities are a function of how far a
class is behind the winner, so no class can overtake it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from hemalens.graphs.build import float_value, make_model

Floats = NDArray[np.floating[Any]]
INNER_FOLDS = 3
NEAREST = -4.0
"""Smallest distance behind the winner: a class just behind it has sigmoid(4) = 0.98 of its probability."""


class VotingSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """`sklearn.svm.SVC` with probabilities, whose arg max is `SVC.predict`.

    A class that is v votes and c of confidence behind the winner has sigmoid(-z) times its probability, where
    z = a + b v + g s(c) + a_class, s(c) = sign(c) log(1 + |c|), b and g >= 0, and z >= -4. The confidence of a class is the
    sum of its pairwise decisions. The numbers a, b, g and a_class maximise the likelihood of the out-of-fold decisions of
    three inner folds, under a standard normal prior on each a_class.
    """

    def __init__(self, kernel: str = "rbf", random_state: int | None = None) -> None:
        self.kernel = kernel
        self.random_state = random_state

    def fit(self, X: Floats, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> VotingSVM:
        """Fit the machine on all rows and its probabilities on inner folds; raises `ValueError` for too few of a class."""
        self.classes_, targets = np.unique(y, return_inverse=True)
        k = len(self.classes_)
        if np.bincount(targets).min() < INNER_FOLDS:
            raise ValueError(f"a class has fewer than {INNER_FOLDS} images, which its probabilities need")
        weights = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        behind = np.empty((2, len(targets), k))
        winner = np.empty(len(targets), np.int64)
        for train, held in StratifiedKFold(INNER_FOLDS).split(X, targets):
            machine = self._machine().fit(X[train], targets[train], weights[train])
            winner[held], behind[:, held] = behind_winner(pairwise(machine, X[held]), k)
        self.calibration_ = _most_likely(winner, behind, targets, weights)
        self.machine_ = self._machine().fit(X, targets, weights)
        return self

    def _machine(self) -> SVC:
        return SVC(kernel=self.kernel, random_state=self.random_state, decision_function_shape="ovo")

    def predict_proba(self, X: Floats) -> NDArray[np.float64]:
        """Probabilities (n, k) of rows (n, d)."""
        winner, behind = behind_winner(pairwise(self.machine_, X), len(self.classes_))
        return _probabilities(winner, behind, self.calibration_)

    def predict(self, X: Floats) -> NDArray[Any]:
        """The class of each row: the arg max of `predict_proba`, and `SVC.predict`."""
        answers: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return answers


def pairwise(machine: SVC, rows: Floats) -> NDArray[np.float64]:
    """Decisions (n, k (k - 1) / 2) of each pair of classes i < j; positive for i, for two classes as well."""
    found = np.asarray(machine.decision_function(rows), np.float64)
    # scikit-learn turns the sign for two classes
    return -found[:, None] if found.ndim == 1 else found


def behind_winner(decisions: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The winners (n,), and how many votes and how much confidence each class is behind: (2, n, k)."""
    signs = _signs(k)
    votes = (decisions > 0) @ signs + (signs < 0).sum(axis=0)
    scores = np.stack([votes, decisions @ signs])
    winner = votes.argmax(axis=1)
    return winner, np.take_along_axis(scores, winner[None, :, None], axis=2) - scores


def _signs(k: int) -> NDArray[np.float64]:
    """(pairs, k): 1 for the first class of a pair, -1 for the second."""
    signs = np.zeros((k * (k - 1) // 2, k))
    for row, (i, j) in enumerate(combinations(range(k), 2)):
        signs[row, i], signs[row, j] = 1, -1
    return signs


def _distances(behind: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """z (n, k) before its lower limit; `numbers` are a, b, g and k of a_class."""
    votes, confidence = behind
    shrunk = np.sign(confidence) * np.log1p(np.abs(confidence))
    z: NDArray[np.float64] = numbers[0] + numbers[1] * votes + numbers[2] * shrunk + numbers[3:]
    return z


def _probabilities(
    winner: NDArray[np.int64], behind: NDArray[np.float64], numbers: NDArray[np.float64]
) -> NDArray[np.float64]:
    shares = expit(-np.maximum(_distances(behind, numbers), NEAREST))
    np.put_along_axis(shares, winner[:, None], 1.0, axis=1)
    probabilities: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return probabilities


def _most_likely(
    winner: NDArray[np.int64], behind: NDArray[np.float64], targets: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The numbers a, b, g and a_class of the largest posterior."""
    n, k = behind.shape[1:]
    rows = np.arange(n)
    shrunk = np.sign(behind[1]) * np.log1p(np.abs(behind[1]))
    wrong = targets != winner

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = _distances(behind, numbers)
        p = _probabilities(winner, behind, numbers)
        # d log(share) / dz = -sigmoid(z), and none for the winner or below the limit
        slope = -p * expit(z)
        slope[rows[wrong], targets[wrong]] += expit(z[rows[wrong], targets[wrong]])
        slope[z < NEAREST] = 0
        slope[rows, winner] = 0
        slope *= weights[:, None]
        own = numbers[3:]
        gradient = np.concatenate(
            [[slope.sum(), (slope * behind[0]).sum(), (slope * shrunk).sum()], slope.sum(axis=0) + own]
        )
        value = -(weights * np.log(p[rows, targets])).sum() + (own**2).sum() / 2
        return float(value) / n, gradient / n

    start = np.concatenate([[0.0, 1.0, 1.0], np.zeros(k)])
    bounds = [(None, None), (0, None), (0, None), *[(None, None)] * k]
    found: NDArray[np.float64] = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


# ---------------------------------------------------------------------------------------------------------------- graph


def svm_graph(pipeline: Any, n_features: int) -> onnx.ModelProto:
    """A fitted (scaler, `VotingSVM`) as a graph: embedding (n, d) -> label (n, 1), probabilities (n, k).

    The kernel and the votes are computed in double precision, as in libsvm, so that answers are the same.
    """
    scaler, svm = (step for _, step in pipeline.steps)
    k = len(svm.classes_)
    parts = [_decision_nodes(scaler, svm.machine_, k), _vote_nodes(k), _probability_nodes(svm.calibration_)]
    constants = {name: value for _, each in parts for name, value in each.items()}
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n", 1])
    return make_model(
        [node for nodes, _ in parts for node in nodes],
        [float_value("embedding", ["n", n_features])],
        [label, float_value("probabilities", ["n", k])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def _decision_nodes(scaler: Any, machine: SVC, k: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """embedding -> decisions (n, pairs), with the constants."""
    node = helper.make_node
    vectors = np.asarray(machine.support_vectors_, np.float64)
    sign = -1 if k == 2 else 1
    # a support vector of class i has a coefficient against each other class, in order
    column = np.cumsum([0] + [k - 1] * k)
    pairs = list(combinations(range(k), 2))
    constants: dict[str, Any] = {
        "mean": scaler.mean_.astype(np.float32),
        "scale": scaler.scale_.astype(np.float32),
        "vectors": vectors.T,
        "n_vectors": machine.n_support_.astype(np.int64),
        "first": np.array([column[i] + j - 1 for i, j in pairs], np.int64),
        "second": np.array([column[j] + i for i, j in pairs], np.int64),
        "intercept": sign * np.asarray(machine.intercept_, np.float64),
    }
    kernel, more = _kernel_nodes(machine, vectors)
    ends = np.cumsum(machine.n_support_)
    for i, (start, end) in enumerate(zip(ends - machine.n_support_, ends, strict=True)):
        constants[f"coefficients_{i}"] = sign * np.asarray(machine.dual_coef_[:, start:end].T, np.float64)
    nodes = [
        node("Sub", ["embedding", "mean"], ["centred"]),
        node("Div", ["centred", "scale"], ["scaled"]),
        node("Cast", ["scaled"], ["rows"], to=TensorProto.DOUBLE),
        node("MatMul", ["rows", "vectors"], ["products"]),
        *kernel,
        node("Split", ["kernel", "n_vectors"], [f"kernel_{i}" for i in range(k)], axis=1),
        *(node("MatMul", [f"kernel_{i}", f"coefficients_{i}"], [f"of_class_{i}"]) for i in range(k)),
        node("Concat", [f"of_class_{i}" for i in range(k)], ["sums"], axis=1),
        node("Gather", ["sums", "first"], ["for_first"], axis=1),
        node("Gather", ["sums", "second"], ["for_second"], axis=1),
        node("Add", ["for_first", "for_second"], ["of_pairs"]),
        node("Add", ["of_pairs", "intercept"], ["decisions"]),
    ]
    return nodes, {**constants, **more}


def _kernel_nodes(machine: SVC, vectors: NDArray[np.float64]) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """products (n, vectors), rows (n, d) -> kernel (n, vectors)."""
    node = helper.make_node
    if machine.kernel == "linear":
        return [node("Identity", ["products"], ["kernel"])], {}
    gamma = np.float64(machine._gamma)
    if machine.kernel == "poly":
        constants = {"gamma": gamma, "coef0": np.float64(machine.coef0), "degree": np.float64(machine.degree)}
        return [
            node("Mul", ["products", "gamma"], ["base"]),
            node("Add", ["base", "coef0"], ["shifted"]),
            node("Pow", ["shifted", "degree"], ["kernel"]),
        ], constants
    nodes = [
        node("Mul", ["rows", "rows"], ["squares"]),
        node("ReduceSum", ["squares", "last_axis"], ["lengths"], keepdims=1),
        node("Add", ["lengths", "vector_lengths"], ["both_lengths"]),
        node("Mul", ["products", "two"], ["twice"]),
        node("Sub", ["both_lengths", "twice"], ["distances"]),
        node("Mul", ["distances", "minus_gamma"], ["exponent"]),
        node("Exp", ["exponent"], ["kernel"]),
    ]
    return nodes, {"vector_lengths": (vectors**2).sum(axis=1), "two": np.float64(2), "minus_gamma": -gamma}


def _vote_nodes(k: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """decisions (n, pairs) -> label (n, 1), votes and confidence of each class behind the winner, with the constants."""
    node = helper.make_node
    signs = _signs(k)
    constants: dict[str, Any] = {
        "last_axis": np.array([-1], np.int64),
        "zero": np.float64(0),
        "no_score": np.float32(0),
        "signs": signs,
        "n_second": (signs < 0).sum(axis=0).astype(np.float64),
        "indices": np.arange(k, dtype=np.int64)[None],
    }
    nodes = [
        node("Greater", ["decisions", "zero"], ["for_first_class"]),
        node("Cast", ["for_first_class"], ["won"], to=TensorProto.DOUBLE),
        node("MatMul", ["won", "signs"], ["relative_votes"]),
        node("Add", ["relative_votes", "n_second"], ["votes_double"]),
        node("MatMul", ["decisions", "signs"], ["confidence_double"]),
        node("Cast", ["votes_double"], ["votes"], to=TensorProto.FLOAT),
        node("Cast", ["confidence_double"], ["confidence"], to=TensorProto.FLOAT),
        node("ArgMax", ["votes"], ["label"], axis=1, keepdims=1),
        node("Equal", ["indices", "label"], ["is_winner"]),
    ]
    for name in ("votes", "confidence"):
        nodes += [
            node("Where", ["is_winner", name, "no_score"], [f"{name}_of_winner_only"]),
            node("ReduceSum", [f"{name}_of_winner_only", "last_axis"], [f"{name}_of_winner"], keepdims=1),
            node("Sub", [f"{name}_of_winner", name], [f"{name}_behind"]),
        ]
    return nodes, constants


def _probability_nodes(numbers: NDArray[np.float64]) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """What `_vote_nodes` gives -> probabilities (n, k), with the constants."""
    node = helper.make_node
    constants: dict[str, Any] = {
        "one": np.float32(1),
        "per_vote": np.float32(numbers[1]),
        "per_confidence": np.float32(numbers[2]),
        "of_class": (numbers[0] + numbers[3:]).astype(np.float32),
        "nearest": np.float32(NEAREST),
    }
    nodes = [
        node("Sign", ["confidence_behind"], ["side"]),
        node("Abs", ["confidence_behind"], ["size"]),
        node("Add", ["size", "one"], ["size_and_one"]),
        node("Log", ["size_and_one"], ["log_size"]),
        node("Mul", ["side", "log_size"], ["shrunk"]),
        node("Mul", ["votes_behind", "per_vote"], ["z_votes"]),
        node("Mul", ["shrunk", "per_confidence"], ["z_confidence"]),
        node("Sum", ["z_votes", "z_confidence", "of_class"], ["z_free"]),
        node("Max", ["z_free", "nearest"], ["z"]),
        node("Neg", ["z"], ["minus_z"]),
        node("Sigmoid", ["minus_z"], ["shares_of_others"]),
        node("Where", ["is_winner", "one", "shares_of_others"], ["shares"]),
        node("ReduceSum", ["shares", "last_axis"], ["total"], keepdims=1),
        node("Div", ["shares", "total"], ["probabilities"]),
    ]
    return nodes, constants
