"""The autoencoder of AE-CFE: from a feature map to a latent, and back to the map and to the cell's image.

R. Salehi et al., "Unsupervised cross-domain feature extraction for single blood cell image classification", MICCAI 2022;
layers from the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LATENT_SIZE = 50
GRID = 14
"""Side of the feature map that the layers are made for; other maps are resampled to it."""
DRAWN_PX = 128
"""Side of the image that the decoder draws, before it is averaged down to the side of the cell images."""
ENCODER = ((200, 3, 1, 32), (150, 3, 2, 30), (100, 3, 1, 10), (70, 2, 1, 10), (60, 2, 1, 20))
"""Channels, kernel, stride and number of groups of the normalised convolutions; the sides shrink 12, 5, 3, 2, 1."""
FEATURE_DECODER = ((150, 5, 1), (200, 4, 2))
"""Channels, kernel and stride of the hidden transposed convolutions up to the map; the sides grow 5, 12, then 14."""
IMAGE_DECODER = ((200, 5, 2), (180, 3, 2), (150, 3, 2), (128, 2, 1))
"""The same from the map up to the image: 31, 63, 127, 128."""


class RunNorm(nn.Module):
    """Normalises runs of neighbouring values: (n, c, h, w) flattened and cut into `n_groups` equal runs.

    Where the groups divide the channels this is group norm with the unbiased variance. The authors' first layer has 32
    groups of 200 channels, which cut through channels.
    """

    def __init__(self, channels: int, n_groups: int) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, values: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        runs = values.reshape(len(values), self.n_groups, -1)
        variance, mean = torch.var_mean(runs, dim=-1, keepdim=True)
        normal = ((runs - mean) / (variance + 1e-5).sqrt()).reshape(values.shape)
        return normal * self.scale + self.shift


class AECFE(nn.Module):
    """Feature map (n, c, h, w) -> latent (n, 50) in [-1, 1], map (n, c, 14, 14) in [-1, 1] and image (n, 3, side, side).

    `width` scales the channels of the hidden layers, 1 as published. `side_px` divides 128.
    """

    def __init__(self, channels: int, *, side_px: int = DRAWN_PX, width: float = 1.0) -> None:
        super().__init__()
        self.encoder = _encoder(channels, width)
        layers: list[nn.Module] = []
        previous = LATENT_SIZE
        for published, kernel, stride in FEATURE_DECODER:
            layers += [nn.ConvTranspose2d(previous, _scaled(published, width), kernel, stride=stride), nn.ReLU()]
            previous = _scaled(published, width)
        self.feature_decoder = nn.Sequential(*layers, nn.ConvTranspose2d(previous, channels, 3), nn.Tanh())
        layers, previous = [], channels
        for published, kernel, stride in IMAGE_DECODER:
            layers += [nn.ConvTranspose2d(previous, _scaled(published, width), kernel, stride=stride), nn.ReLU()]
            previous = _scaled(published, width)
        self.image_decoder = nn.Sequential(*layers, nn.ConvTranspose2d(previous, 3, 1), nn.Sigmoid())
        self.shrink = nn.AvgPool2d(DRAWN_PX // side_px)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, c, h, w), any scale -> latent, reconstructed map and reconstructed image."""
        latent = self.encoder(scaled_map(feature_map))
        features = self.feature_decoder(latent)
        return latent.flatten(1), features, self.shrink(self.image_decoder(features))

    def embed(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> the latent (n, 50)."""
        latent: Tensor = self.encoder(scaled_map(feature_map)).flatten(1)
        return latent

    def draw(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> the reconstructed image (n, 3, side, side) in [0, 1]."""
        image: Tensor = self(feature_map)[2]
        return image


def scaled_map(feature_map: Tensor) -> Tensor:
    """A map (n, c, h, w) resampled to 14x14, each scaled by its own smallest and largest value to [-1, 1]."""
    if feature_map.shape[-2:] != (GRID, GRID):
        feature_map = nn.functional.interpolate(feature_map, size=(GRID, GRID), mode="bilinear", align_corners=False)
    low, high = feature_map.amin(dim=(1, 2, 3), keepdim=True), feature_map.amax(dim=(1, 2, 3), keepdim=True)
    return 2 * (feature_map - low) / (high - low).clamp_min(1e-12) - 1


def _encoder(channels: int, width: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    previous, side = channels, GRID
    for published, kernel, stride, n_groups in ENCODER:
        own = _scaled(published, width)
        side = (side - kernel) // stride + 1
        # runs of three values are the shortest published ones
        groups = next(n for n in range(n_groups, 0, -1) if own * side**2 % n == 0 and own * side**2 >= 3 * n)
        layers += [nn.Conv2d(previous, own, kernel, stride=stride), nn.ReLU(), RunNorm(own, groups)]
        previous = own
    return nn.Sequential(*layers, nn.Conv2d(previous, LATENT_SIZE, 1), nn.Tanh())


def _scaled(channels: int, width: float) -> int:
    return max(3, round(channels * width))
