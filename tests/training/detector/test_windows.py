"""Windows of fields: boxes and marks follow place, size, turn and flip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.imaging.boxes import RED, WHITE, Boxes
from hemalens.training.detector import windows
from hemalens.training.detector.windows import NUCLEUS_BIT, UNKNOWN_BIT, Sheet, Window, drawn_window

COLOUR = (255, 0, 0)


def _sheet(corners: tuple[int, int, int, int], *, height: int = 150, width: int = 200, kind: int = WHITE) -> Sheet:
    """A black field with a red rectangle, boxed; it is all nucleus, and its right neighbour unknown."""
    left, top, right, bottom = corners
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = COLOUR
    marks = np.zeros((height, width), np.uint8)
    marks[top:bottom, left:right] = NUCLEUS_BIT
    return Sheet(image, Boxes.of([kind], [corners]), (0, 1, 2), marks)


def _found(window: Window) -> tuple[float, float, float, float] | None:
    """The box of what is red in a window."""
    rows, columns = np.nonzero(window.image[..., 0] > 127)
    if not len(rows):
        return None
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


@given(
    left=st.integers(0, 150),
    top=st.integers(0, 100),
    across=st.integers(12, 50),
    down=st.integers(12, 50),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_a_rectangle_is_found_where_its_box_is(left: int, top: int, across: int, down: int, seed: int) -> None:
    sheet = _sheet((left, top, min(left + across, 200), min(top + down, 150)))
    # white outside the field would be taken for red
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "LIKE_RIM", 1.0)
        window = drawn_window(sheet, 96, rng)
    assert window.image.shape == (96, 96, 3)
    found = _found(window)
    if found is None:
        assert all(min(c[2], 96) - max(c[0], 0) < 3 or min(c[3], 96) - max(c[1], 0) < 3 for c in window.boxes.corners)
        return
    assert len(window.boxes) == 1
    assert window.boxes.kinds.tolist() == [WHITE]
    # a pixel of the field is up to six of the window, whose rim is interpolated
    assert np.abs(window.boxes.corners[0].clip(0, 96) - found).max() <= 4.5


@pytest.mark.parametrize("seed", range(12))
def test_the_nucleus_lies_on_its_pixels(seed: int) -> None:
    sheet = _sheet((80, 50, 120, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "LIKE_RIM", 1.0)
        window = drawn_window(sheet, 96, np.random.default_rng(seed))
    shares = (window.image[..., 0] / 255.0).reshape(24, 4, 24, 4).mean(axis=(1, 3))
    assert window.nucleus.dtype == np.float32
    assert np.abs(shares - window.nucleus).mean() < 0.03
    assert not window.unknown.any()


def test_places_with_unknown_pixels_are_unknown() -> None:
    sheet = _sheet((80, 50, 120, 90))
    sheet.marks[50:90, 80:120] = UNKNOWN_BIT
    window = drawn_window(sheet, 96, np.random.default_rng(3))
    assert not window.nucleus.any()
    assert window.unknown.any()
    assert not window.unknown.all()


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_boxes_turn_with_the_image(quarters: int, flip: bool) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[4:10, 12:28] = COLOUR
    nucleus = image[::4, ::4, 0].astype(np.float32) / 255
    window = Window(image, Boxes.of([RED], [[12, 4, 28, 10]]), (RED,), nucleus, nucleus > 0)
    turned = windows._turned(window, quarters, flip=flip)
    assert turned.boxes.corners[0].tolist() == list(_found(turned) or ())
    assert np.array_equal(turned.unknown, turned.nucleus > 0)
    assert turned.nucleus.sum() == nucleus.sum()


def test_the_size_of_white_cells_covers_the_stated_range() -> None:
    sheet = _sheet((80, 50, 120, 90), height=400, width=400)
    sides = []
    for seed in range(200):
        window = drawn_window(sheet, 192, np.random.default_rng(seed))
        sides += window.boxes.sides.tolist()
    low, high = (share * 192 for share in windows.WHITE_SIDES)
    # the least magnification shows one and a half fields
    assert min(sides) == pytest.approx(low, rel=0.15)
    assert max(sides) == pytest.approx(high, rel=0.1)


def test_a_field_without_a_box_gives_windows() -> None:
    empty = Sheet(np.full((60, 90, 3), 200, np.uint8), Boxes(), (0, 1, 2), np.zeros((60, 90), np.uint8))
    window = drawn_window(empty, 64, np.random.default_rng(0))
    assert window.image.shape == (64, 64, 3)
    assert not len(window.boxes)


def test_a_window_depends_on_the_generator_alone() -> None:
    sheet = _sheet((80, 50, 120, 90))
    first, again = (drawn_window(sheet, 96, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes.corners, again.boxes.corners)
    assert not np.array_equal(first.image, drawn_window(sheet, 96, np.random.default_rng(8)).image)
