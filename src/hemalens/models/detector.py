"""The detector's network: EfficientNet-Lite0 to a sixteenth of the size, then up to a quarter, one map of scores a kind."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hemalens.detection.maps import N_DISTANCES, N_SCORES, STRIDE
from hemalens.imaging.boxes import KINDS
from hemalens.models.backbone import BackboneConfig, create_backbone

CHANNELS = 40
"""Width of the maps between backbone and output."""
RARE = -4.0
"""Bias of the scores before training, sigmoid(-4) = 0.018: cells are rare among places."""
TAKEN = (1, 2, 4)
"""Stages of the backbone whose maps are used: the last at a quarter, an eighth and a sixteenth of the input's size."""
FAR = (-6.0, 4.0)
"""Limits of the logarithm of a distance, in places of the maps."""


class DetectorNetwork(nn.Module):
    """Pixels (n, 3, h, w), normalised, h and w multiples of 16 -> maps (n, 8, h / 4, w / 4) before `activated`.

    The first four are scores of the kinds and of the nucleus, the others distances to left, top, right and bottom.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(backbone.conv_stem, backbone.bn1)
        self.stages = nn.ModuleList(list(backbone.blocks)[: TAKEN[-1] + 1])
        widths = [backbone.blocks[i][-1].conv_pwl.out_channels for i in TAKEN]
        self.lateral = nn.ModuleList([nn.Conv2d(width, CHANNELS, 1) for width in widths])
        self.context = _separable(5)
        self.merged = nn.ModuleList([_separable(3), _separable(3)])
        self.output = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU6(inplace=True),
            nn.Conv2d(CHANNELS, N_SCORES + N_DISTANCES, 1),
        )
        last: Any = self.output[-1]
        nn.init.constant_(last.bias[: len(KINDS)], RARE)

    def forward(self, pixels: Tensor) -> Tensor:
        """The maps, before sigmoid and exponential."""
        seen, x = [], self.stem(pixels)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in TAKEN:
                seen.append(x)
        x = self.context(self.lateral[2](seen[2]))
        for i in (1, 0):
            x = self.merged[i](interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[i](seen[i]))
        maps: Tensor = self.output(x)
        return maps


def activated(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, 4, h, w) in [0, 1] and distances (n, 4, h, w) in pixels of the input, from the network's maps."""
    return maps[:, :N_SCORES].sigmoid(), maps[:, N_SCORES:].clamp(*FAR).exp() * STRIDE


def _separable(size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, size, padding=size // 2, groups=CHANNELS, bias=False),
        nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU6(inplace=True),
    )


def create_detector(config: BackboneConfig) -> DetectorNetwork:
    """The network on the backbone's weights, the rest drawn from the config's seed.

    Its convolutions pad both sides alike, so that a map lies centred on the image.
    """
    backbone = create_backbone(config)
    _pad_alike(backbone)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return DetectorNetwork(backbone)


def _pad_alike(module: nn.Module) -> None:
    """Replace TensorFlow's padding, which depends on the size of the input, in all convolutions within a module."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.Conv2d):
            size = part.kernel_size[0]
            alike = nn.Conv2d(
                part.in_channels,
                part.out_channels,
                size,
                part.stride[0],
                padding=size // 2,
                groups=part.groups,
                bias=part.bias is not None,
            )
            alike.load_state_dict(part.state_dict())
            setattr(module, name, alike)
        else:
            _pad_alike(part)
