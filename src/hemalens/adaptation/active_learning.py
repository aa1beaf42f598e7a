"""Which cells to label next: strategies over embeddings and a model's probabilities. Pure NumPy and scikit-learn.

None of them looks at a label, but for knowing which cells have one.
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
Strategy = Literal["random", "margin", "entropy", "k_centre", "typical", "clusters", "badge", "even"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
N_NEIGHBOURS = 20
"""Neighbours by whose distance a cell is typical (Hacohen et al. 2022)."""
PRESELECTED = 10
"""`clusters` looks at so many times as many cells as are asked for, the least certain ones (Zhdanov 2019)."""
SMALLEST = 1e-12

WHY: dict[str, str] = {
    "random": "drawn at random",
    "margin": "the two best guesses lie close together",
    "entropy": "the guess is spread over several cell types",
    "k_centre": "unlike every cell chosen or labelled before",
    "typical": "typical of a kind of cell of which none is labelled yet",
    "clusters": "stands for a kind of cell of which the model is not certain",
    "badge": "would change the model much, and otherwise than the others",
    "even": "the least certain of the cells with this guess",
}
"""Each strategy's reason for a cell, in words."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Cells to choose from: embeddings (n, d), probabilities (n, k), and which have a label already, (n,).

    `content` (n,) numbers what a cell shows: of one number at most one cell is chosen, and none where one has a label.
    """

    embeddings: Floats
    probabilities: Floats
    labelled: NDArray[np.bool_]
    content: Indices

    def free(self) -> Indices:
        """Cells that may be chosen: of each content the first, none that has a label under any name."""
        _, first = np.unique(self.content, return_index=True)
        known = np.isin(self.content, self.content[self.labelled])
        chosen: Indices = np.sort(first[~known[first]]).astype(np.int64)
        return chosen


def check_strategy(name: str) -> None:
    """Raise `ConfigError` for an unknown strategy."""
    if name not in STRATEGIES:
        raise ConfigError(f"unknown strategy {name!r}", remedy=near_matches(name, STRATEGIES))


def choose(strategy: str, pool: Pool, n: int, rng: np.random.Generator) -> Indices:
    """The `n` cells to label next, most wanted first: indices into the pool, different contents, none labelled.

    Fewer where fewer are left. Raises `ConfigError` for an unknown strategy and `InputError` for no cell to choose.
    """
    check_strategy(strategy)
    if n < 1:
        raise InputError("too few cells are asked for", expected="at least 1", got=str(n))
    free = pool.free()
    if not len(free):
        raise InputError("no cell is left to label", expected="images that have no label yet")
    return _CHOOSERS[strategy](pool, free, min(n, len(free)), rng)


def margins(probabilities: Floats) -> Floats:
    """Best less second-best probability of each row, (n,), in [0, 1]: small where the model is not certain."""
    ordered = np.sort(probabilities, axis=1)
    gaps: Floats = ordered[:, -1] - ordered[:, -2]
    return gaps


def entropies(probabilities: Floats) -> Floats:
    """Entropy of each row in nats, (n,), in [0, log k]."""
    safe = np.maximum(probabilities, SMALLEST)
    found: Floats = -(probabilities * np.log(safe)).sum(axis=1)
    return found


def typicality(points: Floats, n_neighbours: int = N_NEIGHBOURS) -> Floats:
    """One over the mean distance to the nearest neighbours, (n,), of points (n, d) (Hacohen et al. 2022, equation 1)."""
    n = min(n_neighbours, len(points) - 1)
    if n < 1:
        return np.ones(len(points))
    near = np.sort(np.sqrt(_squared_distances(points, points)), axis=1)[:, 1 : n + 1]
    found: Floats = 1 / np.maximum(near.mean(axis=1), SMALLEST)
    return found


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """(n, m) between points (n, d) and (m, d), not below 0."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: Floats = np.maximum(squares, 0)
    return found


def _unit(points: Floats) -> Floats:
    unit: Floats = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), SMALLEST)
    return unit


def _k_means(points: Floats, n: int, rng: np.random.Generator, weights: Floats | None = None) -> tuple[Indices, Floats]:
    """The cluster of each point (m,) and the centres (n, d); at most as many clusters as there are different points."""
    from sklearn.cluster import KMeans

    n = min(n, len(np.unique(points, axis=0)))
    found = KMeans(n, n_init=1, random_state=int(rng.integers(2**31))).fit(points, sample_weight=weights)
    return found.labels_.astype(np.int64), found.cluster_centers_


# -------------------------------------------------------------------------------------------------------- strategies


