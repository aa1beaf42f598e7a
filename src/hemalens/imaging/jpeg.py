"""Decode JPEGs by libjpeg-turbo in one pass: the same pixels as Pillow's, in less than half the time."""

from __future__ import annotations

from io import BufferedReader

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""


def jpeg_pixels(file: BufferedReader, image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG of colours, uint8 (H, W, 3); None where Pillow must decode it.

    `image` is the file opened by Pillow, its header checked. Gray and CMYK, turned images, and whatever the decoder
    complains of are Pillow's.
    """
    if image.mode != "RGB" or Image.Image.getexif(image).get(_ORIENTATION, 1) != 1:
        return None
    file.seek(0)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file.read(), colorspace="RGB")
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == image.size else None
