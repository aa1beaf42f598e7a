"""The nucleus: found by its stain at any scale, and measured by its spread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.imaging.nucleus import find_nucleus, is_noise, reduced, spread
from hemalens.imaging.reading import read_image, read_mask


def _disk(shape: tuple[int, int], row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return np.hypot(rows - row, columns - column) < radius


# ------------------------------------------------------------------------------------------------------- its spread


@given(radius=st.floats(8, 40), row=st.floats(50, 90), column=st.floats(50, 130))
def test_a_disk_s_spread_is_its_place_and_diameter(radius: float, row: float, column: float) -> None:
    found = spread(_disk((140, 180), row, column, radius))
    assert (found.row, found.column) == (pytest.approx(row, abs=0.3), pytest.approx(column, abs=0.3))
    assert found.diameter == pytest.approx(2 * radius, abs=0.8)


@given(seed=st.integers(0, 999), height=st.integers(2, 30), width=st.integers(2, 30))
def test_spread_is_by_its_definition(seed: int, height: int, width: int) -> None:
    """A disk of radius r has a mean square distance of r^2 / 2 from its centre."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    mask[0, 1] = True
    places = np.argwhere(mask)
    centre = places.mean(axis=0)
    found = spread(mask)
    np.testing.assert_allclose((found.row, found.column), centre, atol=1e-9)
    radius = np.sqrt(2 * ((places - centre) ** 2).sum(axis=1).mean())
    assert found.diameter == pytest.approx(2 * radius, abs=1e-9)


def test_one_pixel_has_a_place_and_no_diameter() -> None:
    mask = np.zeros((9, 7), bool)
    mask[3, 5] = True
    found = spread(mask)
    assert (found.row, found.column, found.diameter) == (3, 5, 0)


@pytest.mark.parametrize("angle", [0.3, 0.8, 1.2])
def test_a_turned_bar_is_as_wide_as_before_though_its_box_is_not(angle: float) -> None:
    rows, columns = np.indices((101, 101)) - 50.0

    def bar(turn: float) -> NDArray[np.bool_]:
        along, across = columns * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - columns * np.sin(turn)
        return (np.abs(along) < 35) & (np.abs(across) < 8)

    assert spread(bar(angle)).diameter == pytest.approx(spread(bar(0)).diameter, rel=0.02)


def test_lobes_apart_are_wider_than_the_same_lobes_together() -> None:
    together = _disk((100, 100), 50, 42, 8) | _disk((100, 100), 50, 58, 8)
    apart = _disk((100, 100), 50, 30, 8) | _disk((100, 100), 50, 70, 8)
    assert apart.sum() == pytest.approx(together.sum(), rel=0.05)
    assert spread(apart).diameter > 1.8 * spread(together).diameter


# ---------------------------------------------------------------------------------------------------------- finding it


@pytest.mark.parametrize("laboratory", ["lab_a", "lab_b"])
def test_the_nucleus_of_drawn_cells_is_found_at_its_place_and_size(laboratory: str) -> None:
    ratios = []
    for cell_type in CELL_TYPES:
        if cell_type != "platelet":
            image, mask = draw_cell(cell_type, LABORATORIES[laboratory], np.random.default_rng(5))
            found = find_nucleus(image)
            assert found.shape == image.shape[:2]
            assert found.dtype == bool
            assert (found & (mask > 0)).sum() > 0.9 * found.sum(), cell_type
            ratios.append(spread(found).diameter / spread(mask == 255).diameter)
    assert 0.9 < float(np.median(ratios)) < 1.15


@given(height=st.integers(8, 150), width=st.integers(8, 150), n_colours=st.integers(1, 256), seed=st.integers(0, 2**32 - 1))
def test_any_image_has_a_mask_of_its_size(height: int, width: int, n_colours: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, n_colours, (height, width, 3), dtype=np.uint8)
    found = find_nucleus(image)
    assert (found.shape, found.dtype) == ((height, width), bool)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_none(value: int) -> None:
    assert not find_nucleus(np.full((50, 300, 3), value, np.uint8)).any()


def test_a_large_image_is_searched_in_a_small_copy() -> None:
    image = np.zeros((90, 360, 3), np.uint8)
    small, scale = reduced(image)
    assert (small.shape, scale) == ((30, 120, 3), 120 / 360)
    same, whole = reduced(image[:, :120])
    assert whole == 1
    assert same.shape == (90, 120, 3)


def test_the_same_cell_twice_as_large_has_a_nucleus_twice_as_large() -> None:
    image, _ = draw_cell("monocyte", LABORATORIES["lab_a"], np.random.default_rng(2))
    twice = np.asarray(Image.fromarray(image).resize((2 * image.shape[1], 2 * image.shape[0]), Image.Resampling.BICUBIC))
    assert spread(find_nucleus(twice)).diameter == pytest.approx(2 * spread(find_nucleus(image)).diameter, rel=0.02)


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["Dataset 1", "Dataset 2"])
def test_real_nuclei_lie_within_their_cells_and_are_as_wide_as_published(real_data: Path, folder: str) -> None:
    inside, ratios = [], []
    for file in sorted((real_data / "zheng2018" / folder).glob("*.bmp"))[::3]:
        truth, found = read_mask(file.with_suffix(".png")), find_nucleus(read_image(file))
        inside.append((found & (truth > 0)).sum() / found.sum())
        ratios.append(spread(found).diameter / spread(truth == 255).diameter)
    assert len(inside) > 30
    assert np.mean(np.array(inside) > 0.9) > 0.95
    assert 0.95 < float(np.median(ratios)) < 1.05


# ------------------------------------------------------------------------------------- other cells, and nothing at all


@pytest.mark.parametrize("side", [16, 40, 120, 300])
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_picture(side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert is_noise(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    gray = rng.integers(0, 256, (side, side, 1), dtype=np.uint8)
    assert is_noise(np.repeat(gray, 3, axis=2))


def test_a_cell_is_a_picture_and_so_is_one_colour() -> None:
    assert not is_noise(draw_cell("lymphocyte", LABORATORIES["lab_a"], np.random.default_rng(3))[0])
    assert not is_noise(np.full((40, 40, 3), 128, np.uint8))
