"""Compose images by a cell's mask: the cell alone, the background alone, the cell on another background.

Images are uint8 (H, W, 3); a mask here is the share of the cell in each pixel, float (H, W) in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Share = NDArray[np.float32]

_LEVELS = (2, 4, 8, 16, 32, 64)
"""Widths, in px, over which the background is averaged to fill a hole; the narrowest with enough pixels is used."""


def cell_alone(image: Image, share: Share, gray: int) -> Image:
    """The image with everything outside the mask in one gray value, 0 to 255."""
    return _mixed(image.astype(np.float32), share, np.float32(gray))


def shows_background(share: Share) -> bool:
    """Whether the image has pixels besides the cell and those that touch it."""
    return bool(_background(share).any())


def without_cell(image: Image, share: Share) -> Image:
    """The image's background, smoothly inpainted where the cell was; unchanged where the cell fills the image."""
    seen = _background(share).astype(np.float32)
    if not seen.any():
        return image
    known = image.astype(np.float32) * seen[..., None]
    filled = np.zeros_like(known)
    open_ = np.ones(share.shape, bool)
    for width in _LEVELS:
        weight = scipy.ndimage.gaussian_filter(seen, width)
        near = open_ & (weight > 0.05)
        mean = scipy.ndimage.gaussian_filter(known, (width, width, 0)) / np.maximum(weight, 1e-6)[..., None]
        filled[near] = mean[near]
        open_ &= ~near
    filled[open_] = known.sum(axis=(0, 1)) / seen.sum()
    return _mixed(filled, scipy.ndimage.gaussian_filter(1 - seen, 1.0).astype(np.float32), image.astype(np.float32))


def moved_cell(image: Image, share: Share, background: Image, rng: np.random.Generator) -> Image:
    """The cell of `image` rotated by any angle, flipped or not, and pasted anywhere on `background` of the same size.

    It stays inside the image as far as its size allows. Source: random translation, rotation and flip of a cell that
    was cut out by its mask (Kong, "White Blood Cell Classification based on Transfer Learning").
    """
    height, width = share.shape
    angle, mirrored = rng.uniform(0, 2 * np.pi), rng.random() < 0.5
    across, down = rng.random(), rng.random()
    # a cell so small that it covers no pixel by half counts where it covers most
    rows, columns = np.nonzero(share > share.max() / 2)
    if len(rows) == 0:
        return background
    centre = np.array([rows.mean(), columns.mean()])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn = turn @ np.diag([1.0, -1.0])
    # positions of the cell's pixels relative to its centre
    reach = (np.stack([rows, columns], axis=1) - centre) @ turn.T
    low, high = -reach.min(axis=0), np.array([height - 1, width - 1]) - reach.max(axis=0)
    target = np.where(low <= high, low + np.array([down, across]) * (high - low), (low + high) / 2)
    offset = centre - turn.T @ target
    alpha = scipy.ndimage.affine_transform(share, turn.T, offset=offset, order=1, output=np.float32)
    # colours are weighted by their share, so that no background is copied at the rim
    layers = [
        scipy.ndimage.affine_transform(image[..., c] * share, turn.T, offset=offset, order=1, output=np.float32)
        for c in range(3)
    ]
    cell = np.stack(layers, axis=-1)
    return _whole(cell + (1 - alpha[..., None]) * background)


def _background(share: Share) -> NDArray[np.bool_]:
    """Pixels (H, W) outside the cell that do not touch it."""
    untouched: NDArray[np.bool_] = scipy.ndimage.maximum_filter(share, size=3) <= 0
    return untouched


def plain(shape: tuple[int, ...], gray: int) -> Image:
    """An image of one gray value."""
    return np.full(shape, gray, np.uint8)


def _mixed(front: NDArray[np.float32], share: Share, back: NDArray[np.float32] | np.float32) -> Image:
    return _whole(front * share[..., None] + back * (1 - share[..., None]))


def _whole(values: NDArray[np.floating[Any]]) -> Image:
    gray_levels: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return gray_levels
