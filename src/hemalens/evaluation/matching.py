"""Match the boxes found in a field to the annotated ones, and average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemalens.imaging.boxes import Boxes, Corners, overlaps

Rule = Literal["centre", "iou"]
"""When a box may hit an annotated one: its centre lies within it, or their intersection over union is 0.5 or more."""
IOU = 0.5
N_RECALLS = 101
"""Recalls 0, 0.01 to 1 over which AP is the mean, as in COCO."""
_AT_ONCE = 1_000_000
"""Most numbers of an array of resampled detections."""
_ROWS = 256
"""Found boxes that are compared with all annotated ones at once."""


def matched(truth: Corners, found: Boxes, rule: Rule) -> NDArray[np.int64]:
    """The row of `truth` (n, 4) that each found box of one kind hits, or -1: (m,).

    One to one: in descending score, each box hits the annotated box that it overlaps most among those that are left. Equal
    scores and overlaps are decided by the corners, so that the order of the boxes does not matter.
    """
    hits = np.full(len(found), -1)
    places = np.lexsort(truth.T[::-1])
    order = np.lexsort((*found.corners.T[::-1], -found.scores))
    free = np.ones(len(truth), bool)
    for begin in range(0, len(order) if len(truth) else 0, _ROWS):
        rows = order[begin : begin + _ROWS]
        shared = _qualities(truth[places], found.corners[rows], rule)
        for i in np.flatnonzero((shared >= 0).any(axis=1)):
            left = np.where(free, shared[i], -1.0)
            best = int(np.argmax(left))
            if left[best] >= 0:
                free[best] = False
                hits[rows[i]] = places[best]
    return hits


def _qualities(truth: Corners, found: Corners, rule: Rule) -> NDArray[np.float64]:
    """Intersection over union of found boxes (m, 4) with annotated ones (n, 4), -1 where they may not match: (m, n)."""
    shared = overlaps(found, truth)
    if rule == "iou":
        return np.where(shared >= IOU, shared, -1.0)
    centres = ((found[:, :2] + found[:, 2:]) / 2)[:, None]
    within = ((truth[:, :2] <= centres) & (centres <= truth[:, 2:])).all(axis=2)
    return np.where(within, shared, -1.0)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Detections of all units in descending score: `unit` and `hit` (n,), and `last` of each run of equal scores."""

    unit: NDArray[np.int64]
    hit: NDArray[np.bool_]
    last: NDArray[np.bool_]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.float64], hit: NDArray[np.bool_], unit: NDArray[np.int64]) -> Ranked:
        """Detections in any order."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        return cls(unit[order], hit[order], np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)], ranked)

    def average_precision(self, weights: NDArray[np.float64], n_truth: NDArray[np.float64]) -> NDArray[np.float64]:
        """AP of each row of unit weights (r, units), with `n_truth` (units,) annotated boxes; NaN without any.

        The mean, over recalls 0, 0.01 to 1, of the highest precision at that recall or above (COCO's interpolation). Boxes
        of equal score count together.
        """
        step = max(1, _AT_ONCE // max(1, len(self.unit)))
        parts = [self._chunk(weights[i : i + step], n_truth) for i in range(0, len(weights), step)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _chunk(self, weights: NDArray[np.float64], n_truth: NDArray[np.float64]) -> NDArray[np.float64]:
        totals = weights @ n_truth
        if not len(self.unit):
            return np.where(totals > 0, 0.0, np.nan)
        # whole numbers, exact in float32
        counts = weights.astype(np.float32)[:, self.unit]
        hits = np.cumsum(counts * self.hit, axis=1)[:, self.last]
        n_found = np.cumsum(counts, axis=1)[:, self.last]
        precision = np.divide(hits, np.maximum(n_found, 1), dtype=np.float64)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.full(len(weights), np.nan)
        # whole numbers: hits / n >= j / 100 without rounding
        recalls = np.arange(N_RECALLS)
        for row in np.flatnonzero(totals > 0):
            places = np.searchsorted((N_RECALLS - 1) * hits[row].astype(float), recalls * totals[row])
            reached = places[places < hits.shape[1]]
            found[row] = best[row, reached].sum() / N_RECALLS
        return found

    def curve(self, n_truth: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Scores, recall and precision at each score; empty without annotated boxes."""
        if not n_truth or not len(self.unit):
            return np.zeros(0), np.zeros(0), np.zeros(0)
        hits = np.cumsum(self.hit)[self.last]
        return self.scores[self.last], hits / n_truth, hits / (np.flatnonzero(self.last) + 1)
