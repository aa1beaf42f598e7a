"""Warnings of decoders: notes on the image, in each thread, and nothing on the terminal."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from hemalens.errors import ImageError
from hemalens.imaging.quiet import decoder_warnings
from hemalens.imaging.reading import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def _corrupt_exif(path: Path) -> Path:
    """A JPEG whose EXIF ends in the middle of a tag's value."""
    block = b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 0x010E, 2, 400, 4000) + b"\x01"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0" + block)
    return path


def test_corrupt_exif_is_a_note_and_the_image_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []
    assert read_image(_corrupt_exif(tmp_path / "a.jpg"), notes=notes).shape == PIXELS.shape
    assert any("Corrupt EXIF" in note or "Truncated" in note or "EXIF" in note for note in notes), notes
    assert capfd.readouterr() == ("", "")


def test_a_clean_image_has_no_note(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    notes: list[str] = []
    read_image(tmp_path / "a.png", notes=notes)
    assert notes == []


def test_the_log_of_tifffile_is_a_note_only_while_an_image_is_read(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    log = logging.getLogger("tifffile")
    with decoder_warnings(notes):
        log.warning("odd %s", "tag")
    log.warning("outside")
    assert notes == ["odd tag"]
    assert [record.getMessage() for record in caplog.records] == ["outside"]


def test_filters_are_as_before(tmp_path: Path) -> None:
    filters, show = list(warnings.filters), warnings.showwarning
    path = _corrupt_exif(tmp_path / "a.jpg")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: read_image(path), range(64)))
    assert list(warnings.filters) == filters
    assert warnings.showwarning is show


def test_each_thread_has_its_own_notes(tmp_path: Path) -> None:
    broken, whole = _corrupt_exif(tmp_path / "a.jpg"), tmp_path / "b.png"
    Image.fromarray(PIXELS).save(whole)

    def noted(i: int) -> int:
        notes: list[str] = []
        read_image(broken if i % 2 else whole, notes=notes)
        return len(notes)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(noted, range(40)))
    assert all(bool(n) == bool(i % 2) for i, n in enumerate(found))


def test_a_warning_of_another_thread_is_not_swallowed() -> None:
    inside, done = threading.Event(), threading.Event()

    def reader() -> None:
        with decoder_warnings():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=reader)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread.start()
        inside.wait(10)
        warnings.warn("ours", stacklevel=1)
        done.set()
        thread.join()
    assert [str(each.message) for each in caught] == ["ours"]


@pytest.mark.parametrize("compression", ["lzw", "zstd", "lzma"])
def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", compression=compression)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")
