"""Nearest-neighbour smoothing of predictions over a laboratory's unlabelled images.

Images of one type are close to each other in a laboratory, even where the head mistakes some of them. The logits gain a
Laplacian term, as in LAME (Boudiaf et al., Parameter-free online test-time adaptation, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from scipy.special import softmax

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
WEIGHT = 1.5
"""Largest change of a logit."""
MAX_ITERATIONS = 200
TOLERANCE = 1e-6
"""Change of a probability at which the iteration stops."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Smoothing over a laboratory's images: unit embeddings `points` (m, d) and their smoothed `probabilities` (m, k).

    An embedding (n, d) is centred on `centre` (d,) and scaled to unit length. The rows of `probabilities` sum to how much
    an image counts. `n_nearest` neighbours add at most `WEIGHT` to a logit.
    """

    centre: Floats
    points: Floats
    probabilities: Floats
    n_nearest: int

    @classmethod
    def fit(cls, embeddings: Floats, logits: Floats, counts: Floats) -> Neighbours:
        """Fit on embeddings (m, d) of unlabelled images, their logits (m, k), and by how much each image counts (m,)."""
        wide = np.asarray(embeddings, np.float64)
        centre = np.average(wide, axis=0, weights=counts)
        points = unit_length(wide - centre)
        n_nearest = n_nearest_of(len(wide))
        nearest = _nearest(points @ points.T, n_nearest)
        before, share = np.asarray(logits, np.float64), np.asarray(counts)[:, None]
        smoothed = softmax(before, axis=1) * share
        for _ in range(MAX_ITERATIONS):
            following = softmax(before + WEIGHT * smoothed[nearest].mean(axis=1), axis=1) * share
            change, smoothed = np.abs(following - smoothed).max(), following
            if change < TOLERANCE:
                break
        return cls(centre, points, smoothed, n_nearest)

    def logits(self, embeddings: Floats, before: Floats) -> NDArray[np.float64]:
        """Smooth logits `before` (n, k) of images with embeddings (n, d)."""
        points = unit_length(np.asarray(embeddings, np.float64) - self.centre)
        nearest = _nearest(points @ self.points.T, self.n_nearest)
        return np.asarray(before + WEIGHT * self.probabilities[nearest].mean(axis=1))

    def nodes(self, before: str, after: str) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
        """Nodes from the logits `before` to `after`, which read the first d features of `embedding`."""
        constants: dict[str, NDArray[Any]] = {
            "neighbour_first": np.array([0], np.int64),
            "neighbour_end": np.array([len(self.centre)], np.int64),
            "neighbour_axis": np.array([1], np.int64),
            "neighbour_last_axis": np.array([-1], np.int64),
            "neighbour_shortest_length": np.array([graphs.SHORTEST_LENGTH], np.float32),
            "neighbour_centre": self.centre.astype(np.float32),
            "neighbour_points": self.points.T.astype(np.float32),
            "neighbour_answers": self.probabilities.astype(np.float32),
            "neighbour_n": np.array([self.n_nearest], np.int64),
            "neighbour_limit": np.array([1 - SAME], np.float32),
            "neighbour_farthest": np.array([FARTHEST], np.float32),
            "neighbour_weight": np.array([WEIGHT], np.float32),
        }
        nodes = [
            helper.make_node(
                "Slice", ["embedding", "neighbour_first", "neighbour_end", "neighbour_axis"], ["neighbour_own"]
            ),
            helper.make_node("Sub", ["neighbour_own", "neighbour_centre"], ["neighbour_centred"]),
            *graphs.unit_length_nodes("neighbour_centred", "neighbour_unit", constants="neighbour_"),
            helper.make_node("MatMul", ["neighbour_unit", "neighbour_points"], ["neighbour_cosine"]),
            helper.make_node("Greater", ["neighbour_cosine", "neighbour_limit"], ["neighbour_same"]),
            helper.make_node("Where", ["neighbour_same", "neighbour_farthest", "neighbour_cosine"], ["neighbour_others"]),
            helper.make_node("TopK", ["neighbour_others", "neighbour_n"], ["neighbour_best", "neighbour_rows"], axis=1),
            helper.make_node("Gather", ["neighbour_answers", "neighbour_rows"], ["neighbour_each"], axis=0),
            helper.make_node("ReduceMean", ["neighbour_each", "neighbour_axis"], ["neighbour_mean"], keepdims=0),
            helper.make_node("Mul", ["neighbour_mean", "neighbour_weight"], ["neighbour_added"]),
            helper.make_node("Add", [before, "neighbour_added"], [after]),
        ]
        return nodes, constants


def n_nearest_of(n_images: int) -> int:
    """Number of neighbours for this number of images."""
    return min(int(np.clip(round(SHARE * n_images), MIN_NEIGHBOURS, MAX_NEIGHBOURS)), n_images - 1)


def _nearest(cosines: Floats, n: int) -> NDArray[np.int64]:
    """Indices of the `n` nearest images (., n) by cosines (., m), without the image itself and its copies."""
    others = np.where(cosines > 1 - SAME, FARTHEST, cosines)
    return np.argsort(-others, axis=1, kind="stable")[:, :n].astype(np.int64)
