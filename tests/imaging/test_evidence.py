"""Colours of evidence over an image; distances in Oklab are recomputed here by scikit-image's CIELAB and by symmetry."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from hemalens.imaging.evidence import colour_bar, overlay

PAPER = np.full((1, 3, 3), 235, np.uint8)


def test_the_overlay_is_gray_where_nothing_counts_and_of_two_colours_elsewhere() -> None:
    image = np.full((10, 30, 3), (200, 80, 160), np.uint8)
    evidence = np.zeros((10, 30))
    evidence[:, 10:20], evidence[:, 20:] = 0.4, -0.4
    drawn = overlay(image, evidence, 0.4).astype(int)
    assert np.ptp(drawn[:, :10], axis=2).max() <= 1
    red, green, blue = drawn[0, 15]
    assert red > green > blue
    red, green, blue = drawn[0, 25]
    assert blue > green > red
    np.testing.assert_array_equal(overlay(image, evidence * 50, 0.4), drawn)


@given(st.floats(0.05, 1), st.integers(30, 250))
def test_the_gray_image_stays_in_order_below_the_colour(share: float, gray: int) -> None:
    """A darker place of the image stays darker under the same evidence, so that the cell is seen."""
    image = np.array([[[gray] * 3, [max(gray - 30, 0)] * 3]], np.uint8)
    for sign in (1, -1):
        drawn = overlay(image, np.full((1, 2), sign * share), 1.0)
        light = rgb2lab(drawn)[0, :, 0]
        assert light[0] > light[1]


def test_equal_steps_look_about_equal_and_both_signs_equally_strong() -> None:
    """Perceived differences (CIEDE2000) between neighbours of the bar vary little, and less than those of plain mixing."""
    bar = rgb2lab(colour_bar(17, 1))[0]
    steps = deltaE_ciede2000(bar[1:], bar[:-1])
    assert steps.min() > 0.45 * steps.max()
    ends = deltaE_ciede2000(bar[[0, -1]], bar[[8, 8]])
    assert abs(ends[0] - ends[1]) < 0.3 * ends.max()
    assert abs(bar[0, 0] - bar[-1, 0]) < 5, "both ends are equally light"


def test_the_bar_runs_from_blue_over_white_to_orange() -> None:
    bar = colour_bar(101, 4).astype(int)
    assert bar.shape == (4, 101, 3)
    assert (bar == bar[:1]).all()
    assert bar[0, 50].tolist() == [255, 255, 255]
    assert bar[0, 0, 2] - bar[0, 0, 0] > 80
    assert bar[0, -1, 0] - bar[0, -1, 2] > 80
