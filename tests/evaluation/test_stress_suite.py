"""The stress suite: shapes stay, stains change where they lie, and the measures are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hemalens.evaluation.stress_suite import CONDITIONS, Condition, Dye, findings, recoloured
from hemalens.imaging.nucleus import Spread

FIELD, RED, CYTOPLASM, NUCLEUS = (240, 230, 220), (225, 150, 150), (190, 170, 210), (90, 40, 130)


def _picture() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A cell in a field with a red cell, and its masks."""
    rows, columns = np.indices((90, 100))
    image, masks = np.empty((90, 100, 3), np.uint8), np.zeros((90, 100), np.uint8)
    image[:] = FIELD
    image[np.hypot(rows - 15, columns - 15) < 12] = RED
    for value, (colour, radius) in enumerate(((CYTOPLASM, 28), (NUCLEUS, 16)), start=1):
        inside = np.hypot(rows - 50, columns - 55) < radius
        image[inside], masks[inside] = colour, value
    return image, masks


def test_the_first_condition_is_the_photograph_and_all_keep_its_form() -> None:
    image, masks = _picture()
    made = {name: recoloured(image, masks, condition) for name, condition in CONDITIONS.items()}
    first = next(iter(made.values()))
    assert np.abs(first.astype(int) - image).max() <= 1
    assert len(made) >= 9
    for name, picture in made.items():
        assert (picture.shape, picture.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(picture, recoloured(image, masks, CONDITIONS[name]))
    pictures = list(made.values())
    assert all(not np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.mark.parametrize(("region", "place"), [("nucleus", (50, 55)), ("cytoplasm", (50, 33)), ("rest", (15, 15))])
def test_a_dye_changes_its_region_by_absorbance_and_no_other(region: str, place: tuple[int, int]) -> None:
    image, masks = _picture()
    made = recoloured(image, masks, Condition(**{region: Dye(share=0, amount=0.5)})).astype(float)  # type: ignore[arg-type]
    ratio = np.log((np.array(FIELD) + 1) / (made[place] + 1)) / np.log((np.array(FIELD) + 1) / (image[place] + 1.0))
    np.testing.assert_allclose(ratio, 0.5, atol=0.05)
    for other in {(50, 55), (50, 33), (15, 15), (80, 5)} - {place}:
        assert np.abs(made[other] - image[other]).max() <= 1.5


def test_a_dye_has_the_strength_of_green_in_its_colour() -> None:
    absorbance = np.array([[[0.1, 0.4, 0.2]]])
    np.testing.assert_allclose(Dye((1.0, 0.5, 0.25), 2.0).of(absorbance), [[[0.8, 0.4, 0.2]]])
    np.testing.assert_allclose(Dye((1.0, 0.5, 0.25), 2.0, share=0.5).of(absorbance), [[[0.5, 0.6, 0.3]]])


def test_centre_and_extent_are_counted() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:25, 10:30], mask[35:40, 10:30] = True, True
    # rows 20 to 24 and 35 to 39, columns 10 to 29: variances (25 - 1) / 12 + 7.5^2 and (400 - 1) / 12
    true = 2 * np.sqrt(2 * (2 + 7.5**2 + 33.25))
    spreads = [
        Spread(29.5, 19.5, true),
        Spread(29.5, 19.5, 1.14 * true),
        Spread(29.5, 35.0, 1.16 * true),
        Spread(20.0, 10.0, 0.84 * true),
        None,
    ]
    got = findings(spreads, [mask] * 5)
    assert (got.n, got.found, got.centre_inside, got.extent_right) == (5, 0.8, 0.6, 0.4)
    assert got.median_ratio == pytest.approx(1.07)
