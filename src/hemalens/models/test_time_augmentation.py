"""Test-time augmentation: average the embedding over flipped and rotated views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

N_VIEWS = (1, 2, 4, 8)
Views = Literal[1, 2, 4, 8]


def views_of(pixels: Tensor, n_views: Views) -> Tensor:
    """Square images (n, c, s, s) under the first `n_views` of the square's symmetries: (n_views * n, c, s, s).

    1: the image; 2: and turned by half; 4: and both mirrored left-right; 8: and all four transposed, which adds quarter
    turns. Each set is a group, so that the average is invariant under its members.
    """
    seen = pixels
    for change in (_turned, _mirrored, _transposed)[: N_VIEWS.index(n_views)]:
        seen = torch.cat([seen, change(seen)])
    return seen


def _turned(images: Tensor) -> Tensor:
    return images.flip(2, 3)


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(3)


def _transposed(images: Tensor) -> Tensor:
    # as a Transpose, ONNX Runtime would move it before the resize, and fail there
    side = int(images.shape[2])
    order = torch.arange(side * side, device=images.device).view(side, side).T.flatten()
    return images.flatten(2).index_select(2, order).view(images.shape)


def mean_over_views(encode: Callable[[Tensor], Tensor], pixels: Tensor, n_views: Views) -> Tensor:
    """Mean of encode(view) over the views, (n, d), in one pass."""
    if n_views == 1:
        return encode(pixels)
    # a view of a given shape would leave the length of the embedding open in a traced graph
    encoded: Tensor = encode(views_of(pixels, n_views)).unflatten(0, (n_views, -1))  # type: ignore[no-untyped-call]
    return encoded.mean(dim=0)
