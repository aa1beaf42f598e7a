"""Exposure: images that show nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.imaging import exposure as exposures
from hemalens.imaging.exposure import exposure


def _level(value: int, *, cell: int | None = None, size: int = 100) -> NDArray[np.uint8]:
    """One gray level, with noise of two levels and, if wanted, a disk of another level over 7 % of the image."""
    noise = np.random.default_rng(0).integers(-1, 2, (size, size, 3))
    image = np.clip(value + noise, 0, 255)
    if cell is not None:
        rows, columns = np.indices((size, size)) - size // 2
        image[np.hypot(rows, columns) < 0.15 * size] = cell
    return image.astype(np.uint8)


@pytest.mark.parametrize("size", [8, 100, 700])
@pytest.mark.parametrize(
    ("value", "cell", "expected"),
    [
        (0, None, "black"),
        (20, 30, "black"),
        (255, None, "white"),
        (240, 228, "white"),
        (128, None, "flat"),
        (200, 190, "flat"),
        (0, 150, None),
        (250, 90, None),
        (200, 150, None),
    ],
)
def test_exposure(value: int, cell: int | None, expected: str | None, size: int) -> None:
    assert exposure(_level(value, cell=cell, size=size)) == expected


def test_a_few_bright_pixels_do_not_hide_a_black_image() -> None:
    image = _level(3)
    image[0, :20] = 255
    assert exposure(image) == "black"


@pytest.mark.parametrize("kind", ["neutrophil", "lymphocyte", "monocyte"])
@pytest.mark.parametrize("laboratory", sorted(LABORATORIES))
def test_cells_have_no_unusual_exposure(kind: str, laboratory: str) -> None:
    assert exposure(draw_cell(kind, LABORATORIES[laboratory], np.random.default_rng(1))[0]) is None


@given(hnp.arrays(np.uint8, st.integers(1, 400), elements=st.integers(0, 255)))
def test_percentiles_of_a_histogram_are_those_of_sorted_values(levels: NDArray[np.uint8]) -> None:
    found = exposures._percentiles(levels, (0.01, 0.5, 0.99))
    np.testing.assert_allclose(found, np.percentile(levels, (1, 50, 99)), rtol=0, atol=1e-9)
