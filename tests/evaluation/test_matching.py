"""Matching of boxes and average precision, against a brute-force recomputation."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.evaluation.matching import Ranked, Rule, matched
from hemalens.imaging.boxes import Boxes

Box = tuple[int, int, int, int]


@st.composite
def boxes(draw: st.DrawFn, most: int = 6) -> list[Box]:
    """Distinct boxes of whole pixels that often overlap."""
    corner, side = st.integers(0, 8), st.integers(1, 8)
    found = draw(st.lists(st.tuples(corner, corner, side, side), max_size=most, unique=True))
    return [(x, y, x + w, y + h) for x, y, w, h in found]


def overlap(a: Box, b: Box) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return Fraction(shared, sum(area) - shared)


def may_match(truth: Box, found: Box, rule: Rule) -> bool:
    if rule == "iou":
        return overlap(truth, found) >= Fraction(1, 2)
    x, y = Fraction(found[0] + found[2], 2), Fraction(found[1] + found[3], 2)
    return truth[0] <= x <= truth[2] and truth[1] <= y <= truth[3]


def brute_force(truth: list[Box], found: list[tuple[Box, float]], rule: Rule) -> dict[Box, Box]:
    """Which annotated box each found one hits, by the definition."""
    hits: dict[Box, Box] = {}
    for box, _ in sorted(found, key=lambda each: (-each[1], each[0])):
        left = sorted(t for t in truth if t not in hits.values() and may_match(t, box, rule))
        if left:
            hits[box] = max(left, key=lambda t: overlap(t, box))
    return hits


SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(["centre", "iou"]), st.randoms(use_true_random=False))
def test_matches_follow_the_definition_in_any_order(data: st.DataObject, rule: Rule, random: object) -> None:
    truth, found = data.draw(boxes()), data.draw(boxes())
    scores = [data.draw(SCORES) for _ in found]
    expected = brute_force(truth, list(zip(found, scores, strict=True)), rule)
    order, places = list(range(len(found))), list(range(len(truth)))
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(places)  # type: ignore[attr-defined]
    given_truth, given_found = [truth[i] for i in places], [found[i] for i in order]
    corners = np.array(given_truth, float).reshape(-1, 4)
    rows = matched(corners, Boxes.of([0] * len(found), given_found, [scores[i] for i in order]), rule)
    got = {given_found[i]: given_truth[row] for i, row in enumerate(rows) if row >= 0}
    assert got == expected
    assert len(set(rows[rows >= 0])) == (rows >= 0).sum(), "one to one"


def test_a_second_box_on_a_cell_is_no_hit() -> None:
    truth = np.array([[0.0, 0, 10, 10]])
    found = Boxes.of([0, 0], [[0, 0, 10, 9], [0, 0, 10, 10]], [0.8, 0.9])
    for rule in ("centre", "iou"):
        assert matched(truth, found, rule).tolist() == [-1, 0]  # type: ignore[arg-type]


def test_the_centre_rule_takes_a_box_of_another_size() -> None:
    truth = np.array([[0.0, 0, 10, 10]])
    found = Boxes.of([0], [[4, 4, 6, 6]], [0.9])
    assert matched(truth, found, "centre").tolist() == [0]
    assert matched(truth, found, "iou").tolist() == [-1]


def test_without_truth_or_without_boxes() -> None:
    one = Boxes.of([0], [[0, 0, 1, 1]])
    assert matched(np.zeros((0, 4)), one, "iou").tolist() == [-1]
    assert matched(one.corners, Boxes(), "iou").tolist() == []


def brute_ap(detections: list[tuple[float, bool]], n_truth: int) -> float:
    """AP by the definition: at each recall 0, 0.01 to 1, the best precision of a threshold with that recall or more."""
    points = []
    for threshold in {score for score, _ in detections}:
        kept = [hit for score, hit in detections if score >= threshold]
        points.append((Fraction(sum(kept), n_truth), Fraction(sum(kept), len(kept))))
    best = [max((p for r, p in points if r >= Fraction(j, 100)), default=Fraction(0)) for j in range(101)]
    return float(sum(best) / 101)


def ranked(detections: list[tuple[float, bool]], units: list[int] | None = None) -> Ranked:
    scores = np.array([score for score, _ in detections], float)
    hits = np.array([hit for _, hit in detections], bool)
    return Ranked.of(scores, hits, np.array(units if units is not None else [0] * len(detections), np.int64))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(SCORES, st.booleans()), max_size=25), st.integers(0, 40))
def test_average_precision_follows_the_definition(detections: list[tuple[float, bool]], more: int) -> None:
    n_truth = max(1, sum(hit for _, hit in detections) + more)
    found = ranked(detections).average_precision(np.ones((1, 1)), np.array([float(n_truth)]))
    assert found[0] == pytest.approx(brute_ap(detections, n_truth), abs=1e-9)


def test_a_known_average_precision() -> None:
    # recall 0.5 at precision 1, recall 1 at 2 / 3: 51 and 50 of the 101 recalls
    found = ranked([(0.9, True), (0.8, False), (0.7, True)]).average_precision(np.ones((1, 1)), np.array([2.0]))
    assert found[0] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_perfect_empty_and_without_truth() -> None:
    one = np.ones((1, 1))
    assert ranked([(0.9, True)] * 4).average_precision(one, np.array([4.0]))[0] == pytest.approx(1)
    assert ranked([]).average_precision(one, np.array([4.0]))[0] == 0
    assert np.isnan(ranked([(0.9, False)]).average_precision(one, np.array([0.0]))[0])
    assert np.isnan(ranked([]).average_precision(one, np.array([0.0]))[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 2)), min_size=1, max_size=15), st.data())
def test_weights_are_repeated_units(rows: list[tuple[float, bool, int]], data: st.DataObject) -> None:
    """A unit of weight 2 is one that was tested twice, one of weight 0 was not tested."""
    weights = data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3))
    truth = [sum(hit for _, hit, u in rows if u == unit) + unit for unit in range(3)]
    repeated = [(score, hit) for score, hit, unit in rows for _ in range(weights[unit])]
    n = sum(w * t for w, t in zip(weights, truth, strict=True))
    source = ranked([(score, hit) for score, hit, _ in rows], [unit for _, _, unit in rows])
    found = source.average_precision(np.array([weights], float), np.array(truth, float))
    if n:
        assert found[0] == pytest.approx(brute_ap(repeated, n), abs=1e-9)
    else:
        assert np.isnan(found[0])


def test_thousands_of_boxes_take_seconds() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1500, (2000, 2))
    truth = np.hstack([low, low + 30])
    found = Boxes.of([0] * 2000, (truth + rng.normal(0, 3, truth.shape)).tolist(), rng.uniform(size=2000).tolist())
    begun = time.process_time()
    hits = matched(truth, found, "iou")
    assert time.process_time() - begun < 3
    assert (hits >= 0).mean() > 0.9
