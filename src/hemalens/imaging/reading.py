"""Safe image reading, the definition of preprocessing, and the background colour."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.errors import HemalensError, ImageError, one_line
from hemalens.files import open_regular
from hemalens.imaging import tiff
from hemalens.imaging.depth import DeepImage, whole_values
from hemalens.imaging.formats import EXPECTED, not_read, pillow_formats
from hemalens.imaging.jpeg import jpeg_pixels
from hemalens.imaging.quiet import decoder_warnings

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
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats that may hold several frames. Of a JPEG's further pictures, such as a camera's preview, the first counts."""

Box = tuple[int, int, int, int]
"""(x_min, y_min, x_max, y_max) in pixels; the maximum is exclusive."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is read: a file, and one of its pages, counted from 1."""

    path: Path
    page: int | None = None

    @property
    def shown(self) -> str:
        return one_line(named(self.path, self.page))


def named(path: Path, page: int | None) -> str:
    """The name of an image: its path, with "#" and the page for one of several."""
    return f"{path}" if page is None else f"{path}#{page}"


def read_image(
    path: Path,
    box: Box | None = None,
    *,
    page: int | None = None,
    bits: int | None = None,
    notes: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Read an image as RGB uint8 (H, W, 3), upright by its EXIF orientation.

    Alpha is dropped, a palette and CMYK are converted, gray is repeated. Values of more than 8 bits are reduced to the
    upper 8 of `bits`; None takes the bits that the header states or, without them, the fewest of 8, 10, 12, 14 and 16
    that hold the image's largest value. `page` counts the pages of a TIFF from 1; None is for a file of one page. `box`
    cuts a part out. What the decoder warns of is appended to `notes`. Raises `ImageError`, which names the file.
    """
    asked = _Asked(path, page)
    if box is None:
        return _read_rgb(asked, bits, notes)
    image = _cut(_field(asked, bits, notes), box, asked)
    _check_smallest(image.shape[1], image.shape[0], asked)
    return image


def _field(asked: _Asked, bits: int | None, notes: list[str] | None) -> NDArray[np.uint8]:
    """A large image that several boxes are cut from: each thread caches the last one it decoded."""
    try:
        state = asked.path.stat()
    except OSError:
        return _read_rgb(asked, bits, notes)  # raises the error
    key = (asked, bits, state.st_size, state.st_mtime_ns)
    if getattr(_last, "key", None) != key:
        _last.image, _last.key = _read_rgb(asked, bits, notes), key
        _last.image.flags.writeable = False
    field: NDArray[np.uint8] = _last.image
    return field


_last = threading.local()


def read_mask(path: Path, *, page: int | None = None) -> NDArray[np.uint8]:
    """Read a segmentation mask as uint8 (H, W), values as stored, those above 255 as 255; raises `ImageError`.

    Colours must be gray: the channels of a pixel differ by at most `MASK_SPREAD`.
    """
    asked = _Asked(path, page)
    with _reading(asked, "mask") as file:
        found = _decode(file, asked)
        if isinstance(found, DeepImage):
            if found.values.ndim == 2:
                return np.minimum(found.values, 255).astype(np.uint8)
            mode, colours = "16-bit colours", Image.fromarray(found.to_8_bits(16))
        elif found.mode in ("L", "1"):
            return np.asarray(found.convert("L"))
        else:
            mode, colours = found.mode, _to_rgb(found, asked)
    spread = int(np.ptp(np.asarray(colours), axis=2).max())
    if spread > MASK_SPREAD:
        raise ImageError(
            f"mask {asked.shown} is no mask",
            expected="gray values",
            got=f"{mode} with channels that differ by up to {spread}",
        )
    return np.asarray(colours.convert("L"))


def image_size(path: Path, *, page: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels of the upright image, from the header alone; raises `ImageError`."""
    asked = _Asked(path, page)
    with _reading(asked) as file:
        chosen = _tiff_page(file, asked)
        if chosen is not None:
            turned = chosen.orientation in _LYING
            width, height = chosen.width, chosen.height
        else:
            with _opened(file, asked) as image:
                width, height = image.size
                # PNG's own method decodes the whole image to find EXIF behind its pixels
                turned = Image.Image.getexif(image).get(_ORIENTATION) in _LYING
        return (height, width) if turned else (width, height)


def deep_image(path: Path, *, page: int | None = None) -> DeepImage | None:
    """The image with all its bits; None for one of 8 bits. Raises `ImageError`."""
    asked = _Asked(path, page)
    with _reading(asked) as file:
        found = _decode(file, asked)
    return found if isinstance(found, DeepImage) else None


def _cut(image: NDArray[np.uint8], box: Box, asked: _Asked) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    x_min, y_min, x_max, y_max = box
    x_min, y_min, x_max, y_max = max(x_min, 0), max(y_min, 0), min(x_max, width), min(y_max, height)
    if x_min >= x_max or y_min >= y_max:
        raise ImageError(f"box {box} lies outside image {asked.shown}", got=f"{width}x{height} px")
    return image[y_min:y_max, x_min:x_max]


@contextmanager
def _reading(asked: _Asked, kind: str = "image", notes: list[str] | None = None) -> Iterator[BufferedReader]:
    """Open the file, and turn whatever goes wrong inside the block into an `ImageError`."""
    try:
        if os.path.isdir(asked.path):
            raise ImageError(f"{one_line(asked.path)} is a folder", expected="an image file")
        with decoder_warnings(notes), open_regular(asked.path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ImageError(f"image {asked.shown} is empty", expected=EXPECTED, got="0 bytes")
            yield file
    except ImageError:
        raise
    except HemalensError as error:
        raise ImageError(error.what, expected=error.expected, got=error.got, remedy=error.remedy) from error
    except UnidentifiedImageError as error:
        raise _unknown(asked) from error
    except Image.DecompressionBombError as error:
        raise _too_large(asked, str(error)) from error
    except FileNotFoundError as error:
        raise ImageError(f"image {asked.shown} does not exist") from error
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"image {asked.shown} cannot be opened", got=error.strerror or str(error)) from error
        raise _damaged(kind, asked, error) from error
    except Exception as error:
        # a decoder's: TypeError, struct.error, zlib.error and more
        raise _damaged(kind, asked, error) from error


def _tiff_page(file: BufferedReader, asked: _Asked) -> tiff.Page | None:
    """The page of a TIFF that is asked for, with its size checked; None for any other format."""
    file.seek(0)
    if file.read(4) not in tiff.MAGIC:
        return None
    pages = _pages(file)
    if asked.page is None and len(pages) > 1:
        raise ImageError(
            f"image {asked.shown} has several pages",
            expected="the name of one",
            got=f"{len(pages)} pages",
            remedy=f"Name one, as in {one_line(named(asked.path, 2))}.",
        )
    number = asked.page or 1
    if not 1 <= number <= len(pages):
        raise _no_page(asked, len(pages))
    page = pages[number - 1]
    _check_size(page.width, page.height, asked)
    return page


def _pages(file: BufferedReader) -> list[tiff.Page]:
    """The pages of a TIFF: each thread keeps those of the last file, whose pages are mostly read one after the other."""
    state = os.fstat(file.fileno())
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if getattr(_last, "pages_key", None) != key:
        _last.pages, _last.pages_key = tiff.read_pages(file), key
    pages: list[tiff.Page] = _last.pages
    return pages


def _no_page(asked: _Asked, n_found: int) -> ImageError:
    return ImageError(f"there is no page {asked.page} in {one_line(asked.path)}", expected=f"1 to {n_found}")


def _opened(file: BufferedReader, asked: _Asked) -> Image.Image:
    """Open by Pillow and check the header: format, number of frames, size."""
    file.seek(0)
    image = Image.open(file, formats=pillow_formats(asked.path))
    _check_size(*image.size, asked)
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        raise ImageError(
            f"image {asked.shown} has several frames",
            expected="one image a file",
            got=f"an animated {image.format}",
            remedy="Save the frames as images of their own.",
        )
    if image.format != "TIFF" and asked.page not in (None, 1):
        raise _no_page(asked, 1)
    return image


def _check_size(width: int, height: int, asked: _Asked) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(asked, f"{width}x{height} px")
    _check_smallest(width, height, asked)


def _check_smallest(width: int, height: int, asked: _Asked) -> None:
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(
            f"image {asked.shown} is too small",
            expected=f"at least {MIN_SIDE_PX}x{MIN_SIDE_PX} px",
            got=f"{width}x{height} px",
        )


def _unknown(asked: _Asked) -> ImageError:
    known = not_read(asked.path)
    if known is not None:
        kind, remedy = known
        return ImageError(f"{asked.shown} is {kind}, which is not read", expected=EXPECTED, remedy=remedy)
    return ImageError(f"{asked.shown} is not a readable image", expected=f"{EXPECTED}, whole and of 8 or 16 bits")


def _damaged(kind: str, asked: _Asked, error: Exception) -> ImageError:
    return ImageError(f"{kind} {asked.shown} is damaged or truncated", got=str(error) or type(error).__name__)


def _too_large(asked: _Asked, got: str) -> ImageError:
    return ImageError(
        f"image {asked.shown} is too large",
        expected=f"at most {MAX_PIXELS // 1_000_000} million pixels (in a larger TIFF, cells can be found)",
        got=got,
    )


def _read_rgb(asked: _Asked, bits: int | None, notes: list[str] | None) -> NDArray[np.uint8]:
    with _reading(asked, notes=notes) as file:
        found = _decode(file, asked)
        if isinstance(found, DeepImage):
            levels = found.to_8_bits(bits)
            return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
        return np.asarray(_to_rgb(found, asked))


def _decode(file: BufferedReader, asked: _Asked) -> Image.Image | DeepImage:
    """The upright image: with Pillow's mode where it has 8 bits, otherwise its values."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError("Pillow's LOAD_TRUNCATED_IMAGES is on", remedy="Switch it off: it hides damage.")
    page = _tiff_page(file, asked)
    if page is not None and not page.by_pillow:
        values = tiff.decode(file, page, asked.shown, MAX_PIXELS)
        return Image.fromarray(values) if values.dtype == np.uint8 else _deep(values, page.stated_bits, asked)
    if page is not None and page.bits > 8 and page.photometric == 0:
        raise ImageError(
            f"image {asked.shown} has an unsupported pixel type", expected="0 for black", got="16 bits with 0 for white"
        )

    def opened() -> Image.Image:
        image = _opened(file, asked)
        if page is not None and page.index:
            image.seek(page.index)
        return image

    try:
        image = opened()
    except UnidentifiedImageError as error:
        if page is None:
            raise
        raise tiff.unsupported(asked.shown, page) from error
    deep = whole_values(image, opened)
    if deep is not None:
        return _deep(deep, page.stated_bits if page is not None else None, asked)
    pixels = jpeg_pixels(file, image) if image.format == "JPEG" else None
    if pixels is not None:
        return Image.fromarray(pixels)
    image.load()
    return ImageOps.exif_transpose(image)


def _deep(values: NDArray[np.integer[Any]], stated_bits: int | None, asked: _Asked) -> DeepImage:
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"image {asked.shown} has values beyond 16 bits", expected="8 or 16 bits a channel")
    return DeepImage(values.astype(np.uint16), stated_bits)


def _to_rgb(image: Image.Image, asked: _Asked) -> Image.Image:
    if image.mode in ("RGB", "L", "1", "CMYK", "YCbCr", "LAB"):
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "P", "PA", "RGBX"):
        # through RGBA, so that a palette's or an alpha's colours stay as stored, and alpha is dropped
        return Image.fromarray(np.ascontiguousarray(np.asarray(image.convert("RGBA"))[..., :3]))
    raise ImageError(
        f"image {asked.shown} has an unsupported pixel type", expected="8 or 16 bits a channel", got=image.mode
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
