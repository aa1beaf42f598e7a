"""What a listing learns from headers: pages and depth, without decoding and without an error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from hemalens.imaging.headers import is_deep, n_pages

GRAY = np.random.default_rng(0).integers(0, 4096, (20, 24), dtype=np.uint16)


@pytest.fixture(autouse=True)
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where pixels are decoded."""

    def decoded(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_16_bits_are_deep_and_8_are_not(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GRAY).save(tmp_path / f"deep.{suffix}")
    Image.fromarray(GRAY.astype(np.uint8)).save(tmp_path / f"plain.{suffix}")
    assert is_deep(tmp_path / f"deep.{suffix}")
    assert not is_deep(tmp_path / f"plain.{suffix}")


def test_other_formats_are_not_opened(tmp_path: Path) -> None:
    assert not is_deep(tmp_path / "gone.jpg")
    assert n_pages(tmp_path / "gone.png") == 1


def test_pages_are_counted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GRAY] * 5), photometric="minisblack")
    assert n_pages(tmp_path / "a.tif") == 5


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"no image"])
def test_a_damaged_file_is_one_image_that_fails_when_it_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    assert n_pages(tmp_path / "a.tif") == 1
    assert not is_deep(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert n_pages(tmp_path / "a.tif") == 1
    assert not is_deep(tmp_path / "a.tif")
