"""The cross-domain autoencoder of BC-SAM: from a feature map to a latent to the cell's image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hemalens.errors import ConfigError

LATENT_SIZE = 50
HIDDEN_CHANNELS = 256
"""Channels of the encoder's first two convolutions."""
Layer = tuple[int, int, int]
"""Channels, kernel and stride of one transposed convolution."""
DECODER: tuple[Layer, ...] = (
    (150, 5, 1),
    (200, 4, 2),
    (256, 3, 1),
    (200, 5, 2),
    (180, 3, 2),
    (150, 3, 2),
    (128, 2, 1),
    (3, 1, 1),
)
"""The eight transposed convolutions as published; the sides grow 5, 12, 14, 31, 63, 127, 128, 128."""
DECODERS: dict[int, tuple[Layer, ...]] = {128: DECODER, 64: DECODER[:5] + DECODER[6:], 32: DECODER[:4] + DECODER[6:]}
"""Decoder by the side of its image, in px. 64 and 32 lack one or two doublings, for training on a CPU."""
SMALLEST_MAP = 3
"""Side of the smallest feature map: the encoder's second convolution takes 3 x 3."""


class LatentEncoder(nn.Module):
    """Feature map (n, c, h, w) -> latent (n, 50), never negative: three convolutions with batch norm and ReLU, averaged.

    h and w at least 3.
    """

    def __init__(self, channels: int, *, latent_size: int = LATENT_SIZE) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(nn.Conv2d(channels, HIDDEN_CHANNELS, 1)),
            *_block(nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 3, stride=2)),
            *_block(nn.Conv2d(HIDDEN_CHANNELS, latent_size, 1)),
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, latent)."""
        latent: Tensor = self.layers(feature_map).mean(dim=(2, 3))
        return latent


class CellDecoder(nn.Module):
    """Latent (n, 50) -> cell image (n, 3, side, side) in [0, 1]: transposed convolutions, the last with a sigmoid.

    `side_px` is 128 as published, 64 or 32; `width` scales the channels of the hidden layers, 1 as published.
    """

    def __init__(self, *, latent_size: int = LATENT_SIZE, side_px: int = 128, width: float = 1.0) -> None:
        super().__init__()
        *hidden, (channels, kernel, stride) = DECODERS[side_px]
        layers: list[nn.Module] = []
        previous = latent_size
        for published, hidden_kernel, hidden_stride in hidden:
            scaled = max(1, round(published * width))
            layers += _block(nn.ConvTranspose2d(previous, scaled, hidden_kernel, stride=hidden_stride))
            previous = scaled
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(previous, channels, kernel, stride=stride), nn.Sigmoid())

    def forward(self, latent: Tensor) -> Tensor:
        """(n, latent) -> (n, 3, side, side)."""
        image: Tensor = self.layers(latent[:, :, None, None])
        return image


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> Sequence[nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)


class CellAutoencoder(nn.Module):
    """Encoder and decoder; called with feature maps it returns (latent, image)."""

    def __init__(
        self, channels: int, *, latent_size: int = LATENT_SIZE, side_px: int = 128, decoder_width: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = LatentEncoder(channels, latent_size=latent_size)
        self.decoder = CellDecoder(latent_size=latent_size, side_px=side_px, width=decoder_width)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) -> latent (n, 50) and image (n, 3, side, side)."""
        latent = self.encoder(feature_map)
        return latent, self.decoder(latent)


def channels_of(shape: Sequence[int]) -> int:
    """Channels of a feature map's shape (c, h, w); raises `ConfigError` for one too small to encode."""
    channels, height, width = shape
    if min(height, width) < SMALLEST_MAP:
        raise ConfigError(
            "the feature map is too small for the autoencoder",
            expected=f"at least {SMALLEST_MAP}x{SMALLEST_MAP}",
            got=f"{height}x{width}",
            remedy="Use a larger image_size_px.",
        )
    return channels
