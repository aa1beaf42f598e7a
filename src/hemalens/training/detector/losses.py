"""Losses of the detector: focal for the scores, generalised IoU for the boxes, cross-entropy and Dice for the nucleus."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hemalens.detection.maps import N_SCORES, NUCLEUS
from hemalens.imaging.boxes import KINDS
from hemalens.models.detector import FAR

EPSILON = 1e-4
NUCLEUS_WEIGHT, DICE_WEIGHT = 3.0, 0.5
"""Weights of the nucleus's cross-entropy and Dice beside the two other losses."""


def focal_loss(logits: Tensor, scores: Tensor, known: Tensor) -> Tensor:
    """Penalty-reduced focal loss of logits (n, k, q, q) for Gaussians `scores`, over the centres; only where `known`.

    Source: Zhou et al., Objects as Points, 2019, eq. 1, with alpha 2 and beta 4.
    """
    p = logits.sigmoid().clamp(EPSILON, 1 - EPSILON)
    centre = (scores >= 1).to(p.dtype)
    at_centres = centre * (1 - p) ** 2 * p.log()
    elsewhere = (1 - centre) * (1 - scores) ** 4 * p**2 * (1 - p).log()
    return -((at_centres + elsewhere) * known).sum() / centre.sum().clamp(min=1)


def box_loss(logits: Tensor, distances: Tensor, weights: Tensor) -> Tensor:
    """1 - generalised IoU (Rezatofighi 2019) of distances (n, 4, q, q) in places, weighted by `weights` (n, q, q)."""
    chosen = weights > 0
    found = logits.clamp(*FAR).exp().permute(0, 2, 3, 1)[chosen]
    wanted, weight = distances.permute(0, 2, 3, 1)[chosen], weights[chosen]
    shared = torch.minimum(found, wanted)
    both = (shared[:, :2] + shared[:, 2:]).clamp(min=0).prod(dim=1)
    union = sum((sides[:, :2] + sides[:, 2:]).prod(dim=1) for sides in (found, wanted)) - both
    outer = torch.maximum(found, wanted)
    around = (outer[:, :2] + outer[:, 2:]).prod(dim=1).clamp(min=EPSILON)
    giou = both / union.clamp(min=EPSILON) - (around - union) / around
    return ((1 - giou) * weight).sum() / weight.sum().clamp(min=1)


def nucleus_loss(logits: Tensor, share: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy and Dice of logits (n, q, q) for the shares of nucleus, weighted; only where `known`."""
    counted = known.to(logits.dtype)
    entropy = (binary_cross_entropy_with_logits(logits, share, reduction="none") * counted).sum() / counted.sum().clamp(
        min=1
    )
    p, wanted = logits.sigmoid() * counted, share * counted
    dice = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
    return NUCLEUS_WEIGHT * entropy + DICE_WEIGHT * dice


def detector_losses(maps: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """The three losses of the network's maps (n, 8, q, q); targets as in `Targets`, batched."""
    maps, n_kinds = maps.float(), len(KINDS)
    return {
        "scores": focal_loss(maps[:, :n_kinds], targets["scores"], targets["known"]),
        "boxes": box_loss(maps[:, N_SCORES:], targets["distances"], targets["weights"]),
        "nucleus": nucleus_loss(maps[:, NUCLEUS], targets["nucleus"], targets["nucleus_known"]),
    }
