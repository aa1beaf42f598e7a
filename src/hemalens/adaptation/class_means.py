"""Class means of a laboratory's unlabelled images: a Gaussian mixture of the embedding, begun at the predictions.

Transductive inference by a Gaussian mixture that is tied to what the source knows of each class, as in TransCLIP (Zanella
et al., Boosting vision-language models with transduction, 2024). There text prompts describe a class, here the class means
of the source's held-out cells. All classes share one covariance, so the log density is linear in the projected embedding.
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

from hemalens.classifiers.few_shot import unit_length
from hemalens.graphs import build as graphs
from hemalens.trust.reference import ReferenceStatistics

Floats = NDArray[np.floating[Any]]
AXES = 20
"""Most principal axes of the embedding."""
WEIGHT = 0.2
"""Weight of the log density beside the logits."""
RIDGE = 0.3
"""Variance added to every axis, as a share of the mean variance."""
SOURCE_CELLS = 60
"""Weight of a source mean, in cells."""
SHIFT_CELLS = 10
"""A class with so many cells counts half in the shift between source and target."""
ITERATIONS = 12


@dataclass(frozen=True, slots=True)
class SourceCells:
    """Held-out cells of the source: `points` (m, d), centred and at unit length, and their classes `targets` (m,)."""

    points: Floats
    targets: NDArray[np.int64]

    @classmethod
    def of(cls, reference: ReferenceStatistics | None, classes: Sequence[int]) -> SourceCells | None:
        """The cells of these `classes`, in their order, from a bundle's reference statistics; None without embeddings."""
        if reference is None or reference.geometry is None or reference.points is None:
            return None
        places = np.full(reference.probabilities.shape[1], -1)
        places[list(classes)] = np.arange(len(classes))
        targets = places[reference.targets]
        of_class = targets >= 0
        if not of_class.any():
            return None
        axes, scale = reference.geometry.axes.astype(np.float64), reference.geometry.scale
        points = np.asarray(reference.points, np.float64)[of_class]
        along = points[:, : len(axes)] * scale
        # the last coordinate is the log length of what the axes leave out
        left = np.exp(points[:, len(axes) :]).sum(axis=1)
        lengths = np.maximum(np.sqrt((along**2).sum(axis=1) + left**2), graphs.SHORTEST_LENGTH)
        return cls((along - along.mean(axis=0)) @ axes / lengths[:, None], targets[of_class])


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """Log density of each class, linear in the embedding (n, d) less `centre` (d,) at unit length.

    `slopes` (d, k) and `constants` (k,) hold the weight. `cells` (k,) are the cells that each mean rests on.
    """

    centre: Floats
    slopes: Floats
    constants: Floats
    cells: Floats

    @classmethod
    def fit(cls, embeddings: Floats, logits: Floats, counts: Floats, source: SourceCells | None) -> ClassMeans:
        """Fit on embeddings (n, d) of unlabelled images, their logits (n, k), and by how much each image counts (n,)."""
        wide, before = np.asarray(embeddings, np.float64), np.asarray(logits, np.float64)
        centre = np.average(wide, axis=0, weights=counts)
        units = unit_length(wide - centre)
        middle = np.average(units, axis=0, weights=counts)
        axes = _axes((units - middle) * np.sqrt(counts / counts.sum())[:, None])
        points = (units - middle) @ axes
        known = None if source is None else _means_of(source, middle, axes, before.shape[1])
        members = softmax(before, axis=1) * counts[:, None]
        for _ in range(ITERATIONS):
            slopes, constants = _densities(points, members, known)
            members = softmax(before + points @ slopes + constants, axis=1) * counts[:, None]
        return cls(centre, axes @ slopes, constants - middle @ axes @ slopes, members.sum(axis=0))

    def logits(self, embeddings: Floats, before: Floats) -> NDArray[np.float64]:
        """Add the log densities of embeddings (n, d) to logits `before` (n, k)."""
        units = unit_length(np.asarray(embeddings, np.float64) - self.centre)
        return np.asarray(before + units @ self.slopes + self.constants)

    def nodes(self, before: str, after: str) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
        """Nodes from the logits `before` to `after`, which read the first d features of `embedding`."""
        constants: dict[str, NDArray[Any]] = {
            "means_first": np.array([0], np.int64),
            "means_end": np.array([len(self.centre)], np.int64),
            "means_axis": np.array([1], np.int64),
            "means_last_axis": np.array([-1], np.int64),
            "means_shortest_length": np.array([graphs.SHORTEST_LENGTH], np.float32),
            "means_centre": self.centre.astype(np.float32),
            "means_slopes": self.slopes.astype(np.float32),
            "means_constants": self.constants.astype(np.float32),
        }
        nodes = [
            helper.make_node("Slice", ["embedding", "means_first", "means_end", "means_axis"], ["means_own"]),
            helper.make_node("Sub", ["means_own", "means_centre"], ["means_centred"]),
            *graphs.unit_length_nodes("means_centred", "means_unit", constants="means_"),
            helper.make_node("MatMul", ["means_unit", "means_slopes"], ["means_densities"]),
            helper.make_node("Sum", [before, "means_densities", "means_constants"], [after]),
        ]
        return nodes, constants


def _axes(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The main axes (d, p) of weighted, centred points (n, d), at most 20 and at most those that vary."""
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    varying = int((sizes > 1e-6 * max(float(sizes[0]), 1e-12)).sum())
    return np.asarray(axes[: max(1, min(AXES, varying))].T)


def _means_of(source: SourceCells, middle: Floats, axes: Floats, n_classes: int) -> NDArray[np.float64]:
    """The source's class means (k, p) on the target's axes; a class without a cell has the mean of all."""
    points = (source.points - middle) @ axes
    members = [points[source.targets == c] for c in range(n_classes)]
    return np.stack([(own if len(own) else points).mean(axis=0) for own in members])


def _densities(
    points: Floats, members: Floats, known: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes (p, k) and constants (k,) of the weighted log densities, for points (n, p) with memberships (n, k)."""
    n = members.sum(axis=0)
    sums = members.T @ points
    means = sums / np.maximum(n, 1e-6)[:, None]
    if known is not None:
        share = n / (n + SHIFT_CELLS)
        shift = (share[:, None] * (means - known)).sum(axis=0) / max(share.sum(), 1e-6)
        means = (sums + SOURCE_CELLS * (known + shift)) / (n + SOURCE_CELLS)[:, None]
    within = sum((members[:, [c]] * (points - mean)).T @ (points - mean) for c, mean in enumerate(means)) / n.sum()
    covariance = np.asarray(within) + np.eye(points.shape[1]) * (np.trace(within) / points.shape[1] * RIDGE + 1e-12)
    slopes = np.linalg.solve(covariance, means.T)
    return WEIGHT * slopes, -WEIGHT / 2 * (means.T * slopes).sum(axis=0)
