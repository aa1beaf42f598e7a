"""TIFF: its pages by their headers alone, and the pages that Pillow does not read, through tifffile."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import ImageError, require_extra

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF."""
JPEG = 7
"""The number of JPEG compression."""
MAX_PAGES, MAX_TAGS = 10_000, 256
"""Pages of a file and tags of a page, so that no file takes more than seconds."""
MAX_SAMPLES = 4

_SIZES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 16: "Q"}
_KINDS = {254: "kind", 256: "width", 257: "height", 258: "bits", 259: "compression", 262: "photometric", 274: "orientation"}
_MORE = {277: "samples", 281: "top", 284: "planar", 317: "predictor", 322: "tile_width", 323: "tile_height", 338: "extra"}
_TAGS = {**_KINDS, **_MORE, 32997: "depth", 339: "sample_format", 341: "s_top"}
_PREMULTIPLIED = 1
"""The value of ExtraSamples for colours that are multiplied by alpha, which Pillow divides in 8 bits."""
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy of another page, and a mask of transparency."""

COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32946: "deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "ZSTD",
}
"""Compressions of pages that are read through tifffile. Each decodes no more than its header states, but JPEG."""
_BUILT_IN = (1, 8, 32946, 32773)
"""Those that tifffile decodes without imagecodecs."""
_PILLOW = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000})
_DIFFERENCING = frozenset({5, 8, 32946, 34925, 50000})
"""Compressions for which Pillow undoes the predictor; for others it passes over it."""
_OTHER_NAMES = {
    6: "old-style JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


@dataclass(frozen=True, slots=True)
class Page:
    """The header of one page; `index` counts all pages of the file from 0."""

    index: int
    width: int
    height: int
    bits: int
    """The most of a channel."""
    n_channels: int
    compression: int
    predictor: int
    photometric: int
    planar: int
    orientation: int
    sample_format: int
    tile: tuple[int, int]
    depth: int
    top: int | None
    """The largest value by the header, if it states one below its bits."""
    extra: int | None

    @property
    def stated_bits(self) -> int | None:
        """Bits of the values, where the header states fewer than 16."""
        if 8 < self.bits < 16:
            return self.bits
        return self.top.bit_length() if self.top is not None else None

    @property
    def by_pillow(self) -> bool:
        """Whether Pillow reads the page, and its values rightly."""
        undone = self.predictor == 1 or self.compression in _DIFFERENCING
        # Pillow takes planes of 16 bits for alternating channels, and the second channel of two for the next pixel
        deep = self.bits in (16, 32) and (self.n_channels == 1 or (self.planar == 1 and self.n_channels > 2))
        deep = deep and self.extra != _PREMULTIPLIED
        return self.compression in _PILLOW and undone and (self.bits <= 8 or (deep and self.compression != 7))


def read_pages(file: BufferedReader) -> list[Page]:
    """The pages of a TIFF at full resolution, from the headers alone; smaller copies and masks are none.

    Raises `ValueError` or `struct.error` for a damaged chain of pages.
    """
    file.seek(0)
    magic = file.read(4)
    if magic not in MAGIC:
        raise ValueError("not a TIFF")
    order, big = "<" if magic[:2] == b"II" else ">", 43 in magic
    if big:
        file.seek(8)
    (offset,) = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    pages: list[Page] = []
    kinds: list[int] = []
    seen: set[int] = set()
    while offset:
        if offset in seen or len(pages) >= MAX_PAGES:
            raise ValueError("the pages form a loop" if offset in seen else f"more than {MAX_PAGES} pages")
        seen.add(offset)
        tags, offset = _read_tags(file, offset, order, big=big)
        kinds.append(_first(tags, "kind", 0))
        pages.append(_page(tags, len(pages)))
    if not pages:
        raise ValueError("no page")
    full = [page for page, kind in zip(pages, kinds, strict=True) if not kind & (_REDUCED | _MASK)]
    return full or pages[:1]


_Tags = dict[str, tuple[int, ...]]


def _first(tags: _Tags, name: str, default: int) -> int:
    return tags[name][0] if tags.get(name) else default


def _read_tags(file: BufferedReader, offset: int, order: str, *, big: bool) -> tuple[_Tags, int]:
    """The tags of interest of the page at `offset`, and the offset of the next page."""
    file.seek(offset)
    n_entries = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))[0]
    if n_entries > MAX_TAGS:
        raise ValueError(f"{n_entries} tags")
    size, inline = (20, 8) if big else (12, 4)
    block = file.read(size * n_entries + (8 if big else 4))
    if len(block) < size * n_entries:
        raise ValueError("the tags are cut off")
    tags: _Tags = {}
    for i in range(n_entries):
        entry = block[i * size : (i + 1) * size]
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), entry)
        if tag not in _TAGS or kind not in _SIZES or not count:
            continue
        count = min(count, 16)
        values = order + _SIZES[kind] * count
        n_bytes = struct.calcsize(values)
        content = entry[-inline:]
        if n_bytes > inline:
            file.seek(struct.unpack(order + ("Q" if big else "I"), content)[0])
            content = file.read(n_bytes)
        tags[_TAGS[tag]] = struct.unpack(values, content[:n_bytes])
    following = block[size * n_entries :]
    # a file may end with its last page
    return tags, struct.unpack(order + ("Q" if big else "I"), following)[0] if len(following) == (8 if big else 4) else 0


def _page(tags: _Tags, index: int) -> Page:
    if "width" not in tags or "height" not in tags:
        raise ValueError(f"page {index + 1} has no size")
    bits = max(tags.get("bits", (1,)))
    limits = [value for name in ("top", "s_top") for value in tags.get(name, ()) if value > 255]
    return Page(
        index=index,
        width=_first(tags, "width", 0),
        height=_first(tags, "height", 0),
        bits=bits,
        n_channels=_first(tags, "samples", 1),
        compression=_first(tags, "compression", 1),
        predictor=_first(tags, "predictor", 1),
        photometric=_first(tags, "photometric", 1),
        planar=_first(tags, "planar", 1),
        orientation=_first(tags, "orientation", 1),
        sample_format=_first(tags, "sample_format", 1),
        tile=(_first(tags, "tile_width", 0), _first(tags, "tile_height", 0)),
        depth=_first(tags, "depth", 1),
        top=max(limits) if bits == 16 and limits and max(limits) < 2**15 else None,
        extra=_first(tags, "extra", -1) if "extra" in tags else None,
    )


def decode(file: BufferedReader, page: Page, shown: str, max_pixels: int) -> NDArray[np.integer[Any]]:
    """The values of a page, (H, W) or (H, W, 3), upright; alpha is dropped.

    `shown` names the image in errors. Raises `ImageError`, or what tifffile raises on damage.
    """
    check_kind(page, shown, max_pixels)
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file, name="image.tif") as tiff:
        found: Any = tiff.pages[page.index]
        check_complete(file, found)
        if page.compression == 7:
            _check_jpegs(file, found, shown, max_pixels)
        values = found.asarray()
    if page.planar == 2 and page.n_channels > 1:
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != (page.height, page.width) or values.dtype.kind not in "ui":
        raise _unsupported(shown, f"{values.dtype} of shape {values.shape}")
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] > 2 else values[..., 0]
    return upright(values, page.orientation)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rows and columns of (H, W, ...) turned by the value of the orientation tag."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def check_kind(page: Page, shown: str, max_pixels: int) -> None:
    """Raise `ImageError` for a page of a kind that is not read, or one whose decoding could take much memory."""
    name = COMPRESSIONS.get(page.compression)
    if name is None:
        other = _OTHER_NAMES.get(page.compression, f"number {page.compression}")
        raise ImageError(
            f"image {shown} has a compression that is not read",
            expected="no compression, LZW, deflate, JPEG, PackBits or ZSTD",
            got=other,
            remedy="Save it with one of these, in Fiji for example.",
        )
    if page.compression not in _BUILT_IN or page.bits not in (8, 16, 32):
        what = f"{name} compression" if page.compression not in _BUILT_IN else f"{page.bits} bits a value"
        require_extra("imagecodecs", "tiff", f"image {shown} with {what}")
    if page.photometric == 0 and page.bits > 8:
        raise _unsupported(shown, "16 bits with 0 for white", expected="0 for black")
    if page.photometric not in (1, 2, 6) or page.sample_format != 1 or page.bits > 32:
        raise unsupported(shown, page)
    if page.n_channels > MAX_SAMPLES or page.depth != 1:
        raise unsupported(shown, page)
    if page.tile[0] * page.tile[1] > max_pixels:
        raise _unsupported(shown, f"tiles of {page.tile[0]}x{page.tile[1]} px")


def unsupported(shown: str, page: Page) -> ImageError:
    """The error for a kind of pixels that is not read."""
    kind = {1: "", 2: " signed integers", 3: " floating point"}.get(page.sample_format, f" format {page.sample_format}")
    colours = "" if page.photometric in (0, 1, 2) else f", photometric interpretation {page.photometric}"
    return _unsupported(shown, f"{page.n_channels} channels of {page.bits} bits{kind}{colours}")


def _unsupported(shown: str, got: str, *, expected: str = "gray or RGB of 8 or 16 bits a channel") -> ImageError:
    return ImageError(f"image {shown} has an unsupported pixel type", expected=expected, got=got)


def check_complete(file: BufferedReader, page: Any) -> None:
    """Raise `ValueError` where strips or tiles are missing, which tifffile would fill with zeros."""
    wanted = int(np.prod(page.chunked))
    ends = [offset + n for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True) if offset and n]
    if len(ends) < wanted or max(ends) > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{len(ends)} of {wanted} strips or tiles are there, and whole")


def _check_jpegs(file: BufferedReader, page: Any, shown: str, max_pixels: int) -> None:
    """Raise `ImageError` where a strip or tile states more pixels than an image may have."""
    for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        width, height = jpeg_size(file.read, n_bytes)
        if width * height > max_pixels:
            raise _unsupported(shown, f"a JPEG of {width}x{height} px inside")


def jpeg_size(read: Callable[[int], bytes], n_bytes: int) -> tuple[int, int]:
    """(width, height) that a JPEG states, (0, 0) where it states none (ITU T.81, B.2.2)."""
    content = read(n_bytes)
    position = 2
    while position + 9 <= len(content):
        if content[position] != 0xFF:
            return 0, 0
        marker = content[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, position + 5)
            return width, height
        position += 2 + struct.unpack_from(">H", content, position + 2)[0]
    return 0, 0
