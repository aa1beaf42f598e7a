"""Nearest-neighbour smoothing of predictions over a laboratory's unlabelled images.

Images of one type are close to each other in a laboratory, even where the head mistakes some of them. The logits gain a
Laplacian term, as in LAME (Boudiaf et al., Parameter-free online test-time adaptation, 2022). A second encoder, trained on
other images, errs elsewhere and finds better neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from scipy.special import softmax

from hemalens.classifiers.calibration import temperature_of_certainty
from hemalens.classifiers.few_shot import unit_length
from hemalens.graphs import build as graphs

Floats = NDArray[np.floating[Any]]
SHARE = 0.04
"""Number of neighbours as a fraction of the images."""
MIN_NEIGHBOURS, MAX_NEIGHBOURS = 5, 15
"""Limits of the number of neighbours."""
MAX_IMAGES = 512
"""Most images that a graph stores an embedding of."""
SAME = 1e-3
"""Within this distance of 1 a cosine belongs to the image itself or to a copy, which is no neighbour."""
FARTHEST = -2.0
"""Below any cosine; excludes an image from the neighbours."""
MAX_ITERATIONS = 200
TOLERANCE = 1e-6
"""Change of a probability at which the iteration stops."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Smoothing over a laboratory's images: unit embeddings `points` (m, d) and smoothed probabilities (m, k).

    An embedding (n, d) consists of parts of these `widths`, the bundle's first. Each part is centred on `centre` (d,) and
    scaled to unit length. `n_nearest` neighbours add at most `weight` to a logit. `temperature` keeps the mean confidence.
    """

    widths: tuple[int, ...]
    centre: Floats
    points: Floats
    probabilities: Floats
    n_nearest: int
    weight: float
    temperature: float

    @classmethod
    def fit(cls, embeddings: Floats, logits: Floats, widths: Sequence[int], weight: float) -> Neighbours:
        """Fit on embeddings (m, d) of unlabelled images and their logits (m, k)."""
        wide = np.asarray(embeddings, np.float64)
        centre = wide.mean(axis=0)
        points = _points(wide, centre, widths)
        n_nearest = n_nearest_of(len(wide))
        nearest = _nearest(points @ points.T, n_nearest)
        before = np.asarray(logits, np.float64)
        smoothed = softmax(before, axis=1)
        for _ in range(MAX_ITERATIONS):
            following = softmax(before + weight * smoothed[nearest].mean(axis=1), axis=1)
            change, smoothed = np.abs(following - smoothed).max(), following
            if change < TOLERANCE:
                break
        confidence = float(softmax(before, axis=1).max(axis=1).mean())
        temperature = temperature_of_certainty(before + weight * smoothed[nearest].mean(axis=1), confidence)
        return cls(tuple(widths), centre, points, smoothed, n_nearest, weight, temperature)

    def logits(self, embeddings: Floats, before: Floats) -> NDArray[np.float64]:
        """Smooth logits `before` (n, k) of images with embeddings (n, d)."""
        points = _points(np.asarray(embeddings, np.float64), self.centre, self.widths)
        nearest = _nearest(points @ self.points.T, self.n_nearest)
        return np.asarray((before + self.weight * self.probabilities[nearest].mean(axis=1)) / self.temperature)

    def into(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """Add the smoothing to a bundle's graph; further encoders' parts are the last columns of its embedding."""
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        (width,) = graphs.kind_of(model, "embedding")[1]
        later = [width - sum(self.widths[i:]) for i in range(1, len(self.widths))]
        nodes, constants = self._cosine_nodes([0, *later])
        constants |= {
            "neighbour_answers": self.probabilities.astype(np.float32),
            "neighbour_n": np.array([self.n_nearest], np.int64),
            "neighbour_limit": np.array([1 - SAME], np.float32),
            "neighbour_farthest": np.array([FARTHEST], np.float32),
            "neighbour_weight": np.array([self.weight], np.float32),
            "neighbour_temperature": np.array([self.temperature], np.float32),
        }
        nodes += [
            helper.make_node("Greater", ["neighbour_cosine", "neighbour_limit"], ["neighbour_same"]),
            helper.make_node("Where", ["neighbour_same", "neighbour_farthest", "neighbour_cosine"], ["neighbour_others"]),
            helper.make_node("TopK", ["neighbour_others", "neighbour_n"], ["neighbour_best", "neighbour_rows"], axis=1),
            helper.make_node("Gather", ["neighbour_answers", "neighbour_rows"], ["neighbour_each"], axis=0),
            helper.make_node("ReduceMean", ["neighbour_each", "neighbour_axis"], ["neighbour_mean"], keepdims=0),
            helper.make_node("Mul", ["neighbour_mean", "neighbour_weight"], ["neighbour_added"]),
            helper.make_node("Add", ["logits_before", "neighbour_added"], ["neighbour_sum"]),
            helper.make_node("Div", ["neighbour_sum", "neighbour_temperature"], ["logits"]),
        ]
        graphs.insert_behind(model, "logits", nodes, constants, then="logits")
        onnx.checker.check_model(model)
        return model

    def _cosine_nodes(self, firsts: list[int]) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
        """Nodes for the cosines (n, m) to all points, from parts of the embedding that begin at columns `firsts`."""
        constants: dict[str, NDArray[Any]] = {
            "neighbour_last_axis": np.array([-1], np.int64),
            "neighbour_shortest_length": np.array([graphs.SHORTEST_LENGTH], np.float32),
            "neighbour_axis": np.array([1], np.int64),
            "neighbour_points": self.points.T.astype(np.float32),
        }
        nodes, column = [], 0
        for i, (first, width) in enumerate(zip(firsts, self.widths, strict=True)):
            name = f"neighbour_part_{i}"
            constants |= {
                f"{name}_first": np.array([first], np.int64),
                f"{name}_end": np.array([first + width], np.int64),
                f"{name}_centre": self.centre[column : column + width].astype(np.float32),
            }
            nodes += [
                helper.make_node("Slice", ["embedding", f"{name}_first", f"{name}_end", "neighbour_axis"], [f"{name}_own"]),
                helper.make_node("Sub", [f"{name}_own", f"{name}_centre"], [name]),
                *graphs.unit_length_nodes(name, f"{name}_unit", constants="neighbour_"),
            ]
            column += width
        names = [f"neighbour_part_{i}_unit" for i in range(len(self.widths))]
        constants["neighbour_parts"] = np.array([1 / np.sqrt(len(self.widths))], np.float32)
        nodes += [
            helper.make_node("Concat", names, ["neighbour_joined"], axis=1),
            helper.make_node("Mul", ["neighbour_joined", "neighbour_parts"], ["neighbour_place"]),
            helper.make_node("MatMul", ["neighbour_place", "neighbour_points"], ["neighbour_cosine"]),
        ]
        return nodes, constants


def n_nearest_of(n_images: int) -> int:
    """Number of neighbours for this number of images."""
    return min(int(np.clip(round(SHARE * n_images), MIN_NEIGHBOURS, MAX_NEIGHBOURS)), n_images - 1)


def _points(embeddings: Floats, centre: Floats, widths: Sequence[int]) -> Floats:
    """Centre each part (n, d_i), scale all to the same length, and concatenate them to unit length (n, d)."""
    parts = np.split(embeddings - centre, np.cumsum(widths)[:-1], axis=1)
    return np.asarray(np.concatenate([unit_length(part) for part in parts], axis=1) / np.sqrt(len(widths)))


def _nearest(cosines: Floats, n: int) -> NDArray[np.int64]:
    """Indices of the `n` nearest images (., n) by cosines (., m), without the image itself and its copies."""
    others = np.where(cosines > 1 - SAME, FARTHEST, cosines)
    return np.argsort(-others, axis=1, kind="stable")[:, :n].astype(np.int64)
