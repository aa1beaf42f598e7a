"""The nucleus of a single cell: right at any size of the image, the same each time, and doubt where it is due."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import trained
from hemalens.bundle.detector import FOLDER, open_detector
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.evaluation.stress_suite import CONDITIONS, findings, recoloured
from hemalens.imaging.reading import read_image

FIELD, CHROMATIN = (238, 226, 214), (84, 38, 128)
FINDER = trained.finder()
WHITE_CELLS = ("neutrophil", "eosinophil", "lymphocyte", "monocyte")


def _nuclei(shape: tuple[int, int], *disks: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Dark disks (row, column, radius) in a bright field, with soft edges."""
    rows, columns = np.indices(shape)
    image = np.empty((*shape, 3))
    image[:] = FIELD
    for row, column, radius in disks:
        share = (radius + 0.5 - np.hypot(rows - row, columns - column)).clip(0, 1)[..., None]
        image = share * CHROMATIN + (1 - share) * image
    return image.astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- where and how wide


@pytest.mark.parametrize("side", [60, 96, 130, 240, 575, 1200])
@pytest.mark.parametrize("share", [0.12, 0.2, 0.3])
def test_a_disk_is_found_with_its_centre_and_diameter(side: int, share: float) -> None:
    row, column, radius = 0.47 * side, 0.54 * side, share * side
    found = FINDER.nucleus_of(_nuclei((side, side), (row, column, radius)))
    assert (found.outcome, found.spread is not None) == ("cell", True)
    assert found.spread is not None
    assert found.spread.diameter == pytest.approx(2 * radius, rel=0.05)
    assert np.hypot(found.spread.row - row, found.spread.column - column) < 0.1 * radius


@given(down=st.floats(-0.15, 0.15), right=st.floats(-0.15, 0.15), height=st.integers(80, 300), wide=st.floats(0.7, 1.4))
@settings(max_examples=30, deadline=None)
def test_place_and_shape_of_the_image_do_not_matter(down: float, right: float, height: int, wide: float) -> None:
    shape = (height, round(height * wide))
    radius = 0.15 * min(shape)
    row, column = shape[0] * (0.5 + down) - 0.5, shape[1] * (0.5 + right) - 0.5
    found = FINDER.nucleus_of(_nuclei(shape, (row, column, radius)))
    assert found.spread is not None
    assert found.spread.diameter == pytest.approx(2 * radius, rel=0.12)
    assert np.hypot(found.spread.row - row, found.spread.column - column) < 0.2 * radius


def test_a_small_nucleus_is_looked_at_again() -> None:
    """Of 6 pixels in the detector's input: the first look alone would be off by a tenth."""
    found = FINDER.nucleus_of(_nuclei((900, 900), (430, 470, 32)))
    assert found.spread is not None
    assert found.spread.diameter == pytest.approx(64, rel=0.03)
    assert np.hypot(found.spread.row - 430, found.spread.column - 470) < 2


def test_the_lobes_of_one_nucleus_count_together() -> None:
    found = FINDER.nucleus_of(_nuclei((200, 200), (91, 91, 10), (109, 109, 10)))
    assert found.spread is not None
    assert (found.spread.row, found.spread.column) == (pytest.approx(100, abs=1.5), pytest.approx(100, abs=1.5))
    # mean squared distance from the centre: that of a disk, r^2 / 2, and that between the centres, 9^2 + 9^2
    assert found.spread.diameter == pytest.approx(2 * np.sqrt(2 * (10**2 / 2 + 162)), rel=0.12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (8, 8), (9, 2000), (2000, 60), (2000, 2000)])
def test_an_image_of_any_size_has_an_answer(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for given_image in (image, np.full_like(image, 20), np.full_like(image, 240)):
        found = FINDER.nucleus_of(given_image)
        assert (found.spread is None) == (found.outcome == "no white cell")
        if found.spread is not None:
            assert np.isfinite([found.spread.row, found.spread.column, found.spread.diameter]).all()


def test_one_image_has_one_answer_in_any_thread() -> None:
    images = [draw_cell(kind, LABORATORIES["lab_a"], np.random.default_rng(i))[0] for i, kind in enumerate(CELL_TYPES)]
    alone = [FINDER.nucleus_of(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(FINDER.nucleus_of, images * 4)) == alone * 4


# ------------------------------------------------------------------------------------------------------------------ doubt


def test_an_empty_field_shows_no_white_cell() -> None:
    found = FINDER.nucleus_of(_nuclei((120, 140)))
    assert (found.spread, found.outcome) == (None, "no white cell")


@pytest.mark.parametrize(
    ("row", "column", "outcome"),
    [(60, 60, "cell"), (60, 1, "touches border"), (118, 60, "touches border"), (5, 5, "touches border"), (60, 19, "cell")],
)
def test_a_nucleus_that_the_border_cuts_deeply_or_on_two_sides_is_in_doubt(row: int, column: int, outcome: str) -> None:
    assert FINDER.nucleus_of(_nuclei((120, 120), (row, column, 18))).outcome == outcome


def test_another_cell_is_told_where_it_is_whole_or_its_centre_seen() -> None:
    one, shape = (80.0, 80.0, 16.0), (160, 260)
    assert FINDER.nucleus_of(_nuclei(shape, one)).outcome == "cell"
    found = FINDER.nucleus_of(_nuclei(shape, one, (80.0, 190.0, 16.0)))
    assert found.outcome == "another white cell"
    assert found.spread is not None
    assert found.spread.diameter == pytest.approx(32, rel=0.05), "the other nucleus is none of its lobes"


# ------------------------------------------------------------------------------------------------------ the real detector


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["Dataset 1", pytest.param("Dataset 2", marks=pytest.mark.slow)])
def test_the_package_s_detector_finds_nuclei_in_every_stain(real_data: Path, folder: str) -> None:
    """Nine cells: most have the right extent in any condition, three in four in all. benchmarks/finding.py has more."""
    finder = open_detector(FOLDER).finder
    cells = []
    files = sorted((real_data / "zheng2018" / folder).glob("*.bmp"))
    for file in files[:: len(files) // 8]:
        mask = np.asarray(Image.open(file.with_suffix(".png")).convert("L"))
        cells.append((read_image(file), np.digitize(mask, (64, 192)).astype(np.uint8)))
    right = []
    for name, condition in CONDITIONS.items():
        found = [finder.nucleus_of(recoloured(image, masks, condition)).spread for image, masks in cells]
        got = findings(found, [masks == 2 for _, masks in cells])
        assert (got.found, got.centre_inside > 0.85, got.extent_right > 0.5) == (1.0, True, True), (name, got)
        right.append(got.extent_right)
    assert np.mean(right) > 0.75
