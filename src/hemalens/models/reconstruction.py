"""A convolutional autoencoder on pixels, whose encoder embeds textures without labels."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from hemalens.errors import ConfigError

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
        self.encoder = PixelEncoder(size_px, latent_size=latent_size, width=width)
        self.decoder = PixelDecoder(size_px, latent_size=latent_size, width=width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> image (n, 3, size, size) in [0, 1]."""
        image: Tensor = self.decoder(self.encoder(pixels))
        return image


def _channels(width: int) -> list[int]:
    return [width * 2**i for i in range(HALVINGS)]


def _map_side(size_px: int) -> int:
    step: int = 2**HALVINGS
    if size_px % step:
        raise ConfigError(
            "the autoencoder takes images of certain sizes only", expected=f"a multiple of {step} px", got=f"{size_px} px"
        )
    return int(size_px // step)
