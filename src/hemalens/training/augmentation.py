"""Training augmentation: flips, free rotation, colour. Each image's draw depends on its own seed only."""

from __future__ import annotations

import math
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from hemalens.config import StrictConfig


class AugmentationConfig(StrictConfig):
    """Random changes of a training image.

    `flip`: flipped left-right and up-down, each with p = 0.5. `rotation_deg`: angle uniform in +- this many degrees,
    the corners filled with the image's border colour. `zoom`: the cell's size times a
    factor between 1 / (1 + zoom) and 1 + zoom, uniform in its logarithm. `brightness`, `contrast` and
    `saturation`: factor uniform in 1 +- this. `hue`: shift uniform in +- this share of the colour circle.
    """

    flip: bool = True
    rotation_deg: float = Field(default=180.0, ge=0, le=180)
    zoom: float = Field(default=0.0, ge=0, le=3)
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.02, ge=0, le=0.5)

    @classmethod
    def none(cls) -> AugmentationConfig:
        """No augmentation."""
        return cls(flip=False, rotation_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


class Augmentation:
    """Applies an `AugmentationConfig` to images uint8 (3, H, W), with torch's global generator."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        jitter = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
        steps: list[Any] = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if config.flip else []
        if any(jitter.values()):
            steps.append(v2.ColorJitter(**jitter))
        self._steps = v2.Compose(steps) if steps else None

    def __call__(self, image: Tensor) -> Tensor:
        """A changed copy, uint8 (3, H, W)."""
        turn, zoom = self.config.rotation_deg, math.log1p(self.config.zoom)
        if turn or zoom:
            angle = float(torch.empty(1).uniform_(-turn, turn)) if turn else 0.0
            size = math.exp(float(torch.empty(1).uniform_(-zoom, zoom))) if zoom else 1.0
            # with the border colour subtracted, zeros fill correctly; torchvision's own fill darkens the seam
            colour = border_colours(image[None].float())[0, :, None, None]
            moved = v2.functional.affine(
                image - colour,
                angle,
                translate=[0.0, 0.0],
                scale=size,
                shear=[0.0, 0.0],
                interpolation=v2.InterpolationMode.BILINEAR,
            )
            image = (moved + colour).round().to(image.dtype)
        return self._steps(image) if self._steps else image


def border_colours(images: Tensor) -> Tensor:
    """Median colour of the outermost pixels of each image (n, c, H, W): (n, c)."""
    edges = (images[:, :, 0, :], images[:, :, -1, :], images[:, :, :, 0], images[:, :, :, -1])
    return torch.cat(edges, dim=2).median(dim=2).values
