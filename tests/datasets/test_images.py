"""From files to images: pages, bits of a set, links, kinds that are not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets import open_dataset
from hemalens.datasets.base import Listing, Record
from hemalens.datasets.images import plain_images, prepared, split_page
from hemalens.datasets.splits import units
from hemalens.datasets.walking import following_links
from hemalens.errors import DatasetError
from hemalens.files import sha256_file
from hemalens.imaging.reading import read_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def _image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def _stack(path: Path, n: int = 3, dtype: Any = np.uint8) -> NDArray[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.random.default_rng(9).integers(0, 256, (n, 20, 24, 3)).astype(dtype)
    tifffile.imwrite(path, pages, photometric="rgb")
    return pages


def _deep(path: Path, largest: int, **options: Any) -> NDArray[np.uint16]:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(largest).integers(0, largest, (20, 24, 3)).astype(np.uint16)
    values[0, 0] = largest
    tifffile.imwrite(path, values, photometric="rgb", **options)
    return values


def _names(listing: Listing, folder: Path) -> list[str]:
    return [os.path.relpath(record.name, folder) for record in listing.records]


# Plain folders


def test_a_folder_is_listed_sorted_and_complete(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "note.txt", ".hidden.png", "c.jpg/inner.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = plain_images(tmp_path)
    assert _names(found, tmp_path) == ["a.webp", "b/1.jpg", "b/2.PNG", "c.jpg"], "a folder with an image's name is one"
    assert found.notes == []
    assert _names(plain_images(tmp_path / "note.txt"), tmp_path) == ["note.txt"]


def test_kinds_that_are_not_read_are_counted(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    for name in ("a.dcm", "b.dcm", "c.svs", "notes.txt"):
        (tmp_path / name).touch()
    assert plain_images(tmp_path).notes == ["left out 3 file(s) of kinds that are not read: .dcm (2), .svs (1)"]


def test_nothing_to_read_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no image in .*; expected files named \*\.jpg"):
        plain_images(tmp_path)
    (tmp_path / "a.dcm").touch()
    with pytest.raises(DatasetError, match=r"no image in .*; got left out 1 file.* \.dcm \(1\)"):
        plain_images(tmp_path)
    with pytest.raises(DatasetError, match=r"a.dcm' is a DICOM file, which is not read. Export it as PNG or TIFF"):
        plain_images(tmp_path / "a.dcm")
    with pytest.raises(DatasetError, match=r"there is no image or folder '.*gone'"):
        plain_images(tmp_path / "gone")


def test_every_reader_counts_what_it_does_not_read(tmp_path: Path) -> None:
    for label in ("neutrophil", "lymphocyte"):
        _image(tmp_path / label / "a.png", seed=len(label))
    (tmp_path / "neutrophil" / "b.heic").touch()
    (tmp_path / "neutrophil" / "notes.txt").touch()
    notes = open_dataset(f"folder:{tmp_path}").notes
    assert notes[0] == "left out 1 file(s) of kinds that are not read: .heic (1). Export them as PNG or TIFF."
    assert "notes.txt" in notes[1]


# Pages


def test_each_page_is_a_record_of_one_group(tmp_path: Path) -> None:
    pages = _stack(tmp_path / "neutrophil" / "s.tif")
    _image(tmp_path / "neutrophil" / "a.png")
    _image(tmp_path / "lymphocyte" / "b.tif", seed=1)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert [record.file_name for record in dataset.records] == ["b.tif", "a.png", "s.tif#1", "s.tif#2", "s.tif#3"]
    for record, expected in zip(dataset.records[2:], pages, strict=True):
        np.testing.assert_array_equal(record.read(), expected)
    assert [record.page for record in dataset.records] == [None, None, 1, 2, 3]
    assert len(set(dataset.contents)) == 5
    assert dataset.contents[0] == sha256_file(tmp_path / "lymphocyte" / "b.tif"), "one page is the file"
    assert len(set(units(dataset)[2:])) == 1
    assert len(set(units(dataset))) == 3
    assert any("1 TIFF file(s) of several pages: 3 images" in note for note in dataset.notes)


def test_a_group_that_is_given_stays(tmp_path: Path) -> None:
    _stack(tmp_path / "s.tif")
    (tmp_path / "t.csv").write_text("path,label,group\ns.tif,neutrophil,patient_7\n")
    assert {record.group for record in open_dataset(f"csv:{tmp_path / 't.csv'}").records} == {"patient_7"}


def test_a_row_may_name_a_page(tmp_path: Path) -> None:
    pages = _stack(tmp_path / "s.tif")
    (tmp_path / "t.csv").write_text("path,label\ns.tif#3,neutrophil\ns.tif#1,lymphocyte\n")
    records = open_dataset(f"csv:{tmp_path / 't.csv'}").records
    assert [record.name for record in records] == [f"{tmp_path}/s.tif#3", f"{tmp_path}/s.tif#1"]
    np.testing.assert_array_equal(records[0].read(), pages[2])


def test_a_name_with_a_number_sign_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    _stack(tmp_path / "s.tif")
    assert split_page(tmp_path / "s.tif#2") == (tmp_path / "s.tif", 2)
    assert split_page(tmp_path / "s.png#2") == (tmp_path / "s.png#2", None)
    assert split_page(tmp_path / "s.tif#0") == (tmp_path / "s.tif#0", None)
    (tmp_path / "s.tif#2").touch()
    assert split_page(tmp_path / "s.tif#2") == (tmp_path / "s.tif#2", None)


def test_masks_of_several_pages_belong_to_their_pages(tmp_path: Path) -> None:
    from hemalens.datasets.masks import read_cell_mask

    _stack(tmp_path / "s.tif", n=2)
    masks = np.zeros((2, 20, 24), np.uint8)
    masks[0, :5], masks[1, 5:] = 255, 255
    tifffile.imwrite(tmp_path / "m.tif", masks, photometric="minisblack")
    (tmp_path / "t.csv").write_text("path,label,mask\ns.tif,neutrophil,m.tif\n")
    for record, mask in zip(open_dataset(f"csv:{tmp_path / 't.csv'}").records, masks, strict=True):
        np.testing.assert_array_equal(read_cell_mask(record, record.read()), mask > 0)


# Bits


def test_the_largest_value_of_the_set_decides(tmp_path: Path) -> None:
    dark, bright = _deep(tmp_path / "a.tif", 500), _deep(tmp_path / "b.tif", 4000)
    _image(tmp_path / "c.png")
    found = plain_images(tmp_path)
    assert [record.bits for record in found.records] == [12, 12, 8]
    assert found.notes == ["2 image(s) of more than 8 bits: largest value 4000, read as 12 bits"]
    for record, values in zip(found.records, (dark, bright), strict=False):
        np.testing.assert_array_equal(record.read(), (values // 16).astype(np.uint8))
    # 500 alone fits into 10 bits
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), (dark // 4).astype(np.uint8))


def test_16_bits_keep_the_content_of_the_file(tmp_path: Path) -> None:
    _deep(tmp_path / "a.tif", 60_000)
    (record,) = plain_images(tmp_path).records
    assert record.bits == 16
    assert record.content_id() == sha256_file(tmp_path / "a.tif")


@pytest.mark.parametrize("largest", [200, 500, 4000, 16_000])
def test_one_file_under_two_scales_has_two_views_and_fingerprints(tmp_path: Path, largest: int) -> None:
    for name in ("one", "two"):
        _deep(tmp_path / name / "neutrophil" / "a.tif", largest)
        _image(tmp_path / name / "lymphocyte" / "c.png")
    _deep(tmp_path / "two" / "neutrophil" / "b.tif", 60_000)
    first, second = (open_dataset(f"folder:{tmp_path / name}") for name in ("one", "two"))
    a, b = (next(r for r in each.records if r.path.name == "a.tif") for each in (first, second))
    assert (a.read() != b.read()).any()
    assert a.view_id() != b.view_id()
    part = second.subset(i for i, r in enumerate(second.records) if r.path.name != "b.tif")
    assert first.fingerprint != part.fingerprint


def test_another_scale_is_another_view_and_the_same_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _deep(tmp_path / name / "neutrophil" / "a.tif", 4000)
        _image(tmp_path / name / "lymphocyte" / "c.png")
    _deep(tmp_path / "two" / "neutrophil" / "b.tif", 16_000)
    first, second = (open_dataset(f"folder:{tmp_path / name}") for name in ("one", "two"))
    a, b = (next(r for r in each.records if r.path.name == "a.tif") for each in (first, second))
    assert (a.bits, b.bits) == (12, 14)
    assert a.content_id() == b.content_id()
    assert a.view_id() != b.view_id()
    part = second.subset(i for i, r in enumerate(second.records) if r.path.name != "b.tif")
    assert first.fingerprint != part.fingerprint


def test_bits_of_a_header_come_first(tmp_path: Path) -> None:
    stated = _deep(tmp_path / "a.tif", 900, extratags=[(281, "H", 3, (4095,) * 3, True)])
    silent = _deep(tmp_path / "b.tif", 50_000)
    found = plain_images(tmp_path)
    assert [record.bits for record in found.records] == [12, 16]
    np.testing.assert_array_equal(found.records[0].read(), (stated // 16).astype(np.uint8))
    np.testing.assert_array_equal(found.records[1].read(), (silent // 256).astype(np.uint8))
    assert "1 image(s) of more than 8 bits state 12 bits in their headers, and are read so" in found.notes


def test_the_second_listing_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    _deep(tmp_path / "images" / "a.tif", 4000)
    first = plain_images(tmp_path / "images")
    monkeypatch.setattr("hemalens.datasets.images.deep_image", lambda *args, **named: pytest.fail("read again"))
    assert plain_images(tmp_path / "images").records == first.records


def test_an_unreadable_deep_image_is_left_to_its_reading(tmp_path: Path) -> None:
    _deep(tmp_path / "a.tif", 4000)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    _deep(tmp_path / "b.tif", 1000)
    assert [record.bits for record in plain_images(tmp_path).records] == [16, 10]


# Links


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder of classes with links inside it, links out of it and loops; beside it, what they lead to."""
    data, away = tmp_path / "data", tmp_path / "away"
    _image(data / "neutrophil" / "a.png", 1)
    _image(data / "lymphocyte" / "b.png", 2)
    _image(away / "c.png", 3)
    _image(away / "more" / "d.png", 4)
    (data / "neutrophil" / "inside.png").symlink_to("../lymphocyte/b.png")
    (data / "neutrophil" / "out.png").symlink_to(away / "c.png")
    (data / "lymphocyte" / "folder").symlink_to(away / "more")
    (data / "lymphocyte" / "up").symlink_to("..")
    (data / "lymphocyte" / "self").symlink_to(".")
    (data / "lymphocyte" / "x").symlink_to("y")
    (data / "lymphocyte" / "y").symlink_to("x")
    return data


