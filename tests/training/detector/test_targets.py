"""What the maps of a window should be, recomputed cell by cell from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hemalens.imaging.boxes import PLATELET, RED, WHITE, Boxes
from hemalens.training.detector.targets import targets_of
from hemalens.training.detector.windows import Window

SIDE, Q = 64, 16


def _window(boxes: Boxes, *, complete: tuple[int, ...] = (WHITE, RED, PLATELET)) -> Window:
    return Window(
        np.zeros((SIDE, SIDE, 3), np.uint8), boxes, complete, np.zeros((Q, Q), np.float32), np.zeros((Q, Q), bool)
    )


def test_a_cell_has_its_peak_in_the_place_of_its_centre() -> None:
    found = targets_of(_window(Boxes.of([RED], [[10, 20, 34, 36]])))
    # centre (22, 28) px lies in the place (5, 7)
    assert found.scores[RED, 7, 5] == 1
    assert np.argwhere(found.scores[RED] == 1).tolist() == [[7, 5]]
    assert not found.scores[[WHITE, PLATELET]].any()
    # standard deviation: a sixth of 6 and of 4 places
    for row, column in ((7, 6), (8, 5), (9, 7), (7, 2)):
        wanted = math.exp(-((column - 5) ** 2) / (2 * 1.0**2) - (row - 7) ** 2 / (2 * (4 / 6) ** 2))
        assert found.scores[RED, row, column] == pytest.approx(wanted, rel=1e-5)


def test_distances_are_those_to_the_sides_in_places() -> None:
    found = targets_of(_window(Boxes.of([WHITE], [[8, 4, 52, 60]])))
    row, column = 8, 7
    assert found.scores[WHITE, row, column] == 1
    wanted = [column + 0.5 - 8 / 4, row + 0.5 - 4 / 4, 52 / 4 - column - 0.5, 60 / 4 - row - 0.5]
    assert found.distances[:, row, column].tolist() == pytest.approx(wanted)
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights.argmax() == row * Q + column
    # where nothing is learned there is no distance
    assert not found.distances[:, found.weights == 0].any()


def test_each_cell_weighs_one_and_small_cells_lie_on_top() -> None:
    large, small = [4, 4, 60, 60], [28, 28, 40, 40]
    found = targets_of(_window(Boxes.of([PLATELET, WHITE], [small, large])))
    assert found.scores[PLATELET, 8, 8] == found.scores[WHITE, 8, 8] == 1
    # centre (34, 34) px; the place's middle is 8.5
    assert found.distances[:, 8, 8].tolist() == pytest.approx([8.5 - 7, 8.5 - 7, 10 - 8.5, 10 - 8.5])
    apart = targets_of(_window(Boxes.of([RED, RED], [[0, 0, 20, 20], [40, 40, 60, 60]])))
    assert apart.weights.sum() == pytest.approx(2, rel=1e-5)


def test_a_cell_that_is_hardly_in_the_window_is_ignored() -> None:
    # a quarter is seen: neither a cell nor background
    found = targets_of(_window(Boxes.of([RED], [[-30, 20, 10, 40]])))
    assert not (found.scores[RED] == 1).any()
    assert not found.weights.any()
    ignored = np.argwhere(~found.known[RED])
    assert ignored.min(axis=0).tolist() == [5, 0]
    assert ignored.max(axis=0).tolist() == [10, 2]
    assert found.known[WHITE].all()


def test_a_cell_that_the_border_cuts_has_the_box_of_what_is_seen() -> None:
    found = targets_of(_window(Boxes.of([WHITE], [[-10, 8, 30, 48]])))
    row, column = 7, 3
    assert found.scores[WHITE, row, column] == 1
    assert found.distances[0, row, column] == pytest.approx(column + 0.5)
    assert found.known.all()


def test_of_an_incomplete_kind_only_the_centres_are_known() -> None:
    found = targets_of(_window(Boxes.of([RED, WHITE], [[10, 10, 30, 30], [34, 34, 60, 60]]), complete=(WHITE,)))
    assert np.argwhere(found.known[RED]).tolist() == [[5, 5]]
    assert found.known[WHITE].all()
    assert not found.known[PLATELET].any()


def test_a_window_without_a_cell_is_all_background() -> None:
    found = targets_of(_window(Boxes()))
    assert not found.scores.any()
    assert found.known.all()
