"""The rule for cells that the border of a field cuts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hemalens.detection.border import counted, cut_by_border, touched_borders
from hemalens.imaging.boxes import Boxes

FIELD = (60, 100)


def at(*corners: list[float]) -> Boxes:
    return Boxes.of([0] * len(corners), corners)


def test_left_and_top_count_and_right_and_bottom_do_not() -> None:
    boxes = at([0, 20, 10, 30], [40, 0, 50, 10], [90, 20, 100, 30], [40, 50, 50, 60], [40, 20, 50, 30])
    assert touched_borders(boxes, FIELD)[:4].tolist() == np.eye(4, dtype=bool).tolist()
    assert cut_by_border(boxes, FIELD).tolist() == [True, True, True, True, False]
    assert counted(boxes, FIELD).tolist() == [True, True, False, False, True]


def test_a_cell_in_a_corner_counts_at_left_and_top_only() -> None:
    boxes = at([0, 0, 10, 10], [90, 0, 100, 10], [0, 50, 10, 60], [90, 50, 100, 60])
    assert counted(boxes, FIELD).tolist() == [True, False, False, False]


def test_a_cell_as_large_as_the_field_counts() -> None:
    assert counted(at([0, 0, 100, 60]), FIELD).tolist() == [True]
    assert counted(at([1, 20, 99, 50]), FIELD).tolist() == [True]


def test_no_boxes() -> None:
    assert counted(Boxes(), FIELD).shape == cut_by_border(Boxes(), FIELD).shape == (0,)


def test_a_box_that_ends_just_off_the_border_is_cut() -> None:
    near, off = at([3, 10, 103, 110]), at([6, 10, 106, 110])
    assert cut_by_border(near, (200, 200)).tolist() == [True]
    assert cut_by_border(off, (200, 200)).tolist() == [False]


@given(
    st.floats(0, 299),
    st.floats(0, 299),
    st.floats(5, 40),
)
def test_a_disc_on_a_plane_of_fields_counts_once(x: float, y: float, side: float) -> None:
    """Cut a plane of 4 x 4 fields into fields of 100 px: a cell anywhere inside counts in one of them only."""
    # a share of the cell below the rule's own tolerance may be seen by no detector: leave such places out
    for start in (x, y):
        for border in (100, 200, 300):
            if abs(start - border) <= 2 or abs(start + side - border) <= 2:
                return
    n = 0
    for row in range(4):
        for column in range(4):
            seen = np.array([x - 100 * column, y - 100 * row, x + side - 100 * column, y + side - 100 * row]).clip(0, 100)
            if seen[2] > seen[0] and seen[3] > seen[1]:
                n += int(counted(at(seen.tolist()), (100, 100))[0])
    assert n == 1
