"""The pixel autoencoder's network: five halvings, channels that double, a short latent, images of the side asked for."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from torch import nn

from hemalens.errors import ConfigError
from hemalens.models.reconstruction import (
    LATENT_SIZE,
    PixelAutoencoder,
    PixelDecoder,
    PixelEncoder,
    SymmetricAutoencoder,
    _UpBlock,
)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_encoder_halves_the_sides_five_times_and_doubles_the_channels() -> None:
    encoder = PixelEncoder(96, latent_size=7, width=3).eval()
    shapes = []
    x = _random(2, 3, 96, 96)
    with torch.no_grad():
        for layer in encoder.layers:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                shapes.append(tuple(x.shape[1:]))
    assert shapes == [(3, 48, 48), (6, 24, 24), (12, 12, 12), (24, 6, 6), (48, 3, 3)]
    assert x.shape == (2, 7)
    kinds = [type(layer) for layer in encoder.layers]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 5 + [nn.Flatten, nn.Linear]


def test_the_decoder_doubles_the_sides_five_times() -> None:
    decoder = PixelDecoder(64, latent_size=7, width=2).eval()
    shapes = []
    x = _random(2, 7)
    with torch.no_grad():
        for layer in decoder.layers:
            x = layer(x)
            if isinstance(layer, (nn.Unflatten, nn.ConvTranspose2d)):
                shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 2, 2), (16, 4, 4), (8, 8, 8), (4, 16, 16), (2, 32, 32), (3, 64, 64)]
    assert 0 <= x.min() < x.max() <= 1


def test_the_published_latent_has_512_numbers() -> None:
    assert LATENT_SIZE == 512
    with torch.no_grad():
        assert PixelEncoder(32, width=1).eval()(_random(1, 3, 32, 32)).shape == (1, 512)


@pytest.mark.parametrize("side", [32, 64, 96])
def test_what_is_drawn_is_decoded_from_the_latent_and_as_large_as_what_was_shown(side: int) -> None:
    network = PixelAutoencoder(side, latent_size=5, width=2).eval()
    pixels = 4 * _random(3, 3, side, side)
    with torch.no_grad():
        drawn = network(pixels)
        torch.testing.assert_close(drawn, network.decoder(network.encoder(pixels)))
    assert drawn.shape == pixels.shape
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_everything_learns() -> None:
    network = PixelAutoencoder(32, latent_size=5, width=2).train()
    network(_random(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.decoder.layers[-2].parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("part", [PixelEncoder, PixelDecoder, PixelAutoencoder])
def test_a_side_that_cannot_be_halved_five_times_is_refused(part: type[nn.Module]) -> None:
    with pytest.raises(ConfigError, match="expected a multiple of 32 px; got 100 px"):
        part(100)


# ------------------------------------------------------------------------------------- a ResNet and its mirror image


def test_the_mirror_image_of_a_resnet_18_goes_back_through_its_maps() -> None:
    network = SymmetricAutoencoder(64, backbone="resnet18").eval()
    shapes = []
    with torch.no_grad():
        x = network.encoder.forward_features(_random(1, 3, 64, 64))
        assert x.shape == (1, 512, 2, 2)
        for layer in network.decoder:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (512, 2, 2),
        (256, 4, 4),
        (256, 4, 4),
        (128, 8, 8),
        (128, 8, 8),
        (64, 16, 16),
        (64, 16, 16),
        (64, 32, 32),
        (3, 64, 64),
        (3, 64, 64),
    ]
    assert 0 <= x.min() < x.max() <= 1
    blocks = [layer for layer in network.decoder if isinstance(layer, _UpBlock)]
    assert len(blocks) == 8, "as many residual blocks as the ResNet-18"
    assert network.latent_size == 512
    with torch.no_grad():
        assert network.encoder(_random(2, 3, 64, 64)).shape == (2, 512)


def test_both_halves_of_the_pair_learn_and_start_by_the_seed() -> None:
    first, same, other = (SymmetricAutoencoder(32, backbone="test_resnet", seed=seed) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in network.parameters()]) for network in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first.train()(_random(4, 3, 32, 32)).square().sum().backward()
    for part in (first.encoder, first.decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())
    with pytest.raises(ConfigError, match="expected a multiple of 32 px; got 100 px"):
        SymmetricAutoencoder(100, backbone="test_resnet")
