"""Class bias and other logit adjustment for a new laboratory: softer logits, likelihood of the nucleus size, a bias.

A head calibrated on its training laboratory is overconfident under domain shift. Its logits return to their training
temperature where that is softer, so that the added terms have an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.optimize import minimize
from scipy.special import log_softmax

from hemalens.bundle.nucleus_size import DEGREES, NucleusSize, log_likelihoods
from hemalens.graphs import build as graphs

Floats = NDArray[np.floating[Any]]
Constants = dict[str, NDArray[Any]]
DIVERSITY = 0.6
"""Weight of the entropy of the mean prediction, relative to the mean entropy of the predictions."""
BIAS_PENALTY = 0.02
"""L2 penalty on the biases, so that the bias of a class without images does not diverge."""


def class_bias(logits: Floats) -> NDArray[np.float64]:
    """Fit the bias of each class (k,) on logits (n, k) of unlabelled images by information maximisation.

    Minimises mean entropy of the predictions - 0.6 x entropy of the mean prediction + 0.02 x squared norm of the bias
    (Krause et al., Discriminative clustering by regularized information maximization, 2010). The weight 0.6 allows for
    classes of unequal frequency.
    """
    wide = np.asarray(logits, np.float64)

    def loss(bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = log_softmax(wide + bias, axis=1)
        p = np.exp(log_p)
        mean = p.mean(axis=0)
        log_mean = np.log(np.maximum(mean, np.finfo(float).tiny))
        value = -(p * log_p).sum(axis=1).mean() + DIVERSITY * (mean * log_mean).sum() + BIAS_PENALTY * (bias**2).sum()
        # derivative of sum(p * f) by the logits, for f constant: p * (f - mean of f under p)
        inner = -log_p + DIVERSITY * log_mean
        slope = p * (inner - (p * inner).sum(axis=1, keepdims=True))
        return float(value), slope.mean(axis=0) + 2 * BIAS_PENALTY * bias

    return np.asarray(minimize(loss, np.zeros(wide.shape[1]), jac=True, method="BFGS").x)


@dataclass(frozen=True, slots=True)
class LogitAdjustment:
    """Terms added to the logits (n, k) of a head in one laboratory.

    `softening` in (0, 1] multiplies the logits and `bias` (k,) is added. `sizes`: nucleus-size distribution of each class,
    empty without the step `size`; `typical`: log of the laboratory's median diameter in pixels; `widening`: factor on the
    scales of `sizes`; `extent`: side of the crop in nucleus diameters.
    """

    softening: float
    bias: NDArray[np.float64]
    sizes: tuple[NucleusSize, ...] = ()
    extent: float = 1.0
    typical: float = 0.0
    widening: float = 1.0

    def logits(self, logits: Floats, log_diameters: Floats | None) -> NDArray[np.float64]:
        """Adjust logits (n, k) of images with these log nucleus diameters (n,)."""
        adjusted = np.asarray(logits, np.float64) * self.softening + self.bias
        if self.sizes:
            adjusted += log_likelihoods(np.asarray(log_diameters) - self.typical, self.sizes, self.widening)
        return adjusted

    def into(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """Add the adjustment to a bundle's graph.

        With sizes, the embedding gains a last feature, the log diameter minus `typical`: logits remain a function of the
        embedding.
        """
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        value = next(v for v in model.graph.output if v.name == "embedding")
        d = int(value.type.tensor_type.shape.dim[1].dim_value)
        if self.sizes:
            graphs.insert_behind(model, "embedding", *self._measured(d), then="embedding_for_head")
            value.CopyFrom(graphs.float_value("embedding", ["n", d + 1]))
        graphs.insert_behind(model, "logits", *self._added(d), then="logits")
        onnx.checker.check_model(model)
        return model

    def _measured(self, d: int) -> tuple[list[onnx.NodeProto], Constants]:
        """Nodes that append the size to the embedding (n, d); the head's input is its first d features."""
        constants: Constants = {
            "size_first": np.array([0], np.int64),
            "size_second": np.array([1], np.int64),
            "size_features": np.array([d], np.int64),
            "size_typical": np.array([self.typical + np.log(self.extent)], np.float32),
        }
        nodes = [
            helper.make_node("Shape", ["image"], ["size_shape"]),
            helper.make_node("Gather", ["size_shape", "size_second"], ["size_side"]),
            helper.make_node("Cast", ["size_side"], ["size_side_float"], to=TensorProto.FLOAT),
            helper.make_node("Log", ["size_side_float"], ["size_log"]),
            helper.make_node("Sub", ["size_log", "size_typical"], ["size_beside"]),
            helper.make_node("Gather", ["size_shape", "size_first"], ["size_images"]),
            helper.make_node("Concat", ["size_images", "size_second"], ["size_rows"], axis=0),
            helper.make_node("Expand", ["size_beside", "size_rows"], ["size_feature"]),
            helper.make_node("Concat", ["embedding_before", "size_feature"], ["embedding"], axis=1),
            helper.make_node("Slice", ["embedding", "size_first", "size_features", "size_second"], ["embedding_for_head"]),
        ]
        return nodes, constants

    def _added(self, d: int) -> tuple[list[onnx.NodeProto], Constants]:
        """Nodes that soften the logits and add the log likelihood of the size and the bias."""
        constant, summands = self.bias.copy(), ["evidence_softened", "evidence_constant"]
        nodes = [helper.make_node("Mul", ["logits_before", "evidence_softening"], ["evidence_softened"])]
        constants: Constants = {"evidence_softening": np.array([self.softening], np.float32)}
        if self.sizes:
            scales = np.array([size.scale for size in self.sizes]) * self.widening
            # log density of Student's t without the terms that all classes share
            constant -= np.log(scales)
            constants |= {
                "evidence_last": np.array([d], np.int64),
                "evidence_centres": np.array([size.centre for size in self.sizes], np.float32),
                "evidence_scales": scales.astype(np.float32),
                "evidence_degrees": np.array([DEGREES], np.float32),
                "evidence_one": np.array([1], np.float32),
                "evidence_power": np.array([-(DEGREES + 1) / 2], np.float32),
            }
            nodes += [
                helper.make_node("Gather", ["embedding", "evidence_last"], ["evidence_size"], axis=1),
                helper.make_node("Sub", ["evidence_size", "evidence_centres"], ["evidence_off"]),
                helper.make_node("Div", ["evidence_off", "evidence_scales"], ["evidence_z"]),
                helper.make_node("Mul", ["evidence_z", "evidence_z"], ["evidence_square"]),
                helper.make_node("Div", ["evidence_square", "evidence_degrees"], ["evidence_share"]),
                helper.make_node("Add", ["evidence_share", "evidence_one"], ["evidence_more"]),
                helper.make_node("Log", ["evidence_more"], ["evidence_log"]),
                helper.make_node("Mul", ["evidence_log", "evidence_power"], ["evidence_of_size"]),
            ]
            summands.append("evidence_of_size")
        constants["evidence_constant"] = constant.astype(np.float32)
        nodes.append(helper.make_node("Sum", summands, ["logits"]))
        return nodes, constants
