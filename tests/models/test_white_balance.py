"""The empty field: the brightest tenth, and images against it that no lamp and no filter changes."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.models.white_balance import FIELD, field_of, mean_of_largest, smoothed, white_balanced


def _cell(n: int = 2, size: int = 20) -> torch.Tensor:
    """A dark disc on a bright ground with a little noise, (n, 3, size, size) in [0, 1]."""
    place = torch.arange(size) - (size - 1) / 2
    disc = (place[:, None] ** 2 + place**2 <= (size / 4) ** 2).float()
    ground = torch.tensor([0.9, 0.8, 0.6]).view(1, 3, 1, 1)
    noise = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.05
    return ground * (1 - 0.6 * disc) + noise - 0.05


def test_the_field_is_the_mean_of_the_brightest_tenth_of_each_channel() -> None:
    smooth = smoothed(_cell())
    for image, found in zip(smooth, field_of(smooth), strict=True):
        for channel, value in zip(image, found.flatten(), strict=True):
            brightest = sorted(channel.flatten().tolist(), reverse=True)[:40]
            assert float(value) == pytest.approx(sum(brightest) / 40, abs=1e-5)
    assert mean_of_largest(torch.tensor([1.0, 5.0, 3.0]), 0) == 5, "at least one"


def test_smoothing_is_the_mean_of_nine_pixels() -> None:
    image = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(1))
    smooth = smoothed(image)
    assert smooth.shape == image.shape
    assert float(smooth[0, 0, 2, 3]) == pytest.approx(float(image[0, 0, 1:4, 2:5].mean()))


def test_the_field_becomes_bright_and_colourless() -> None:
    after = white_balanced(_cell())
    torch.testing.assert_close(field_of(smoothed(after)), torch.full((2, 3, 1, 1), FIELD), atol=0.01, rtol=0)
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1


@settings(max_examples=20)
@given(st.lists(st.floats(0.3, 1.05), min_size=3, max_size=3))
def test_no_lamp_and_no_filter_changes_it(gains: list[float]) -> None:
    cell = _cell()
    other = cell * torch.tensor(gains).view(1, 3, 1, 1)
    torch.testing.assert_close(white_balanced(other), white_balanced(cell), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_stay_images(value: float) -> None:
    after = white_balanced(torch.full((1, 3, 8, 8), value))
    assert torch.isfinite(after).all()
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
