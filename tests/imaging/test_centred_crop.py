"""The centred crop: a window of known place, side and colour, and the same cell at the same scale from any image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hemalens.errors import ConfigError
from hemalens.imaging.centred_crop import CentredCropConfig, centred_crop
from hemalens.imaging.nucleus import Spread, find_nucleus, spread
from hemalens.imaging.reading import rim_colour
from hemalens.imaging.segmentation import CellImage

FIELD, CYTOPLASM, CHROMATIN = (238, 226, 214), (196, 172, 216), (84, 38, 128)


def _disk(shape: tuple[int, int], row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return np.hypot(rows - row, columns - column) < radius


def _cell(
    row: float, column: float, radius: float, shape: tuple[int, int] = (200, 240)
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A cell of known place whose cytoplasm is half as wide again as its nucleus of `radius`, and the nucleus's mask.

    Drawn four times as fine, so that its edges are smooth.
    """
    fine = (4 * shape[0], 4 * shape[1])
    image = np.empty((*fine, 3), np.uint8)
    image[:] = FIELD
    for colour, wide in ((CYTOPLASM, 1.5), (CHROMATIN, 1.0)):
        image[_disk(fine, 4 * row + 1.5, 4 * column + 1.5, 4 * wide * radius)] = colour
    smooth = Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX)
    return np.asarray(smooth), _disk(shape, row, column, radius)


def _small(made: CellImage) -> NDArray[np.uint8]:
    """The crop at 64 pixels a side."""
    return np.asarray(Image.fromarray(made.pixels).resize((64, 64), Image.Resampling.BICUBIC))


