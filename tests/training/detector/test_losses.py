"""The detector's losses against formulas written down again, and torchvision's generalised IoU."""

from __future__ import annotations

import math

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from hemalens.training.detector.losses import box_loss, detector_losses, focal_loss, nucleus_loss


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_focal_loss_place_by_place() -> None:
    logits, scores, known = (
        _random(2, 3, 4, 4),
        _random(2, 3, 4, 4, seed=1).sigmoid(),
        torch.ones(2, 3, 4, 4, dtype=torch.bool),
    )
    scores[0, 0, 1, 2] = scores[1, 2, 3, 3] = 1
    known[1, 1] = False
    total = 0.0
    for place in torch.cartesian_prod(*(torch.arange(n) for n in logits.shape)).tolist():
        p, wanted = float(logits[tuple(place)].sigmoid()), float(scores[tuple(place)])
        if not known[tuple(place)]:
            continue
        if wanted == 1:
            total -= (1 - p) ** 2 * math.log(p)
        else:
            total -= (1 - wanted) ** 4 * p**2 * math.log(1 - p)
    assert float(focal_loss(logits, scores, known)) == pytest.approx(total / 2, rel=1e-4)


def test_focal_loss_of_a_window_without_cells_is_finite() -> None:
    logits = torch.full((1, 3, 4, 4), 30.0)
    assert math.isfinite(float(focal_loss(logits, torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4, dtype=torch.bool))))


def test_box_loss_is_generalised_iou_weighted() -> None:
    logits, distances = _random(1, 4, 5, 5), _random(1, 4, 5, 5, seed=1).exp() + 0.1
    weights = torch.zeros(1, 5, 5)
    places = [(0, 1), (2, 3), (4, 4)]
    for number, place in enumerate(places):
        weights[0, place[0], place[1]] = 0.5 + number
    found, wanted = [], []
    for row, column in places:
        for boxes, sides in ((found, logits[0, :, row, column].exp()), (wanted, distances[0, :, row, column])):
            left, top, right, bottom = sides.tolist()
            boxes.append([column - left, row - top, column + right, row + bottom])
    each = generalized_box_iou_loss(torch.tensor(found), torch.tensor(wanted))
    chosen = torch.tensor([0.5, 1.5, 2.5])
    assert float(box_loss(logits, distances, weights)) == pytest.approx(
        float((each * chosen).sum() / chosen.sum()), rel=1e-4
    )


def test_box_loss_is_zero_for_the_right_box_and_without_boxes() -> None:
    distances = torch.full((1, 4, 3, 3), 2.5)
    weights = torch.ones(1, 3, 3)
    assert float(box_loss(distances.log(), distances, weights)) == pytest.approx(0, abs=1e-5)
    assert float(box_loss(distances.log(), distances, torch.zeros(1, 3, 3))) == 0


def test_nucleus_loss_counts_known_places_only() -> None:
    logits, share = _random(1, 4, 4), _random(1, 4, 4, seed=1).sigmoid()
    known = torch.zeros(1, 4, 4, dtype=torch.bool)
    known[0, :2] = True
    p, y = logits[known].sigmoid(), share[known]
    entropy = float(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
    dice = 1 - (2 * float((p * y).sum()) + 1) / (float(p.sum()) + float(y.sum()) + 1)
    assert float(nucleus_loss(logits, share, known)) == pytest.approx(3 * entropy + 0.5 * dice, rel=1e-4)
    changed = logits.clone()
    changed[0, 3] = 50
    assert float(nucleus_loss(changed, share, known)) == float(nucleus_loss(logits, share, known))


def test_each_map_goes_to_its_loss() -> None:
    maps = _random(1, 8, 4, 4)
    targets = {
        "scores": _random(1, 3, 4, 4, seed=1).sigmoid(),
        "known": torch.ones(1, 3, 4, 4, dtype=torch.bool),
        "distances": _random(1, 4, 4, 4, seed=2).exp(),
        "weights": torch.ones(1, 4, 4),
        "nucleus": _random(1, 4, 4, seed=3).sigmoid(),
        "nucleus_known": torch.ones(1, 4, 4, dtype=torch.bool),
    }
    found = detector_losses(maps, targets)
    assert float(found["scores"]) == float(focal_loss(maps[:, :3], targets["scores"], targets["known"]))
    assert float(found["boxes"]) == float(box_loss(maps[:, 4:], targets["distances"], targets["weights"]))
    assert float(found["nucleus"]) == float(nucleus_loss(maps[:, 3], targets["nucleus"], targets["nucleus_known"]))