def test_links_out_of_the_folder_are_left_out_counted_and_named(linked: Path) -> None:
    for listing in (plain_images(linked), Listing(list((d := open_dataset(f"folder:{linked}")).records), list(d.notes))):
        assert _names(listing, linked) == ["lymphocyte/b.png", "neutrophil/a.png", "neutrophil/inside.png"]
        (note,) = (note for note in listing.notes if "link(s)" in note)
        assert note.startswith("left out 2 link(s) that lead out of the folder, the first '")
        assert note.endswith("Add --follow-links to read what they lead to.")


def test_links_are_followed_where_that_is_asked_for(linked: Path) -> None:
    with following_links():
        found = plain_images(linked)
        dataset = open_dataset(f"folder:{linked}")
    expected = ["lymphocyte/b.png", "lymphocyte/folder/d.png", "neutrophil/a.png", "neutrophil/inside.png"]
    assert _names(found, linked) == [*expected, "neutrophil/out.png"]
    assert len(dataset) == 5
    assert not [note for note in found.notes if "link" in note]
    assert len(plain_images(linked).records) == 3, "only inside the block"


def test_a_root_that_is_a_link_is_fine(linked: Path) -> None:
    root = linked.parent / "root"
    root.symlink_to(linked)
    assert len(open_dataset(f"folder:{root}")) == 3


