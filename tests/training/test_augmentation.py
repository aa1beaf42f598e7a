"""Augmentation: images as they are, the cell's size, border colours, and draws that a seed decides."""

from __future__ import annotations

import math

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hemalens.errors import ConfigError
from hemalens.training.augmentation import Augmentation, AugmentationConfig, border_colours

BACKGROUND = torch.tensor([210, 190, 170], dtype=torch.uint8)
CELL = torch.tensor([90, 40, 120], dtype=torch.uint8)


def _disc(radius_px: float = 16.0, size: int = 96) -> torch.Tensor:
    """A round cell in the middle: uint8 (3, size, size)."""
    place = torch.arange(size) - (size - 1) / 2
    inside = place[:, None] ** 2 + place**2 <= radius_px**2
    return torch.where(inside, CELL[:, None, None], BACKGROUND[:, None, None])


def _noise(seed: int = 0, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _augmented(image: torch.Tensor, seed: int, **changes: object) -> torch.Tensor:
    """Nothing happens to the image but `changes`."""
    config = AugmentationConfig.from_mapping({**AugmentationConfig.none().model_dump(), **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Augmentation(config)(image)


def _diameter(image: torch.Tensor) -> float:
    """Diameter of the circle of the cell's area; a half-mixed edge pixel counts half."""
    share = (BACKGROUND[0].float() - image[0].float()) / (BACKGROUND[0].float() - CELL[0].float())
    return 2 * math.sqrt(float(share.clamp(0, 1).sum()) / math.pi)


@given(seed=st.integers(0, 1000), height=st.integers(1, 30), width=st.integers(1, 30))
def test_none_leaves_an_image_as_it_is(seed: int, height: int, width: int) -> None:
    image = _noise(seed, height, width)
    assert torch.equal(_augmented(image.clone(), seed), image)


def test_none_switches_everything_off() -> None:
    assert not any(AugmentationConfig.none().model_dump().values())
    state = torch.get_rng_state()
    Augmentation(AugmentationConfig.none())(_noise())
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"


def test_by_default_the_size_of_a_cell_stays() -> None:
    assert AugmentationConfig().zoom == 0
    for seed in range(10):
        assert _diameter(_augmented(_disc(), seed, flip=True, rotation_deg=180.0)) == pytest.approx(32, rel=0.03)


@pytest.mark.parametrize("zoom", [0.25, 1.0])
def test_zoom_changes_the_size_of_the_cell_within_its_range(zoom: float) -> None:
    factors = np.array([_diameter(_augmented(_disc(), seed, zoom=zoom)) / 32 for seed in range(120)])
    assert factors.min() >= 1 / (1 + zoom) - 0.03
    assert factors.max() <= 1 + zoom + 0.03
    # uniform in the logarithm: as many smaller as larger, and the ends are reached
    logs = np.log(factors) / math.log1p(zoom)
    assert logs.min() < -0.9
    assert logs.max() > 0.9
    assert abs(logs.mean()) < 4 * (1 / math.sqrt(3)) / math.sqrt(120)
    assert logs.std() == pytest.approx(1 / math.sqrt(3), rel=0.2)


def test_a_smaller_cell_lies_on_its_own_background_in_the_middle() -> None:
    images = [_augmented(_disc(), seed, zoom=2.0, rotation_deg=180.0) for seed in range(30)]
    small = [image for image in images if _diameter(image) < 24]
    assert small
    for image in images:
        assert image.dtype == torch.uint8
        assert image.shape == (3, 96, 96)
        for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert torch.equal(image[:, row, column], BACKGROUND)
    for image in small:
        assert (image[0] >= CELL[0]).all(), "no third colour darker than the cell"
        rows, columns = torch.nonzero(image[0] < 150, as_tuple=True)
        assert float(rows.float().mean()) == pytest.approx(47.5, abs=1)
        assert float(columns.float().mean()) == pytest.approx(47.5, abs=1)


def test_turned_out_corners_take_the_border_s_colour_without_a_seam() -> None:
    place = torch.arange(96) - 47.5
    outside = place[:, None] ** 2 + place**2 > 19**2
    for seed in range(20):
        image = _augmented(_disc(), seed, rotation_deg=180.0, zoom=0.1)
        assert (image[:, outside] == BACKGROUND[:, None]).all(), "a rotation leaves no mark"


@pytest.mark.parametrize(
    "changes", [{"zoom": 1.0}, {"rotation_deg": 90.0}, {"zoom": 0.5, "rotation_deg": 45.0, "hue": 0.1}]
)
def test_the_seed_decides(changes: dict[str, float]) -> None:
    image = _noise()
    kept = image.clone()
    first, again, other = (_augmented(image, seed, **changes) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, image)
    assert torch.equal(image, kept), "the image itself stays"


@pytest.mark.parametrize("zoom", [-0.1, 3.1])
def test_a_zoom_out_of_range_is_an_error(zoom: float) -> None:
    with pytest.raises(ConfigError, match=r"key 'zoom'.*got"):
        AugmentationConfig.from_mapping({"zoom": zoom})


@given(seed=st.integers(0, 1000), n=st.integers(1, 4), c=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(1, 9))
def test_border_colours_are_the_medians_of_the_edges_of_each_image(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed))
    colours = border_colours(images)
    assert colours.shape == (n, c)
    for image, row in zip(images.numpy(), colours, strict=True):
        for channel, value in zip(image, row, strict=True):
            edges = np.sort(np.concatenate([channel[0], channel[-1], channel[:, 0], channel[:, -1]]))
            assert float(value) == edges[(len(edges) - 1) // 2], "of an even number the lower of the two in the middle"


def test_border_colours_of_a_batch_are_those_of_its_images() -> None:
    batch = torch.stack([_disc(), _noise(1, 96, 96), 255 - _disc()])
    alone = torch.cat([border_colours(image[None]) for image in batch])
    assert torch.equal(border_colours(batch), alone)
    assert torch.equal(alone[0], BACKGROUND)
    assert torch.equal(alone[2], 255 - BACKGROUND)
