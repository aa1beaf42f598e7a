"""Safe image reading, the definition of preprocessing, and the background colour."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.errors import ImageError, one_line

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000
"""Largest accepted image, in pixels, read from the header before anything is decoded."""
MIN_SIDE_PX = 8
"""Smallest accepted side."""
MASK_SPREAD = 16
"""Largest difference between the channels of a gray mask: JPEG compression leaves small ones."""

_ORIENTATION = 0x0112
"""The EXIF and TIFF tag of the orientation."""
_LYING = (5, 6, 7, 8)
"""Its values that swap rows and columns."""
_RIM_SHARE = 1 / 20
"""Width of the rim as a share of the shorter side: dark lines at the border of a photograph are thinner."""

Box = tuple[int, int, int, int]
"""(x_min, y_min, x_max, y_max) in pixels; the maximum is exclusive."""


def read_image(path: Path, box: Box | None = None) -> NDArray[np.uint8]:
    """Read a JPEG, PNG, BMP or TIFF as RGB uint8 (H, W, 3), upright by its EXIF orientation.

    Alpha is dropped, a palette and CMYK are converted, 16 bits are reduced to their upper 8, gray is repeated.
    `box` cuts a part out. Raises `ImageError`, which names the file, for anything else.
    """
    if box is None:
        return np.asarray(_open_rgb(path))
    image = _cut(_field(path), box, path)
    _check_smallest(image.shape[1], image.shape[0], path)
    return image


def _field(path: Path) -> NDArray[np.uint8]:
    """A large image that several boxes are cut from: each thread caches the last one it decoded."""
    try:
        state = path.stat()
    except OSError:
        return np.asarray(_open_rgb(path))  # raises the error
    key = (path, state.st_size, state.st_mtime_ns)
    if getattr(_last, "key", None) != key:
        _last.image, _last.key = np.asarray(_open_rgb(path)), key
    field: NDArray[np.uint8] = _last.image
    return field


_last = threading.local()


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a segmentation mask as uint8 (H, W), values as stored, those above 255 as 255; raises `ImageError`.

    Colours must be gray: the channels of a pixel differ by at most `MASK_SPREAD`.
    """
    with _opened(path) as image:
        try:
            if image.mode in ("L", "1"):
                return np.asarray(image.convert("L"))
            if image.mode.startswith("I"):
                values: NDArray[np.uint8] = np.clip(np.asarray(image), 0, 255).astype(np.uint8)
                return values
            colours = _to_rgb(image, path)
        except ImageError:
            raise
        except Exception as error:
            raise _damaged("mask", path, error) from error
    spread = int(np.ptp(np.asarray(colours), axis=2).max())
    if spread > MASK_SPREAD:
        raise ImageError(
            f"mask {one_line(path)} is no mask",
            expected="gray values",
            got=f"{image.mode} with channels that differ by up to {spread}",
        )
    return np.asarray(colours.convert("L"))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of the upright image, from the header alone; raises `ImageError`."""
    with _opened(path) as image:
        width, height = image.size
        try:
            # PNG's own method decodes the whole image to find EXIF behind its pixels; Pillow swaps TIFF's size itself
            turned = image.format != "TIFF" and Image.Image.getexif(image).get(_ORIENTATION) in _LYING
        except Exception as error:
            raise _damaged("image", path, error) from error
        return (height, width) if turned else (width, height)


def _cut(image: NDArray[np.uint8], box: Box, path: Path) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    x_min, y_min, x_max, y_max = box
    x_min, y_min, x_max, y_max = max(x_min, 0), max(y_min, 0), min(x_max, width), min(y_max, height)
    if x_min >= x_max or y_min >= y_max:
        raise ImageError(f"box {box} lies outside image {one_line(path)}", got=f"{width}x{height} px")
    return image[y_min:y_max, x_min:x_max]


def _opened(path: Path) -> Image.Image:
    """Open and check the header: kind of file, format, number of pages, size."""
    try:
        if os.path.isdir(path):
            raise ImageError(f"{one_line(path)} is a folder", expected="an image file")
        if os.path.getsize(path) == 0:
            raise ImageError(f"image {one_line(path)} is empty", expected="a JPEG, PNG, BMP or TIFF", got="0 bytes")
        with warnings.catch_warnings():
            # Pillow warns between its limit and twice that; `MAX_PIXELS` is checked below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{one_line(path)} is not a readable image", expected="a whole JPEG, PNG, BMP or 8/16-bit TIFF"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except FileNotFoundError as error:
        raise ImageError(f"image {one_line(path)} does not exist") from error
    except OSError as error:
        raise ImageError(f"image {one_line(path)} cannot be opened", got=error.strerror or str(error)) from error
    except Exception as error:
        raise _damaged("image", path, error) from error
    try:
        _check_header(image, path)
    except ImageError:
        image.close()
        raise
    return image


def _check_header(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} px")
    _check_smallest(width, height, path)
    try:
        n_pages = getattr(image, "n_frames", 1)
    except Exception as error:
        raise _damaged("image", path, error) from error
    if n_pages != 1 and image.format == "TIFF":
        raise _several_pages(path, n_pages)


def _check_smallest(width: int, height: int, path: Path) -> None:
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(
            f"image {one_line(path)} is too small",
            expected=f"at least {MIN_SIDE_PX}x{MIN_SIDE_PX} px",
            got=f"{width}x{height} px",
        )


def _several_pages(path: Path, n_pages: int) -> ImageError:
    return ImageError(f"image {one_line(path)} has several pages", expected="one image a file", got=f"{n_pages}")


def _damaged(kind: str, path: Path, error: Exception) -> ImageError:
    """The error for a decoder's exception: OSError, TypeError, struct.error, zlib.error and more."""
    return ImageError(f"{kind} {one_line(path)} is damaged or truncated", got=str(error) or type(error).__name__)


