"""Losses as pure functions on batches: AAM-softmax, rotation consistency, and their sum."""

from __future__ import annotations

import math

import hemalens._torchvision  # noqa: F401

import torch
from torch import Tensor, nn

from hemalens.errors import ConfigError


def aam_softmax(embeddings: Tensor, centres: Tensor, targets: Tensor, *, margin_rad: float, scale: float) -> Tensor:
    """Additive angular margin softmax (ArcFace; Deng et al. 2019, equation 3), the mean over the batch.

    -log(exp(s cos(t_y + m)) / (exp(s cos(t_y + m)) + sum over j != y of exp(s cos t_j))), t_j the angle between an
    embedding (n, d) and the centre of class j, one row of `centres` (k, d); neither needs unit length. Beyond t_y = pi - m,
    where cos(t_y + m) would rise again, cos(t_y) - m sin(m) stands in its place. Computed by pytorch-metric-learning,
    which takes the margin in degrees; in single precision also under autocast.
    """
    from pytorch_metric_learning.losses import ArcFaceLoss

    n_classes, size = centres.shape
    loss = ArcFaceLoss(n_classes, size, margin=math.degrees(margin_rad), scale=scale)
    # in bfloat16 an embedding within 0.06 rad of its centre has cosine 1, where the gradient of the angle is infinite
    with torch.autocast(embeddings.device.type, enabled=False):
        # (d, k): the library keeps one centre a column
        mean: Tensor = torch.func.functional_call(loss, {"W": centres.float().t()}, (embeddings.float(), targets))
    return mean


def cosine_logits(embeddings: Tensor, centres: Tensor, *, scale: float) -> Tensor:
    """(n, k): `scale` times the cosine between embeddings (n, d) and centres (k, d); the answer of an AAM-softmax head.

    In single precision also under autocast.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = nn.functional.normalize(embeddings.float())
        return scale * nn.functional.linear(directions, nn.functional.normalize(centres.float()))


def rotation_consistency(embeddings: Tensor, rotated: Tensor) -> Tensor:
    """Mean squared difference between the embeddings (n, d) of images and of their rotated copies (BloodShot, section 3).

    Gradients flow through both.
    """
    return nn.functional.mse_loss(rotated, embeddings)


def rotate_each(pixels: Tensor, angles_rad: Tensor, fill: Tensor) -> Tensor:
    """Each image of a batch (n, c, h, w) turned about its centre by its own angle (n,), counter-clockwise, not enlarged.

    Nearest neighbour; what comes from outside the image is `fill` (n, c) or (1, c).
    """
    cos, sin, zero = angles_rad.cos(), angles_rad.sin(), torch.zeros_like(angles_rad)
    height, width = pixels.shape[-2:]
    # where each pixel of the result lies in the image; coordinates run from -1 to 1 along either side
    theta = torch.stack(
        [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)], 1
    )
    # autocast would round the coordinates to 8 bits
    with torch.autocast(pixels.device.type, enabled=False):
        grid = nn.functional.affine_grid(theta.to(pixels.dtype), list(pixels.shape), align_corners=False)
    fill = fill[:, :, None, None].to(pixels.dtype)
    turned = nn.functional.grid_sample(pixels - fill, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned + fill


class AAMSoftmax(nn.Module):
    """AAM-softmax with one learned centre a class; called with embeddings it answers with their logits (n, k)."""

    def __init__(self, n_classes: int, embedding_size: int, *, margin_rad: float = 0.5, scale: float = 64.0) -> None:
        super().__init__()
        if not 0 <= margin_rad < math.pi / 2:
            raise ConfigError("the angular margin is out of range", expected="0 to pi/2 rad", got=str(margin_rad))
        self.margin_rad = margin_rad
        self.scale = scale
        self.centres = nn.Parameter(torch.empty(n_classes, embedding_size))
        nn.init.normal_(self.centres)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (n, d) -> logits (n, k), without the margin."""
        return cosine_logits(embeddings, self.centres, scale=self.scale)

    def loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss of embeddings (n, d) of the classes `targets` (n,)."""
        return aam_softmax(embeddings, self.centres, targets, margin_rad=self.margin_rad, scale=self.scale)
