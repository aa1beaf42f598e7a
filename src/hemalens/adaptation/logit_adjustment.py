"""What is added to a head's logits in a new laboratory, as a formula and as a part of the graph. No torch.

A head that was calibrated at home is too sure of itself elsewhere, and then nothing else counts. So its logits go back to
the temperature at which they were trained, where that is the softer one; to them comes what the size of the nucleus says
(`nucleus_sizes`), and a constant for each class (`class_bias`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import log_softmax

from hemalens.bundle.nucleus_size import DEGREES, NucleusSize, log_likelihoods
from hemalens.graphs import build as graphs

Floats = NDArray[np.floating[Any]]
Constants = dict[str, NDArray[Any]]
DIVERSITY = 0.6
"""Weight of the entropy of the mean answer beside the mean entropy of the answers."""
ADDED = ("evidence_", "size_", "neighbour_", "beside_")
"""How the names of what is added to a graph begin, here and by `neighbours`."""
FEATURES = ("size_features", graphs.BESIDE_FEATURES)
"""Constants that tell how wide the embedding was before."""
HOLD = 0.02
"""Weight of the squared biases, so that a class that nothing speaks for does not drift away."""


def class_bias(logits: Floats) -> NDArray[np.float64]:
    """What to add to logits (n, k) of a laboratory's images for each class (k,): answers become certain and stay diverse.

    Least of mean entropy of the answers - 0.6 x entropy of the mean answer + 0.02 x sum of squares: the information that
    answers hold about images (Krause et al., Discriminative clustering by regularized information maximization, 2010), its
    second part weighed below 1, since the cell types of a laboratory are not equally frequent.
    """
    wide = np.asarray(logits, np.float64)

    def loss(bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = log_softmax(wide + bias, axis=1)
        p = np.exp(log_p)
        mean = p.mean(axis=0)
        log_mean = np.log(np.maximum(mean, np.finfo(float).tiny))
        value = -(p * log_p).sum(axis=1).mean() + DIVERSITY * (mean * log_mean).sum() + HOLD * (bias**2).sum()
        # the derivative of each entropy by a logit is p (what stands behind it, less its mean under p)
        behind = -log_p + DIVERSITY * log_mean
        slope = p * (behind - (p * behind).sum(axis=1, keepdims=True))
        return float(value), slope.mean(axis=0) + 2 * HOLD * bias

    return np.asarray(minimize(loss, np.zeros(wide.shape[1]), jac=True, method="BFGS").x)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is added to the logits (n, k) of a head in one laboratory.

    `softening` in (0, 1] multiplies them. `sizes` are the nuclei of each class, none where size is not looked at;
    `typical` is the log of the laboratory's median diameter in pixels, `widening` how much wider than at home sizes lie
    there. `bias` (k,) is added, zeros where nothing is. `extent`: side of the window in diameters of the nucleus.
    """

    softening: float
    bias: NDArray[np.float64]
    sizes: tuple[NucleusSize, ...] = ()
    extent: float = 1.0
    typical: float = 0.0
    widening: float = 1.0

    def logits(self, logits: Floats, log_diameters: Floats | None) -> NDArray[np.float64]:
        """Logits (n, k) with all of it, for images of these log diameters (n,)."""
        added = np.asarray(logits, np.float64) * self.softening + self.bias
        if self.sizes:
            added += log_likelihoods(np.asarray(log_diameters) - self.typical, self.sizes, self.widening)
        return added

    def statistics(self) -> NDArray[np.float32]:
        """Mean and standard deviation (2, 1) of the log diameter over the typical one at home, all classes alike."""
        centres, scales = (np.array([getattr(size, name) for size in self.sizes]) for name in ("centre", "scale"))
        variance = centres.var() + (scales**2).mean() * DEGREES / (DEGREES - 2)
        return np.array([[centres.mean()], [np.sqrt(variance)]], np.float32)

    def into(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """A bundle's graph with all of it.

        With sizes the embedding gets one feature more, the log diameter over the typical one, so that logits still follow
        from the embedding alone.
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
        """What sets the size behind the embedding (n, d), and gives what follows its first d features."""
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
        """What softens the logits, and adds what sizes say and the bias."""
        constant, summands = self.bias.copy(), ["evidence_softened", "evidence_constant"]
        nodes = [helper.make_node("Mul", ["logits_before", "evidence_softening"], ["evidence_softened"])]
        constants: Constants = {"evidence_softening": np.array([self.softening], np.float32)}
        if self.sizes:
            scales = np.array([size.scale for size in self.sizes]) * self.widening
            # the logarithm of Student's density, but for what all classes share
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


def without_additions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A bundle's graph before sizes, biases, neighbours and further encoders came into it.

    Its logits stay softened where sizes or a bias made them so. A graph that has nothing of all this comes back as it is.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    gone = [node for node in model.graph.node if any(name.startswith(ADDED) for name in (*node.input, *node.output))]
    if not gone:
        return graph
    softened = next((node.output[0] for node in gone if node.output[0].startswith("evidence_softened")), None)
    names = {softened or next(node.input[0] for node in gone if node.input[0].startswith("logits_before")): "logits"}
    of_embedding = [node for node in gone if node.op_type == "Concat" and node.output[0].startswith("embedding")]
    if of_embedding:
        names[of_embedding[0].input[0]] = "embedding"
        names |= {name: "embedding" for node in gone for name in node.output if name.startswith("embedding_for_head")}
        value = next(v for v in model.graph.output if v.name == "embedding")
        ends = [t for t in model.graph.initializer if t.name.startswith(FEATURES)]
        value.type.tensor_type.shape.dim[1].dim_value = min(int(numpy_helper.to_array(t)[0]) for t in ends)
    left_out = {name for node in gone for name in node.output} - {softened}
    rest = [node for node in model.graph.node if not set(node.output) & left_out]
    for node in rest:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    used = {name for node in rest for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rest)
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model)
    return model
