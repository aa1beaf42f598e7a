"""Training augmentation: flips, free rotation, colour. Each image's draw depends on its own seed only."""

from __future__ import annotations

from typing import Any

import hemalens._torchvision  # noqa: F401

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from hemalens.config import StrictConfig


class AugmentationConfig(StrictConfig):
    """What may happen to a training image.

    `flip`: mirrored left-right and up-down, each with p = 0.5. `rotation_deg`: angle uniform in +- this many degrees,
    the corners filled with the image's border colour, so that a rotation leaves no mark. `brightness`, `contrast` and
    `saturation`: factor uniform in 1 +- this. `hue`: shift uniform in +- this share of the colour circle.
    """

    flip: bool = True
    rotation_deg: float = Field(default=180.0, ge=0, le=180)
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.02, ge=0, le=0.5)


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
        if self.config.rotation_deg:
            angle = float(torch.empty(1).uniform_(-self.config.rotation_deg, self.config.rotation_deg))
            image = v2.functional.rotate(
                image, angle, interpolation=v2.InterpolationMode.BILINEAR, fill=border_colour(image)
            )
        return self._steps(image) if self._steps else image


def border_colour(image: Tensor) -> list[float]:
    """Median colour of the outermost pixels of an image (3, H, W), one value a channel."""
    edges = (image[:, 0, :], image[:, -1, :], image[:, :, 0], image[:, :, -1])
    border = torch.cat([edge.reshape(3, -1) for edge in edges], dim=1)
    return [float(value) for value in border.median(dim=1).values]
