"""Image formats by file name: those that are read, and those that are images and are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from os import fspath
from pathlib import PurePath

from hemalens.errors import one_line
from hemalens.files import PathLike

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are known by their first bytes. None of them runs another program."""
EXPECTED = "a JPEG, PNG, BMP, TIFF, WebP, GIF, AVIF, JPEG 2000, TGA or PPM"

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jif", ".jfif"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PNG_SUFFIXES = frozenset({".png", ".apng"})
TGA_SUFFIXES = frozenset({".tga"})
SUFFIXES = (
    JPEG_SUFFIXES
    | TIFF_SUFFIXES
    | PNG_SUFFIXES
    | TGA_SUFFIXES
    | {".bmp", ".dib", ".webp", ".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf"}
)
"""Suffixes of the files that are taken for images."""

_EXPORT = "Export it as PNG or TIFF."
_CELLS = "Cut the cells out in a viewer for slides, such as QuPath, and export them as PNG or TIFF."
_FIJI = "Export its images as TIFF, with Fiji or the microscope's program."
_GROUPS: tuple[tuple[str, str, str], ...] = (
    ("a HEIC photograph", _EXPORT, "heic heif"),
    ("a JPEG XL or JPEG XR image", _EXPORT, "jxl jxr wdp hdp"),
    ("a raw photograph", _EXPORT, "raw dng cr2 cr3 nef arw orf rw2 raf pef"),
    ("a drawing or a document with layers", _EXPORT, "psd psb xcf svg eps ai emf wmf ico icns pcx dds exr"),
    ("a DICOM file", _EXPORT, "dcm dicom ima"),
    ("a volume", _EXPORT, "nii nrrd mha mhd fits fit"),
    ("a whole slide", _CELLS, "svs ndpi ndpis mrxs scn bif vms vmu svslide tmap isyntax qptiff"),
    ("a microscope's file", _FIJI, "czi lif lof nd2 vsi ets oib oif oir lsm stk ims sld zvi"),
)
NOT_READ: dict[str, tuple[str, str]] = {
    f".{suffix}": (kind, remedy) for kind, remedy, suffixes in _GROUPS for suffix in suffixes.split()
}
"""What a file of a suffix is, and what to do, for images that are not read."""


def suffix_of(path: PathLike) -> str:
    """The suffix in small letters."""
    return PurePath(fspath(path)).suffix.lower()


def pillow_formats(path: PathLike) -> tuple[str, ...]:
    """The formats that a file of this name may have; TGA has no first bytes of its own, so its name decides."""
    return (*FORMATS, "TGA") if suffix_of(path) in TGA_SUFFIXES else FORMATS


def not_read(path: PathLike) -> tuple[str, str] | None:
    """(what the file is, what to do) for an image of a kind that is not read; None for any other name."""
    return NOT_READ.get(suffix_of(path))


def note_not_read(paths: Iterable[PathLike]) -> list[str]:
    """A note that counts the files of kinds that are not read, if there are any."""
    counts = Counter(suffix_of(path) for path in paths if not_read(path) is not None)
    if not counts:
        return []
    kinds = ", ".join(
        f"{one_line(suffix)[1:-1]} ({n})" for suffix, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    )
    remedies = dict.fromkeys(NOT_READ[suffix][1].replace(" it ", " them ").replace(" its ", " their ") for suffix in counts)
    advice = f". {next(iter(remedies))}" if len(remedies) == 1 else ""
    return [f"left out {counts.total()} file(s) of kinds that are not read: {kinds}{advice}"]
