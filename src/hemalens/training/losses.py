"""Losses as pure functions on batches: for classifiers, masks, reconstructions and between domains."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import hemalens.models._torchvision  # noqa: F401

import torch
from torch import Tensor, nn

from hemalens.errors import ConfigError, SplitError


def aam_softmax(embeddings: Tensor, centres: Tensor, targets: Tensor, *, margin_rad: float, scale: float) -> Tensor:
    """Additive angular margin softmax (ArcFace; Deng et al. 2019, equation 3), the mean over the batch.

    -log(exp(s cos(t_y + m)) / (exp(s cos(t_y + m)) + sum over j != y of exp(s cos t_j))), t_j the angle between an
    embedding (n, d) and the centre of class j, one row of `centres` (k, d); neither needs unit length. Beyond t_y = pi - m,
    where cos(t_y + m) would rise again, it is replaced by cos(t_y) - m sin(m). Computed by pytorch-metric-learning,
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
    """(n, k): `scale` times the cosine between embeddings (n, d) and centres (k, d); the logits of an AAM-softmax head.

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


SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_CONSTANTS = (0.01**2, 0.03**2)
"""Window, its width and the two constants of structural similarity, for values in [0, 1] (Wang et al. 2004)."""


Padding = Literal["none", "zeros"]


def structural_similarity(images: Tensor, targets: Tensor, *, padding: Padding = "none") -> Tensor:
    """Mean structural similarity of two batches (n, c, h, w) in [0, 1] (Wang et al. 2004, equation 13).

    "none" takes the windows that lie within the image, so h and w are 11 or more. "zeros" takes one window a pixel, black
    beyond the border. A Gaussian window, first along rows, then along columns: a fifth of the work of a square one.
    """
    beyond = SSIM_WINDOW // 2 if padding == "zeros" else 0
    position = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-(position**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()

    def blurred(values: Tensor) -> Tensor:
        n = values.shape[1]
        # autocast would round to 8 bits, of which the variances, small differences of large squares, keep nothing
        with torch.autocast(values.device.type, enabled=False):
            across, down = window.view(1, 1, 1, -1).expand(n, 1, 1, -1), window.view(1, 1, -1, 1).expand(n, 1, -1, 1)
            rows = nn.functional.conv2d(values, across, padding=(0, beyond), groups=n)
            return nn.functional.conv2d(rows, down, padding=(beyond, 0), groups=n)

    five = torch.cat([images, targets, images * images, targets * targets, images * targets], dim=1)
    mean_x, mean_y, square_x, square_y, product = blurred(five).chunk(5, dim=1)
    c1, c2 = SSIM_CONSTANTS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    return (luminance * (2 * (product - mean_x * mean_y) + c2) / (variances + c2)).mean()


Kernel = Literal["linear", "rbf"]
RBF_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernel mixture, as multiples of the median squared distance within the batch."""


def maximum_mean_discrepancy(latents: Tensor, domains: Tensor, *, kernel: Kernel = "linear") -> Tensor:
    """Squared distance between the distributions of the latents (n, d) of each pair of domains (n,), the mean over pairs.

    "linear" is the formula of BC-SAM's code: the squared difference of the two mean latents, the mean over the d numbers.
    The squared distance of the means is d times as large. "rbf" is a mixture of Gaussian kernels (Gretton et al. 2012,
    equation 5, the biased estimate, never negative); it lies in [0, 2] whatever d is. Raises `SplitError` for a batch of
    one domain, where it would be NaN.
    """
    parts = [latents[domains == domain] for domain in torch.unique(domains)]
    if len(parts) < 2:
        raise SplitError("a batch of one domain has no discrepancy between domains", expected="two domains or more")
    pairs = list(itertools.combinations(range(len(parts)), 2))
    if kernel == "linear":
        means = [part.mean(dim=0) for part in parts]
        return torch.stack([nn.functional.mse_loss(means[i], means[j]) for i, j in pairs]).mean()
    with torch.no_grad():
        width = torch.pdist(latents.float()).square().median().clamp_min(1e-12)

    def alike(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.stack([torch.exp(-squared / (scale * width)).mean() for scale in RBF_SCALES]).mean()

    within = [alike(part, part) for part in parts]
    return torch.stack([within[i] + within[j] - 2 * alike(parts[i], parts[j]) for i, j in pairs]).mean()


DICE_SMOOTH = 1e-5


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice, the mean over classes: logits (n, k, h, w), class indices (n, h, w); squares in the denominator.

    Over the whole batch at once, as in BC-SAM's fine-tuning.
    """
    probabilities = logits.softmax(dim=1)
    truth = nn.functional.one_hot(masks, logits.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    over = (0, 2, 3)
    common = (probabilities * truth).sum(dim=over)
    total = probabilities.square().sum(dim=over) + truth.square().sum(dim=over)
    return (1 - (2 * common + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean()


def mask_loss(logits: Tensor, masks: Tensor, *, ce_weight: float = 0.2, dice_weight: float = 0.8) -> Tensor:
    """Loss of mask fine-tuning: cross-entropy and Dice, weighted as in BC-SAM."""
    return ce_weight * nn.functional.cross_entropy(logits, masks) + dice_weight * dice_loss(logits, masks)


class AAMSoftmax(nn.Module):
    """AAM-softmax with one learned centre a class; called with embeddings it returns their logits (n, k)."""

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
