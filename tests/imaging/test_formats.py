"""Formats by name: what is read, what is an image and not read, and how the latter are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from hemalens.errors import ImageError
from hemalens.imaging.formats import FORMATS, NOT_READ, SUFFIXES, not_read, note_not_read, pillow_formats
from hemalens.imaging.reading import image_size, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
LOSSLESS = {
    "webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "ppm": ("PPM", {}),
    "pnm": ("PPM", {}),
    "tga": ("TGA", {}),
    "jp2": ("JPEG2000", {}),
    "j2k": ("JPEG2000", {"no_jp2": True}),
}
RUNS_PROGRAMS = {"EPS", "PDF", "WMF", "GRIB", "HDF5", "BUFR", "FITS", "MPEG"}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_lossless_format_gives_the_values_stored(tmp_path: Path, suffix: str) -> None:
    kind, options = LOSSLESS[suffix]
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(PIXELS)
    expected = PIXELS
    if suffix == "gif":
        image = image.quantize(200)
        expected = np.asarray(image.convert("RGB"))
    image.save(path, format=kind, **options)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == (24, 20)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "jif"])
def test_other_names_of_jpeg(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / f"b.{suffix}")
    assert read_image(tmp_path / f"b.{suffix}").shape == PIXELS.shape


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path: Path) -> None:
    plain = np.full((32, 40, 3), (200, 90, 160), np.uint8)
    Image.fromarray(plain).save(tmp_path / "a.avif", quality=100)
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - plain).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_an_animation_is_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, i, axis=0)) for i in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"several frames; expected one image a file; got an animated .* Save the frames"):
        read_image(tmp_path / f"a.{suffix}")


def test_no_format_runs_a_program() -> None:
    assert not RUNS_PROGRAMS & {*FORMATS, *pillow_formats("a.tga"), *pillow_formats("a.eps")}


def test_only_the_name_makes_a_tga() -> None:
    assert "TGA" in pillow_formats(Path("b/A.TGA"))
    assert "TGA" not in pillow_formats(Path("b/a.png"))


def test_no_suffix_is_read_and_not_read() -> None:
    assert not set(NOT_READ) & SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in {*NOT_READ, *SUFFIXES})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.dcm", "DICOM"),
        ("b.SVS", "slide"),
        ("c.heic", "HEIC"),
        ("d.nd2", "microscope"),
        ("e.psd", "layers"),
        ("f.raw", "raw"),
    ],
)
def test_a_kind_that_is_not_read_is_named_with_what_to_do(name: str, kind: str) -> None:
    found = not_read(name)
    assert found is not None
    assert kind in found[0]
    assert "xport" in found[1]


@pytest.mark.parametrize("name", ["a.png", "notes.txt", "Thumbs.db", "labels.csv", "dcm", ".svs"])
def test_other_files_are_no_images_that_are_not_read(name: str) -> None:
    assert not_read(name) is None


def test_the_note_counts_by_suffix_the_most_frequent_first() -> None:
    names = ["x/a.dcm", "b.svs", "c.DCM", "d.txt", "e.png"]
    (note,) = note_not_read(names)
    assert note == "left out 3 file(s) of kinds that are not read: .dcm (2), .svs (1)"
    assert note_not_read(["d.txt"]) == []
    (alone,) = note_not_read(["a.dcm"])
    assert alone.endswith(".dcm (1). Export them as PNG or TIFF.")


@pytest.mark.parametrize("suffix", ["dcm", "heic", "svs"])
def test_reading_such_a_file_names_its_kind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\x00" * 128 + b"DICM" + bytes(200))
    with pytest.raises(ImageError, match=r"which is not read; expected a JPEG.*xport"):
        read_image(path)
