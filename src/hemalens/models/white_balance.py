"""White balance of a smear's image against its empty field, the glass without cells."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

EMPTY = 0.1
"""Share of the brightest pixels that are taken as the empty field."""
FIELD = 0.92
"""Brightness of the empty field after balancing, as a share of full scale; brighter pixels stay below 1."""
DARKEST_FIELD = 0.03
"""Lower limit of the field's brightness, as a share of full scale; it bounds the gain."""


def smoothed(light: Tensor) -> Tensor:
    """Images (n, c, h, w) averaged over 3 x 3 pixels, so that single bright pixels of noise do not count."""
    return avg_pool2d(pad(light, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def field_of(smooth: Tensor) -> Tensor:
    """The empty field of smoothed images (n, c, h, w), channel by channel: (n, c, 1, 1).

    It is the mean of the brightest tenth of the pixels, which an ONNX graph can compute without segmentation.
    """
    return mean_of_largest(smooth.flatten(2), round(EMPTY * int(smooth.shape[2]) * int(smooth.shape[3])))[..., None, None]


def mean_of_largest(values: Tensor, n: int) -> Tensor:
    """Mean of the `n` largest along the last dimension."""
    return values.topk(max(1, n), dim=-1).values.mean(dim=-1)


def white_balanced(light: Tensor) -> Tensor:
    """Scale each channel of images (n, 3, h, w) in [0, 1] so that the empty field is equally bright and colourless."""
    return (light * (FIELD / field_of(smoothed(light)).clamp(min=DARKEST_FIELD))).clamp(0, 1)
