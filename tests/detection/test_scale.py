"""The scale of a field, found from the field."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discs import DiscFinder, field
from hemalens.detection.scale import LARGEST_ENLARGEMENT, LEAST_LOOK_PX, LOOK_PX, RED_PX, ladder
from hemalens.imaging.boxes import RED, WHITE


def crowded(size: tuple[int, int], side: float) -> np.ndarray:
    """Red discs side by side."""
    places = [
        (RED, x, y, side)
        for x in np.arange(side, size[1] - side / 2, 1.5 * side)
        for y in np.arange(side, size[0] - side / 2, 1.5 * side)
    ]
    return field(size, places)


@pytest.mark.parametrize(
    ("size", "side"),
    [((480, 640), 100), ((480, 640), 30), ((300, 400), 12), ((575, 575), 145), ((1200, 1600), 300), ((1500, 2600), 14)],
)
def test_red_cells_get_their_wanted_size(size: tuple[int, int], side: float) -> None:
    scale = DiscFinder().scale_of(crowded(size, side))
    assert scale is not None
    assert scale * side == pytest.approx(RED_PX, rel=0.2)


def test_a_white_cell_alone_gives_the_scale() -> None:
    scale = DiscFinder().scale_of(field((120, 120), [(WHITE, 60, 60, 70)]))
    assert scale is not None
    assert scale * 70 == pytest.approx(1.8 * RED_PX, rel=0.2)


@pytest.mark.parametrize("size", [(480, 640), (1, 200), (1, 1), (3000, 40)])
def test_an_empty_field_has_no_scale(size: tuple[int, int]) -> None:
    finder = DiscFinder()
    assert finder.scale_of(field(size, [])) is None
    assert all(height % 16 == width % 16 == 0 for height, width, _ in finder.inputs)


def test_the_search_ends_once_the_cells_are_seen_too_large() -> None:
    finder = DiscFinder()
    finder.scale_of(crowded((480, 640), 100))
    n_whole = 2
    assert n_whole < len(finder.inputs) < n_whole + 2 * (len(ladder((480, 640))) - n_whole)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 30_000))
def test_the_ladder_halves_what_is_seen(height: int, width: int) -> None:
    steps = ladder((height, width))
    scales = [input_px / seen for seen, input_px in steps]
    assert all(1.5 <= b / a <= 2 for a, b in itertools.pairwise(scales))
    assert steps[0][1] in (LEAST_LOOK_PX, LOOK_PX)
    assert steps[0][0] <= max(height, width)
    assert scales[-1] <= max(LARGEST_ENLARGEMENT, LOOK_PX / max(height, width))
