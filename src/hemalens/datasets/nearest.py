"""Nearest neighbours of every row of a table: all compared where there are few, the nearest cells where there are many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST_COMPARED = 20_000
"""Rows up to which each is compared with all."""
N_PROBED = 20
"""Cells that a cell's rows are compared with: the nearest by their centres, its own among them."""
_SAMPLED_PER_CELL = 40
_ROUNDS = 6
_ROWS = 500

Rows = NDArray[np.float32]
Indices = NDArray[np.int64]


def nearest(
    rows: Rows, n_near: int, *, most_compared: int = MOST_COMPARED, progress: Callable[[int], None] = lambda n: None
) -> tuple[Indices, Indices]:
    """Pairs (row, other) of each of (n, d) rows with its `n_near` nearest others by Euclidean distance.

    Above `most_compared` rows they are sought in cells around sqrt(n) centres (k-means), in a time that grows with n^1.5; a
    neighbour in a far cell is missed. `progress` is called with numbers of rows.
    """
    n = len(rows)
    square = np.einsum("ij,ij->i", rows, rows)
    if n <= most_compared:
        everything = np.arange(n)
        cells, near_cells = [everything], [everything]
    else:
        cells, near_cells = _cells(rows, round(n**0.5))
    first, second = [], []
    for members, others in zip(cells, near_cells, strict=True):
        for start in range(0, len(members), _ROWS):
            part = members[start : start + _ROWS]
            distance = square[others] - 2 * rows[part] @ rows[others].T
            distance[part[:, None] == others] = np.inf
            k = min(n_near, len(others) - 1)
            if k > 0:
                near = np.argpartition(distance, k - 1, axis=1)[:, :k]
                first.append(np.repeat(part, k))
                second.append(others[near].ravel())
            progress(len(part))
    return np.concatenate([np.zeros(0, np.int64), *first]), np.concatenate([np.zeros(0, np.int64), *second])


def _cells(rows: Rows, n_cells: int) -> tuple[list[Indices], list[Indices]]:
    """The rows of each cell, and those of the cells near it, both sorted."""
    rng = np.random.default_rng(0)
    sample = rows[np.sort(rng.choice(len(rows), min(len(rows), n_cells * _SAMPLED_PER_CELL), replace=False))]
    centres = sample[rng.choice(len(sample), n_cells, replace=False)]
    for _ in range(_ROUNDS):
        of = _nearest_centre(sample, centres)
        counts = np.bincount(of, minlength=n_cells)
        order = np.argsort(of, kind="stable")
        filled = np.flatnonzero(counts)
        sums = np.add.reduceat(sample[order], np.concatenate([[0], np.cumsum(counts[filled])[:-1]]), axis=0)
        centres[filled] = sums / counts[filled, None]
    of = _nearest_centre(rows, centres)
    order = np.argsort(of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(of, minlength=n_cells))[:-1])
    probed = np.argsort(_squared_distances(centres), axis=1, kind="stable")[:, :N_PROBED]
    return members, [np.sort(np.concatenate([members[cell] for cell in near])) for near in probed]


def _squared_distances(centres: Rows) -> Rows:
    """Between all centres; the centre itself comes first."""
    square = (centres**2).sum(axis=1)
    distance: Rows = square[:, None] + square - 2 * centres @ centres.T
    np.fill_diagonal(distance, -1)
    return distance


def _nearest_centre(rows: Rows, centres: Rows) -> Indices:
    """The nearest centre of each row, (n,)."""
    square = (centres**2).sum(axis=1)
    parts = range(0, len(rows), 20 * _ROWS)
    return np.concatenate([(square - 2 * rows[at : at + 20 * _ROWS] @ centres.T).argmin(axis=1) for at in parts])
