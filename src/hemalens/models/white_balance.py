"""The empty field of a smear's image: what light and camera make of glass alone."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

EMPTY = 0.1
"""Share of the brightest pixels that stands for the empty field."""
FIELD = 0.92
"""What the empty field becomes, as a share of full scale: there is room for what is brighter still."""
DARKEST_FIELD = 0.03
"""A darker field, as a share of full scale, is none: nothing is made brighter than that asks for."""


def smoothed(light: Tensor) -> Tensor:
    """Images (n, c, h, w) averaged over 3 x 3 pixels, so that one bright pixel of noise is no field."""
    return avg_pool2d(pad(light, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def field_of(smooth: Tensor) -> Tensor:
    """The empty field of smoothed images (n, c, h, w), channel by channel: (n, c, 1, 1).

    The mean of the brightest tenth of the pixels stands for it, so that nothing has to be found first, and a graph can
    compute it.
    """
    return mean_of_largest(smooth.flatten(2), round(EMPTY * int(smooth.shape[2]) * int(smooth.shape[3])))[..., None, None]


def mean_of_largest(values: Tensor, n: int) -> Tensor:
    """Mean of the `n` largest along the last dimension."""
    return values.topk(max(1, n), dim=-1).values.mean(dim=-1)


def against_field(light: Tensor) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] with the same bright, colourless field: each channel in shares of its own."""
    return (light * (FIELD / field_of(smoothed(light)).clamp(min=DARKEST_FIELD))).clamp(0, 1)
