"""Images in `data`, masks in `mask`: which mask is whose, against its definition; what is noted, what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fakes import cam16, wbc_subsets
from hemalens.datasets import READERS, CellDataset, open_dataset
from hemalens.datasets.masks import check_cell_masks, read_cell_mask, with_masks
from hemalens.datasets.readers.paired_masks import pair_masks
from hemalens.errors import DatasetError, ImageError
from hemalens.taxonomy import AS_LABELLED

FAKES: dict[str, Callable[..., str]] = {"wbc_subsets": wbc_subsets.write, "cam16": cam16.write}
CLASSES = {"wbc_subsets": "Basophil", "cam16": "normal"}
N = 3
DATA, MASK = Path("data"), Path("mask")


class Place:
    """One set on disk, and the folders of one of its classes in train."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.label = CLASSES[name]
        spec = FAKES[name](root, n_per_class=N, side_px=24)
        top = Path(spec.partition(":")[2])
        self.top = top / "WBC_100" if name == "wbc_subsets" else top
        self.data = self.top / "train" / "data" / self.label
        self.mask = self.top / "train" / "mask" / self.label
        self.image = min(self.data.iterdir())
        self.its_mask = self.mask / f"{self.image.stem}.png"

    def open(self) -> CellDataset:
        return open_dataset(f"{self.name}:{self.top}", labels=AS_LABELLED)

    def error(self) -> str:
        with pytest.raises(DatasetError) as caught:
            self.open()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(params=FAKES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path / "set")


# Which mask is whose

FILES = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([".jpg", ".png", ".PNG"])), unique=True, max_size=5)


@given(images=FILES, masks=FILES)
def test_a_mask_is_its_namesake_s_or_the_only_image_s_of_its_stem(
    images: list[tuple[str, str]], masks: list[tuple[str, str]]
) -> None:
    image_paths, mask_paths = [DATA / "".join(name) for name in images], [MASK / "".join(name) for name in masks]
    owners: dict[tuple[str, str], list[tuple[str, str]]] = {image: [] for image in images}
    clear = True
    for mask in masks:
        of_stem = [image for image in images if image[0] == mask[0]]
        of_name = [image for image in of_stem if image == mask]
        for owner in of_name or of_stem[:1]:
            owners[owner].append(mask)
        clear = clear and (bool(of_name) or len(of_stem) <= 1)
    if not clear or any(len(found) > 1 for found in owners.values()):
        with pytest.raises(DatasetError, match=r"has several masks; expected|may belong to several images; expected"):
            pair_masks(image_paths, mask_paths)
        return
    pairs, orphans = pair_masks(image_paths, mask_paths)
    assert pairs == {DATA / "".join(image): MASK / "".join(found[0]) for image, found in owners.items() if found}
    assert orphans == [MASK / "".join(mask) for mask in masks if mask[0] not in {image[0] for image in images}]
    # the order of the folders changes nothing
    again, orphans_again = pair_masks(image_paths[::-1], mask_paths[::-1])
    assert (again, orphans_again) == (pairs, orphans[::-1])


def test_every_image_has_the_mask_of_its_name_and_the_notes_count_those_without(place: Place) -> None:
    dataset = place.open()
    masked = [record for record in dataset.records if record.mask_path is not None]
    masks = sorted(path for path in place.top.rglob("*") if path.is_file() and "mask" in path.parts)
    assert sorted(record.mask_path for record in masked if record.mask_path is not None) == masks
    for record in masked:
        assert record.mask_path is not None
        part, inner, label, name = record.path.relative_to(place.top).parts
        assert (part, inner) == ("train", "data")
        assert record.mask_path.relative_to(place.top).with_suffix("") == Path(part, "mask", label, name).with_suffix("")
    assert f"{len(dataset) - len(masked)} of {len(dataset)} image(s) have no mask" in dataset.notes
    assert with_masks(dataset).records == tuple(masked)
    check_cell_masks(with_masks(dataset))


def test_no_note_where_every_image_has_its_mask(place: Place) -> None:
    train = place.top / "train"
    for path in [path for path in train.rglob("*") if path.is_file() and "data" in path.parts]:
        if not (train / "mask" / path.parent.name / f"{path.stem}.png").is_file():
            path.unlink()
    dataset = open_dataset(f"{place.name}:{train}", labels=AS_LABELLED)
    assert len(dataset) == len(with_masks(dataset)) > 0
    assert not dataset.notes


@pytest.mark.parametrize("suffix", [".PNG", ".bmp", ".tif"])
def test_a_mask_of_another_suffix_is_its_image_s(place: Place, suffix: str) -> None:
    before = len(with_masks(place.open()))
    moved = place.its_mask.with_suffix(suffix)
    with Image.open(place.its_mask) as mask:
        mask.load()
    place.its_mask.unlink()
    mask.save(moved)
    dataset = place.open()
    assert len(with_masks(dataset)) == before
    record = next(record for record in dataset.records if record.path == place.image)
    assert record.mask_path == moved
    assert read_cell_mask(record, record.read()).any()


def test_suffixes_may_be_written_in_capitals(place: Place) -> None:
    before = len(place.open())
    place.image.rename(place.image.with_suffix(place.image.suffix.upper()))
    dataset = place.open()
    assert len(dataset) == before
    assert {r.path.suffix for r in dataset.records} == {place.image.suffix, place.image.suffix.upper()}
    assert all(r.mask_path is not None for r in dataset.records if r.path.stem == place.image.stem)


