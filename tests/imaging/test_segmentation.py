"""Segmentation and the masked cell image: formulas, geometry on drawn masks, any input, and the bar on real masks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import CubicSpline

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.errors import ConfigError, ImageError, InputError
from hemalens.imaging.reading import read_image, read_mask
from hemalens.imaging.segmentation import (
    CellImageConfig,
    cell_image,
    cut_source,
    dice,
    intersection_over_union,
    largest_component,
    resized,
    segment_cell,
)

GRAY = 128


def _picture(height: int = 30, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """Random colours without the background's value, so that a cell's pixel is never mistaken for it."""
    return np.random.default_rng(seed).integers(130, 256, (height, width, 3), dtype=np.uint8)


def _mask(height: int, width: int, *boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """True within boxes (top, left, bottom, right), the last row and column exclusive."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _bicubic(image: NDArray[np.uint8], size_px: int = 128) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BICUBIC))


def _unscaled(height: int, width: int, margin: int) -> CellImageConfig:
    """A configuration under which a square box keeps its pixels: its size is that of the padded crop."""
    assert height == width
    return CellImageConfig(size_px=height + 2 * margin, margin_px=margin)


# Agreement of masks


def test_agreement_follows_its_formulas() -> None:
    mask, truth = _mask(10, 10, (0, 0, 4, 5)), _mask(10, 10, (2, 0, 6, 5))
    assert intersection_over_union(mask, truth) == 10 / 30
    assert dice(mask, truth) == 20 / 40


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_agreement_equals_the_count_of_pixels(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask, truth = rng.random((7, 9)) < share, rng.random((7, 9)) < 0.5
    pairs = list(zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True))
    both, one = sum(a and b for a, b in pairs), sum(a != b for a, b in pairs)
    if both + one:
        assert intersection_over_union(mask, truth) == pytest.approx(both / (both + one))
        assert dice(mask, truth) == pytest.approx(2 * both / (2 * both + one))
    assert intersection_over_union(mask, mask) == dice(mask, mask) == 1.0
    assert intersection_over_union(mask, truth) == intersection_over_union(truth, mask)


def test_two_empty_masks_agree_and_an_empty_one_never_with_another() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert intersection_over_union(empty, empty) == dice(empty, empty) == 1.0
    assert intersection_over_union(empty, full) == dice(empty, full) == 0.0


@pytest.mark.parametrize("measure", [intersection_over_union, dice])
def test_masks_of_different_shapes_are_an_error(measure: object) -> None:
    with pytest.raises(InputError, match=r"different shapes; expected \(4, 5\); got \(5, 4\)"):
        measure(np.zeros((5, 4), bool), np.zeros((4, 5), bool))  # type: ignore[operator]


# The masked cell image


def test_last_row_and_column_of_the_cell_are_kept() -> None:
    image, mask = _picture(), _mask(30, 40, (5, 10, 25, 30))
    result = cell_image(image, mask, _unscaled(20, 20, 6))
    expected = np.full((32, 32, 3), GRAY, np.uint8)
    expected[6:26, 6:26] = image[5:25, 10:30]
    assert result.outcome == "cell"
    np.testing.assert_array_equal(result.pixels, expected)


def test_default_is_a_margin_of_10_and_a_bicubic_resize_to_128_without_aspect() -> None:
    image, mask = _picture(), _mask(30, 40, (5, 10, 12, 30))
    expected = np.full((27, 40, 3), GRAY, np.uint8)
    expected[10:17, 10:30] = image[5:12, 10:30]
    np.testing.assert_array_equal(cell_image(image, mask).pixels, _bicubic(expected))


def test_outside_of_the_component_is_background_holes_included() -> None:
    image = _picture()
    mask = _mask(30, 40, (5, 10, 25, 30))
    mask[5:8, 10:14] = False
    mask[12:16, 18:22] = False
    pixels = cell_image(image, mask, _unscaled(20, 20, 0)).pixels
    assert (pixels[0:3, 0:4] == GRAY).all()
    assert (pixels[7:11, 8:12] == GRAY).all()
    np.testing.assert_array_equal(pixels[mask[5:25, 10:30]], image[mask])


