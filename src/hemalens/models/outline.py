"""A network that sees the outline of the nucleus alone, which stain and camera do not change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hemalens.imaging.reading import Preprocessing
from hemalens.models.backbone import PACKAGED, BackboneConfig, create_backbone
from hemalens.models.white_balance import field_of, mean_of_largest, smoothed

CHROMATIN = (1.0, 1.0, -1.0)
"""Weights of the absorbances of red, green and blue in the chromatin signal, as in `nucleus`."""
NUCLEUS = 0.1
"""Share of the most chromatin-like pixels that are taken as the nucleus."""
DARKEST, PALEST = 0.02, 0.05
"""Lower limits of light, as a share of full scale, and of the nucleus's chromatin signal; they bound the noise."""
EDGE, STEEPNESS = 0.5, 12.0
"""Share of the nucleus's signal at its edge, and steepness of the logistic function."""
SIZE_PX = 64
"""Side of the outlines that the network sees."""
N_STAGES = 5
"""Stages of the packaged backbone that are used: a map of 4 x 4 and 0.7 million weights."""

PAIRS = {
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}
"""(convolution, its batch norm) in timm's blocks."""


def outline(light: Tensor) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] -> soft mask of the nucleus, (n, 1, h, w) in [0, 1].

    A logistic function of the chromatin signal, red + green - blue of the natural absorbance against the background, in
    units of the nucleus's. Field and nucleus are means of the largest tenth of the pixels, which an ONNX graph can compute
    without segmentation.
    """
    n, n_pixels = light.shape[0], int(light.shape[2]) * int(light.shape[3])
    smooth = smoothed(light)
    absorbance = ((field_of(smooth) + DARKEST) / (smooth + DARKEST)).log()
    chromatin = (absorbance * torch.tensor(CHROMATIN, device=light.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    unit = mean_of_largest(chromatin.flatten(1), round(NUCLEUS * n_pixels)).clamp(min=PALEST)
    return torch.sigmoid(STEEPNESS * (chromatin / unit.view(n, 1, 1, 1) - EDGE))


class OutlineNetwork(nn.Module):
    """The first stages of the packaged backbone over the outline of the nucleus, and a linear head.

    `weights` is "package" for ImageNet's, or "none".
    """

    def __init__(self, *, n_classes: int, weights: str, seed: int) -> None:
        super().__init__()
        whole: Any = create_backbone(BackboneConfig(backbone=PACKAGED, weights=weights, seed=seed))
        self.stem, self.norm, self.stages = whole.conv_stem, whole.bn1, whole.blocks[:N_STAGES]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            width = int(self.features(torch.zeros(1, 3, SIZE_PX, SIZE_PX)).shape[1])
            self.head = nn.Linear(width, n_classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, h, w) -> pooled features (n, d)."""
        pooled: Tensor = self.stages(self.norm(self.stem(pixels))).mean(dim=(2, 3))
        return pooled

    def embed(self, outlines: Tensor) -> Tensor:
        """Outlines (n, 1, h, w) in [0, 1] -> embedding (n, d)."""
        seen = interpolate(outlines, (SIZE_PX, SIZE_PX), mode="bilinear")
        pixels = ((seen * 255 - 127) / 128).expand(-1, 3, -1, -1)  # as the backbone was trained
        return self.features(pixels.contiguous(memory_format=torch.channels_last))


class WithOutline(nn.Module):
    """A timm network and an outline network: embeddings concatenated, logits averaged.

    Each has its own head and loss: with a joint loss the outline network would hardly learn.
    `mean` and `std` are those of the normalised pixels, on the scale of 0 to 255.
    """

    def __init__(self, network: nn.Module, outlined: OutlineNetwork, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network: Any = network
        self.outlined = outlined
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def outlines(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> outlines (n, 1, size, size); of mirrored pixels, the mirrored ones."""
        return outline((pixels * self.std + self.mean) / 255)

    def embed_colours(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> the timm network's own embedding."""
        own: Tensor = self.network.forward_head(self.network.forward_features(pixels), pre_logits=True)
        return own

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, size, size) -> both embeddings (n, d)."""
        return torch.cat([self.embed_colours(pixels), self.outlined.embed(self.outlines(pixels))], dim=1)

    def forward_head(self, embedding: Tensor, *, pre_logits: bool) -> Tensor:
        """The embedding (n, d) itself, or its logits (n, k)."""
        return embedding if pre_logits else self._classified(embedding)

    def get_classifier(self) -> Callable[[Tensor], Tensor]:
        """Embedding (n, d) -> logits (n, k)."""
        return self._classified

    def logits_of_each(self, embedding: Tensor) -> list[Tensor]:
        """Embedding (n, d) -> logits (n, k) of the network, and of the outline network."""
        own, outlined = embedding.split(
            [embedding.shape[1] - self.outlined.head.in_features, self.outlined.head.in_features], 1
        )
        return [self.network.get_classifier()(own), self.outlined.head(outlined)]

    def _classified(self, embedding: Tensor) -> Tensor:
        heads = (self.network.get_classifier(), self.outlined.head)
        weight = torch.cat([head.weight for head in heads], dim=1) / 2
        return linear(embedding, weight, (heads[0].bias + heads[1].bias) / 2)


def without_batch_norm(network: OutlineNetwork) -> OutlineNetwork:
    """A copy with all batch norms folded into the convolutions before them.

    Outlines look alike in all laboratories, so batch-norm re-estimation must not change this network.
    """
    folded = copy.deepcopy(network).eval()
    if not isinstance(folded.norm, nn.BatchNorm2d):
        return folded
    _fold(folded, "stem", "norm")
    for module in folded.stages.modules():
        for conv, norm in PAIRS.get(type(module).__name__, ()):
            _fold(module, conv, norm)
    return folded


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = weight, bias
    setattr(parent, norm_name, norm.act)
