"""Drawn cells for the fake datasets: few are drawn, turned and mirrored into more, each file unlike the others."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic import LABORATORIES, draw_cell

Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]
N_TURNS = 8


@functools.cache
def _drawn(kind: str, seed: int, number: int) -> Drawn:
    return draw_cell(kind, LABORATORIES["lab_b"], np.random.default_rng([seed, number]))


def drawn_cell(kind: str, number: int, *, seed: int, width: int, height: int) -> Drawn:
    """Image (height, width, 3) and mask (height, width) with values 0, 128 and 255; each `number` another picture."""
    image, mask = (_turned(a, number % N_TURNS) for a in _drawn(kind, seed, number // N_TURNS))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized), np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _turned(array: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    array = np.rot90(array, turn % 4)
    return np.ascontiguousarray(array[:, ::-1] if turn >= 4 else array)


def numbered(kinds: Mapping[str, str], n_per_class: int) -> Iterator[tuple[str, str, int, int]]:
    """(label, kind, number of the picture, number within the label): no two labels share a picture."""
    pictures: dict[str, int] = {}
    for label, kind in kinds.items():
        for i in range(n_per_class):
            pictures[kind] = pictures.get(kind, -1) + 1
            yield label, kind, pictures[kind], i
