"""What a mask makes possible: the cell alone, the background alone, the cell moved; by exact pixels and by what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemalens.imaging.compositing import (
    cell_alone,
    moved_cell,
    plain,
    shows_background,
    without_cell,
)

HEIGHT, WIDTH = 40, 48
BLACK = plain((HEIGHT, WIDTH, 3), 0)
seeds = st.integers(0, 2**32 - 1)


def _noise(seed: int = 0, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _ellipse(row: float, column: float, half_height: float, half_width: float) -> NDArray[np.float32]:
    rows, columns = np.indices((HEIGHT, WIDTH))
    inside = ((rows - row) / half_height) ** 2 + ((columns - column) / half_width) ** 2 <= 1
    return inside.astype(np.float32)


def _painted(share: NDArray[np.float32], cell: Any, background: Any) -> NDArray[np.uint8]:
    """The cell in one colour on another, a number for a gray one."""
    colours = [np.broadcast_to(np.array(colour, np.uint8), (*share.shape, 3)) for colour in (cell, background)]
    return np.where(share[..., None] > 0, *colours)


def _shares_seen(copy: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of a white cell on black the share of each pixel."""
    return copy[..., 0] / 255


# ------------------------------------------------------------------------------------------------------ the cell alone


@given(seed=seeds, gray=st.integers(0, 255), covered=st.floats(0, 1))
def test_outside_of_the_mask_is_gray_and_inside_is_untouched(seed: int, gray: int, covered: float) -> None:
    image = _noise(seed)
    mask = np.random.default_rng(seed + 1).random((HEIGHT, WIDTH)) < covered
    before = image.copy()
    alone = cell_alone(image, mask.astype(np.float32), gray)
    assert alone.dtype == np.uint8
    np.testing.assert_array_equal(alone[mask], before[mask])
    assert (alone[~mask] == gray).all()
    np.testing.assert_array_equal(image, before)


@given(seed=seeds, gray=st.integers(0, 255))
def test_at_the_rim_both_are_mixed_by_their_shares(seed: int, gray: int) -> None:
    image = _noise(seed)
    share = np.random.default_rng(seed + 1).random((HEIGHT, WIDTH)).astype(np.float32)
    expected = image * share[..., None].astype(np.float64) + gray * (1 - share[..., None].astype(np.float64))
    assert np.abs(cell_alone(image, share, gray) - expected).max() <= 0.501


def test_a_plain_image_is_of_one_gray_value() -> None:
    image = plain((5, 7, 3), 201)
    assert (image.shape, image.dtype) == ((5, 7, 3), np.uint8)
    assert np.unique(image).tolist() == [201]


# ------------------------------------------------------------------------------------------------ the background alone


@given(
    seed=seeds,
    row=st.floats(0, HEIGHT),
    column=st.floats(0, WIDTH),
    half_height=st.floats(1, 15),
    half_width=st.floats(1, 15),
)
def test_pixels_away_from_the_hole_stay(
    *, seed: int, row: float, column: float, half_height: float, half_width: float
) -> None:
    image, share = _noise(seed), _ellipse(row, column, half_height, half_width)
    filled = without_cell(image, share)
    # one pixel around the cell is not trusted, and the seam is four pixels wide
    near = np.zeros(share.shape, bool)
    for r, c in np.argwhere(share > 0):
        near[max(0, r - 5) : r + 6, max(0, c - 5) : c + 6] = True
    np.testing.assert_array_equal(filled[~near], image[~near])


@pytest.mark.parametrize("place", [(20, 24), (6, 6), (38, 46)], ids=["middle", "near a corner", "cut off"])
def test_a_cell_of_strong_contrast_is_gone(place: tuple[int, int]) -> None:
    """Nine tenths of its contrast at the rim, where the seam is, and all of it further in."""
    share = _ellipse(*place, 11, 9)
    background = np.zeros((HEIGHT, WIDTH, 3))
    background += np.linspace(190, 230, WIDTH)[None, :, None]  # brighter to the right
    image = np.where(share[..., None] > 0, 10, background).astype(np.uint8)
    error = np.abs(without_cell(image, share) - background).max(axis=2)
    assert error.max() < 25, "of 180 to 220"
    assert error[_ellipse(*place, 8, 6) > 0].max() < 15, "what a slope over the hole's width makes"


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), row=st.floats(8, 32), column=st.floats(8, 40))
def test_an_even_background_is_even_again(colour: tuple[int, int, int], row: float, column: float) -> None:
    share = _ellipse(row, column, 9, 7)
    filled = without_cell(_painted(share, [255 - c for c in colour], colour), share)
    inner = _ellipse(row, column, 4, 3) > 0
    assert np.abs(filled[inner].astype(int) - colour).max() <= 1


