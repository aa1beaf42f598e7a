"""Active learning: strategies that choose the cells to label next from embeddings and predicted probabilities.

No strategy reads a label; it knows only which cells have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import ConfigError, InputError, near_matches

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Strategy = Literal["random", "typical", "even"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
N_NEIGHBOURS = 20
"""Neighbours over which typicality averages the distance (Hacohen et al. 2022)."""
SMALLEST = 1e-12

WHY: dict[str, str] = {
    "random": "drawn at random",
    "typical": "typical of a cluster without a label",
    "even": "least certain of the cells with this predicted type",
}
"""Each strategy's reason for a cell, in words."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Cells to choose from: embeddings (n, d), probabilities (n, k), and which have a label, (n,).

    Copies of an image share a number in `content` (n,). Of each number at most one cell is chosen, and none if one has a
    label.
    """

    embeddings: Floats
    probabilities: Floats
    labelled: NDArray[np.bool_]
    content: Indices

    def candidates(self) -> Indices:
        """Indices of the cells that may be chosen: the first of each content without a label."""
        _, first = np.unique(self.content, return_index=True)
        known = np.isin(self.content, self.content[self.labelled])
        chosen: Indices = np.sort(first[~known[first]]).astype(np.int64)
        return chosen


def check_strategy(name: str) -> None:
    """Raise `ConfigError` for an unknown strategy."""
    if name not in STRATEGIES:
        raise ConfigError(f"unknown strategy {name!r}", remedy=near_matches(name, STRATEGIES))


def choose(strategy: str, pool: Pool, n: int, rng: np.random.Generator) -> Indices:
    """Choose the `n` cells to label next: indices into the pool, best first, at most as many as there are candidates.

    Raises `ConfigError` for an unknown strategy and `InputError` if no cell is left.
    """
    check_strategy(strategy)
    if n < 1:
        raise InputError("too few cells requested", expected="at least 1", got=str(n))
    candidates = pool.candidates()
    if not len(candidates):
        raise InputError("no cell is left to label", expected="images without a label")
    return _CHOOSERS[strategy](pool, candidates, min(n, len(candidates)), rng)


def margins(probabilities: Floats) -> Floats:
    """Best minus second-best probability of each row, (n,), in [0, 1]; small if the model is uncertain."""
    ordered = np.sort(probabilities, axis=1)
    gaps: Floats = ordered[:, -1] - ordered[:, -2]
    return gaps


def typicality(points: Floats, n_neighbours: int = N_NEIGHBOURS) -> Floats:
    """Inverse of the mean distance to the nearest neighbours, (n,), of points (n, d) (Hacohen et al. 2022, equation 1)."""
    n = min(n_neighbours, len(points) - 1)
    if n < 1:
        return np.ones(len(points))
    squares = (points**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    near = np.sort(distances, axis=1)[:, 1 : n + 1]
    found: Floats = 1 / np.maximum(near.mean(axis=1), SMALLEST)
    return found


def _random(pool: Pool, candidates: Indices, n: int, rng: np.random.Generator) -> Indices:
    return rng.permutation(candidates)[:n]


def _typical(pool: Pool, candidates: Indices, n: int, rng: np.random.Generator) -> Indices:
    """Cluster into as many clusters as there will be labels; take the most typical cell of the largest ones without one."""
    from sklearn.cluster import KMeans

    points = pool.embeddings / np.maximum(np.linalg.norm(pool.embeddings, axis=1, keepdims=True), SMALLEST)
    known = np.flatnonzero(pool.labelled)
    members = points[np.concatenate([candidates, known])]
    n_clusters = min(n + len(known), len(np.unique(members, axis=0)))
    cluster = KMeans(n_clusters, n_init=1, random_state=int(rng.integers(2**31))).fit(members).labels_
    own, covered = cluster[: len(candidates)], np.unique(cluster[len(candidates) :])
    sizes = np.bincount(own, minlength=int(cluster.max()) + 1)
    order = sorted(np.unique(own), key=lambda c: (c in covered, -sizes[c]))
    chosen = []
    for c in order[:n]:
        inside = np.flatnonzero(own == c)
        chosen.append(int(candidates[inside[typicality(points[candidates[inside]]).argmax()]]))
    # fewer clusters than cells: the rest is drawn at random
    rest = rng.permutation(np.setdiff1d(candidates, chosen))
    return np.concatenate([np.array(chosen, np.int64), rest])[:n]


def _even(pool: Pool, candidates: Indices, n: int, rng: np.random.Generator) -> Indices:
    """Take turns over the predicted types, rarest first, each time with the least certain cell."""
    predicted, gap = pool.probabilities[candidates].argmax(axis=1), margins(pool.probabilities[candidates])
    queues = [np.flatnonzero(predicted == c) for c in np.unique(predicted)]
    queues = sorted((q[np.argsort(gap[q], kind="stable")] for q in queues), key=len)
    turns = [int(q[turn]) for turn in range(max(map(len, queues))) for q in queues if turn < len(q)]
    return candidates[turns[:n]]


_CHOOSERS: dict[str, Callable[[Pool, Indices, int, np.random.Generator], Indices]] = {
    "random": _random,
    "typical": _typical,
    "even": _even,
}
