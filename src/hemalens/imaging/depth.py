"""More than 8 bits a value: whole values from Pillow, and their reduction to 8 bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

BITS = (8, 10, 12, 14, 16)
"""The numbers of bits that cameras give."""
_LITTLE = sys.byteorder == "little"
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if _LITTLE else "16L"}
"""Byte orders of Pillow's raw modes: read in the other one, the lower byte of a value stands for the upper one."""
_COLOURS = ("RGB", "RGBA", "RGBX")


@dataclass(frozen=True, slots=True)
class DeepImage:
    """Values (H, W) or (H, W, 3) of an image with more than 8 bits; `stated_bits` by its header, None if silent."""

    values: NDArray[np.uint16]
    stated_bits: int | None

    @property
    def header_bits(self) -> int | None:
        """Bits of the header, as one of `BITS`; None where it is silent, or the values do not fit them."""
        if self.stated_bits is None:
            return None
        stated = bits_of(2**self.stated_bits - 1)
        return stated if stated >= bits_of(self.largest) else None

    @property
    def largest(self) -> int:
        """The largest value."""
        return int(self.values.max())

    def to_8_bits(self, bits: int | None) -> NDArray[np.uint8]:
        """Gray levels of the upper 8 bits: 4095 of 12 bits and 65535 of 16 are 255.

        The header decides, then `bits`, then the largest value; no value is cut off.
        """
        shift = (self.header_bits or max(bits or 0, bits_of(self.largest))) - 8
        levels: NDArray[np.uint8] = (self.values >> shift).astype(np.uint8)
        return levels


def bits_of(largest: int) -> int:
    """The smallest number of bits in `BITS` that holds the value."""
    return next((bits for bits in BITS if largest < 2**bits), BITS[-1])


def whole_values(image: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.integer[Any]] | None:
    """The values of an image with more than 8 bits, upright; None for one of 8 bits, which is not decoded.

    Pillow gives 16-bit colours as their upper 8 bits. They are decoded twice, in either order of the two bytes; `again`
    opens the image anew.
    """
    if image.mode.startswith("I"):
        return np.asarray(ImageOps.exif_transpose(image))
    colour, _, order = _raw_mode(image).rpartition(";")
    if order not in _OTHER_BYTE:
        return None
    if colour == "LA":
        # four bytes a pixel: two of gray and two of alpha
        _decode_as(image, "RGBA")
        both = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        return (both[..., 0] << 8) | both[..., 1]
    if colour not in _COLOURS:
        return None
    upper = _colours(image)
    other = again()
    _decode_as(other, f"{colour};{_OTHER_BYTE[order]}")
    return (upper << 8) | _colours(other)


def _colours(image: Image.Image) -> NDArray[np.uint16]:
    return np.asarray(ImageOps.exif_transpose(image))[..., :3].astype(np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """How the stored bytes are laid out."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else None
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _decode_as(image: Any, raw_mode: str) -> None:
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode) for tile in image.tile
    ]
