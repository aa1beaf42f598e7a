"""Images of kinds that are not read, and odd ones that are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from bad_input_cases import Case, Place
from PIL import Image

CSV = ("out.csv",)
RGB = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 4096, (40, 40, 3), dtype=np.uint16)


def _predict(place: Place, images: object) -> tuple[object, ...]:
    return ("predict", place.bundle(), images, "--out", "out.csv")


def _alone(suffix: str) -> Callable[[Place], tuple[object, ...]]:
    return lambda place: _predict(place, place.file(f"scan.{suffix}", b"x" * 300))


def _beside(suffixes: str, command: Callable[[Place], tuple[object, ...]]) -> Callable[[Place], tuple[object, ...]]:
    """Files of kinds that are not read, among the neutrophils."""

    def make(place: Place) -> tuple[object, ...]:
        place.cells()
        for i, suffix in enumerate(suffixes.split()):
            place.file(f"cells/neutrophil/{i}.{suffix}", b"x")
        return command(place)

    return make


def _audit(place: Place) -> tuple[object, ...]:
    return ("data", "audit", f"folder:{place.cells()}")


def _folder(place: Place) -> tuple[object, ...]:
    return _predict(place, place.cells())


def _train(place: Place) -> tuple[object, ...]:
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.out)


def _only(suffix: str, spec: str) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        place.file(f"scans/neutrophil/a.{suffix}", b"x")
        return _predict(place, "scans") if spec == "plain" else ("data", "audit", f"{spec}:scans")

    return make


def _row_of(suffix: str) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        place.file(f"a.{suffix}", b"x" * 300)
        place.file("t.csv", f"path,label\na.{suffix},neutrophil\n")
        return ("data", "audit", "csv:t.csv")

    return make


def _saved(name: str, save: Callable[[Path], Any]) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        save(place.folder / name)
        return _predict(place, name)

    return make


def _tiff(values: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, photometric="rgb", **options)


def _deep_set(place: Place) -> tuple[object, ...]:
    (place.folder / "deep").mkdir()
    for i in range(3):
        tifffile.imwrite(place.folder / "deep" / f"{i}.tif", DEEP // (i + 1), photometric="rgb", compression="zlib")
    return _predict(place, "deep")


def _renamed(kind: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(RGB).save(path, kind)


CASES = (
    Case("a DICOM file alone", _alone("dcm"), ("scan.dcm' is a DICOM file, which is not read", "Export it as PNG or TIFF")),
    Case("a whole slide alone", _alone("svs"), ("a whole slide, which is not read", "QuPath")),
    Case("a slide of another maker alone", _alone("NDPI"), ("a whole slide, which is not read",)),
    Case("a photograph of a phone alone", _alone("heic"), ("a HEIC photograph, which is not read",)),
    Case("a microscope's file alone", _alone("czi"), ("a microscope's file, which is not read", "Fiji")),
    Case("a raw photograph alone", _alone("raw"), ("a raw photograph, which is not read",)),
    Case("layers alone", _alone("psd"), ("layers, which is not read",)),
    Case("a PostScript drawing alone", _alone("eps"), ("which is not read",)),
    Case(
        "kinds not read in predict",
        _beside("dcm dcm svs", _folder),
        ("left out 3 file(s) of kinds that are not read: .dcm (2), .svs (1)", "12 rows"),
        0,
        CSV,
    ),
    Case(
        "kinds not read in the audit",
        _beside("heic nd2", _audit),
        ("left out 2 file(s) of kinds that are not", ".heic (1)", ".nd2 (1)"),
        0,
    ),
    Case(
        "kinds not read in train",
        _beside("lif", _train),
        ("left out 1 file(s) of kinds that are not read: .lif (1)",),
        0,
        ("out",),
        stub=True,
    ),
    Case("a text beside the images is no image", _beside("txt", _folder), ("12 rows", "unreadable: 0"), 0, CSV),
    Case(
        "a text beside the images of a reader",
        _beside("txt", _audit),
        ("1 file(s) or folder(s) outside the expected layout", "0.txt"),
        0,
    ),
    Case("nothing but DICOM in predict", _only("dcm", "plain"), ("no image in 'scans'", ".dcm (1)")),
    Case("nothing but slides in a folder of classes", _only("svs", "folder"), ("no image in 'scans'", ".svs (1)")),
    Case("a row of a kind that is not read", _row_of("heic"), ("unreadable: 1", "a HEIC photograph, which is not read"), 0),
    Case("a PCX named .png", _saved("a.png", _renamed("PCX")), ("no prediction: ", "is not a readable image"), 2, CSV),
    Case("an icon named .png", _saved("a.png", _renamed("ICO")), ("no prediction: ", "is not a readable image"), 2, CSV),
    Case("a TGA named .png", _saved("a.png", _renamed("TGA")), ("no prediction: ", "is not a readable image"), 2, CSV),
    Case("a JPEG named .png", _saved("a.png", _renamed("JPEG")), ("1 rows", "unreadable: 0"), 0, CSV),
    Case("a WebP", _saved("a.webp", _renamed("WEBP")), ("1 rows", "unreadable: 0"), 0, CSV),
    Case("a JPEG named .jfif", _saved("a.jfif", _renamed("JPEG")), ("1 rows", "unreadable: 0"), 0, CSV),
    Case("a TGA", _saved("a.tga", _renamed("TGA")), ("1 rows", "unreadable: 0"), 0, CSV),
    Case(
        "a TIFF of two pages",
        _saved("a.tif", _tiff(np.stack([RGB, RGB]))),
        ("2 rows", "1 TIFF file(s) of several pages: 2 images"),
        0,
        CSV,
    ),
    Case(
        "12 bits in 16",
        _deep_set,
        ("3 image(s) of more than 8 bits: largest value 4095, read as 12 bits", "3 rows"),
        0,
        CSV,
    ),
    Case(
        "16 bits with LZW and predictor",
        _saved("a.tif", _tiff(DEEP * 16, compression="lzw", predictor=2)),
        ("unreadable: 0",),
        0,
        CSV,
    ),
    Case("16 bits with ZSTD", _saved("a.tif", _tiff(DEEP * 16, compression="zstd")), ("unreadable: 0",), 0, CSV),
    Case(
        "JPEG 2000 inside a TIFF",
        _saved("a.tif", _tiff(DEEP, compression="jpeg2000")),
        ("no prediction: ", "a compression that is not read", "got JPEG 2000"),
        2,
        CSV,
    ),
    Case(
        "JPEG XL inside a TIFF",
        _saved("a.tif", _tiff(RGB, compression="jpegxl")),
        ("no prediction: ", "got JPEG XL"),
        2,
        CSV,
    ),
    Case("signed values", _saved("a.tif", _tiff(RGB.astype(np.int16))), ("no prediction: ", "signed integers"), 2, CSV),
    Case(
        "ten channels",
        _saved(
            "a.tif",
            lambda p: tifffile.imwrite(
                p, np.zeros((40, 40, 10), np.uint16), photometric="minisblack", planarconfig="contig"
            ),
        ),
        ("no prediction: ", "10 channels"),
        2,
        CSV,
    ),
)