def test_without_a_cell_the_image_is_its_own_background() -> None:
    np.testing.assert_array_equal(without_cell(_noise(), np.zeros((HEIGHT, WIDTH), np.float32)), _noise())


def test_a_cell_that_fills_its_image_leaves_no_background() -> None:
    whole = np.ones((HEIGHT, WIDTH), np.float32)
    assert not shows_background(whole)
    np.testing.assert_array_equal(without_cell(_noise(), whole), _noise())
    corner = whole.copy()
    corner[0, 0] = 0
    assert not shows_background(corner), "a pixel beside the cell is not trusted"
    corner[:2, :2] = 0
    assert shows_background(corner)
    assert shows_background(np.zeros_like(whole))


# ----------------------------------------------------------------------------------------------------- the cell moved


@given(seed=seeds, half_height=st.floats(4, 14), half_width=st.floats(4, 14))
def test_a_moved_cell_keeps_its_area_and_stays_inside(seed: int, half_height: float, half_width: float) -> None:
    share = _ellipse(20, 24, half_height, half_width)
    seen = _shares_seen(moved_cell(_painted(share, 255, 0), share, BLACK, np.random.default_rng(seed)))
    assert seen.sum() == pytest.approx(share.sum(), rel=0.06)
    # what lies along the border of the image is a rim at most, not a cut through the cell
    border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    assert border.sum() <= 2 * np.sqrt(8 * max(half_height, half_width)) + 4


@given(seed=seeds, cell=st.tuples(*[st.integers(1, 255)] * 3), gray=st.integers(0, 255))
def test_a_moved_cell_keeps_its_colour_and_brings_nothing_along(seed: int, cell: tuple[int, int, int], gray: int) -> None:
    """Every pixel lies between the cell's colour and the new background, whatever surrounded the cell before."""
    share = _ellipse(15, 20, 9, 6)
    image = _painted(share, cell, [255 - c for c in cell])
    copy = moved_cell(image, share, plain(image.shape, gray), np.random.default_rng(seed)).astype(int)
    low, high = np.minimum(cell, gray), np.maximum(cell, gray)
    assert (copy >= low).all()
    assert (copy <= high).all()
    # by how much the image differs from its background, the cell's mean colour is weighted with its area
    difference = (copy - gray).sum(axis=(0, 1))
    np.testing.assert_allclose(difference, (np.array(cell) - gray) * share.sum(), atol=0.06 * share.sum() * 255)
    whole = (copy == cell).all(axis=2)
    assert whole.sum() >= 0.7 * share.sum()


def test_the_mean_colour_of_a_textured_cell_is_kept() -> None:
    share, image = _ellipse(18, 22, 11, 9), _noise(3)
    mean = image[share > 0].mean(axis=0)
    for seed in range(10):
        copy = moved_cell(image, share, BLACK, np.random.default_rng(seed))
        np.testing.assert_allclose(copy.sum(axis=(0, 1)) / share.sum(), mean, rtol=0.08)


def test_the_background_shows_where_the_cell_is_not() -> None:
    share, background = _ellipse(18, 22, 8, 6), _noise(4, low=100)
    copy = moved_cell(_painted(share, 0, 255), share, background, np.random.default_rng(2))
    same = (copy == background).all(axis=2)
    assert same.sum() >= share.size - 1.6 * share.sum()
    assert (copy[~same] <= background[~same]).all(), "a black cell makes nothing brighter"


class _Chosen(np.random.Generator):
    """Draws what it was told: no turn, then whether it is mirrored, how far across, how far down."""

    def __init__(self, mirrored: bool, across: float, down: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.left = [0.1 if mirrored else 0.9, across, down]

    def uniform(self, *given: Any, **more: Any) -> Any:
        return 0.0

    def random(self, *given: Any, **more: Any) -> Any:
        return self.left.pop(0)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("across", "down"), [(0, 0), (1, 1), (0, 1)])
