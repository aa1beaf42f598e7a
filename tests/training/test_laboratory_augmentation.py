"""Images of other laboratories: each step against the definition, nothing at strength 0, draws that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from hemalens.errors import ConfigError
from hemalens.training.laboratory_augmentation import (
    JPEG_BEST,
    LaboratoryAugmentation,
    LaboratoryConfig,
    blurred,
    coarser,
    compressed,
    dyes_mixed,
    lab_to_srgb,
    lit,
    restained,
    srgb_to_lab,
    tight_crop,
    with_noise,
)

STRENGTHS = [name for name in LaboratoryConfig.model_fields if name not in ("step_share", "jpeg_quality_min")]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(seed: int = 0, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=_generator(seed))


def _smooth(seed: int = 0, size: int = 48) -> torch.Tensor:
    """Soft colours well inside the range, float (3, size, size)."""
    small = torch.rand(1, 3, 4, 4, generator=_generator(seed)) * 0.4 + 0.3
    return torch.nn.functional.interpolate(small, size, mode="bicubic")[0]


def _augmented(image: torch.Tensor, seed: int, **changes: Any) -> torch.Tensor:
    """Nothing happens to the image but `changes`."""
    config = LaboratoryConfig.from_mapping({**LaboratoryConfig.none().model_dump(), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LaboratoryAugmentation(config)(image)


# ------------------------------------------------------------------------------------------------------------ colour


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_lab_is_that_of_scikit_image(colours: list[tuple[int, int, int]]) -> None:
    """Within what its constants, rounded in the fourth place, make of it."""
    rgb = np.array(colours, np.float64) / 255
    expected = rgb2lab(rgb[None])[0]
    found = srgb_to_lab(torch.from_numpy(rgb.T).float()).numpy().T
    np.testing.assert_allclose(found, expected, atol=0.05)


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3), min_size=1, max_size=20))
def test_there_and_back_gives_the_same_colours(colours: list[tuple[float, float, float]]) -> None:
    rgb = torch.tensor(colours).T
    torch.testing.assert_close(lab_to_srgb(srgb_to_lab(rgb)), rgb, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("rgb", "lab"), [((1, 1, 1), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20))]
)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    torch.testing.assert_close(
        srgb_to_lab(torch.tensor(rgb).float()), torch.tensor(lab, dtype=torch.float32), atol=0.02, rtol=0
    )


def test_a_stain_has_the_means_and_spreads_that_were_asked_for() -> None:
    image = _smooth()
    gains, shifts, turn = (1.2, 0.8, 1.1), (4.0, -3.0, 5.0), math.radians(20)
    before, after = srgb_to_lab(image).numpy(), srgb_to_lab(restained(image, gains, shifts, turn_rad=turn)).numpy()
    turned = (before[1] + 1j * before[2]) * np.exp(1j * turn)
    before[1], before[2] = turned.real, turned.imag
    for channel, gain, shift, found in zip(before, gains, shifts, after, strict=True):
        np.testing.assert_allclose(found, (channel - channel.mean()) * gain + channel.mean() + shift, atol=0.05)


@given(seed=st.integers(0, 1000), slope=st.floats(0, 0.9), direction=st.floats(-math.pi, math.pi), dark=st.floats(0, 0.9))
def test_light_by_its_formula(seed: int, slope: float, direction: float, dark: float) -> None:
    image, gains = _smooth(seed, 9), torch.tensor([0.9, 1.0, 1.2])
    found = lit(image, gains, slope=slope, direction_rad=direction, vignetting=dark).numpy()
    cos, sin = math.cos(direction), math.sin(direction)
    for row in range(9):
        for column in range(9):
            x, y = column / 4 - 1, row / 4 - 1
            u = (x * cos + y * sin) / (abs(cos) + abs(sin))
            factor = (1 + slope * u) * (1 - dark * (x * x + y * y) / 2)
            np.testing.assert_allclose(
                found[:, row, column], image[:, row, column].numpy() * gains.numpy() * factor, rtol=1e-4
            )


def test_light_falls_off_to_the_corners_by_the_share_given() -> None:
    image = lit(torch.ones(3, 11, 11), torch.ones(3), slope=0.0, direction_rad=0.0, vignetting=0.3)
    assert float(image[0, 5, 5]) == 1.0
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert float(image[0, row, column]) == pytest.approx(0.7)


def test_a_gamma_is_a_power_and_gains_multiply() -> None:
    gray = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    exponents = [
        math.log(float(_augmented(gray, seed, gamma=0.5)[0, 0, 0]) / 255) / math.log(100 / 255) for seed in range(80)
    ]
    assert 1 / 1.5 - 0.02 <= min(exponents) < 0.75
    assert 1.35 < max(exponents) <= 1.5 + 0.02
    factors = np.array([(_augmented(gray, seed, channel_gain=0.2)[:, 0, 0] / 100).numpy() for seed in range(80)])
    assert factors.min() >= 1 / 1.2 - 0.01
    assert factors.max() <= 1.2 + 0.01
    assert np.abs(np.corrcoef(factors.T)[np.triu_indices(3, 1)]).max() < 0.4, "each channel has its own"


# ----------------------------------------------------------------------------------------------------- optics, camera


@pytest.mark.parametrize("sd_px", [0.4, 1.0, 2.5])
def test_a_blur_is_scipy_s(sd_px: float) -> None:
    image = _noise(1).float() / 255
    expected = np.stack(
        [gaussian_filter(c, sd_px, mode="nearest", radius=math.ceil(3 * sd_px)) for c in image.numpy().astype(np.float64)]
    )
    np.testing.assert_allclose(blurred(image, sd_px).numpy(), expected, atol=1e-5)


def test_no_blur_and_no_coarseness_leave_an_image() -> None:
    image = _noise().float() / 255
    assert torch.equal(blurred(image, 0.0), image)
    torch.testing.assert_close(coarser(image, 1.0), image)


def test_coarser_loses_what_is_fine_and_keeps_what_is_large() -> None:
    stripes = (torch.arange(32) % 2).float().expand(3, 32, 32)
    assert float(coarser(stripes, 2.0).std()) < 0.1
    assert float(coarser(stripes, 2.0).mean()) == pytest.approx(0.5, abs=0.01)
    large = _smooth()
    torch.testing.assert_close(coarser(large, 2.0), large, atol=0.02, rtol=0)
    assert coarser(torch.rand(3, 1, 1), 4.0).shape == (3, 1, 1)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_noise_has_the_variance_of_its_formula(level: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noise = with_noise(torch.full((3, 100, 100), level), 0.03, 0.04) - level
    # five standard deviations of a mean and of a spread of 30,000 draws
    expected = math.sqrt(0.03**2 + 0.04**2 * level)
    assert float(noise.std()) == pytest.approx(expected, rel=5 / math.sqrt(60_000))
    assert abs(float(noise.mean())) < 5 * expected / math.sqrt(30_000)


def test_jpeg_compresses_the_more_the_lower_its_quality() -> None:
    image = _noise(0, 64, 64)
    kept = image.clone()
    errors = [float((compressed(image, quality).float() - image.float()).abs().mean()) for quality in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert torch.equal(image, kept)
    again = compressed(image, 50)
    assert again.dtype == torch.uint8
    assert again.shape == image.shape
    assert torch.equal(again, compressed(image, 50))


def test_jpeg_meets_the_share_of_images_that_was_asked_for() -> None:
    image = _noise()
    changed = [not torch.equal(_augmented(image, seed, jpeg=0.3), image) for seed in range(300)]
    assert np.mean(changed) == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 300))


def test_optics_and_noise_meet_the_share_of_images_that_was_asked_for() -> None:
    image = _noise()
    for step in ("blur_px", "coarseness", "noise"):
        changed = [
            not torch.equal(_augmented(image, seed, **{step: 0.5, "step_share": 0.25}), image) for seed in range(200)
        ]
        assert np.mean(changed) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 200)), step


def test_dyes_are_mixed_in_absorbance() -> None:
    image = torch.tensor([0.5, 0.25, 0.9]).view(3, 1, 1)
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    expected = torch.tensor([0.5 * 0.25**0.5, 0.25, 0.81]).view(3, 1, 1)
    torch.testing.assert_close(dyes_mixed(image, matrix), expected)
    torch.testing.assert_close(dyes_mixed(image, torch.eye(3)), image)


def test_a_haze_takes_contrast_and_a_part_of_the_images() -> None:
    image = _noise().float()
    spreads = [float(_augmented(_noise(), seed, haze=0.5, step_share=1.0).float().std()) for seed in range(40)]
    assert max(spreads) <= float(image.std()) * 1.01
    assert min(spreads) < float(image.std()) * 0.6
    assert min(spreads) > float(image.std()) * 0.45
    untouched = sum(torch.equal(_augmented(_noise(), seed, haze=0.5, step_share=0.3), _noise()) for seed in range(200))
    assert 110 < untouched < 170


def test_outside_a_tight_crop_is_the_median_colour_of_its_rim() -> None:
    image = _noise()
    cropped = tight_crop(image, slice(3, 15), slice(5, 25))
    assert torch.equal(cropped[:, 3:15, 5:25], image[:, 3:15, 5:25])
    ring = [image[:, 3, 5:25], image[:, 14, 5:25], image[:, 3:15, 5], image[:, 3:15, 24]]
    expected = torch.cat(ring, dim=1).sort(dim=1).values
    outside = torch.ones(20, 30, dtype=torch.bool)
    outside[3:15, 5:25] = False
    assert torch.equal(cropped[:, outside], expected[:, (expected.shape[1] - 1) // 2, None].expand(3, int(outside.sum())))


def test_tight_crops_meet_the_share_of_images_that_was_asked_for_and_hold_the_middle() -> None:
    images = [_augmented(_noise(), seed, tight=0.4) for seed in range(200)]
    assert 90 < sum(torch.equal(image, _noise()) for image in images) < 150
    assert all(torch.equal(image[:, 8:12, 12:18], _noise()[:, 8:12, 12:18]) for image in images)


# --------------------------------------------------------------------------------------------------------- the whole


def test_strength_0_switches_everything_off() -> None:
    assert not any(getattr(LaboratoryConfig.none(), name) for name in STRENGTHS)
    image = _noise()
    state = torch.get_rng_state()
    same = LaboratoryAugmentation(LaboratoryConfig.none())(image)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert torch.equal(same, image)
    assert same.data_ptr() != image.data_ptr(), "a copy"


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_step_alone_changes_the_image_and_the_seed_decides_how(name: str) -> None:
    image = _noise()
    kept = image.clone()
    strength = getattr(LaboratoryConfig(), name)
    assert strength > 0, "all of it is on"
    first, again = (_augmented(image, 3, **{name: strength, "step_share": 1.0, "jpeg": 1.0}) for _ in range(2))
    others = [_augmented(image, seed, **{name: strength, "step_share": 1.0}) for seed in range(10)]
    assert torch.equal(first, again)
    assert name == "jpeg" or any(not torch.equal(other, others[0]) for other in others)
    assert not torch.equal(first, image)
    assert torch.equal(image, kept), "the image itself stays"


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 24), width=st.integers(1, 24))
def test_any_image_gives_an_image(seed: int, height: int, width: int) -> None:
    changed = _augmented(_noise(seed, height, width), seed, **LaboratoryConfig().model_dump())
    assert changed.dtype == torch.uint8
    assert changed.shape == (3, height, width)
    assert changed.is_contiguous()


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images_stay_images(value: int) -> None:
    image = torch.full((3, 12, 12), value, dtype=torch.uint8)
    for seed in range(20):
        changed = _augmented(image, seed, **LaboratoryConfig().model_dump()).float()
        assert abs(float(changed.mean()) - value) < 120


def test_other_laboratories_differ_in_colour_but_the_cell_stays() -> None:
    """A dark disc on a bright ground stays darker than the ground under every draw of the defaults."""
    place = torch.arange(48) - 23.5
    disc = place[:, None] ** 2 + place**2 <= 12**2
    image = torch.where(disc, torch.tensor([90, 40, 120])[:, None, None], torch.tensor([230, 210, 190])[:, None, None])
    means = []
    for seed in range(60):
        changed = _augmented(image.to(torch.uint8), seed, **LaboratoryConfig().model_dump()).float()
        assert float(changed[:, disc].mean()) < float(changed[:, ~disc].mean()) - 10
        means.append(changed[:, ~disc].mean(dim=1))
    assert (torch.stack(means).std(dim=0) > 8).all()


@pytest.mark.parametrize(
    ("name", "value"), [("blur_px", -1.0), ("jpeg", 1.5), ("jpeg_quality_min", JPEG_BEST + 1), ("gradient", 1.0)]
)
def test_a_strength_out_of_range_is_an_error(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"key '{name}'.*got"):
        LaboratoryConfig.from_mapping({name: value})


STEPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "restained": lambda x: restained(x, (1.2, 1.1, 0.9), (3.0, -3.0, 3.0), turn_rad=0.1),
    "lit": lambda x: lit(x, torch.ones(3), slope=0.1, direction_rad=1.0, vignetting=0.1),
    "blurred": lambda x: blurred(x, 1.0),
    "coarser": lambda x: coarser(x, 1.5),
    "dyes_mixed": lambda x: dyes_mixed(x, torch.eye(3) + 0.1),
    "tight_crop": lambda x: tight_crop(x, slice(5, 40), slice(0, 30)),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_gives_another_tensor_and_leaves_its_own(step: str) -> None:
    image = _smooth()
    kept = image.clone()
    changed = STEPS[step](image)
    assert torch.equal(image, kept)
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
