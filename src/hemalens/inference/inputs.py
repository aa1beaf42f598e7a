"""What a predictor takes: paths, records, and images in memory, one or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.images import split_page
from hemalens.errors import InputError
from hemalens.files import PathLike, as_path
from hemalens.imaging.in_memory import from_array, from_bytes, from_picture

EXPECTED = "a path, a Record, an array uint8 (H, W, 3), a Pillow image, the bytes of a file or an open binary file"


@dataclass(frozen=True, slots=True)
class Input:
    """An image to predict: its record, and, of an image in memory, its content.

    The record of an image in memory has the path "#" with its number among all inputs, from 0. A function as content gives
    the bytes of a file when the image is read; it may raise `ImageError`.
    """

    record: Record
    content: NDArray[np.uint8] | Image.Image | bytes | Callable[[], bytes] | None = None

    def read(self) -> NDArray[np.uint8]:
        """The image, RGB uint8 (H, W, 3), without stages; raises `ImageError`."""
        name = self.record.name
        if isinstance(self.content, bytes):
            return from_bytes(self.content, name)
        if isinstance(self.content, Image.Image):
            return from_picture(self.content, name)
        if isinstance(self.content, np.ndarray):
            return from_array(self.content, name)
        return self.record.unstaged().read() if self.content is None else from_bytes(self.content(), name)


OneImage = PathLike | Record | Input | NDArray[np.uint8] | Image.Image | bytes | bytearray | memoryview | BinaryIO
"""An image as users pass it: a path, a record, uint8 (H, W, 3) or (H, W), a Pillow image, a file's bytes, or an `Input`."""
Images = OneImage | Iterable[OneImage] | CellDataset
"""One image, or many."""


def inputs_of(images: Images) -> Iterator[Input]:
    """The inputs of one image or of many; raises `InputError` for anything else.

    What has a length is checked before this returns; of an endless iterable each item as its turn comes.
    """
    if isinstance(images, CellDataset):
        return iter([Input(record) for record in images.records])
    if _is_one(images):
        return iter([_input(images, 0)])
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise InputError("these are no images", expected=f"{EXPECTED}, or several of them", got=type(images).__name__)
    found = (_input(image, number) for number, image in enumerate(images))
    return iter(list(found)) if isinstance(images, Sized) else found


def _is_one(images: object) -> bool:
    """Whether this is a single image rather than several."""
    if isinstance(images, np.ndarray):
        return images.dtype.kind not in "OU" and images.ndim != 4
    return isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Record | Input | Image.Image) or hasattr(
        images, "read"
    )


def _input(image: Any, number: int) -> Input:
    if isinstance(image, Input):
        return image
    if isinstance(image, Record):
        return Input(image)
    if isinstance(image, str | os.PathLike):
        file, page = split_page(as_path(image, "the image"))
        return Input(Record(file, source_label="", domain="", page=page))
    record = Record(Path(f"#{number}"), source_label="", domain="")
    if hasattr(image, "read") and not isinstance(image, Image.Image):
        image = _content(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return Input(record, bytes(image))
    if isinstance(image, Image.Image):
        return Input(record, image)
    if not isinstance(image, np.ndarray):
        raise InputError(f"input {number} is no image", expected=EXPECTED, got=type(image).__name__)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(
            f"input {number} is no image",
            expected="an array uint8 (H, W, 3), RGB, or (H, W), gray",
            got=f"{image.dtype} {image.shape}",
            remedy="Scale floats to 0-255, and convert them with .astype('uint8').",
        )
    return Input(record, image)


def _content(file: Any) -> object:
    """What an open file holds; raises `InputError` for one that is closed or cannot be read."""
    try:
        return file.read()
    except (OSError, ValueError) as error:
        raise InputError("an open file cannot be read", expected="a file open in binary mode", got=str(error)) from error
