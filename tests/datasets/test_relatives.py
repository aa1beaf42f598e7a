"""Orientations form a group, and sets of relatives know each member's orientation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.near_copies import ORIENTATIONS, turned
from hemalens.datasets.relatives import UPRIGHT, Orientation, Relatives

EIGHT = st.sampled_from(ORIENTATIONS)
PICTURE = np.arange(9).reshape(3, 3)


@given(EIGHT, EIGHT)
def test_one_orientation_after_another_is_what_two_turns_of_a_picture_give(first: Orientation, second: Orientation) -> None:
    twice = turned(turned(PICTURE, first), second)
    assert np.array_equal(turned(PICTURE, first.then(second)), twice)


@given(st.booleans(), st.floats(0, 359.9))
def test_the_inverse_takes_an_orientation_back(mirrored: bool, angle: float) -> None:
    both = Orientation(mirrored, angle).then(Orientation(mirrored, angle).inverse())
    assert not both.mirrored
    assert math.cos(math.radians(both.angle_deg)) == pytest.approx(1)


def test_the_eight_orientations_of_a_picture_differ() -> None:
    assert len({turned(PICTURE, orientation).tobytes() for orientation in ORIENTATIONS}) == 8


@pytest.mark.parametrize(
    ("orientation", "text"),
    [
        (UPRIGHT, "not turned"),
        (Orientation(False, 359.7), "not turned"),
        (Orientation(True), "mirrored"),
        (Orientation(False, 37.4), "turned by 37 degrees"),
        (Orientation(True, 270.0), "mirrored and turned by 270 degrees"),
    ],
)
def test_orientations_in_words(orientation: Orientation, text: str) -> None:
    assert str(orientation) == text


@given(st.lists(EIGHT, min_size=6, max_size=6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=15))
def test_orientations_are_right_whatever_the_order_of_joins(own: list[Orientation], pairs: list[tuple[int, int]]) -> None:
    """`own` is how each image is turned against a picture that nobody has: pairs follow from it, and so do all others."""
    relatives = Relatives(6)
    together = [{i} for i in range(6)]
    for i, j in pairs:
        apart = j not in together[i]
        assert relatives.join(i, j, own[i].inverse().then(own[j])) == apart
        union = together[i] | together[j]
        for member in union:
            together[member] = union
    for i in range(6):
        for j in together[i]:
            assert relatives.orientation(j, i) == own[i].inverse().then(own[j])
    expected = sorted({tuple(sorted(members)) for members in map(frozenset, together) if len(members) > 1})
    assert [tuple(members) for members in relatives.sets()] == expected
