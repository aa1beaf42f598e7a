"""Convolutional autoencoders on pixels, whose encoders embed textures without labels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hemalens.errors import ConfigError
from hemalens.models.backbone import BackboneConfig, create_backbone

LATENT_SIZE = 512
HALVINGS = 5
"""Convolutions of stride 2: the side of an image must be a multiple of 32."""


class PixelEncoder(nn.Module):
    """Normalised pixels (n, 3, size, size) -> latent (n, d): five convolutions that halve the sides, then a linear layer.

    Channels double from `width` on; batch norm and ReLU after each convolution. Raises `ConfigError` for a size that is no
    multiple of 32.
    """

    def __init__(self, size_px: int, *, latent_size: int = LATENT_SIZE, width: int = 32) -> None:
        super().__init__()
        side = _map_side(size_px)
        channels = _channels(width)
        layers: list[nn.Module] = []
        for before, after in pairwise([3, *channels]):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side**2, latent_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size) -> (n, latent)."""
        latent: Tensor = self.layers(pixels)
        return latent


class PixelDecoder(nn.Module):
    """Latent (n, d) -> image (n, 3, size, size) in [0, 1]: a linear layer, transposed convolutions, the last a sigmoid."""

    def __init__(self, size_px: int, *, latent_size: int = LATENT_SIZE, width: int = 32) -> None:
        super().__init__()
        side = _map_side(size_px)
        channels = _channels(width)[::-1]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(True)]
        self.layers = nn.Sequential(
            nn.Linear(latent_size, channels[0] * side**2),
            nn.Unflatten(1, (channels[0], side, side)),
            *layers,
            nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """(n, latent) -> (n, 3, size, size)."""
        image: Tensor = self.layers(latent)
        return image


class PixelAutoencoder(nn.Module):
    """Encoder and decoder; called with pixels it returns the reconstructed image."""

    def __init__(self, size_px: int, *, latent_size: int = LATENT_SIZE, width: int = 32) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.encoder = PixelEncoder(size_px, latent_size=latent_size, width=width)
        self.decoder = PixelDecoder(size_px, latent_size=latent_size, width=width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> image (n, 3, size, size) in [0, 1]."""
        image: Tensor = self.decoder(self.encoder(pixels))
        return image


class SymmetricAutoencoder(nn.Module):
    """A timm ResNet from random weights as the encoder, and its mirror image as the decoder.

    Called with normalised pixels (n, 3, size, size) it returns the reconstructed image in [0, 1]. `encoder` called alone
    returns the pooled embedding (n, d). Each stage of the decoder has two residual blocks, the second of which doubles the
    sides; a transposed convolution mirrors the first convolution. Kong names such a pair as future work.
    """

    def __init__(self, size_px: int, *, backbone: str, seed: int = 0) -> None:
        super().__init__()
        _map_side(size_px)
        encoder: Any = create_backbone(BackboneConfig(backbone=backbone, weights="none", seed=seed))
        self.encoder: Any = encoder
        self.latent_size = int(encoder.num_features)
        levels = [(level["num_chs"], level["reduction"]) for level in encoder.feature_info]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stages: list[nn.Module] = []
            for (channels, reduction), (fewer, earlier) in pairwise(levels[::-1]):
                stages += [_UpBlock(channels, channels, 1), _UpBlock(channels, fewer, reduction // earlier)]
            channels, reduction = levels[0]
            # 7 px at a stride of 2, as the first convolution
            last = nn.ConvTranspose2d(
                channels, 3, 2 * reduction + 3, stride=reduction, padding=reduction // 2 + 2, output_padding=1
            )
            self.decoder = nn.Sequential(*stages, last, nn.Sigmoid())

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> image (n, 3, size, size) in [0, 1]."""
        image: Tensor = self.decoder(self.encoder.forward_features(pixels))
        return image


class _UpBlock(nn.Module):
    """A residual block of two 3x3 convolutions, (n, c, h, w) -> (n, d, scale * h, scale * w)."""

    def __init__(self, channels: int, out: int, scale: int) -> None:
        super().__init__()
        larger = nn.Upsample(scale_factor=scale) if scale > 1 else nn.Identity()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            larger,
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        changed = scale > 1 or channels != out
        projected = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), larger)
        self.shortcut = projected if changed else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, d, scale * h, scale * w)."""
        return nn.functional.relu(self.layers(maps) + self.shortcut(maps))


Autoencoder = PixelAutoencoder | SymmetricAutoencoder
"""Both have an `encoder` that embeds pixels."""


def _channels(width: int) -> list[int]:
    return [width * 2**i for i in range(HALVINGS)]


def _map_side(size_px: int) -> int:
    step: int = 2**HALVINGS
    if size_px % step:
        raise ConfigError(
            "the autoencoder takes images of certain sizes only", expected=f"a multiple of {step} px", got=f"{size_px} px"
        )
    return int(size_px // step)
