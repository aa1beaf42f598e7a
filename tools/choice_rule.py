"""The rule by which `choose_defaults` chooses among candidates, and its tables.

1. A test is the balanced accuracy of a model in a laboratory, real or imitated. An adaptation is harmful there if it loses
   more than 0.01 against the model that is not adapted.
2. An adaptation is admissible if it is harmful in at most 5 of 100 tests. Not adapting is always a candidate, the first.
3. The score of a training is (mean + worst) / 2 over its tests; that of a candidate is the mean over its trainings, one a
   laboratory and seed.
4. The best score of the admissible candidates wins. A candidate is as good as the best if it is within one standard error
   of it: that of their difference, over laboratories. Of those the first in the file is chosen: the simplest.

Trainings are chosen by the same score, not adapted, over the laboratories and seeds that all of them have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hemalens.evaluation.left_out import HARM

MOST_HARMFUL = 5
"""Harmful tests in 100 that an admissible adaptation has at most."""
MOST_ROWS = 12
"""Rows of a table in Markdown."""
TRAINING, ADAPTATION = "training", "adaptation"


@dataclass(frozen=True, slots=True)
class Test:
    """Balanced accuracy of a candidate in a laboratory, real or imitated, and that of the model as it is."""

    candidate: str
    laboratory: str
    seed: int
    images: str
    mix: str
    balanced_accuracy: float
    before: float

    __test__ = False  # not a test of pytest's


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate over its `n` tests. `difference` is how far its score is below the best, with its standard error."""

    candidate: str
    n: int
    mean: float
    worst: float
    score: float
    gain: float
    harmful: int
    admissible: bool
    difference: float
    standard_error: float
    chosen: bool = False


def ranked(tests: Sequence[Test]) -> list[Row]:
    """A row for each candidate in the order of its first test, with the chosen one, by the rule of this module."""
    by_candidate: dict[str, list[Test]] = {}
    for test in tests:
        by_candidate.setdefault(test.candidate, []).append(test)
    scores = {name: _scores(own) for name, own in by_candidate.items()}
    admissible = {name: 100 * _harmful(own) <= MOST_HARMFUL * len(own) for name, own in by_candidate.items()}
    best = max((name for name, is_one in admissible.items() if is_one), key=lambda n: _mean(scores[n]), default=None)
    rows = []
    for name, own in by_candidate.items():
        difference, error = (np.nan, np.nan) if best is None else _below(scores[best], scores[name])
        row = Row(
            candidate=name,
            n=len(own),
            mean=float(np.mean([test.balanced_accuracy for test in own])),
            worst=min(test.balanced_accuracy for test in own),
            score=_mean(scores[name]),
            gain=float(np.mean([test.balanced_accuracy - test.before for test in own])),
            harmful=_harmful(own),
            admissible=admissible[name],
            difference=difference,
            standard_error=error,
        )
        rows.append(row)
    chosen = next((row for row in rows if row.admissible and row.difference <= row.standard_error), None)
    return [replace(row, chosen=row is chosen) for row in rows]


def _harmful(tests: Sequence[Test]) -> int:
    return sum(test.balanced_accuracy - test.before < -HARM for test in tests)


def _scores(tests: Sequence[Test]) -> dict[tuple[str, int], float]:
    """(mean + worst) / 2 of each training, by laboratory and seed."""
    found: dict[tuple[str, int], list[float]] = {}
    for test in tests:
        found.setdefault((test.laboratory, test.seed), []).append(test.balanced_accuracy)
    return {training: (float(np.mean(values)) + min(values)) / 2 for training, values in found.items()}


def _mean(scores: Mapping[tuple[str, int], float]) -> float:
    return float(np.mean(list(scores.values())))


def _below(best: Mapping[tuple[str, int], float], other: Mapping[tuple[str, int], float]) -> tuple[float, float]:
    """How far a candidate is below the best, and the standard error over laboratories; 0 for a single laboratory."""
    by_laboratory: dict[str, list[float]] = {}
    for training, score in best.items():
        by_laboratory.setdefault(training[0], []).append(score - other[training])
    means = [float(np.mean(values)) for values in by_laboratory.values()]
    error = float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0
    return _mean(best) - _mean(other), error


def in_common(tests: Sequence[Test]) -> list[Test]:
    """The tests in laboratories, with seeds, that every candidate has."""
    by_candidate: dict[str, set[tuple[str, int]]] = {}
    for test in tests:
        by_candidate.setdefault(test.candidate, set()).add((test.laboratory, test.seed))
    shared = set.intersection(*by_candidate.values()) if by_candidate else set()
    return [test for test in tests if (test.laboratory, test.seed) in shared]


def verdict(kind: str, rows: Sequence[Row]) -> str:
    """The choice in one line."""
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is None:
        return f"{kind}: nothing to choose from"
    harm = f", harmful in {chosen.harmful} of {chosen.n} tests" if kind == ADAPTATION else f", {chosen.n} tests"
    refused = sum(not row.admissible for row in rows)
    others = f"; {refused} of {len(rows)} candidates are not admissible" if refused else ""
    return f"{kind}: {chosen.candidate}, mean {chosen.mean:.3f}, worst {chosen.worst:.3f}{harm}{others}"


def markdown(rows: Sequence[Row]) -> str:
    """The candidates as a table of at most 12 rows, the best and the chosen one, in the order of the file."""
    best = sorted(rows, key=lambda row: (row.chosen, row.admissible, row.score), reverse=True)[:MOST_ROWS]
    lines = ["| candidate | mean | worst | score | gain | harmful | |", "|---|---|---|---|---|---|---|"]
    for row in (row for row in rows if row in best):
        note = "**chosen**" if row.chosen else "" if row.admissible else "not admissible"
        harm = f"{100 * row.harmful / row.n:.1f} %"
        lines.append(
            f"| {row.candidate} | {row.mean:.3f} | {row.worst:.3f} | {row.score:.3f} | {row.gain:+.3f} | {harm} | {note} |"
        )
    return "\n".join(lines) + "\n"
