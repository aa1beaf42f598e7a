"""What the nearest of a laboratory's own images say of an image: as a formula, and as a part of the graph. No torch.

Images of one type lie near each other in a laboratory, also where a head takes some of them for another type. So an answer
leans on those of the nearest images that were seen without labels, and these on each other's in turn, until they have
settled: the head's answers with a Laplacian term (after Boudiaf et al., Parameter-free online test-time adaptation, 2022).
An embedding that learned something else, set beside the network's, errs elsewhere and finds better neighbours.
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
"""Of the images, how many are the nearest ones that count,"""
FEWEST_NEAREST, MOST_NEAREST = 5, 15
"""within these limits."""
MOST_IMAGES = 512
"""More images than this are not kept: the graph holds each one's embedding."""
SAME = 1e-3
"""A cosine as near to 1 as this is of an image itself, or a copy, which is no neighbour."""
FARTHEST = -2.0
"""Less than any cosine: stands in the place of one that does not count."""
MOST_ROUNDS = 200
"""How often answers lean on each other; they have settled before."""
SETTLED = 1e-6


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Images of a laboratory, `points` (m, d) of unit length, and `answers` (m, k): probabilities that lean on each other.

    An embedding (n, d) is of parts of these `widths`, the network's first; each has its own `centre` (d,) taken off and is
    brought to unit length. `n_nearest` images count, `weight` is what they add to the logit of a class that all of them
    are of. `temperature` makes the answers no surer on average than they were.
    """

    widths: tuple[int, ...]
    centre: Floats
    points: Floats
    answers: Floats
    n_nearest: int
    weight: float
    temperature: float

    @classmethod
    def among(cls, embeddings: Floats, logits: Floats, widths: Sequence[int], weight: float) -> Neighbours:
        """Of the embeddings (m, d) of images, and what the head and all behind it says of them (m, k)."""
        wide = np.asarray(embeddings, np.float64)
        centre = wide.mean(axis=0)
        points = _points(wide, centre, widths)
        n_nearest = n_nearest_of(len(wide))
        nearest = _nearest(points @ points.T, n_nearest)
        before = np.asarray(logits, np.float64)
        answers = softmax(before, axis=1)
        for _ in range(MOST_ROUNDS):
            leaned = softmax(before + weight * answers[nearest].mean(axis=1), axis=1)
            change, answers = np.abs(leaned - answers).max(), leaned
            if change < SETTLED:
                break
        certainty = float(softmax(before, axis=1).max(axis=1).mean())
        temperature = temperature_of_certainty(before + weight * answers[nearest].mean(axis=1), certainty)
        return cls(tuple(widths), centre, points, answers, n_nearest, weight, temperature)

    def logits(self, embeddings: Floats, before: Floats) -> NDArray[np.float64]:
        """Logits (n, k) of images with embeddings (n, d), of which the head and all behind it says `before` (n, k)."""
        points = _points(np.asarray(embeddings, np.float64), self.centre, self.widths)
        nearest = _nearest(points @ self.points.T, self.n_nearest)
        return np.asarray((before + self.weight * self.answers[nearest].mean(axis=1)) / self.temperature)

    def into(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """A bundle's graph whose logits lean on the neighbours; further parts are the last columns of its embedding."""
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        (width,) = graphs.kind_of(model, "embedding")[1]
        behind = [width - sum(self.widths[i:]) for i in range(1, len(self.widths))]
        nodes, constants = self._placed([0, *behind])
        constants |= {
            "neighbour_answers": self.answers.astype(np.float32),
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

    def _placed(self, firsts: list[int]) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
        """Cosines (n, m) to all points, from columns of the embedding that begin at `firsts`."""
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
    """How many of so many images are the nearest ones that count."""
    return min(int(np.clip(round(SHARE * n_images), FEWEST_NEAREST, MOST_NEAREST)), n_images - 1)


def _points(embeddings: Floats, centre: Floats, widths: Sequence[int]) -> Floats:
    """Parts (n, d_i) without their centre, all as long as each other, side by side at unit length (n, d)."""
    parts = np.split(embeddings - centre, np.cumsum(widths)[:-1], axis=1)
    return np.asarray(np.concatenate([unit_length(part) for part in parts], axis=1) / np.sqrt(len(widths)))


def _nearest(cosines: Floats, n: int) -> NDArray[np.int64]:
    """Rows of the `n` nearest (., n) by cosines (., m); an image itself, and its copies, do not count."""
    others = np.where(cosines > 1 - SAME, FARTHEST, cosines)
    return np.argsort(-others, axis=1, kind="stable")[:, :n].astype(np.int64)
