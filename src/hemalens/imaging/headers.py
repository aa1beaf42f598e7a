"""What the listing of a folder needs to know of a file, from its headers alone."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hemalens.files import open_regular
from hemalens.imaging import tiff
from hemalens.imaging.formats import DEEP_SUFFIXES, PNG_SUFFIXES, TIFF_SUFFIXES, pillow_formats, suffix_of
from hemalens.imaging.quiet import decoder_warnings


def n_pages(path: Path) -> int:
    """Pages of a TIFF by its headers; 1 for any other file and for a damaged one, which is an error when it is read."""
    if suffix_of(path) not in TIFF_SUFFIXES:
        return 1
    try:
        with open_regular(path) as file:
            return len(tiff.read_pages(file))
    except Exception:
        return 1


def is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits a value, in any page, by its headers; False for an unreadable file."""
    suffix = suffix_of(path)
    if suffix not in DEEP_SUFFIXES:
        return False
    try:
        with open_regular(path) as file:
            if suffix in PNG_SUFFIXES:
                # signature, length and name of the first chunk, width, height, bit depth
                return file.read(25)[24:] == b"\x10"
            if suffix in TIFF_SUFFIXES:
                return any(page.bits > 8 for page in tiff.read_pages(file))
            with decoder_warnings(), Image.open(file, formats=pillow_formats(path)) as image:
                return image.mode.startswith("I")
    except Exception:
        return False
