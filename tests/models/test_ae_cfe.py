"""The network of AE-CFE: the layers of the authors' code, the sides they make, and the norm that cuts through channels."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.models.ae_cfe import AECFE, RunNorm, scaled_map


def _layers(network: nn.Module) -> list[tuple[int, int, int, int]]:
    convolutions: list[Any] = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions]


def _maps(n: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_layers_are_those_of_the_authors() -> None:
    network = AECFE(256)
    assert _layers(network.encoder) == [
        (256, 200, 3, 1),
        (200, 150, 3, 2),
        (150, 100, 3, 1),
        (100, 70, 2, 1),
        (70, 60, 2, 1),
        (60, 50, 1, 1),
    ]
    assert _layers(network.feature_decoder) == [(50, 150, 5, 1), (150, 200, 4, 2), (200, 256, 3, 1)]
    assert _layers(network.image_decoder) == [
        (256, 200, 5, 2),
        (200, 180, 3, 2),
        (180, 150, 3, 2),
        (150, 128, 2, 1),
        (128, 3, 1, 1),
    ]
    assert [m.n_groups for m in network.encoder if isinstance(m, RunNorm)] == [32, 30, 10, 10, 20]
    with torch.no_grad():
        latent, features, image = network(_maps(2, 256, 14))
    assert (latent.shape, features.shape, image.shape) == ((2, 50), (2, 256, 14, 14), (2, 3, 128, 128))
    assert latent.abs().max() <= 1
    assert features.abs().max() <= 1
    assert image.min() >= 0
    assert image.max() <= 1
    torch.testing.assert_close(network.embed(_maps(2, 256, 14)), latent)
    torch.testing.assert_close(network.draw(_maps(2, 256, 14)), image)


@pytest.mark.parametrize(("channels", "side", "n_groups"), [(6, 4, 3), (5, 4, 8), (200, 12, 32)])
def test_the_norm_takes_equal_runs_of_values(channels: int, side: int, n_groups: int) -> None:
    """Mean 0 and variance 1 of each run, unbiased; 8 runs of 5 channels of 16 values are 10 values each."""
    values = _maps(3, channels, side) * 4 + 2
    norm = RunNorm(channels, n_groups)
    found = norm(values).detach().numpy()
    runs = values.numpy().reshape(3, n_groups, -1).astype(np.float64)
    expected = (runs - runs.mean(-1, keepdims=True)) / np.sqrt(runs.var(-1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)
    with torch.no_grad():
        norm.scale.fill_(2.0)
        norm.shift.copy_(torch.arange(channels).reshape(1, -1, 1, 1))
    shifted = 2 * expected.reshape(found.shape) + np.arange(channels).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(norm(values).detach().numpy(), shifted, atol=1e-4)


def test_maps_are_scaled_each_by_its_own_range() -> None:
    maps = torch.cat([_maps(1, 3, 14), 1000 * _maps(1, 3, 14, seed=1) + 7])
    found = scaled_map(maps)
    for one, scaled in zip(maps, found, strict=True):
        torch.testing.assert_close(scaled, 2 * (one - one.min()) / (one.max() - one.min()) - 1)
    assert scaled_map(torch.ones(1, 3, 14, 14)).isfinite().all()
    other = scaled_map(_maps(2, 3, 7))
    assert other.shape == (2, 3, 14, 14)
    torch.testing.assert_close(other.amin(dim=(1, 2, 3)), torch.full((2,), -1.0))


@pytest.mark.parametrize(("width", "side_px"), [(0.05, 32), (0.3, 64), (0.5, 128)])
def test_narrow_networks_have_whole_runs_and_any_side(width: int, side_px: int) -> None:
    network = AECFE(8, side_px=side_px, width=width)
    with torch.no_grad():
        latent, _, image = network(_maps(2, 8, 7))
    assert latent.shape == (2, 50)
    assert image.shape == (2, 3, side_px, side_px)
    assert latent.isfinite().all()
