"""TXL-PBC: the laboratory of an image by its size, and the list of classes that belongs to no image."""

from __future__ import annotations

from pathlib import Path

from fake_fields import TXL_SIZES, noise, write_txl_pbc
from hemalens.datasets.fields.open import open_fields
from hemalens.imaging.reading import image_size


def test_the_size_of_an_image_tells_its_laboratory(tmp_path: Path) -> None:
    dataset = open_fields(write_txl_pbc(tmp_path))
    assert {image_size(f.record.path): f.record.domain for f in dataset.fields} == TXL_SIZES
    assert dataset.notes == ()
    assert open_fields(f"txl_pbc:{tmp_path / 'TXL_PBC'}").fingerprint == dataset.fingerprint


def test_another_size_is_of_no_known_source(tmp_path: Path) -> None:
    spec = write_txl_pbc(tmp_path)
    noise(tmp_path / "TXL_PBC" / "images" / "train" / "uuid-9.jpg", 9, (100, 100))
    (tmp_path / "TXL_PBC" / "labels" / "train" / "uuid-9.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert open_fields(spec).fields[-1].record.domain == "txl_pbc"