def _random(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    return rng.permutation(free)[:n]


def _margin(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    return free[np.argsort(margins(pool.probabilities[free]), kind="stable")[:n]]


def _entropy(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    return free[np.argsort(-entropies(pool.probabilities[free]), kind="stable")[:n]]


def _k_centre(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """Always the cell farthest from all that are labelled or chosen (Sener & Savarese 2018); first the most central one."""
    points = _unit(pool.embeddings)
    near = np.full(len(free), np.inf)
    known = points[pool.labelled]
    if len(known):
        near = _squared_distances(points[free], known).min(axis=1)
    else:
        near = -((points[free] - points[free].mean(axis=0)) ** 2).sum(axis=1)
    chosen: list[int] = []
    for _ in range(n):
        best = int(near.argmax())
        chosen.append(best)
        distance = _squared_distances(points[free], points[free[[best]]])[:, 0]
        near = distance if len(chosen) == 1 and not len(known) else np.minimum(near, distance)
        near[chosen] = -np.inf
    return free[chosen]


def _typical(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """As many clusters as there will be labelled cells; of the largest without one, the most typical cell."""
    points = _unit(pool.embeddings)
    known = np.flatnonzero(pool.labelled)
    members = np.concatenate([free, known])
    cluster, _ = _k_means(points[members], n + len(known), rng)
    own, covered = cluster[: len(free)], np.unique(cluster[len(free) :])
    sizes = np.bincount(own, minlength=int(cluster.max()) + 1)
    order = sorted(np.unique(own), key=lambda c: (c in covered, -sizes[c]))
    chosen = []
    for c in order[:n]:
        inside = np.flatnonzero(own == c)
        chosen.append(int(free[inside[typicality(points[free[inside]]).argmax()]]))
    return _filled(np.array(chosen, np.int64), free, n, rng)


def _clusters(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """k-means on the least certain cells, weighed by how uncertain they are; of each cluster the cell at its centre."""
    doubt = 1 - margins(pool.probabilities[free])
    some = np.argsort(-doubt, kind="stable")[: PRESELECTED * n]
    points = _unit(pool.embeddings[free[some]])
    cluster, centres = _k_means(points, n, rng, np.maximum(doubt[some], SMALLEST))
    distance = _squared_distances(points, centres)
    weight = np.bincount(cluster, weights=doubt[some], minlength=len(centres))
    chosen = []
    for c in np.argsort(-weight, kind="stable"):
        inside = np.flatnonzero(cluster == c)
        chosen.append(int(free[some[inside[distance[inside, c].argmin()]]]))
    return _filled(np.array(chosen, np.int64), free, n, rng)


def _badge(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """k-means++ on the gradients that the last layer would have if the guess were right (Ash et al. 2020).

    A gradient is (probabilities - guess) times embedding: products of two are products of products, so none is made.
    """
    points, probabilities = _unit(pool.embeddings[free]), pool.probabilities[free]
    pull = probabilities - np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    squares = (pull**2).sum(axis=1)
    chosen = [int(squares.argmax())]
    near = np.full(len(free), np.inf)
    for _ in range(n - 1):
        last = chosen[-1]
        product = (pull @ pull[last]) * (points @ points[last])
        near = np.minimum(near, np.maximum(squares + squares[last] - 2 * product, 0))
        near[chosen] = 0
        total = near.sum()
        left = np.setdiff1d(np.arange(len(free)), chosen)
        chosen.append(int(rng.choice(len(free), p=near / total) if total > SMALLEST else rng.choice(left)))
    return free[chosen]


def _even(pool: Pool, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """The guesses in turn, rarest first, each with its least certain cell."""
    guess, gap = pool.probabilities[free].argmax(axis=1), margins(pool.probabilities[free])
    queues = [np.flatnonzero(guess == g) for g in np.unique(guess)]
    queues = sorted((q[np.argsort(gap[q], kind="stable")] for q in queues), key=len)
    turns = [int(q[turn]) for turn in range(max(map(len, queues))) for q in queues if turn < len(q)]
    return free[turns[:n]]


def _filled(chosen: Indices, free: Indices, n: int, rng: np.random.Generator) -> Indices:
    """The chosen cells, and others at random where they are fewer than `n`."""
    rest = rng.permutation(np.setdiff1d(free, chosen))
    return np.concatenate([chosen, rest])[:n]


_CHOOSERS: dict[str, Callable[[Pool, Indices, int, np.random.Generator], Indices]] = {
    "random": _random,
    "margin": _margin,
    "entropy": _entropy,
    "k_centre": _k_centre,
    "typical": _typical,
    "clusters": _clusters,
    "badge": _badge,
    "even": _even,
}
