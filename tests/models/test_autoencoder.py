"""The autoencoder's network: the published layers, the sides they make, and latents that are never negative."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hemalens.errors import ConfigError
from hemalens.models.autoencoder import DECODERS, LATENT_SIZE, CellAutoencoder, CellDecoder, LatentEncoder, channels_of


def _convolutions(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]


def _maps(n: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_encoder_is_the_published_one() -> None:
    encoder = LatentEncoder(768)
    layers = [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding) for c in _convolutions(encoder)]
    assert layers == [
        (768, 256, (1, 1), (1, 1), (0, 0)),
        (256, 256, (3, 3), (2, 2), (0, 0)),
        (256, 50, (1, 1), (1, 1), (0, 0)),
    ]
    kinds = [type(layer) for layer in encoder.layers]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    sides = []
    x = _maps(2, 768, 14)
    with torch.no_grad():
        for layer in encoder.eval().layers:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                sides.append(x.shape[-1])
        latent = encoder(_maps(2, 768, 14))
    assert sides == [14, 6, 6]
    assert latent.shape == (2, 50)
    torch.testing.assert_close(latent, x.mean(dim=(2, 3)))
    assert LATENT_SIZE == 50


def test_the_decoder_is_the_published_one() -> None:
    decoder = CellDecoder().eval()
    layers = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in _convolutions(decoder)]
    assert layers == [
        (50, 150, 5, 1),
        (150, 200, 4, 2),
        (200, 256, 3, 1),
        (256, 200, 5, 2),
        (200, 180, 3, 2),
        (180, 150, 3, 2),
        (150, 128, 2, 1),
        (128, 3, 1, 1),
    ]
    kinds = [type(layer) for layer in decoder.layers]
    assert kinds == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU] * 7 + [nn.ConvTranspose2d, nn.Sigmoid]
    sides = []
    x = torch.rand(1, 50)[:, :, None, None]
    with torch.no_grad():
        for layer in decoder.layers:
            x = layer(x)
            if isinstance(layer, nn.ConvTranspose2d):
                sides.append(x.shape[-1])
    assert sides == [5, 12, 14, 31, 63, 127, 128, 128]
    assert x.shape == (1, 3, 128, 128)


@pytest.mark.parametrize("side", sorted(DECODERS))
@pytest.mark.parametrize("width", [0.01, 0.3])
def test_smaller_decoders_draw_their_side_with_fewer_channels(side: int, width: float) -> None:
    decoder = CellDecoder(side_px=side, width=width).eval()
    with torch.no_grad():
        drawn = decoder(torch.rand(2, 50) * 5)
    assert drawn.shape == (2, 3, side, side)
    assert 0 <= drawn.min() < drawn.max() <= 1
    *hidden, last = [c.out_channels for c in _convolutions(decoder)]
    assert hidden == [max(1, round(channels * width)) for channels, _, _ in DECODERS[side][:-1]]
    assert last == 3


@given(seed=st.integers(0, 1000), channels=st.integers(1, 6), height=st.integers(3, 9), width=st.integers(3, 9))
@settings(max_examples=15)
def test_latents_are_never_negative_and_drawings_lie_in_0_to_1(seed: int, channels: int, height: int, width: int) -> None:
    network = CellAutoencoder(channels, latent_size=5, side_px=32, decoder_width=0.02)
    maps = 30 * torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(seed))
    for mode in (True, False):
        with torch.no_grad():
            latent, drawn = network.train(mode)(maps)
        assert latent.shape == (3, 5)
        assert (latent >= 0).all()
        assert drawn.shape == (3, 3, 32, 32)
        assert (drawn >= 0).all()
        assert (drawn <= 1).all()


def test_the_autoencoder_draws_from_its_own_latent() -> None:
    network = CellAutoencoder(8, side_px=32, decoder_width=0.05).eval()
    maps = _maps(2, 8, 5)
    with torch.no_grad():
        latent, drawn = network(maps)
        torch.testing.assert_close(latent, network.encoder(maps))
        torch.testing.assert_close(drawn, network.decoder(latent))
    latent, drawn = network.train()(maps.requires_grad_())
    (latent.sum() + drawn.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_channels_are_the_first_axis_of_a_map_that_is_large_enough() -> None:
    assert channels_of((768, 14, 14)) == 768
    assert channels_of((1, 3, 3)) == 1
    for shape in ((7, 2, 5), (7, 5, 2)):
        with pytest.raises(ConfigError, match=rf"at least 3x3; got {shape[1]}x{shape[2]}.*image_size_px"):
            channels_of(shape)
