"""Which cells a person must look at, and why: thresholds on probabilities and distance, calibrated on held-out cells.

Pure NumPy, no torch, no names of cell types: `Roles` says which labels are mature, urgent or unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.trust.accuracy_estimates import ATYPICAL
from hemalens.trust.reference import Geometry, ImitatedImages, ReferenceStatistics

Floats = NDArray[np.floating[Any]]
Reason = Literal["blast or immature cell", "unknown type", "doubtful cell", "near tie", "foreign laboratory"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""In order of urgency: a cell has the first that applies."""
URGENT, UNKNOWN, DOUBTFUL, NEAR_TIE, FOREIGN = REASONS
FALSE_ALARMS = 0.05
"""Largest share of held-out mature cells that may be called urgent or unknown."""
NEAR_TIES = 0.05
"""Share of held-out mature cells whose two best labels lie closer than the threshold."""
FALSE_ALARMS_ELSEWHERE = 0.01
"""Largest share of mature cells in imitated laboratories whose probability of an urgent type may be above its threshold for
other laboratories. Imitated laboratories are easier than real ones, which give several times as many alarms."""
FEWEST = 20
"""Fewest held-out mature cells to calibrate on: below, one false alarm is more than 5 %."""

Share = Annotated[float, Field(ge=0, le=1)]


class ReviewThresholds(StrictConfig):
    """Thresholds of the reasons, and their rates on the held-out mature cells that they were calibrated on.

    A cell is urgent above `urgent`, the summed probability of the urgent labels, and of an unknown type above `distance`,
    its out-of-distribution score; None without such a label or score. It is a near tie where its two highest probabilities
    differ by less than `near_tie`. `urgent_elsewhere` takes the place of `urgent` in a foreign laboratory; None where no
    imitated laboratory was seen. `false_alarms`: share of the `n_cells` called urgent or unknown, by label or by
    threshold; `near_ties`: share of near ties, more urgent cells included.
    """

    urgent: Share | None
    distance: float | None
    near_tie: Share
    urgent_elsewhere: Share | None = None
    n_cells: Annotated[int, Field(ge=FEWEST)]
    false_alarms: Share
    near_ties: Share


@dataclass(frozen=True, eq=False)
class Roles:
    """What `labels` (k) mean for a review: masks (k,) of mature types, of urgent ones, and of no known type."""

    labels: tuple[str, ...]
    mature: NDArray[np.bool_]
    urgent: NDArray[np.bool_]
    unknown: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Reviewer:
    """Finds the reason to look at each cell by thresholds, what the labels mean, and the geometry of the embedding."""

    thresholds: ReviewThresholds
    roles: Roles
    geometry: Geometry | None = None

    def reasons(
        self,
        probabilities: Floats,
        embeddings: Floats | None,
        doubtful: NDArray[np.bool_],
        typicality: Floats | None = None,
    ) -> list[tuple[Reason | None, Reason | None]]:
        """The most urgent reason for each cell of probabilities (n, k) and embeddings (n, d), or None.

        `doubtful` (n,): not one cell was found beyond doubt. Only a batch shows a foreign laboratory: the second reason is
        that in such a batch, with the `typicality` (n,) of the cells.
        """
        scores = None
        if self.geometry is not None and embeddings is not None and len(embeddings):
            scores = self.geometry.scores(self.geometry.project(embeddings))
        known = self.thresholds, self.roles, probabilities, scores, doubtful
        atypical = np.zeros(len(probabilities), bool) if typicality is None else np.asarray(typicality) < ATYPICAL
        return list(zip(most_urgent(*known), most_urgent(*known, atypical=atypical), strict=True))


def most_urgent(
    thresholds: ReviewThresholds,
    roles: Roles,
    probabilities: Floats,
    scores: Floats | None,
    doubtful: NDArray[np.bool_],
    *,
    atypical: NDArray[np.bool_] | None = None,
) -> list[Reason | None]:
    """The most urgent reason for each cell of probabilities (n, k) and out-of-distribution scores (n,), or None.

    With `atypical` (n,) the laboratory is foreign. That is the reason for an atypical cell, and for one that its distance
    alone would call unknown: in a foreign laboratory many cells of known types are as far.
    """
    if not len(probabilities):
        return []
    urgent, unknown = _by_label(roles, probabilities)
    foreign = atypical is not None and thresholds.urgent_elsewhere is not None
    if (most := thresholds.urgent_elsewhere if foreign else thresholds.urgent) is not None:
        urgent = urgent | (_urgent_mass(roles, probabilities) > most)
    far = np.zeros(len(urgent), bool)
    if thresholds.distance is not None and scores is not None:
        far = np.asarray(scores) > thresholds.distance
    near = margins(probabilities) < thresholds.near_tie
    applies = (
        [urgent, unknown | far, doubtful, near] if atypical is None else [urgent, unknown, doubtful, near, far | atypical]
    )
    return [REASONS[row.argmax()] if row.any() else None for row in np.column_stack(applies)]


