"""Images in memory, read by the rules of `reading.read_image`: the bytes of a file, Pillow's images, arrays."""

from __future__ import annotations

import io
import threading

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from hemalens.errors import ImageError, one_line
from hemalens.files import scratch_folder
from hemalens.imaging.reading import MIN_SIDE_PX, read_image

_loading = threading.Lock()
"""Pillow decodes an image on its first use, which two threads must not do at once."""


def from_bytes(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read the bytes of an image file as `read_image` reads the file; the `ImageError` calls the image `name`.

    The decoders need a file: the bytes lie in the temporary folder, for this user alone, while they are read.
    """
    with scratch_folder() as folder:
        path = folder / "image"
        path.write_bytes(content)
        try:
            return read_image(path)
        except ImageError as error:
            parts = (error.what, error.expected, error.got, error.remedy)
            what, expected, got, remedy = (part and part.replace(one_line(path), one_line(name)) for part in parts)
            if remedy and str(path) in remedy:
                # a page that can be named only of a file
                remedy = "Save it as a file, and name the page, as in 'file.tif#2'."
            raise ImageError(str(what), expected=expected, got=got, remedy=remedy) from error


def from_picture(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    """A Pillow image as RGB uint8 (H, W, 3), upright, as `read_image` reads its file; raises `ImageError`."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and max(picture.tag_v2.get(258, (1,))) > 8:
        raise ImageError(
            f"image {one_line(name)} is a TIFF of 16 bits, of which Pillow keeps a part", remedy="Give its path instead."
        )
    try:
        with _loading:
            upright = ImageOps.exif_transpose(picture)
            content = io.BytesIO()
            upright.save(content, "TIFF")
    except Exception as error:
        raise ImageError(
            f"image {one_line(name)} cannot be converted", expected="8 or 16 bits a channel", got=f"{picture.mode}: {error}"
        ) from error
    return from_bytes(content.getvalue(), name)


def from_array(array: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """An array uint8 (H, W, 3), or gray (H, W), as RGB uint8 (H, W, 3); raises `ImageError` where a side is too small."""
    height, width = array.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"image {one_line(name)} is too small",
            expected=f"at least {MIN_SIDE_PX}x{MIN_SIDE_PX} px",
            got=f"{width}x{height} px",
        )
    return np.ascontiguousarray(array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2))