def test_largest_of_two_components_counts_and_the_other_is_background() -> None:
    image = _picture()
    mask = _mask(30, 40, (2, 2, 18, 18))
    mask[2:12, 2:12] = False
    mask[2:8, 2:8] = True  # 36 pixels within the box of the larger one, 156 pixels
    pixels = cell_image(image, mask, _unscaled(16, 16, 0)).pixels
    assert (pixels[:6, :6] == GRAY).all()
    np.testing.assert_array_equal(pixels[10:], image[12:18, 2:18])


def test_of_equal_components_the_first_in_scan_order_counts() -> None:
    image, mask = _picture(), _mask(30, 40, (10, 2, 26, 18), (3, 20, 19, 36))
    np.testing.assert_array_equal(cell_image(image, mask, _unscaled(16, 16, 0)).pixels, image[3:19, 20:36])


def test_pixels_that_touch_at_a_corner_are_one_component() -> None:
    image, mask = _picture(), _mask(30, 40, (2, 2, 10, 10), (10, 10, 18, 18))
    pixels = cell_image(image, mask, _unscaled(16, 16, 0)).pixels
    np.testing.assert_array_equal(pixels[:8, :8], image[2:10, 2:10])
    np.testing.assert_array_equal(pixels[8:, 8:], image[10:18, 10:18])


def test_with_four_neighbours_pixels_that_touch_at_a_corner_are_two_components() -> None:
    image, mask = _picture(), _mask(30, 40, (2, 2, 10, 10), (10, 10, 26, 26))
    config = _unscaled(16, 16, 0).model_copy(update={"connectivity": 4})
    np.testing.assert_array_equal(cell_image(image, mask, config).pixels, image[10:26, 10:26])


def _bilinear(image: NDArray[np.uint8], size_px: int) -> NDArray[np.float64]:
    """Each pixel from its four neighbours, the image's edge repeated beyond it."""
    parts = []
    for n in image.shape[:2]:
        at = np.clip((np.arange(size_px) + 0.5) * n / size_px - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), n - 1)
        parts.append((low, np.minimum(low + 1, n - 1), at - low))
    (top, bottom, down), (left, right, across) = parts
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    mixed: NDArray[np.float64] = rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]
    return mixed


