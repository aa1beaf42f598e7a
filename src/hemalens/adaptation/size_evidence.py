"""Likelihood of the nucleus size in one laboratory, added to the logits; a centred crop hides the size itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hemalens.bundle.nucleus_size import DEGREES, NucleusSize, fit_sizes, log_likelihoods
from hemalens.graphs import build as graphs

Floats = NDArray[np.floating[Any]]
Constants = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SizeEvidence:
    """Nucleus-size distribution of each class in `sizes` (k), on the scale of one laboratory.

    `typical` is the log of the laboratory's typical diameter in pixels, `widening` a factor on the scales, and `extent` the
    side of the crop in nucleus diameters.
    """

    sizes: tuple[NucleusSize, ...]
    extent: float
    typical: float
    widening: float

    @classmethod
    def fit(
        cls, sizes: tuple[NucleusSize, ...], extent: float, log_diameters: Floats, logits: Floats, counts: Floats
    ) -> SizeEvidence:
        """Fit to log diameters (n,) of images, their logits (n, k), and by how much each image counts (n,)."""
        return cls(sizes, extent, *fit_sizes(logits, log_diameters, sizes, counts))

    def logits(self, log_diameters: Floats, before: Floats) -> NDArray[np.float64]:
        """Add the log likelihoods of log diameters (n,) to logits `before` (n, k)."""
        return before + log_likelihoods(np.asarray(log_diameters) - self.typical, self.sizes, self.widening)

    def measured(self, model: onnx.ModelProto) -> int:
        """Append the log diameter minus `typical` to the embedding (n, d) of a graph, and return d.

        The head's input is the first d features; logits remain a function of the embedding.
        """
        value = next(v for v in model.graph.output if v.name == "embedding")
        d = int(value.type.tensor_type.shape.dim[1].dim_value)
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
        graphs.insert_behind(model, "embedding", nodes, constants, then="embedding_for_head")
        value.CopyFrom(graphs.float_value("embedding", ["n", d + 1]))
        return d

    def nodes(self, before: str, after: str, d: int) -> tuple[list[onnx.NodeProto], Constants]:
        """Nodes from the logits `before` to `after`, which read feature `d` of `embedding`."""
        scales = np.array([size.scale for size in self.sizes]) * self.widening
        constants: Constants = {
            "evidence_last": np.array([d], np.int64),
            "evidence_centres": np.array([size.centre for size in self.sizes], np.float32),
            "evidence_scales": scales.astype(np.float32),
            # log density of Student's t without the terms that all classes share
            "evidence_constant": -np.log(scales).astype(np.float32),
            "evidence_degrees": np.array([DEGREES], np.float32),
            "evidence_one": np.array([1], np.float32),
            "evidence_power": np.array([-(DEGREES + 1) / 2], np.float32),
        }
        nodes = [
            helper.make_node("Gather", ["embedding", "evidence_last"], ["evidence_size"], axis=1),
            helper.make_node("Sub", ["evidence_size", "evidence_centres"], ["evidence_off"]),
            helper.make_node("Div", ["evidence_off", "evidence_scales"], ["evidence_z"]),
            helper.make_node("Mul", ["evidence_z", "evidence_z"], ["evidence_square"]),
            helper.make_node("Div", ["evidence_square", "evidence_degrees"], ["evidence_share"]),
            helper.make_node("Add", ["evidence_share", "evidence_one"], ["evidence_more"]),
            helper.make_node("Log", ["evidence_more"], ["evidence_log"]),
            helper.make_node("Mul", ["evidence_log", "evidence_power"], ["evidence_of_size"]),
            helper.make_node("Sum", [before, "evidence_of_size", "evidence_constant"], [after]),
        ]
        return nodes, constants