def _difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean difference of two images in gray levels."""
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


# -------------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("extent", [1.5, 2.0, 3.0])
@pytest.mark.parametrize(("row", "column", "radius"), [(100, 120, 20), (90.4, 130.7, 26), (110, 110, 33.3)])
def test_the_nucleus_is_in_the_middle_and_fills_its_share_of_the_window(
    extent: float, row: float, column: float, radius: float
) -> None:
    image, nucleus = _cell(row, column, radius)
    made = centred_crop(image, spread(nucleus), CentredCropConfig(extent=extent))
    side = made.pixels.shape[0]
    assert made.pixels.shape == (side, side, 3)
    assert made.outcome == "cell"
    found = spread(made.pixels[..., 1] < 100)
    assert found.diameter == pytest.approx(side / extent, rel=0.03)
    middle = (side - 1) / 2
    assert (found.row, found.column) == (pytest.approx(middle, abs=1.5), pytest.approx(middle, abs=1.5))


def test_a_window_on_whole_pixels_is_cut_out_by_hand() -> None:
    """Four corner pixels of a square of side s spread as a disk of diameter 2 s: two of those are a window of 4 s."""
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    nucleus = np.zeros((60, 70), bool)
    nucleus[np.ix_([24, 32], [30, 38])] = True
    assert spread(nucleus).diameter == pytest.approx(16)
    made = centred_crop(image, spread(nucleus))
    # the centre (28, 34) is the middle of a pixel: the window reaches from half a pixel to half a pixel
    whole = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC, box=(18.5, 12.5, 50.5, 44.5))
    np.testing.assert_array_equal(made.pixels, np.asarray(whole))


@given(
    row=st.integers(0, 39),
    column=st.integers(0, 49),
    size=st.integers(1, 30),
    extent=st.floats(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_nucleus_gives_a_square_crop(row: int, column: int, size: int, extent: float, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    nucleus = np.zeros((40, 50), bool)
    nucleus[row : row + size, column : column + size] = True
    made = centred_crop(image, spread(nucleus), CentredCropConfig(extent=extent))
    side = made.pixels.shape[0]
    assert (made.pixels.shape, made.pixels.dtype) == ((side, side, 3), np.uint8)
    wide = extent * max(spread(nucleus).diameter, 1) > 1.5 * 45
    assert made.outcome == ("wide window" if wide else "cell")


def test_the_crop_leaves_its_image_alone() -> None:
    image, nucleus = _cell(20, 30, 18, (100, 100))
    before = image.copy()
    centred_crop(image, spread(nucleus))
    np.testing.assert_array_equal(image, before)


# ------------------------------------------------------------------------------------- as many pixels as the window has


@pytest.mark.parametrize("extent", [1.0, 2.0, 3.3])
@pytest.mark.parametrize("radius", [9.0, 20.0, 33.3])
def test_the_side_is_that_of_the_window_and_tells_the_diameter(extent: float, radius: float) -> None:
    image, nucleus = _cell(100, 120, radius)
    made = centred_crop(image, spread(nucleus), CentredCropConfig(extent=extent))
    side = round(extent * spread(nucleus).diameter)
    assert made.pixels.shape == (side, side, 3)
    assert side == pytest.approx(extent * 2 * radius, abs=0.5 + 0.02 * extent * 2 * radius)


def test_a_window_on_whole_pixels_is_shown_as_it_is() -> None:
    """Four corner pixels 7 apart spread as a disk of diameter 14, and two of those are a window of 28."""
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    nucleus = np.zeros((60, 70), bool)
    nucleus[np.ix_([24, 31], [30, 37])] = True
    assert spread(nucleus).diameter == pytest.approx(14)
    made = centred_crop(image, spread(nucleus))
    # the centre (27.5, 33.5) lies between pixels: the window begins with row 14 and column 20
    np.testing.assert_array_equal(made.pixels, image[14:42, 20:48])


@given(size=st.integers(1, 60), extent=st.floats(1, 4))
@settings(max_examples=30)
def test_the_side_stays_within_its_limits(size: int, extent: float) -> None:
    image = np.full((90, 90, 3), 200, np.uint8)
    nucleus = np.zeros((90, 90), bool)
    nucleus[10 : 10 + size, 10 : 10 + size] = True
    side = centred_crop(image, spread(nucleus), CentredCropConfig(extent=extent)).pixels.shape[0]
    assert side == max(16, round(extent * max(spread(nucleus).diameter, 1)))


def test_a_nucleus_of_many_pixels_is_shown_with_2048_at_most() -> None:
    image = np.full((900, 900, 3), CHROMATIN, np.uint8)
    made = centred_crop(image, spread(np.ones((900, 900), bool)), CentredCropConfig(extent=4.0))
    assert made.pixels.shape == (2048, 2048, 3)


@pytest.mark.parametrize(("shape", "side"), [((30, 50), 50), ((50, 30), 50), ((9, 12), 16), ((20, 3000), 2048)])
def test_an_image_without_a_nucleus_becomes_a_square_of_its_longer_side(shape: tuple[int, int], side: int) -> None:
    image = np.random.default_rng(0).integers(200, 256, (*shape, 3), dtype=np.uint8)
    made = centred_crop(image, None)
    assert made.outcome == "no white cell"
    expected = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(made.pixels, np.asarray(expected))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_an_image_at_another_scale_has_a_crop_as_much_larger_or_smaller(factor: float) -> None:
    image, _ = _cell(96, 126, 24)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    first, second = (centred_crop(each, spread(find_nucleus(each))).pixels.shape[0] for each in (image, scaled))
    assert second == pytest.approx(factor * first, rel=0.05)


# -------------------------------------------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_same_cell_at_another_scale_gives_nearly_the_same_crop(factor: float) -> None:
    image, _ = _cell(96, 126, 24)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    first, second = (_small(centred_crop(each, spread(find_nucleus(each)))) for each in (image, scaled))
    assert _difference(first, second) < 4
    assert _difference(first, np.full_like(first, FIELD)) > 30, "there is much to differ in"


@pytest.mark.parametrize("side", [100, 140, 200, 360])
def test_a_narrow_and_a_wide_field_around_the_same_cell_give_nearly_the_same_crop(side: int) -> None:
    first, second = (
        _small(centred_crop(image, spread(find_nucleus(image))))
        for image, _ in (_cell(60, 60, 20, (120, 120)), _cell(side / 2, side / 2, 20, (side, side)))
    )
    assert _difference(first, second) < 4


@given(down=st.floats(-25, 25), right=st.floats(-25, 25))
@settings(max_examples=15)
def test_a_moved_cell_gives_nearly_the_same_crop(down: float, right: float) -> None:
    still, moved = (_cell(100 + a, 120 + b, 24)[0] for a, b in ((0.0, 0.0), (down, right)))
    first, second = (_small(centred_crop(each, spread(find_nucleus(each)))) for each in (still, moved))
    assert _difference(first, second) < 4


# ------------------------------------------------------------------------------------------------------------ its edges


def test_what_lies_outside_the_image_has_the_colour_of_its_rim() -> None:
    image, nucleus = _cell(50, 22, 20, (100, 100))
    image = image.copy()
    image[0], image[:, 0] = 0, 255
    made = centred_crop(image, spread(nucleus))
    assert rim_colour(image).tolist() == list(FIELD), "a line at the border is not the rim"
    # the window of 80 px begins at column 22 - 40
    outside = made.pixels[:, : 18 - 2]
    np.testing.assert_array_equal(outside, np.broadcast_to(FIELD, outside.shape))
    assert made.outcome == "cell", "the window may leave the image as long as the nucleus does not"


def test_a_large_window_is_copied_from_the_nearest_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 420, 3), dtype=np.uint8)
    made = centred_crop(image, Spread(200.3, 210.1, 65.0))
    # 130 px around (200.8, 210.6), in pixels from the corner
    np.testing.assert_array_equal(made.pixels, image[136:266, 146:276])


def test_a_nucleus_as_large_as_the_image_is_shown_whole_in_the_middle() -> None:
    image = np.full((40, 40, 3), CHROMATIN, np.uint8)
    made = centred_crop(image, spread(np.ones((40, 40), bool)), CentredCropConfig(extent=4.0))
    assert made.outcome == "wide window"
    np.testing.assert_array_equal(made.pixels, np.broadcast_to(CHROMATIN, made.pixels.shape))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"extent": 0.9}, "extent"),
        ({"extent": 4.1}, "extent"),
        ({"extent": float("nan")}, "extent"),
        ({"extent": "2"}, "extent"),
        ({"size_px": 160}, "size_px"),
        ({"margin_px": 3}, "margin_px"),
    ],
)
def test_a_wrong_setting_is_refused(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        CentredCropConfig.from_mapping(values)