def margins(probabilities: Floats) -> NDArray[np.float64]:
    """Highest minus second highest probability (n,) of (n, k)."""
    best = np.sort(np.asarray(probabilities, np.float64), axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def rank(reason: Reason | None) -> int | None:
    """1 for the most urgent reason; None for none."""
    return None if reason is None else 1 + REASONS.index(reason)


def in_words(counts: Mapping[Reason, int]) -> str:
    """How many cells to review each reason has, as in "2 near tie, 1 foreign laboratory"."""
    return ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "no cell"


class ToReview:
    """Counts the reasons of a batch, row by row, until its domain shift is known; in memory lies a byte a row."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._if_foreign: Counter[Reason] = Counter()
        self._changed = bytearray()

    def add(self, reason: Reason | None, if_foreign: Reason | None) -> None:
        """Take the next row: its reason, and the one that it has in a foreign laboratory."""
        self._changed.append(0 if reason == if_foreign else rank(if_foreign) or 0)
        for found, counts in ((reason, self._counts), (if_foreign, self._if_foreign)):
            if found is not None:
                counts[found] += 1

    def foreign(self) -> Sequence[int]:
        """Take the laboratory for a foreign one; returns the rank of each row whose reason changes, 0 for others."""
        self._counts = self._if_foreign
        return self._changed

    @property
    def counts(self) -> dict[Reason, int]:
        """Rows by the reason, the most urgent first."""
        return {reason: self._counts[reason] for reason in REASONS if self._counts[reason]}


# -------------------------------------------------------------------------------------------------------- calibration


def calibrate(reference: ReferenceStatistics, roles: Roles) -> ReviewThresholds | None:
    """Thresholds at which at most `FALSE_ALARMS` of the held-out mature cells are called urgent or unknown.

    Each threshold gives as many alarms by itself, as many as all together allow (Tippett's combination of p-values). None
    with fewer than `FEWEST` mature cells.
    """
    known = roles.mature[reference.targets] if len(reference.targets) else np.zeros(0, bool)
    n = int(known.sum())
    if n < FEWEST:
        return None
    probabilities = np.asarray(reference.probabilities, np.float64)[known]
    scores = None if reference.geometry is None or reference.scores is None else np.asarray(reference.scores)[known]
    columns = {"urgent": _urgent_mass(roles, probabilities)} if roles.urgent.any() else {}
    columns |= {} if scores is None else {"distance": scores.astype(np.float64)}
    called = np.logical_or(*_by_label(roles, probabilities))
    limits, alarms = _limits(columns, called, most=int(FALSE_ALARMS * n + 1e-9))
    apart = margins(probabilities)
    tie = float(np.sort(apart)[int(NEAR_TIES * n + 1e-9)])
    return ReviewThresholds(
        urgent=limits.get("urgent"), distance=limits.get("distance"), near_tie=tie,
        urgent_elsewhere=_urgent_elsewhere(reference.imitated, roles), n_cells=n,
        false_alarms=float(alarms.mean()), near_ties=float((apart < tie).mean()),
    )  # fmt: skip


def _urgent_elsewhere(imitated: ImitatedImages | None, roles: Roles) -> float | None:
    """The lowest threshold on the probability of an urgent type with few enough alarms in imitated laboratories."""
    if imitated is None or not roles.urgent.any():
        return None
    masses = np.sort(_urgent_mass(roles, imitated.probabilities[roles.mature[imitated.targets]]))[::-1]
    return float(masses[int(FALSE_ALARMS_ELSEWHERE * len(masses))]) if len(masses) else None


def _limits(
    columns: Mapping[str, NDArray[np.float64]], called: NDArray[np.bool_], *, most: int
) -> tuple[dict[str, float], NDArray[np.bool_]]:
    """The lowest thresholds on each column (n,) with at most `most` alarms in all, and the alarms (n,).

    Those `called` anyway are alarms. Above each threshold lie equally many of the others, but for ties.
    """
    if not columns or called.all():
        return {name: float(values.max()) for name, values in columns.items()}, called
    values = np.column_stack(list(columns.values()))
    others = np.sort(values[~called], axis=0)[::-1]
    limits, alarms = others[0], called | (values > others[0]).any(axis=1)
    for candidate in others[1:]:
        wider = called | (values > candidate).any(axis=1)
        if wider.sum() > most:
            break
        limits, alarms = candidate, wider
    return dict(zip(columns, limits.tolist(), strict=True)), alarms


def _urgent_mass(roles: Roles, probabilities: Floats) -> NDArray[np.float64]:
    """The summed probability (n,) of the urgent labels."""
    return np.asarray(np.clip(np.asarray(probabilities, np.float64)[:, roles.urgent].sum(axis=1), 0, 1), np.float64)


def _by_label(roles: Roles, probabilities: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which cells (n,) the predicted label alone calls urgent, and which unknown."""
    best = np.asarray(probabilities).argmax(axis=1)
    return roles.urgent[best], roles.unknown[best]
