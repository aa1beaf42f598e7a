"""Read a large TIFF in rectangles, such as a scan of a whole slide: memory holds some of its tiles or strips at a time."""

from __future__ import annotations

import struct
from collections import OrderedDict
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import HemalensError, ImageError, one_line
from hemalens.files import open_regular
from hemalens.imaging import tiff
from hemalens.imaging.quiet import decoder_warnings
from hemalens.imaging.reading import MAX_PIXELS, Box, named

MAX_SIDE_PX = 100_000
"""Largest side of a scan."""
CACHED_BYTES = 64_000_000
"""Decoded tiles or strips that are kept: neighbouring rectangles share them."""


def is_scan(path: Path, *, page: int | None = None) -> bool:
    """Whether a file is a TIFF whose page has more pixels than `reading.read_image` reads; False for anything else."""
    try:
        with open_regular(path) as file:
            if file.read(4) not in tiff.MAGIC:
                return False
            pages = tiff.read_pages(file)
    except (HemalensError, OSError, ValueError, struct.error):
        return False
    number = page or 1
    return number <= len(pages) and pages[number - 1].width * pages[number - 1].height > MAX_PIXELS


class Scan(AbstractContextManager["Scan"]):
    """A page of a TIFF of 8 bits a channel, open for reading in rectangles; close it by `with`. For one thread.

    Its width and height may be up to 100,000 px, its tiles or strips up to 64 million pixels. Raises `ImageError`.
    """

    def __init__(self, path: Path, *, page: int | None = None) -> None:
        self._shown = one_line(named(path, page))
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._open = ExitStack()
        try:
            self._file = self._open.enter_context(open_regular(path))
            header = self._header(page)
            import tifffile

            self._file.seek(0)
            with decoder_warnings(None):
                opened: Any = self._open.enter_context(tifffile.TiffFile(self._file, name="scan.tif"))
                self._page = opened.pages[header.index]
                tiff.check_complete(self._file, self._page)
        except (ImageError, KeyboardInterrupt):
            self._open.close()
            raise
        except HemalensError as error:
            self._open.close()
            raise ImageError(error.what, expected=error.expected, got=error.got, remedy=error.remedy) from error
        except Exception as error:
            # a decoder's: TypeError, struct.error and more
            self._open.close()
            raise self._damaged(error) from error
        self.size = (header.height, header.width)
        self._part = header.tile if header.tile[0] else (header.width, int(self._page.rowsperstrip))
        self._compression = header.compression

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._kept.clear()
        self._open.close()

    def read(self, rectangle: Box) -> NDArray[np.uint8]:
        """The pixels of a rectangle (left, top, right, bottom) inside the scan, uint8 (h, w, 3); raises `ImageError`."""
        left, top, right, bottom = rectangle
        found = np.empty((bottom - top, right - left, 3), np.uint8)
        across, down = self._part
        n_across = -(-self.size[1] // across)
        for row in range(top // down, -(-bottom // down)):
            for column in range(left // across, -(-right // across)):
                part = self._decoded(row * n_across + column)
                y, x = row * down, column * across
                low, high = max(top, y), min(bottom, y + part.shape[0])
                begin, end = max(left, x), min(right, x + part.shape[1])
                found[low - top : high - top, begin - left : end - left] = part[low - y : high - y, begin - x : end - x]
        return found

    def _header(self, number: int | None) -> tiff.Page:
        """The header of the page, after checking what reading it could cost."""
        pages = tiff.read_pages(self._file)
        if number is None and len(pages) > 1:
            raise ImageError(
                f"image {self._shown} has several pages", expected="the name of one", got=f"{len(pages)} pages"
            )
        if not 1 <= (number or 1) <= len(pages):
            raise ImageError(f"there is no page {number} in {self._shown}", expected=f"1 to {len(pages)}")
        page = pages[(number or 1) - 1]
        tiff.check_kind(page, self._shown, MAX_PIXELS)
        if page.bits != 8 or page.orientation != 1 or (page.planar != 1 and page.n_channels > 1):
            raise ImageError(
                f"the scan {self._shown} is of a kind that is not read in parts",
                expected="8 bits a channel, colours interleaved, stored upright",
                got=f"{page.bits} bits, planar configuration {page.planar}, orientation {page.orientation}",
            )
        if max(page.width, page.height) > MAX_SIDE_PX:
            raise ImageError(
                f"image {self._shown} is too large",
                expected=f"at most {MAX_SIDE_PX:,} px a side",
                got=f"{page.width}x{page.height} px",
            )
        return page

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        """A tile or strip, RGB (h, w, 3), decoded once while it is kept."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        try:
            part = self._decode(index)
        except ImageError:
            raise
        except Exception as error:
            # a decoder's own class
            raise self._damaged(error) from error
        self._kept[index] = part
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > CACHED_BYTES:
            self._kept.popitem(last=False)
        return part

    def _decode(self, index: int) -> NDArray[np.uint8]:
        across, down = self._part
        if across * min(down, self.size[0]) > MAX_PIXELS:
            raise ImageError(
                f"the scan {self._shown} is stored in parts that are too large",
                expected=f"tiles or strips of at most {MAX_PIXELS // 1_000_000} million pixels",
                got=f"{across}x{min(down, self.size[0])} px",
                remedy="Save it as a tiled TIFF.",
            )
        self._file.seek(self._page.dataoffsets[index])
        content = self._file.read(self._page.databytecounts[index])
        if self._compression == tiff.JPEG:
            width, height = tiff.jpeg_size(lambda _: content, len(content))
            if width * height > MAX_PIXELS:
                raise ValueError(f"a JPEG of {width}x{height} px inside")
        with decoder_warnings(None):
            values = self._page.decode(content, index, jpegtables=self._page.jpegtables, jpegheader=self._page.jpegheader)[
                0
            ]
        part: NDArray[np.uint8] = values[0]
        if part.shape[2] < 3:
            part = np.repeat(part[..., :1], 3, axis=2)
        if self._page.photometric == 0:
            part = 255 - part
        return np.ascontiguousarray(part[..., :3])

    def _damaged(self, error: Exception) -> ImageError:
        if isinstance(error, FileNotFoundError):
            return ImageError(f"image {self._shown} does not exist")
        return ImageError(f"image {self._shown} is damaged or truncated", got=str(error)[:120] or type(error).__name__)