def _too_large(path: Path, got: str) -> ImageError:
    return ImageError(
        f"image {one_line(path)} is too large",
        expected=f"at most {MAX_PIXELS // 1_000_000} million pixels (single-cell images, not whole slides)",
        got=got,
    )


def _open_rgb(path: Path) -> Image.Image:
    try:
        with _opened(path) as image:
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                raise ImageError("Pillow's LOAD_TRUNCATED_IMAGES is on", remedy="Switch it off: it hides damage.")
            if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_misread(image, path):
                return ImageOps.exif_transpose(_planar_tiff(path))
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright, path)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged("image", path, error) from error


def _is_misread(image: TiffImagePlugin.TiffImageFile, path: Path) -> bool:
    """Whether Pillow would silently read wrong values: 16-bit channels stored one plane after the other.

    Raises `ImageError` for 16-bit gray that counts from white to black, which Pillow does not turn around.
    """
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if max(bits) <= 8:
        return False
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        raise ImageError(
            f"image {one_line(path)} has an unsupported pixel type", expected="0 for black", got="16 bits with 0 for white"
        )
    return bool(len(bits) > 1 and image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2)


def _planar_tiff(path: Path) -> Image.Image:
    """A 16-bit RGB or RGBA TIFF stored in planes, through tifffile; alpha is dropped, the orientation is passed on."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        values = page.asarray()  # (3 or 4, H, W)
        orientation = page.tags.valueof(_ORIENTATION, default=1)
    if values.dtype != np.uint16 or values.ndim != 3 or values.shape[0] not in (3, 4):
        raise ImageError(
            f"image {one_line(path)} has an unsupported pixel type",
            expected="16-bit RGB or RGBA planes",
            got=f"{values.dtype} planes of shape {values.shape}",
        )
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(values[:3] >> 8, 0, 2).astype(np.uint8)))
    image.getexif()[_ORIENTATION] = int(orientation)
    return image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("RGB", "L", "1", "CMYK", "YCbCr", "LAB"):
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "P", "PA", "RGBX"):
        # through RGBA, so that a palette's or an alpha's colours stay as stored, and alpha is dropped
        return Image.fromarray(np.ascontiguousarray(np.asarray(image.convert("RGBA"))[..., :3]))
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"image {one_line(path)} has values beyond 16 bits", expected="8 or 16 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    raise ImageError(
        f"image {one_line(path)} has an unsupported pixel type", expected="8 or 16 bits a channel", got=image.mode
    )


Interpolation = Literal["bilinear", "bicubic"]


class Preprocessing(StrictConfig):
    """From an image to pixels: resize (aspect ignored), then (value - mean) / std on the 0-255 scale.

    "bicubic" is Pillow's, with the coefficient -0.5. Without `antialias` each pixel is interpolated from its nearest
    neighbours alone, four of them in "bilinear", also where the image shrinks.
    """

    size_px: int = Field(default=224, ge=16, le=2048)
    mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)
    interpolation: Interpolation = "bilinear"
    antialias: bool = True


def resize(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (size_px, size_px, 3) uint8, bilinear with antialiasing, aspect ignored."""
    resized = Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def rim_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The median of each channel over the image's rim, (3,), which is usually the background's colour."""
    width = max(1, round(min(image.shape[:2]) * _RIM_SHARE))
    rim = np.ones(image.shape[:2], bool)
    rim[width:-width, width:-width] = False
    colour: NDArray[np.uint8] = np.median(image[rim], axis=0).astype(np.uint8)
    return colour