def test_without_a_turn_every_pixel_is_only_shifted(mirrored: bool, across: int, down: int) -> None:
    """At the ends of the range the cell touches the image's border, with all its pixels."""
    image, share = _noise(5, low=1), np.zeros((HEIGHT, WIDTH), np.float32)
    share[11:20, 9:23] = 1
    share[11:14, 9:15] = 0  # so that a mirrored one is another
    cell = np.where(share[..., None] > 0, image, 0)[11:20, 9:23]
    expected = BLACK.copy()
    rows = slice(HEIGHT - 9, HEIGHT) if down else slice(0, 9)
    columns = slice(WIDTH - 14, WIDTH) if across else slice(0, 14)
    expected[rows, columns] = cell[:, ::-1] if mirrored else cell
    np.testing.assert_array_equal(moved_cell(image, share, BLACK, _Chosen(mirrored, across, down)), expected)


def test_it_is_turned_by_any_angle_and_mirrored_half_of_the_time() -> None:
    """Three spots of the cell say how it lies."""
    share = _ellipse(20, 24, 10, 10)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for channel, (row, column) in enumerate([(13, 24), (24, 18), (24, 30)]):
        image[row - 1 : row + 2, column - 1 : column + 2, channel] = 255
    rows, columns = np.indices((HEIGHT, WIDTH))
    quarters, mirrored, centres = [], [], []
    for seed in range(80):
        copy = moved_cell(image, share, BLACK, np.random.default_rng(seed)).astype(float)
        weight = copy.sum(axis=(0, 1))
        at = np.stack([(rows[..., None] * copy).sum((0, 1)), (columns[..., None] * copy).sum((0, 1))]) / weight
        (r1, c1), (r2, c2) = (at[:, 1] - at[:, 0]), (at[:, 2] - at[:, 0])
        mirrored.append(r1 * c2 - c1 * r2 < 0)
        middle = at.mean(axis=1)
        quarters.append(tuple(at[:, 0] > middle))
        centres.append(middle)
        lengths = [np.hypot(r1, c1), np.hypot(r2, c2)]
        np.testing.assert_allclose(lengths, np.hypot(11, 6), atol=0.7, err_msg="it is as large as it was")
    assert len(set(quarters)) == 4
    assert 25 <= sum(mirrored) <= 55
    low, high = np.min(centres, axis=0), np.max(centres, axis=0)
    assert (high - low > np.array([HEIGHT - 20, WIDTH - 20]) * 0.8).all(), "it comes to lie anywhere"


def test_the_same_seed_moves_alike_and_another_does_not() -> None:
    share, image = _ellipse(18, 22, 8, 6), _noise(6)
    copies = [moved_cell(image, share, BLACK, np.random.default_rng(seed)) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(copies[0], copies[1])
    assert not np.array_equal(copies[0], copies[2])


def test_without_a_cell_only_the_background_is_left() -> None:
    empty = np.zeros((HEIGHT, WIDTH), np.float32)
    np.testing.assert_array_equal(moved_cell(_noise(), empty, _noise(1), np.random.default_rng(0)), _noise(1))


@pytest.mark.parametrize("share_of_one", [0.3, 0.5, 1.0])
def test_a_cell_smaller_than_a_pixel_is_moved_too(share_of_one: float) -> None:
    share = np.zeros((HEIGHT, WIDTH), np.float32)
    share[20, 20] = share_of_one
    copy = moved_cell(plain((HEIGHT, WIDTH, 3), 255), share, BLACK, np.random.default_rng(3))
    assert _shares_seen(copy).sum() == pytest.approx(share_of_one, abs=0.35 * share_of_one)


@given(seed=seeds)
def test_a_cell_larger_than_the_image_allows_lies_in_its_middle(seed: int) -> None:
    share = np.ones((HEIGHT, HEIGHT), np.float32)
    share[:, :2] = 0
    white, black = (plain((HEIGHT, HEIGHT, 3), gray) for gray in (255, 0))
    seen = _shares_seen(moved_cell(white, share, black, np.random.default_rng(seed)))
    assert seen.sum() > 0.75 * share.sum()
    for positions in np.indices(seen.shape):
        assert (positions * seen).sum() / seen.sum() == pytest.approx((HEIGHT - 1) / 2, abs=1.5)
