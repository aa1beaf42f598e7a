"""Classical heads on embeddings, with the published settings, and their way into the graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.errors import ConfigError, near_matches, require_extra
from hemalens.graphs.build import IR_VERSION, ML_OPSET, OPSET, join, log_probability_graph

SMALLEST_PROBABILITY = 1e-7
ClassWeights = Literal["balanced", "none"]
"""Whether a class weighs inverse to the number of its images, or as much as it has."""


class Head(Protocol):
    """A scikit-learn classifier with probabilities."""

    def fit(self, X: NDArray[np.floating[Any]], y: NDArray[np.int64], **weights: NDArray[np.float64]) -> Any:
        """Learn from embeddings (n, d) and class indices (n,); `sample_weight_of` makes the weights."""

    def predict_proba(self, X: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Probabilities (n, k)."""


def _scaled(estimator: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


def _logistic_regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(LogisticRegression(max_iter=2000, random_state=seed))


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=200, max_depth=16, random_state=seed, n_jobs=-1)


def _svm(kernel: str) -> Callable[[int], Any]:
    def build(seed: int) -> Any:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import SVC

        # probabilities by Platt's sigmoid on three inner folds; SVC's own `probability` is deprecated
        return _scaled(CalibratedClassifierCV(SVC(kernel=kernel, random_state=seed), ensemble=False, cv=3))

    return build


def _neural_network(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return _scaled(MLPClassifier(hidden_layer_sizes=(100,), max_iter=1000, early_stopping=True, random_state=seed))


def _xgboost(seed: int) -> Any:
    require_extra("xgboost", "train", "the head 'xgboost'")
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=seed)


HEADS: dict[str, Callable[[int], Any]] = {
    "lr": _logistic_regression,
    "rf": _random_forest,
    "svm_rbf": _svm("rbf"),
    "svm_poly": _svm("poly"),
    "ann": _neural_network,
    "xgboost": _xgboost,
}
"""Head by name: logistic regression; random forest (200 trees, depth 16); SVM; one hidden layer of 100; XGBoost.

SVM, the network and logistic regression standardise their input; the trees do not (settings of BC-SAM).
"""


def check_head(name: str) -> None:
    """Raise `ConfigError` for an unknown head: before hours of work, not after."""
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}", remedy=near_matches(name, HEADS))


def make_head(name: str, *, seed: int) -> Head:
    """A new, unfitted head; raises `ConfigError` for an unknown name."""
    check_head(name)
    head: Head = HEADS[name](seed)
    return head


def sample_weight_of(head: Head, weights: NDArray[np.float64] | None) -> dict[str, NDArray[np.float64]]:
    """The weights (n,) of images as `head.fit` takes them, by name; nothing for None."""
    if weights is None:
        return {}
    steps = getattr(head, "steps", None)
    return {f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": weights}


def head_logits(head: Head, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Raw logits (n, k) of a fitted head: the logarithm of its probabilities, as in its graph."""
    return np.log(np.maximum(np.asarray(head.predict_proba(embeddings), np.float64), SMALLEST_PROBABILITY))


def head_graph(head: Head, *, n_features: int, n_classes: int) -> onnx.ModelProto:
    """A fitted head as a graph: embedding (n, d) -> raw_logits (n, k)."""
    require_extra("skl2onnx", "train", "saving a classical head")
    if type(head).__name__ == "XGBClassifier":
        model = _convert_xgboost(head, n_features)
    else:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        with warnings.catch_warnings():
            # the converter looks at attributes of SVC that scikit-learn is about to remove
            warnings.filterwarnings("ignore", "Attribute `prob[AB]_` was deprecated", FutureWarning)
            model = to_onnx(
                head,
                initial_types=[("embedding", FloatTensorType([None, n_features]))],
                options={"zipmap": False},
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            )
    return join(_probabilities_only(model), log_probability_graph(n_classes))


def _convert_xgboost(head: Any, n_features: int) -> onnx.ModelProto:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model: onnx.ModelProto = convert_xgboost(
        head, initial_types=[("embedding", FloatTensorType([None, n_features]))], target_opset=15
    )
    return model


def _probabilities_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converted head with one output, `head_probabilities`, at this package's opset."""
    from onnx import helper

    name = model.graph.output[1].name
    kept = [value for value in model.graph.output if value.name == name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model.graph.node.append(helper.make_node("Identity", [name], ["head_probabilities"]))
    model.graph.output[0].name = "head_probabilities"
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