@pytest.mark.parametrize(("height", "width"), [(400, 400), (363, 360), (224, 224), (120, 150), (1, 7)])
def test_the_source_of_a_published_cell_is_the_image_at_224_px(height: int, width: int) -> None:
    image = _picture(height, width)
    assert cut_source(image, CellImageConfig()) is image
    source = cut_source(image, CellImageConfig(cut_from="resized"))
    assert (source.shape, source.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(source - _bilinear(image, 224)).max() <= 0.5 + 1e-6


def _spline(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The cubic spline through the rows of values (m, ...) at n places from the first to the last, mirrored at both."""
    mirrored = np.concatenate([values, values[-2::-1]])
    curve = CubicSpline(np.arange(len(mirrored)), mirrored, bc_type="periodic")
    at: NDArray[np.float64] = curve(np.linspace(0, len(values) - 1, n))
    return at


@pytest.mark.parametrize(("height", "width", "size_px"), [(20, 33, 128), (180, 150, 128), (64, 64, 64)])
def test_a_spline_runs_through_the_pixels(height: int, width: int, size_px: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = resized(image, size_px, "spline")
    expected = _spline(_spline(image.astype(float), size_px).swapaxes(0, 1), size_px).swapaxes(0, 1).clip(0, 255)
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    config = CellImageConfig(size_px=size_px, resampling="spline")
    np.testing.assert_array_equal(cell_image(image, np.zeros((height, width), bool), config).pixels, found)


@pytest.mark.parametrize("box", [(0, 5, 16, 21), (5, 0, 21, 16), (14, 5, 30, 21), (5, 24, 21, 40)])
def test_component_at_the_border_is_said_and_treated_alike(box: tuple[int, int, int, int]) -> None:
    image, mask = _picture(), _mask(30, 40, box)
    result = cell_image(image, mask, _unscaled(16, 16, 4))
    assert result.outcome == "touches border"
    np.testing.assert_array_equal(result.pixels[4:20, 4:20], image[box[0] : box[2], box[1] : box[3]])
    assert (result.pixels[:4] == GRAY).all()
    assert (result.pixels[:, 20:] == GRAY).all()


def test_small_component_at_the_border_does_not_count_for_a_large_one_inside() -> None:
    image, mask = _picture(), _mask(30, 40, (0, 0, 3, 3), (8, 8, 24, 24))
    assert cell_image(image, mask).outcome == "cell"


def test_single_pixel_is_a_cell() -> None:
    image, mask = _picture(), _mask(30, 40, (7, 9, 8, 10))
    result = cell_image(image, mask, CellImageConfig(size_px=21, margin_px=10))
    assert result.outcome == "cell"
    np.testing.assert_array_equal(result.pixels[10, 10], image[7, 9])
    assert (np.delete(result.pixels.reshape(-1, 3), 10 * 21 + 10, axis=0) == GRAY).all()


def test_empty_mask_gives_the_whole_image() -> None:
    image = _picture()
    result = cell_image(image, np.zeros((30, 40), bool))
    assert result.outcome == "no white cell"
    np.testing.assert_array_equal(result.pixels, _bicubic(image))


def test_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"another size than the image; expected \(30, 40\); got \(40, 30\)"):
        cell_image(_picture(), np.zeros((40, 30), bool))


def test_input_stays_as_it_was() -> None:
    image, mask = _picture(), _mask(30, 40, (5, 5, 20, 20))
    before = image.copy(), mask.copy()
    cell_image(image, mask)
    segment_cell(image)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize(
    ("box", "outcome"), [((8, 8, 24, 20), "cell"), ((0, 8, 24, 20), "touches border"), ((0, 0, 32, 32), "touches border")]
)
def test_without_a_crop_the_cell_keeps_its_place_and_size(box: tuple[int, int, int, int], outcome: str) -> None:
    """The margin, which is for the box, is none here."""
    image, mask = _picture(32, 32), _mask(32, 32, box, (28, 28, 30, 30))
    component = _mask(32, 32, box)
    result = cell_image(image, mask, CellImageConfig(size_px=32, margin_px=9, background=7, crop=False))
    assert result.outcome == outcome
    np.testing.assert_array_equal(result.pixels[component], image[component])
    assert (result.pixels[~component] == 7).all()


def test_without_a_crop_the_whole_image_is_resized() -> None:
    image, mask = _picture(30, 44), _mask(30, 44, (5, 10, 25, 30))
    blanked = np.where(mask[..., None], image, np.uint8(GRAY))
    for size_px in (16, 64):
        found = cell_image(image, mask, CellImageConfig(size_px=size_px, crop=False))
        np.testing.assert_array_equal(found.pixels, _bicubic(blanked, size_px))
    empty = cell_image(image, np.zeros((30, 44), bool), CellImageConfig(size_px=64, crop=False))
    assert empty.outcome == "no white cell"
    np.testing.assert_array_equal(empty.pixels, _bicubic(image, 64))


@pytest.mark.parametrize("connectivity", [4, 8])
@given(height=st.integers(1, 14), width=st.integers(1, 14), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_the_largest_component_is_the_largest_that_a_flood_finds(
    *, connectivity: Literal[4, 8], height: int, width: int, share: float, seed: int
) -> None:
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if connectivity == 8 or 0 in (i, j)]
    mask = np.random.default_rng(seed).random((height, width)) < share
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    components = []
    for start in sorted(left):  # in scan order
        if start not in left:
            continue
        left.remove(start)
        component, edge = {start}, [start]
        while edge:
            row, column = edge.pop()
            near = {(row + i, column + j) for i, j in steps} & left
            left -= near
            component |= near
            edge.extend(near)
        components.append(component)
    expected = max(components, key=len, default=set())  # the first of equal ones
    found = largest_component(mask, connectivity=connectivity)
    assert found.dtype == bool
    assert {(int(r), int(c)) for r, c in np.argwhere(found)} == expected


@pytest.mark.parametrize(
    "values",
    [{"size_px": 4}, {"margin_px": -1}, {"background": 256}, {"margin": 1}, {"connectivity": 6}, {"cut_from": 224}],
)
def test_configuration_is_bounded(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        CellImageConfig.from_mapping(values)


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    share=st.floats(0, 1),
    size_px=st.integers(16, 70),
    margin_px=st.integers(0, 20),
    background=st.integers(0, 255),
    resampling=st.sampled_from(["bicubic", "spline"]),
)
def test_any_mask_gives_an_image_of_the_asked_size(
    *,
    height: int,
    width: int,
    share: float,
    size_px: int,
    margin_px: int,
    background: int,
    resampling: Literal["bicubic", "spline"],
) -> None:
    config = CellImageConfig(size_px=size_px, margin_px=margin_px, background=background, resampling=resampling)
    mask = np.random.default_rng(height * 41 + width).random((height, width)) < share
    result = cell_image(_picture(height, width), mask, config)
    assert result.pixels.shape == (size_px, size_px, 3)
    assert result.pixels.dtype == np.uint8
    assert (result.outcome == "no white cell") == (not mask.any())


# Segmentation


def _check_mask(image: NDArray[np.uint8]) -> None:
    result = segment_cell(image)
    assert result.cell.shape == image.shape[:2]
    assert result.cell.dtype == bool
    assert (result.nucleus is None) == (not result.cell.any())
    if result.nucleus is not None:
        assert result.nucleus.shape == image.shape[:2]
        assert result.nucleus.dtype == bool
        assert not (result.nucleus & ~result.cell).any()


@given(
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    n_colours=st.integers(1, 256),
    coarse=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
@example(height=8, width=8, n_colours=2, coarse=1, seed=0)
@example(height=8, width=300, n_colours=200, coarse=20, seed=0)
@example(height=301, width=9, n_colours=200, coarse=20, seed=1)
def test_any_image_gives_masks_of_its_size(height: int, width: int, n_colours: int, coarse: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, n_colours, (height // coarse + 1, width // coarse + 1, 3), dtype=np.uint8)
    _check_mask(blocks.repeat(coarse, axis=0).repeat(coarse, axis=1)[:height, :width])


@pytest.mark.parametrize("side", [8, 9, 120, 333])
@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_image_of_one_colour_has_no_cell(side: int, value: int) -> None:
    image = np.full((side, side, 3), value, np.uint8)
    _check_mask(image)
    assert not segment_cell(image).cell.any()


def test_gradient_has_masks_of_its_size() -> None:
    _check_mask(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3)))


@cache
def _cells(laboratory: str) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """One drawn cell of each nucleated type with the mask of the whole cell; a platelet may be lost among red cells."""
    drawn = []
    for cell_type in CELL_TYPES:
        if cell_type != "platelet":
            image, mask = draw_cell(cell_type, LABORATORIES[laboratory], np.random.default_rng(11))
            drawn.append((image, mask > 0))
    return drawn


@pytest.mark.parametrize("laboratory", ["lab_a", "lab_b"])
def test_drawn_cells_are_found_far_better_than_by_a_disk_in_the_centre(laboratory: str) -> None:
    cells = _cells(laboratory)
    radius = np.sqrt(np.mean([truth.sum() for _, truth in cells]) / np.pi)
    rows, columns = np.indices(cells[0][1].shape)
    disk = np.hypot(rows - rows.max() / 2, columns - columns.max() / 2) < radius
    found = [intersection_over_union(segment_cell(image).cell, truth) for image, truth in cells]
    guessed = [intersection_over_union(disk, truth) for _, truth in cells]
    assert np.mean(found) > 0.88
    assert np.mean(found) > np.mean(guessed) + 0.1


def test_result_is_the_same_each_time() -> None:
    image, _ = _cells("lab_a")[0]
    first, second = segment_cell(image), segment_cell(image)
    np.testing.assert_array_equal(first.cell, second.cell)
    np.testing.assert_array_equal(first.nucleus, second.nucleus)


@pytest.mark.parametrize("factor", [0.6, 2.0])
def test_scale_of_the_image_matters_little(factor: float) -> None:
    image, truth = _cells("lab_a")[4]
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    mask = np.asarray(Image.fromarray(segment_cell(scaled).cell).resize(truth.shape[::-1], Image.Resampling.NEAREST))
    assert intersection_over_union(mask, segment_cell(image).cell) > 0.85


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["Dataset 1", "Dataset 2"])
def test_real_cells_overlap_their_published_masks(real_data: Path, folder: str) -> None:
    files = sorted((real_data / "zheng2018" / folder).glob("*.bmp"))[::3]
    assert len(files) > 30
    overlaps = [
        intersection_over_union(segment_cell(read_image(file)).cell, read_mask(file.with_suffix(".png")) > 0)
        for file in files
    ]
    assert np.mean(overlaps) >= 0.8
