"""Few-shot classifiers on embeddings: prototypes (BloodShot), nearest neighbour, logistic regression, L2-SP.

`few_shot_graph` exports a fitted classifier as plain ONNX operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal, Self

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper
from pydantic import Field, model_validator
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from hemalens.classifiers.l2sp import fit_correction, folds_of
from hemalens.config import StrictConfig
from hemalens.errors import ConfigError, InputError
from hemalens.graphs.build import SHORTEST_LENGTH, float_value, make_model, unit_length_nodes

Rule = Literal["prototype", "nearest_neighbour", "logistic_regression", "base"]
Centre = Literal["none", "support", "target"]
LINEAR_RULES: tuple[Rule, ...] = ("logistic_regression", "base")
"""Rules whose logits are linear in the embedding."""
Floats = NDArray[np.floating[Any]]
COSINE_SCALE = 64.0
"""Factor from cosine to logit, as in the AAM-softmax of BloodShot's training."""


class FewShotConfig(StrictConfig):
    """Settings of a few-shot classifier; the defaults are those of BloodShot.

    `rule`: "prototype" (cosine to the nearest class mean), "nearest_neighbour" (cosine to the nearest support image),
    "logistic_regression" (inverse L2 penalty `c`), or "base" (fine-tunes the bundle's head, regularised towards its old
    weights). All but "base" predict the classes of the support only. `normalise` brings embeddings to unit length first.
    `centre` subtracts the mean of the "support", or of the unlabelled "target" images (transductive). `n_prototypes`: means
    a class, by k-means.
    """

    rule: Rule = "prototype"
    normalise: bool = False
    centre: Centre = "none"
    n_prototypes: int = Field(default=1, ge=1, le=100)
    c: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _nothing_idle(self) -> FewShotConfig:
        if self.n_prototypes != 1 and self.rule != "prototype":
            raise ValueError("n_prototypes goes with rule=prototype only")
        if self.c != 1.0 and self.rule != "logistic_regression":
            raise ValueError("c goes with rule=logistic_regression only")
        return self

    @property
    def uses_base(self) -> bool:
        """Whether the logits contain those of the bundle's head."""
        return self.rule == "base"

    @property
    def transductive(self) -> bool:
        """Whether fitting uses the unlabelled target images."""
        return self.centre == "target"

    def __str__(self) -> str:
        means = "class means" if self.n_prototypes == 1 else f"up to {self.n_prototypes} means a class"
        words = {
            "prototype": f"{means}, cosine",
            "nearest_neighbour": "nearest image, cosine",
            "logistic_regression": "logistic regression",
            "base": "fine-tuned head (L2-SP)",
        }
        text = words[self.rule]
        text += ", unit length first" if self.normalise else ""
        where = {"none": "", "support": ", centred on the support", "target": ", centred on the target"}
        return text + where[self.centre]

    def make(self, *, random_state: int = 0) -> PrototypeClassifier:
        """A new, unfitted classifier."""
        return PrototypeClassifier(**self.model_dump(), random_state=random_state)


class PrototypeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Few-shot classifier on embeddings (n, d); parameters as in `FewShotConfig`.

    Fitted: `classes_` (k,), `centre_` (d,), and either `prototypes_`, one array (p, d) of unit vectors a class, or
    `weight_` (k, d) and `bias_` (k,) of a linear rule. `base_scale_` is the factor on the head's logits, 0 without a head.
    """

    def __init__(
        self,
        rule: Rule = "prototype",
        *,
        normalise: bool = False,
        centre: Centre = "none",
        n_prototypes: int = 1,
        c: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.rule = rule
        self.normalise = normalise
        self.centre = centre
        self.n_prototypes = n_prototypes
        self.c = c
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        unlabelled: ArrayLike | None = None,
        *,
        base: ArrayLike | None = None,
        unit: ArrayLike | None = None,
        parts: Sequence[int] = (),
    ) -> Self:
        """Fit on support embeddings (n, d) and their classes (n,).

        `unlabelled` (m, d): embeddings of target images, for `centre="target"`. `base` (n, k): logits of the bundle's head,
        for `rule="base"`; classes are then 0 to k - 1. `unit` (n,): images of one unit share a cross-validation fold.
        `parts`: widths of concatenated embeddings, for `rule="base"`; every part is scaled to the same length, and all but
        the first are centred. Raises `InputError` for a support of one class and `ConfigError` for missing `unlabelled` or
        `base`.
        """
        support, labels = np.asarray(X, np.float64), np.asarray(y)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("the support has one class only", expected="labelled images of at least two classes")
        parts = parts if self.rule == "base" else ()
        self.centre_ = self._centre(support, unlabelled, parts)
        self.n_features_in_ = support.shape[1]
        self.base_scale_ = 0.0
        points = self._transformed(support)
        units = np.arange(len(labels)) if unit is None else np.asarray(unit)
        if self.rule == "base":
            self._fit_to_base(points, labels, base, units, parts)
        elif self.rule == "logistic_regression":
            self._fit_logistic_regression(points, index)
        else:
            self.prototypes_ = [unit_length(self._means(points[index == i])) for i in range(len(self.classes_))]
        return self

    def _fit_to_base(
        self, points: Floats, labels: NDArray[Any], base: ArrayLike | None, units: NDArray[np.int64], parts: Sequence[int]
    ) -> None:
        if base is None:
            raise ConfigError("rule=base needs the logits of a bundle's head", remedy="Use rule=logistic_regression.")
        logits = np.asarray(base, np.float64)
        self.classes_ = np.arange(logits.shape[1])
        lengths = _lengths_of(points, parts)
        found = fit_correction(points / lengths, labels, logits, units)
        self.base_scale_, self.weight_, self.bias_ = found.scale, found.weight / lengths, found.bias

    def shifted(self, n: int) -> Self:
        """Return the same linear classifier for embeddings with `n` further columns in front, which it ignores."""
        wider = copy(self)
        wider.centre_ = np.pad(self.centre_, (n, 0))
        wider.weight_ = np.pad(self.weight_, ((0, 0), (n, 0)))
        wider.n_features_in_ = self.n_features_in_ + n
        return wider

    def _centre(self, support: Floats, unlabelled: ArrayLike | None, parts: Sequence[int]) -> Floats:
        if self.centre == "target":
            if unlabelled is None:
                raise ConfigError("centre=target needs embeddings of unlabelled target images")
            return np.asarray(np.asarray(unlabelled, np.float64).mean(axis=0))
        centre = np.asarray(support.mean(axis=0))
        if self.centre == "none":
            centre[: parts[0] if parts else None] = 0
        return centre

    def _transformed(self, X: Floats) -> Floats:
        centred = X - self.centre_
        points: Floats = unit_length(centred) if self.normalise else centred
        return points

    def _means(self, points: Floats) -> Floats:
        if self.rule == "nearest_neighbour":
            return points
        n = self.n_prototypes if self.n_prototypes == 1 else min(self.n_prototypes, len(np.unique(points, axis=0)))
        if n == 1:
            return np.asarray(points.mean(axis=0, keepdims=True))
        from sklearn.cluster import KMeans

        centres: Floats = KMeans(n, n_init=3, random_state=self.random_state).fit(points).cluster_centers_
        return centres

    def _fit_logistic_regression(self, points: Floats, index: NDArray[np.int64]) -> None:
        from sklearn.linear_model import LogisticRegression

        # the solution lies in the span of the support: n coordinates give the same one as d, many times faster
        left, sizes, axes = np.linalg.svd(points, full_matrices=False)
        found = LogisticRegression(C=self.c, max_iter=2000, random_state=self.random_state).fit(left * sizes, index)
        weight, bias = found.coef_ @ axes, found.intercept_
        # scikit-learn has one row for two classes: the logit of the second against the first
        self.weight_ = np.concatenate([-weight, weight]) / 2 if len(weight) == 1 else weight
        self.bias_ = np.concatenate([-bias, bias]) / 2 if len(weight) == 1 else bias

    def decision_function(self, X: ArrayLike, base: ArrayLike | None = None) -> Floats:
        """Logits (n, k): 64 times the cosine to the nearest prototype of each class, or those of the linear rule.

        `base` (n, k): logits of the bundle's head, for `rule="base"`.
        """
        check_is_fitted(self)
        embeddings = np.asarray(X, np.float64)
        if self.rule in LINEAR_RULES:
            logits: Floats = self._projected(embeddings, self.weight_, unit=self.normalise) + self.bias_
            return logits if base is None else logits + self.base_scale_ * np.asarray(base, np.float64)
        cosine = self._projected(embeddings, np.concatenate(self.prototypes_), unit=True)
        first = np.cumsum([0, *(len(p) for p in self.prototypes_[:-1])])
        return COSINE_SCALE * np.maximum.reduceat(cosine, first, axis=1)

    def _projected(self, X: Floats, directions: Floats, *, unit: bool) -> Floats:
        """(X - centre) @ directions.T, of X - centre as it is or brought to unit length."""
        # subtract before projecting: rounding errors of an image at the centre would become its direction
        centred = X - self.centre_ if self.centre_.any() else X
        projected: Floats = centred @ directions.T
        if not unit:
            return projected
        # half the time of numpy's norm, which allocates an array of squares
        length = np.sqrt(np.einsum("nd,nd->n", centred, centred))
        cosine: Floats = projected / np.maximum(length, SHORTEST_LENGTH)[:, None]
        return cosine

    def predict(self, X: ArrayLike, base: ArrayLike | None = None) -> NDArray[Any]:
        """Predict the class of each embedding, (n,)."""
        logits = self.decision_function(X, base)
        predictions: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return predictions

    def predict_proba(self, X: ArrayLike, base: ArrayLike | None = None) -> NDArray[np.float64]:
        """Softmax of the logits, (n, k); not calibrated."""
        probabilities: NDArray[np.float64] = softmax(self.decision_function(X, base), axis=1)
        return probabilities


def _lengths_of(points: Floats, parts: Sequence[int]) -> Floats:
    """RMS length of each part of points (n, d), repeated for each of its columns (d,); ones without parts."""
    lengths = np.ones(points.shape[1])
    for end, width in zip(np.cumsum(parts, dtype=int), parts, strict=True):
        own = slice(int(end) - width, int(end))
        lengths[own] = np.sqrt((points[:, own] ** 2).sum(axis=1).mean()) or 1.0
    return lengths


def unit_length(vectors: Floats) -> Floats:
    """Scale vectors (..., d) to unit length; a zero vector stays zero."""
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SHORTEST_LENGTH)
    return unit


def leave_one_out(
    config: FewShotConfig,
    embeddings: Floats,
    targets: NDArray[np.int64],
    unit: NDArray[np.int64],
    *,
    base: Floats | None = None,
    parts: Sequence[int] = (),
) -> Floats:
    """Leave-one-out logits (n, k): each support image by a classifier fitted without its unit (its copies and its group).

    A class without an image in another unit has -inf in its column, except for `rule="base"` with head logits `base`
    (n, k). That rule uses at most 20 folds instead of one a unit.
    """
    kept = base if config.uses_base else None
    n_classes = int(targets.max()) + 1 if kept is None else kept.shape[1]
    logits = np.full((len(targets), n_classes), -np.inf)
    for out in [unit == one for one in np.unique(unit)] if kept is None else folds_of(unit):
        if len(np.unique(targets[~out])) < 2:
            continue
        if kept is not None:
            fitted = config.make().fit(embeddings[~out], targets[~out], base=kept[~out], unit=unit[~out], parts=parts)
            logits[out] = fitted.decision_function(embeddings[out], kept[out])
        else:
            fitted = config.make().fit(embeddings[~out], targets[~out])
            logits[np.ix_(out, fitted.classes_)] = fitted.decision_function(embeddings[out])
    return logits


def few_shot_graph(fitted: PrototypeClassifier) -> onnx.ModelProto:
    """Export a fitted classifier as a graph: embedding (n, d) -> raw_logits (n, k).

    For `rule="base"` the head's logits, `base_logits` (n, k), are a second input.
    """
    k, d = len(fitted.classes_), fitted.n_features_in_
    constants = {"centre": fitted.centre_, "shortest_length": np.array([SHORTEST_LENGTH])}
    nodes = [helper.make_node("Sub", ["embedding", "centre"], ["centred"])]
    linear, keeps = fitted.rule in LINEAR_RULES, fitted.rule == "base"
    points = "centred"
    if fitted.normalise or not linear:
        nodes += unit_length_nodes("centred", "unit")
        points = "unit"
    if linear:
        constants |= {"weight": fitted.weight_, "bias": fitted.bias_}
        end = "correction" if keeps else "raw_logits"
        nodes.append(helper.make_node("Gemm", [points, "weight", "bias"], [end], transB=1))
        if keeps:
            constants["base_scale"] = np.array([fitted.base_scale_])
            nodes.append(helper.make_node("Mul", ["base_logits", "base_scale"], ["kept"]))
            nodes.append(helper.make_node("Add", ["kept", "correction"], ["raw_logits"]))
    else:
        for i, prototypes in enumerate(fitted.prototypes_):
            constants[f"prototypes_{i}"] = COSINE_SCALE * prototypes.T
            nodes.append(helper.make_node("MatMul", [points, f"prototypes_{i}"], [f"near_{i}"]))
            nodes.append(helper.make_node("ReduceMax", [f"near_{i}", "last_axis"], [f"logit_{i}"], keepdims=1))
        nodes.append(helper.make_node("Concat", [f"logit_{i}" for i in range(k)], ["raw_logits"], axis=1))
    initializers = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    inputs = [float_value("embedding", ["n", d]), *([float_value("base_logits", ["n", k])] if keeps else [])]
    return make_model(nodes, inputs, [float_value("raw_logits", ["n", k])], initializers)
