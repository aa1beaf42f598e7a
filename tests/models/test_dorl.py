"""The network of DoRL: the layers of the authors' code, tokens that the encoder does not see, and the sides it draws."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from torch import nn

from hemalens.models.dorl import DoRL


def _maps(n: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def _tiny(grid: int = 4, **changes: float) -> DoRL:
    torch.manual_seed(0)
    given = {"encoder_layers": 1, "decoder_layers": 1, "n_heads": 4, "decoder_width": 0.05, "side_px": 32}
    return DoRL(8, grid, **{**given, **changes}).eval()  # type: ignore[arg-type]


def test_the_layers_are_those_of_the_authors() -> None:
    with torch.device("meta"):
        network = DoRL(768, 14)
    # ViT-B blocks without bias of the fused projection
    block = 768 * 3 * 768 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert sum(p.numel() for p in network.encoder.parameters()) == 12 * block
    assert sum(p.numel() for p in network.decoder.parameters()) == 4 * block
    assert network.encoder_positions.shape == (1, 196, 768)
    assert network.decoder_positions.shape == (1, 197, 768)
    assert network.n_kept == 49
    drawn = [m for m in network.image_decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in drawn] == [
        (768, 512, 4, 2, 1),
        (512, 256, 4, 2, 1),
        (256, 128, 4, 1, 1),
        (128, 64, 8, 1, 1),
        (64, 3, 8, 2, 1),
    ]
    assert (network.projection.in_features, network.projection.out_features) == (768, 50)
    assert network.encoder[0].attn.num_heads == 12


@pytest.mark.parametrize("side_px", [32, 64, 128])
@pytest.mark.parametrize("grid", [4, 14])
def test_shapes(grid: int, side_px: int) -> None:
    network = _tiny(grid, side_px=side_px)
    with torch.no_grad():
        features, image, projected = network(_maps(2, 8, grid))
    assert (features.shape, image.shape) == ((2, 8, grid, grid), (2, 3, side_px, side_px))
    assert projected.shape == (2, 50)
    assert network.embed(_maps(2, 8, grid)).shape == (2, 8)
    assert network.draw(_maps(2, 8, grid)).shape == (2, 3, side_px, side_px)


def test_left_out_tokens_change_nothing() -> None:
    """One token of sixteen is kept: the others may have any value."""
    network = _tiny(mask_ratio=0.95)
    assert network.n_kept == 1
    maps = _maps(1, 8, 4)
    torch.manual_seed(5)
    kept = int(torch.rand(1, 16).argsort(dim=1)[0, 0])
    other = maps.flatten(2).clone()
    elsewhere = [i for i in range(16) if i != kept]
    other[:, :, elsewhere] *= -2.0
    with torch.no_grad():
        torch.manual_seed(5)
        first = network(maps)[0]
        torch.manual_seed(5)
        torch.testing.assert_close(network(other.reshape(maps.shape))[0], first)
        changed = maps.flatten(2).clone()
        changed[:, :, kept] *= -2.0
        torch.manual_seed(5)
        assert not torch.allclose(network(changed.reshape(maps.shape))[0], first)


def test_kept_tokens_go_back_to_their_places() -> None:
    """With every token kept the decoder reads them in order, whatever order they were drawn in."""
    network = _tiny(mask_ratio=0.0)
    maps = _maps(2, 8, 4)
    with torch.no_grad():
        masked = network(maps)
        whole = network._decoded(network._encoded(network._tokens(maps)))
    for one, other in zip(masked, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_the_class_token_of_all_tokens() -> None:
    network = _tiny()
    maps = _maps(2, 8, 4)
    with torch.no_grad():
        tokens = maps.flatten(2).transpose(1, 2) + network.encoder_positions
        whole = network.norm(network.encoder(torch.cat([network.class_token.expand(2, 1, 8), tokens], dim=1)))
        torch.testing.assert_close(network.embed(maps), whole[:, 0])
        torch.testing.assert_close(network.embed(maps), network.embed(maps))


def test_heads_divide_the_channels() -> None:
    assert DoRL(10, 2, encoder_layers=1, decoder_layers=1, n_heads=4, decoder_width=0.05).encoder[0].attn.num_heads == 2
