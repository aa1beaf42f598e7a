"""The masked autoencoder of DoRL: a vision transformer on the cells of a feature map.

Y. Li et al., "Domain-invariant Representation Learning via Segment Anything Model for Blood Cell Classification", arXiv
2408.07467; layers from the authors' code.
"""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

PROJECTED_SIZE = 50
GRID = 14
"""Side of the grid from which the image is drawn; smaller grids are resampled to it."""
DRAWN_PX = 128
IMAGE_DECODER = ((512, 4, 2), (256, 4, 2), (128, 4, 1), (64, 8, 1))
"""Channels, kernel and stride of the hidden transposed convolutions, padded by 1; 28, 56, 57, 62, then 128 px."""


class DoRL(nn.Module):
    """Feature map (n, c, h, w) -> map (n, c, h, w), image (n, 3, side, side) and projection (n, 50).

    `grid` is h and w. Each position of the map is a token of c numbers. In training a share `mask_ratio` of the tokens is
    left out of the encoder and replaced by a learned token before the decoder. The number of attention heads is the
    largest one up to `n_heads` that divides c.
    """

    def __init__(
        self,
        channels: int,
        grid: int,
        *,
        encoder_layers: int = 12,
        decoder_layers: int = 4,
        n_heads: int = 12,
        mask_ratio: float = 0.75,
        decoder_width: float = 1.0,
        side_px: int = DRAWN_PX,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.n_kept = max(1, int(grid * grid * (1 - mask_ratio)))
        heads = next(n for n in range(n_heads, 0, -1) if channels % n == 0)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.encoder_positions = nn.Parameter(torch.zeros(1, grid * grid, channels))
        self.encoder = nn.Sequential(*(Block(channels, heads) for _ in range(encoder_layers)))
        self.norm = nn.LayerNorm(channels)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.decoder_positions = nn.Parameter(torch.zeros(1, grid * grid + 1, channels))
        self.decoder = nn.Sequential(*(Block(channels, heads) for _ in range(decoder_layers)))
        for parameter in (self.class_token, self.encoder_positions, self.mask_token, self.decoder_positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        layers: list[nn.Module] = []
        previous = channels
        for published, kernel, stride in IMAGE_DECODER:
            own = max(1, round(published * decoder_width))
            layers += [nn.ConvTranspose2d(previous, own, kernel, stride=stride, padding=1), nn.ReLU()]
            previous = own
        self.image_decoder = nn.Sequential(*layers, nn.ConvTranspose2d(previous, 3, 8, stride=2, padding=1))
        self.projection = nn.Linear(channels, PROJECTED_SIZE)
        self.shrink = nn.AvgPool2d(DRAWN_PX // side_px)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, c, h, w), some tokens left out -> map, image and projection."""
        n, _, _, _ = feature_map.shape
        tokens = self._tokens(feature_map)
        # which tokens are kept, drawn for each image
        order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)
        kept = order[:, : self.n_kept, None].expand(-1, -1, tokens.shape[2])
        encoded = self._encoded(tokens.gather(1, kept))
        whole = self.mask_token.expand(n, tokens.shape[1], -1).to(encoded.dtype)
        whole = whole.scatter(1, kept, encoded[:, 1:])
        return self._decoded(torch.cat([encoded[:, :1], whole], dim=1))

    def embed(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> the encoder's class token (n, c), with all tokens."""
        return self._encoded(self._tokens(feature_map))[:, 0]

    def draw(self, feature_map: Tensor) -> Tensor:
        """(n, c, h, w) -> the image (n, 3, side, side) drawn from all tokens, in [0, 1]."""
        return self._decoded(self._encoded(self._tokens(feature_map)))[1].clamp(0, 1)

    def _tokens(self, feature_map: Tensor) -> Tensor:
        """(n, h w, c), with positions."""
        tokens: Tensor = feature_map.flatten(2).transpose(1, 2) + self.encoder_positions
        return tokens

    def _encoded(self, tokens: Tensor) -> Tensor:
        """The class token and `tokens` (n, t, c), encoded: (n, 1 + t, c)."""
        encoded: Tensor = self.norm(self.encoder(torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)))
        return encoded

    def _decoded(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map, image and projection of the class token and all others, (n, 1 + h w, c)."""
        decoded = self.decoder(tokens + self.decoder_positions)[:, 1:]
        feature_map = decoded.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)
        grid = feature_map
        if self.grid != GRID:
            grid = nn.functional.interpolate(feature_map, size=(GRID, GRID), mode="bilinear", align_corners=False)
        projected = self.projection(feature_map.mean(dim=(2, 3)))
        return feature_map, self.shrink(self.image_decoder(grid)), projected
