"""Other colours for red cells and nuclei, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hemalens.errors import ConfigError
from hemalens.imaging.boxes import RED, WHITE, Boxes
from hemalens.training.detector.recolouring import RecolouringConfig, ellipses, recoloured

SIDE, Q = 96, 24
NOTHING = RecolouringConfig(
    share=1.0, red_hue=0, red_dark=(0.0, 0.0), red_dye=0, nucleus_hue=0, nucleus_dark=(0.0, 0.0), cytoplasm_dye=0
)
ALWAYS = RecolouringConfig(share=1.0)
RED_CELL, NO_CELL = Boxes.of([RED], [[3.0, 4.0, 9.0, 10.0]]), Boxes()
WHITE_CELL = Boxes.of([WHITE], [[10.0, 10.0, 24.0, 24.0]])


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(40, 250, (SIDE, SIDE, 3), dtype=np.uint8)


def _nucleus() -> NDArray[np.float32]:
    nucleus = np.zeros((Q, Q), np.float32)
    nucleus[14:20, 14:20] = 1
    return nucleus


def test_strength_zero_changes_at_most_a_rounding(image: NDArray[np.uint8]) -> None:
    found = recoloured(image, _nucleus(), RED_CELL, NOTHING, np.random.default_rng(1))
    assert np.abs(found.astype(int) - image).max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_nothing_changes_outside_cells_and_nuclei(image: NDArray[np.uint8], seed: int) -> None:
    found = recoloured(image, _nucleus(), RED_CELL, ALWAYS, np.random.default_rng(seed))
    change = np.abs(found.astype(int) - image).max(axis=2)
    # the rim of an ellipse, at most 16 % further out in each direction, and a place's interpolation
    inside = np.zeros((SIDE, SIDE), bool)
    inside[4 * 4 - 8 : 10 * 4 + 8, 3 * 4 - 8 : 9 * 4 + 8] = True
    inside[14 * 4 - 4 : 20 * 4 + 4, 14 * 4 - 4 : 20 * 4 + 4] = True
    assert change[~inside].max() <= 1
    assert change[inside].max() > 5


def test_a_nucleus_alone_changes_where_there_is_no_red_cell(image: NDArray[np.uint8]) -> None:
    found = recoloured(image, _nucleus(), NO_CELL, ALWAYS, np.random.default_rng(2))
    change = np.abs(found.astype(int) - image).max(axis=2)
    assert change[: 14 * 4 - 4].max() <= 1
    assert change[15 * 4 : 19 * 4, 15 * 4 : 19 * 4].mean() > 5


def test_the_absorbance_of_a_nucleus_is_multiplied(image: NDArray[np.uint8]) -> None:
    twice = NOTHING.model_copy(update={"nucleus_dark": (np.log(2), np.log(2))})
    found = recoloured(image, np.ones((Q, Q), np.float32), NO_CELL, twice, np.random.default_rng(0))
    # twice the absorbance is the square of the transmitted share
    wanted = (image / 255.0) ** 2 * 255
    assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_cytoplasm_gets_the_dye_of_its_nucleus_and_stays_paler(seed: int) -> None:
    image = np.full((SIDE, SIDE, 3), 230, np.uint8)
    image[14 * 4 : 20 * 4, 14 * 4 : 20 * 4] = (90, 60, 140)
    dyed = NOTHING.model_copy(update={"cytoplasm_dye": 1.0})
    found = recoloured(image, _nucleus(), WHITE_CELL, dyed, np.random.default_rng(seed)).astype(float)
    cytoplasm, nucleus = found[17 * 4, 11 * 4 : 12 * 4], found[17 * 4, 16 * 4 : 18 * 4]
    assert 230 - 1 > cytoplasm.mean() > nucleus.mean()
    assert np.abs(nucleus - (90, 60, 140)).max() <= 1
    assert np.abs(found[:36] - 230).max() <= 1


def test_share_zero_changes_nothing(image: NDArray[np.uint8]) -> None:
    never = RecolouringConfig(share=0.0)
    found = recoloured(image, _nucleus(), RED_CELL, never, np.random.default_rng(0))
    assert np.abs(found.astype(int) - image).max() <= 1


def test_an_ellipse_fills_its_box_and_no_more() -> None:
    weights = ellipses(np.array([[4.0, 8.0, 16.0, 20.0]]), Q)
    assert weights[13, 9] == 1
    y, x = np.mgrid[0:Q, 0:Q] + 0.5
    squared = ((x - 10) / 6) ** 2 + ((y - 14) / 6) ** 2
    assert np.all(weights[squared < 0.9] == 1)
    assert not weights[squared > 1.2].any()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="red_hue"):
        RecolouringConfig.from_mapping({"red_hue": 3.0})