def test_a_class_folder_that_is_a_link_out_is_left_out(linked: Path) -> None:
    (linked / "monocyte").symlink_to(linked.parent / "away")
    dataset = open_dataset(f"folder:{linked}")
    assert set(dataset.classes) == {"neutrophil", "lymphocyte"}
    assert any("left out 3 link(s)" in note for note in dataset.notes)


def test_only_links_out_is_an_error_with_the_option(tmp_path: Path) -> None:
    _image(tmp_path / "away" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "away" / "a.png")
    with pytest.raises(DatasetError, match=r"lies behind a link out of it. Add --follow-links"):
        plain_images(tmp_path / "data")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "neutrophil").symlink_to(tmp_path / "away")
    with pytest.raises(DatasetError, match=r"is a link out of it. Add --follow-links"):
        open_dataset(f"folder:{tmp_path / 't'}")


def test_a_row_of_a_csv_that_is_a_link_out_names_the_option(tmp_path: Path) -> None:
    _image(tmp_path / "away" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "away" / "a.png")
    (tmp_path / "data" / "t.csv").write_text("path,label\na.png,neutrophil\n")
    with pytest.raises(DatasetError, match=r"outside the CSV's folder; .*got a link out of it. Add --follow-links"):
        open_dataset(f"csv:{tmp_path / 'data' / 't.csv'}")
    with following_links():
        assert len(open_dataset(f"csv:{tmp_path / 'data' / 't.csv'}")) == 1
        (tmp_path / "data" / "t.csv").write_text("path,label\n../away/a.png,neutrophil\n")
        with pytest.raises(DatasetError, match=r"lies outside the CSV's folder; expected a path inside it$"):
            open_dataset(f"csv:{tmp_path / 'data' / 't.csv'}")


def test_images_elsewhere_that_no_link_leads_to_stay(tmp_path: Path) -> None:
    path = _image(tmp_path / "cache" / "a.png")
    (tmp_path / "data").mkdir()
    assert len(prepared(Listing([Record(path, "x", "y")]), tmp_path / "data").records) == 1
