"""Classical heads on embeddings, with their published settings and their ONNX graphs.

Begin with `HEADS`. To add a head, write a function from a seed to a scikit-learn classifier and a line in `HEADS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hemalens.errors import ConfigError, near_matches, require_extra
from hemalens.graphs.build import IR_VERSION, ML_OPSET, OPSET, float_value, join, log_probability_graph, make_model

SMALLEST_PROBABILITY = 1e-7
ClassWeights = Literal["balanced", "none"]
"""Whether a class weighs inversely to the number of its images, or as much as it has."""


@dataclass(frozen=True, slots=True)
class HeadKind:
    """One head of `HEADS`.

    `build`: seed -> scikit-learn classifier with `predict_proba`. `summary`: what it is, with its settings.
    `standardise`: bring each feature to mean 0 and variance 1 first. `sample_weights`: whether `fit` accepts them.
    `float64`: compute in double precision in training and graph, for heads that sum over many features. `convert`: (fitted
    classifier, n_features) -> ONNX model whose second output holds the probabilities; None for skl2onnx.
    """

    build: Callable[[int], Any]
    summary: str
    standardise: bool = False
    sample_weights: bool = True
    float64: bool = False
    convert: Callable[[Any, int], onnx.ModelProto] | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """A head by name; `make_head` makes it."""

    name: str
    kind: HeadKind
    estimator: Any

    def fit(
        self, embeddings: NDArray[np.floating[Any]], targets: NDArray[np.int64], weights: NDArray[np.float64] | None = None
    ) -> Head:
        """Learn from embeddings (n, d), class indices (n,) and image weights (n,).

        Raises `ConfigError` for weights where the head takes none.
        """
        keywords = {}
        if weights is not None:
            _check_weights(self.name, self.kind)
            steps = getattr(self.estimator, "steps", None)
            keywords = {f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": weights}
        self.estimator.fit(self._input(embeddings), targets, **keywords)
        return self

    def predict_proba(self, embeddings: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Probabilities (n, k) of embeddings (n, d)."""
        probabilities: NDArray[np.floating[Any]] = self.estimator.predict_proba(self._input(embeddings))
        return probabilities

    def logits(self, embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Raw logits (n, k): the logarithm of the probabilities, as in the graph."""
        return np.log(np.maximum(np.asarray(self.predict_proba(embeddings), np.float64), SMALLEST_PROBABILITY))

    def graph(self) -> onnx.ModelProto:
        """The fitted head as a graph: embedding (n, d) -> raw_logits (n, k)."""
        require_extra("skl2onnx", "train", "saving a classical head")
        n_features, n_classes = int(self.estimator.n_features_in_), len(self.estimator.classes_)
        if self.kind.convert is not None:
            head = _probabilities_only(self.kind.convert(self.estimator, n_features))
        elif self.kind.float64:
            cast = helper.make_node("Cast", ["embedding"], ["embedding_float64"], to=TensorProto.DOUBLE)
            wide = helper.make_tensor_value_info("embedding_float64", TensorProto.DOUBLE, ["n", n_features])
            to_float64 = make_model([cast], [float_value("embedding", ["n", n_features])], [wide], [])
            head = join(to_float64, _probabilities_only(_converted(self.estimator, n_features, float64=True)))
        else:
            head = _probabilities_only(_converted(self.estimator, n_features, float64=False))
        return join(head, log_probability_graph(n_classes))

    def _input(self, embeddings: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        return embeddings.astype(np.float64) if self.kind.float64 else embeddings


def _logistic_regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000, random_state=seed)


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=200, max_depth=16, random_state=seed, n_jobs=-1)


def _svm(kernel: str) -> Callable[[int], Any]:
    def build(seed: int) -> Any:
        from hemalens.classifiers.svm import VotingSVM

        return VotingSVM(kernel, random_state=seed)

    return build


def _converted_svm(estimator: Any, n_features: int) -> onnx.ModelProto:
    from hemalens.classifiers.svm import svm_graph

    return svm_graph(estimator, n_features)


def _neural_network(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(hidden_layer_sizes=(100,), max_iter=1000, early_stopping=True, random_state=seed)


def _xgboost(seed: int) -> Any:
    require_extra("xgboost", "train", "the head 'xgboost'")
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=seed)


def _converted_xgboost(estimator: Any, n_features: int) -> onnx.ModelProto:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model: onnx.ModelProto = convert_xgboost(
        estimator, initial_types=[("embedding", FloatTensorType([None, n_features]))], target_opset=15
    )
    return model


HEADS: dict[str, HeadKind] = {
    "lr": HeadKind(_logistic_regression, "logistic regression", standardise=True),
    "rf": HeadKind(_random_forest, "random forest, 200 trees of depth 16"),
    "svm_rbf": HeadKind(_svm("rbf"), "SVM with an RBF kernel", standardise=True, convert=_converted_svm),
    "svm_poly": HeadKind(_svm("poly"), "SVM with a polynomial kernel", standardise=True, convert=_converted_svm),
    "svm_linear": HeadKind(_svm("linear"), "linear SVM", standardise=True, convert=_converted_svm),
    "ann": HeadKind(_neural_network, "neural network, one hidden layer of 100", standardise=True),
    "xgboost": HeadKind(_xgboost, "XGBoost", convert=_converted_xgboost),
}
"""Head by name, with the settings of BC-SAM (Cai et al. 2024); the linear SVM is DoRL's (Li et al. 2024)."""


def check_head(name: str, class_weights: ClassWeights = "none") -> None:
    """Raise `ConfigError` for an unknown head, or for class weights it does not take: before hours of work, not after."""
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}", remedy=near_matches(name, HEADS))
    if class_weights == "balanced":
        _check_weights(name, HEADS[name])


def _check_weights(name: str, kind: HeadKind) -> None:
    if not kind.sample_weights:
        raise ConfigError(f"the head {name!r} takes no class weights", remedy="Use --set class_weights=none.")


def make_head(name: str, *, seed: int) -> Head:
    """A new, unfitted head; raises `ConfigError` for an unknown name."""
    check_head(name)
    kind = HEADS[name]
    estimator = kind.build(seed)
    if kind.standardise:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        estimator = make_pipeline(StandardScaler(), estimator)
    return Head(name, kind, estimator)


def _converted(estimator: Any, n_features: int, *, float64: bool) -> onnx.ModelProto:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    name, kind = ("embedding_float64", DoubleTensorType) if float64 else ("embedding", FloatTensorType)
    with warnings.catch_warnings():
        # the converter reads attributes of SVC that scikit-learn has deprecated
        warnings.filterwarnings("ignore", "Attribute `prob[AB]_` was deprecated", FutureWarning)
        model: onnx.ModelProto = to_onnx(
            estimator,
            initial_types=[(name, kind([None, n_features]))],
            options={"zipmap": False},
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        )
    return model


def _probabilities_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """A converted head with one output, `head_probabilities` in single precision, at this package's opset."""
    kept = model.graph.output[1]
    node = helper.make_node("Cast", [kept.name], ["head_probabilities"], to=TensorProto.FLOAT)
    output = onnx.ValueInfoProto()
    output.CopyFrom(kept)
    output.name, output.type.tensor_type.elem_type = "head_probabilities", TensorProto.FLOAT
    del model.graph.output[:]
    model.graph.output.append(output)
    model.graph.node.append(node)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