def test_masks_without_an_image_are_left_out_and_the_first_is_named(place: Place) -> None:
    before = place.open()
    for name in ("zz late", "aa early"):
        shutil.copy(place.its_mask, place.mask / f"{name}.png")
    dataset = place.open()
    assert dataset.records == before.records
    assert "2 mask(s) have no image and were left out, the first 'aa early.png'" in dataset.notes


def test_a_mask_in_the_folder_of_another_class_has_no_image(place: Place) -> None:
    other = next(path for path in sorted(place.mask.parent.iterdir()) if path != place.mask)
    place.its_mask.rename(other / place.its_mask.name)
    dataset = place.open()
    assert next(record for record in dataset.records if record.path == place.image).mask_path is None
    assert f"1 mask(s) have no image and were left out, the first {place.its_mask.name!r}" in dataset.notes


def test_two_masks_for_one_image_are_an_error(place: Place) -> None:
    shutil.copy(place.its_mask, place.its_mask.with_suffix(".bmp"))
    assert place.error() == (
        f"the image '{place.image}' has several masks; expected at most one; got '{place.image.stem}.bmp' and "
        f"'{place.image.stem}.png'. Keep one of them in '{place.mask}'."
    )


def test_one_mask_for_two_images_is_an_error_and_its_file_name_decides(place: Place) -> None:
    twin = place.image.with_suffix(".tif")
    shutil.copy(place.image, twin)
    moved = place.its_mask.rename(place.its_mask.with_suffix(".bmp"))
    assert place.error() == (
        f"the mask '{moved}' may belong to several images; expected a mask with its image's file name; "
        f"got '{place.image.name}' and '{twin.name}'. Give the mask the file name of its image, suffix and all."
    )
    named = moved.rename(moved.with_suffix(".tif"))
    assert {r.path: r.mask_path for r in place.open().records if r.path.stem == twin.stem} == {
        place.image: None,
        twin: named,
    }


def test_a_mask_of_another_size_is_an_image_error(place: Place) -> None:
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(place.its_mask)
    record = next(record for record in place.open().records if record.path == place.image)
    with pytest.raises(ImageError) as caught:
        read_cell_mask(record, record.read())
    assert str(caught.value) == (
        f"the mask '{place.its_mask}' is not of its image's size; expected 24x24 px; got 30x20 px. "
        "Repair it, or take the image out."
    )


# What else lies there


def test_hidden_files_other_files_and_inner_folders_are_left_out_and_noted(place: Place) -> None:
    before = place.open()
    (place.data / ".DS_Store").write_bytes(b"")
    shutil.copy(place.image, place.data / f"._{place.image.name}")
    shutil.copy(place.its_mask, place.mask / f"._{place.its_mask.name}")
    (place.data / "list.txt").write_text("")
    (place.data / "folder.png").mkdir()
    (place.data.parent / ".cache").mkdir()
    (place.mask.parent / "README").write_text("")
    (place.top / "train" / "boxes").mkdir()
    (place.top / "masks.zip").write_bytes(b"")
    dataset = place.open()
    assert dataset.records == before.records
    assert [note for note in dataset.notes if note not in before.notes] == [
        "9 file(s) or folder(s) outside the expected layout were left out: "
        f"'.cache', '.DS_Store', '._{place.image.name}' ..."
    ]


@pytest.mark.parametrize("inner", ["data", "mask"])
def test_a_folder_beside_those_of_the_classes_is_an_error_that_names_the_near_one(place: Place, inner: str) -> None:
    folder = place.top / "train" / inner / f"{place.label}s"
    folder.mkdir()
    classes = ", ".join(sorted(path.name for path in place.data.parent.iterdir() if path != folder))
    assert re.fullmatch(
        f"the folder '{re.escape(str(folder))}' is not one of the .*; expected {classes}; got '{place.label}s'. "
        rf"Rename it or take it out: did you mean '{place.label}'.*\?",
        place.error(),
    )


def test_a_part_without_images_is_an_error(place: Place) -> None:
    shutil.rmtree(place.top / "val" / "data")
    assert f"'{place.top / 'val'}' is not laid out as the " in place.error()
    (place.top / "val" / "data").mkdir()
    assert place.error() == (
        f"'{place.top / 'val' / 'data'}' holds no image; expected {READERS[place.name].layout}; got no class folder. "
        "Unpack the set again, or give the folder of another part."
    )
    (place.top / "val" / "data" / place.label).mkdir()
    assert f"got an empty folder '{place.label}'" in place.error()


def test_records_come_by_part_then_class_then_name(place: Place) -> None:
    keys = [r.path.relative_to(place.top).parts for r in place.open().records]
    parts = list(dict.fromkeys(key[0] for key in keys))
    assert parts == ["train", "val", "test"][: len(parts)]
    assert keys == sorted(keys, key=lambda key: (parts.index(key[0]), key[2:]))


def test_a_link_to_the_set_and_to_its_part_are_named_as_themselves(place: Place, tmp_path: Path) -> None:
    for part in ("", "train"):
        link = tmp_path / f"link {part}"
        link.symlink_to(place.top / part, target_is_directory=True)
        names = {open_dataset(f"{place.name}:{path}", labels=AS_LABELLED).name for path in (link, place.top / part)}
        assert len(names) == 1
