"""Scores of found boxes, recomputed from their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field
from hemalens.evaluation.detection import TestedField, matches_of, score_kind
from hemalens.evaluation.results import KindScores
from hemalens.imaging.boxes import PLATELET, RED, WHITE, Boxes, Kind

SCORE = 0.3


def field(truth: Boxes, found: Boxes, unit: int, complete: tuple[Kind, ...] = ("white cell", "red cell")) -> TestedField:
    return TestedField(Field(Record(Path(f"{unit}.png"), "", domain="lab"), truth, complete), found, unit)


def scores_of(tested: list[TestedField], kind: int = WHITE, seed: int = 0) -> KindScores:
    return score_kind([matches_of(each, kind, operating_score=SCORE) for each in tested], kind, seed=seed)


def square(x: float, y: float, side: float = 10) -> list[float]:
    return [x, y, x + side, y + side]


TRUTH = Boxes.of([WHITE, WHITE, RED], [square(0, 0), square(50, 50, 20), square(100, 0)])


def test_a_known_field() -> None:
    """One of two white cells is found, one box is false, one lies below the operating score."""
    found = Boxes.of(
        [WHITE, WHITE, WHITE, RED], [square(1, 1), square(200, 0), square(50, 50, 20), square(100, 0)], [0.9, 0.5, 0.2, 0.9]
    )
    white = scores_of([field(TRUTH, found, 0)])
    assert (white.n_boxes, white.n_found) == (2, 2)
    assert white.recall_centre.value == white.recall_iou.value == 0.5
    assert white.precision_centre.value == white.precision_iou.value == 0.5
    # recall 0.5 at precision 1; recall 1, below the operating score, at 2 / 3
    assert white.ap50.value == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert white.counts is not None
    assert white.counts.bias.value == 0
    red = scores_of([field(TRUTH, found, 0)], RED)
    assert (red.recall_centre.value, red.precision_centre.value, red.ap50.value) == (1, 1, pytest.approx(1))


def test_the_centre_and_the_overlap_may_differ() -> None:
    small = Boxes.of([WHITE], [square(4, 4, 2)], [0.9])
    white = scores_of([field(TRUTH, small, 0)])
    assert white.recall_centre.value == 0.5
    assert white.recall_iou.value == 0
    assert white.precision_iou.value == 0


def test_a_kind_that_is_not_boxed_completely_has_no_false_positive() -> None:
    """Such a field counts for recall alone."""
    found = Boxes.of([WHITE, WHITE], [square(0, 0), square(200, 0)], [0.9, 0.9])
    whole = field(TRUTH, Boxes.of([WHITE], [square(0, 0)], [0.9]), 0)
    partly = field(TRUTH, found, 1, complete=("red cell",))
    white = scores_of([whole, partly])
    assert (white.n_fields, white.n_complete) == (2, 1)
    assert white.precision_centre.value == 1
    assert white.n_found == 1
    assert white.recall_centre.value == 0.5
    assert white.n_boxes == 4
    assert white.counts is not None
    assert white.counts.n_fields == 1
    alone = scores_of([partly])
    assert alone.precision_centre.value is None
    assert alone.ap50.value is None
    assert alone.counts is None
    assert alone.recall_centre.value == 0.5


def test_a_kind_without_a_box() -> None:
    complete: tuple[Kind, ...] = ("white cell", "red cell", "platelet")
    nothing = scores_of([field(TRUTH, Boxes(), 0, complete)], PLATELET)
    assert (nothing.recall_centre.value, nothing.precision_centre.value, nothing.ap50.value) == (None, None, None)
    assert nothing.by_size == ()
    assert nothing.curve == ()
    false = scores_of([field(TRUTH, Boxes.of([PLATELET], [square(0, 0)], [0.9]), 0, complete)], PLATELET)
    assert false.precision_centre.value == 0
    assert false.counts is not None
    assert false.counts.bias.value == 1


def test_no_field_at_all() -> None:
    white = scores_of([])
    assert (white.n_fields, white.n_boxes, white.recall_centre.value, white.counts) == (0, 0, None, None)


def test_recall_by_size_counts_each_cell_once() -> None:
    sides = [5, 6, 7, 20, 21, 22, 50, 51, 52]
    truth = Boxes.of([WHITE] * 9, [square(100 * i, 0, side) for i, side in enumerate(sides)])
    # the small ones are missed
    found = truth[np.flatnonzero(truth.sides > 10)]
    by_size = scores_of([field(truth, found, 0)]).by_size
    assert [size.n_boxes for size in by_size] == [3, 3, 3]
    assert [size.recall.value for size in by_size] == [0, 1, 1]
    assert [(size.low_px, size.high_px) for size in by_size] == [(5, 7), (20, 22), (50, 52)]


def test_cells_of_one_size_are_one_group() -> None:
    truth = Boxes.of([WHITE] * 4, [square(100 * i, 0) for i in range(4)])
    (size,) = scores_of([field(truth, truth, 0)]).by_size
    assert (size.n_boxes, size.recall.value) == (4, 1)


def _random_fields(n: int, seed: int, *, hit_rate: float = 0.8) -> list[TestedField]:
    rng = np.random.default_rng(seed)
    tested = []
    for unit in range(n):
        truth = Boxes.of([WHITE] * 5, [square(100 * i, 0, rng.uniform(10, 30)) for i in range(5)])
        found = truth[np.flatnonzero(rng.uniform(size=5) < hit_rate)]
        false = [square(100 * i, 300) for i in range(rng.poisson(1))]
        corners = [*found.corners.tolist(), *false]
        boxes = Boxes.of([WHITE] * len(corners), corners, rng.uniform(0.31, 1, len(corners)).tolist())
        tested.append(field(truth, boxes, unit))
    return tested


def test_recall_and_precision_are_ratios_of_sums() -> None:
    tested = _random_fields(20, 3)
    white = scores_of(tested)
    hits = sum((each.found.corners[:, 1] == 0).sum() for each in tested)
    n_found = sum(len(each.found) for each in tested)
    assert white.recall_centre.value == pytest.approx(hits / 100)
    assert white.precision_centre.value == pytest.approx(hits / n_found)
    for estimate in (white.recall_centre, white.precision_centre, white.ap50):
        assert estimate.low < estimate.value < estimate.high  # type: ignore[operator]


def test_the_same_seed_gives_the_same_scores_in_any_order() -> None:
    tested = _random_fields(12, 5)
    assert scores_of(tested, seed=1) == scores_of(tested, seed=1)
    shuffled = scores_of([tested[i] for i in np.random.default_rng(0).permutation(12)], seed=1)
    first = scores_of(tested, seed=1)
    for name in ("ap50", "recall_centre", "precision_centre", "recall_iou", "precision_iou"):
        assert getattr(shuffled, name) == getattr(first, name)
    assert shuffled.by_size == first.by_size


def test_intervals_of_recall_cover_the_rate() -> None:
    covered = 0
    for seed in range(30):
        recall = scores_of(_random_fields(40, 100 + seed), seed=seed).recall_centre
        covered += recall.low <= 0.8 <= recall.high  # type: ignore[operator]
    assert 0.85 <= covered / 30 <= 1


def test_a_perfect_recall_has_exact_limits() -> None:
    truth = Boxes.of([WHITE] * 3, [square(100 * i, 0) for i in range(3)])
    recall = scores_of([field(truth, truth, unit) for unit in range(4)]).recall_centre
    # Clopper-Pearson for n of n: (alpha / 2) ** (1 / n)
    assert recall.low == pytest.approx(0.025 ** (1 / 12))
    assert recall.high == 1


def test_the_curve_passes_the_operating_point() -> None:
    tested = _random_fields(30, 7)
    white = scores_of(tested)
    last = white.curve[-1]
    assert last.recall == pytest.approx(white.recall_iou.value)
    assert last.precision == pytest.approx(white.precision_iou.value)
    assert [p.recall for p in white.curve] == sorted(p.recall for p in white.curve)
    assert len(white.curve) <= 150
