"""BloodMNIST: what may be named, arrays that round-trip, a cache that changed or fails, damaged and foreign files."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from fakes import bloodmnist
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.readers import bloodmnist as reader
from hemalens.errors import DatasetError, OutputError
from hemalens.taxonomy import AS_LABELLED

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bloodmnist"


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A file of 28 px with one image a class in each part."""
    bloodmnist.write(tmp_path / "set", n_per_class=1)
    return tmp_path / "set" / "bloodmnist.npz"


def _open(path: Path | str) -> CellDataset:
    return open_dataset(f"bloodmnist:{path}", labels=AS_LABELLED)


def _error(path: Path | str) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _changed(npz: Path, change: Callable[[Arrays], object]) -> Path:
    with np.load(npz, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    bloodmnist.save(npz, arrays)
    return npz


# What may be named


def test_file_and_folder_are_the_same_set(npz: Path) -> None:
    dataset = _open(npz)
    assert dataset.name == "bloodmnist"
    assert dataset.licence == "CC BY 4.0"
    assert {r.domain for r in dataset.records} == {"bloodmnist"}
    assert {r.group for r in dataset.records} == {None}
    assert dataset.class_counts == dict.fromkeys(sorted(reader.LABELS), 3)
    assert _open(npz.parent) == dataset


@pytest.mark.parametrize("part", reader.PARTS)
def test_a_part_is_named_behind_the_file_and_unpacked_alone(npz: Path, cache: Path, part: str) -> None:
    dataset = _open(npz / part)
    assert (dataset.name, len(dataset)) == (f"bloodmnist {part}", 8)
    (folder,) = cache.iterdir()
    assert [path.name for path in folder.iterdir()] == [part]
    assert dataset.records == tuple(r for r in _open(npz).records if part in r.path.parts)


@pytest.mark.parametrize("side_px", [64, 128, 224])
def test_every_published_size_has_its_name(tmp_path: Path, side_px: int) -> None:
    spec = bloodmnist.write(tmp_path / "set", n_per_class=1, side_px=side_px)
    dataset = open_dataset(f"{spec}/bloodmnist_{side_px}.npz/test")
    assert dataset.name == f"bloodmnist_{side_px} test"
    assert {r.read().shape for r in dataset.records} == {(side_px, side_px, 3)}


def test_the_notes_say_whose_images_they_are(npz: Path) -> None:
    (note,) = _open(npz).notes
    assert "Acevedo-20's" in note
    assert "never train on one of the two sets and test on the other" in note


def test_a_folder_of_several_sizes_asks_which(npz: Path) -> None:
    bloodmnist.write(npz.parent, n_per_class=1, side_px=64)
    text = _error(npz.parent)
    assert "holds BloodMNIST in several sizes; expected one file; got bloodmnist.npz, bloodmnist_64.npz" in text
    assert f"Name the file, as in bloodmnist:{npz}" in text


@pytest.mark.parametrize("name", ["validation", "Train", "tes"])
def test_an_unknown_part_names_the_known_ones(npz: Path, name: str) -> None:
    assert f"bloodmnist.npz' has no part '{name}'; expected train, val, test" in _error(npz / name)


def test_a_file_of_another_name_is_refused_as_all_medmnist_sets_look_alike(npz: Path) -> None:
    other = npz.rename(npz.with_name("pathmnist.npz"))
    for path in (other, other / "test"):
        text = _error(path)
        assert "is not named as a file of BloodMNIST; expected bloodmnist.npz, bloodmnist_64.npz" in text
        assert "got 'pathmnist.npz'" in text
    assert "is not laid out as BloodMNIST" in _error(other.parent)


@pytest.mark.parametrize("path", ["none.npz", "none.npz/test", "none/bloodmnist.npz"])
def test_a_missing_file_is_an_error_that_says_what_was_expected(tmp_path: Path, path: str) -> None:
    text = _error(tmp_path / path)
    assert text.startswith("there is no folder")
    assert "expected BloodMNIST: bloodmnist.npz (28 px) or" in text


# Arrays to records


@given(data=st.data())
def test_arrays_round_trip_to_records(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    arrays: Arrays = {}
    for part in reader.PARTS:
        n = data.draw(st.integers(1, 4))
        arrays[f"{part}_images"] = data.draw(hnp.arrays(np.uint8, (n, 28, 28, 3)))
        arrays[f"{part}_labels"] = data.draw(hnp.arrays(np.uint8, (n, 1), elements=st.integers(0, 7)))
    folder = tmp_path_factory.mktemp("any")
    bloodmnist.save(folder / "bloodmnist.npz", arrays)
    records = _open(folder).records
    assert len(records) == sum(len(arrays[f"{part}_images"]) for part in reader.PARTS)
    for record in records:
        part, label, name = record.path.parts[-3:]
        number = int(name.removesuffix(".png"))
        assert record.source_label == label == reader.NAMES[arrays[f"{part}_labels"][number, 0]]
        np.testing.assert_array_equal(record.read(), arrays[f"{part}_images"][number])


@given(
    image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 160), st.integers(1, 160), st.just(3)), fill=st.integers(0, 255))
)
def test_a_png_is_what_it_was_made_from(image: NDArray[np.uint8]) -> None:
    content = reader._png(image)
    with Image.open(io.BytesIO(content)) as opened:
        opened.verify()
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(opened), image)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32])
def test_labels_may_be_any_whole_numbers(npz: Path, dtype: type) -> None:
    before = _open(npz).fingerprint
    _changed(npz, lambda a: a.update({f"{p}_labels": a[f"{p}_labels"].astype(dtype) for p in reader.PARTS}))
    assert _open(npz).fingerprint == before


# The cache


def test_what_was_unpacked_is_used_again(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _open(npz)

    def refuse(*_: object) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(reader, "_unpack", refuse)
    assert _open(npz) == before
    moved = shutil.copy(npz, npz.parent.parent)
    assert _open(Path(moved)).records == before.records


def _cut_short(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    path.write_bytes(path.read_bytes()[:-1])


def _change_a_byte(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def _relabel(folder: Path) -> None:
    path = next((folder / "monocyte").iterdir())
    path.rename(folder / "platelet" / path.name)


def _spoil_marker(folder: Path) -> None:
    (folder / reader.MARKER).write_text("[1", encoding="utf-8")


@pytest.mark.parametrize(
    "harm",
    [
        _cut_short,
        _change_a_byte,
        _relabel,
        _spoil_marker,
        lambda folder: next(folder.rglob("*.png")).unlink(),
        lambda folder: (folder / "platelet" / "more.png").write_bytes(b""),
        lambda folder: (folder / reader.MARKER).unlink(),
        lambda folder: (folder / reader.MARKER).write_bytes(b"\xff"),
        lambda folder: (folder / reader.MARKER).write_text("{}"),
    ],
)
def test_images_that_changed_are_unpacked_again_with_a_note(npz: Path, cache: Path, harm: Callable[[Path], object]) -> None:
    before = _open(npz)
    (folder,) = cache.iterdir()
    harm(folder / "val")
    after = _open(npz)
    assert after.records == before.records
    assert after.fingerprint == before.fingerprint
    assert len(after.notes) == 2
    assert f"{folder / 'val'}' had changed and were unpacked again" in after.notes[1]
    assert _open(npz).notes == before.notes


def test_unpacking_that_breaks_off_leaves_nothing(npz: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = reader._png, iter(range(5))

    def stop(image: NDArray[np.uint8]) -> bytes:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return whole(image)

    monkeypatch.setattr(reader, "_png", stop)
    with pytest.raises(KeyboardInterrupt):
        _open(npz / "test")
    (folder,) = cache.iterdir()
    assert list(folder.iterdir()) == []
    monkeypatch.undo()


def test_a_full_disk_is_one_line_that_names_the_cache(npz: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError) as caught:
        _open(npz)
    assert "cannot unpack" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "name another folder with HEMALENS_CACHE" in str(caught.value)
    (folder,) = cache.iterdir()
    assert list(folder.iterdir()) == []


def test_a_cache_that_is_a_file_is_one_line(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot unpack .* into the cache .*HEMALENS_CACHE"):
        _open(npz)


def test_the_marker_tells_the_size_so_that_a_renamed_file_does_not_pass(npz: Path) -> None:
    _open(npz)
    text = _error(npz.rename(npz.with_name("bloodmnist_64.npz")))
    assert "expected uint8 of shape (n, 64, 64, 3); got uint8 of shape (8, 28, 28, 3)" in text


def test_the_marker_says_how_many_and_how_large(npz: Path, cache: Path) -> None:
    _open(npz / "test")
    (marker,) = cache.rglob(reader.MARKER)
    content = json.loads(marker.read_text(encoding="utf-8"))
    assert (content["n_images"], content["side_px"]) == (8, 28)


# Damaged and foreign files


def _as_npy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def _without(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no arrays")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b""), "cannot be read as an npz; expected the file as published; got"),
        (lambda p: p.write_text("a text"), "cannot be read as an npz; expected the file as published; got"),
        (lambda p: p.write_bytes(pickle.dumps({"train_images": 1})), "cannot be read as an npz"),
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "cannot be read as an npz"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), "cannot be read as an npz"),
        (_as_npy, "is not a file of BloodMNIST; expected an npz; got one array"),
        (_without, "expected the arrays train_images, train_labels"),
    ],
)
def test_a_file_that_is_no_npz_is_one_line(npz: Path, cache: Path, write: Callable[[Path], object], words: str) -> None:
    write(npz)
    text = _error(npz)
    assert words in text
    assert str(npz) in text
    assert "hemalens data download bloodmnist" in text
    assert not list(cache.rglob("*.png"))


def test_flipped_bytes_in_the_arrays_are_found(npz: Path) -> None:
    content = bytearray(npz.read_bytes())
    with zipfile.ZipFile(npz) as file:
        begin = file.getinfo("val_images.npy").header_offset
    content[begin + 400 : begin + 420] = bytes(20)
    npz.write_bytes(content)
    assert "cannot be read as an npz" in _error(npz)


def test_pickled_objects_are_never_loaded(npz: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(npz.parent / "harm"),)

    _changed(npz, lambda a: a.update(train_labels=np.array([[Harm()]] * 8, dtype=object)))
    assert "allow_pickle=False" in _error(npz)
    assert not (npz.parent / "harm").exists()


@pytest.mark.parametrize("key", reader.KEYS)
@pytest.mark.parametrize("part", ["", "test"])
def test_a_missing_array_is_named_whatever_part_is_opened(npz: Path, key: str, part: str) -> None:
    _changed(npz, lambda a: a.pop(key))
    text = _error(npz / part if part else npz)
    assert "expected the arrays train_images, train_labels, val_images" in text
    assert f"got no {key}." in text


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((8, 28, 28), np.uint8), "uint8 of shape (8, 28, 28)"),
        (np.zeros((8, 28, 28, 1), np.uint8), "uint8 of shape (8, 28, 28, 1)"),
        (np.zeros((8, 3, 28, 28), np.uint8), "uint8 of shape (8, 3, 28, 28)"),
        (np.zeros((8, 64, 64, 3), np.uint8), "uint8 of shape (8, 64, 64, 3)"),
        (np.zeros((0, 28, 28, 3), np.uint8), "uint8 of shape (0, 28, 28, 3)"),
        (np.zeros((8, 28, 28, 3), np.float32), "float32 of shape (8, 28, 28, 3)"),
        (np.zeros((), np.uint8), "uint8 of shape ()"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(npz: Path, images: NDArray[Any], got: str) -> None:
    _changed(npz, lambda a: a.update(val_images=images))
    text = _error(npz)
    assert "the array val_images of" in text
    assert f"expected uint8 of shape (n, 28, 28, 3); got {got}. " in text


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (np.zeros(8, np.uint8), "uint8 of shape (8,)"),
        (np.zeros((7, 1), np.uint8), "uint8 of shape (7, 1)"),
        (np.zeros((8, 8), np.uint8), "uint8 of shape (8, 8)"),
        (np.zeros((8, 1)), "float64 of shape (8, 1)"),
        (np.zeros((8, 1), bool), "bool of shape (8, 1)"),
        (np.full((8, 1), "platelet"), "<U8 of shape (8, 1)"),
    ],
)
def test_labels_of_another_shape_or_type_are_refused(npz: Path, labels: NDArray[Any], got: str) -> None:
    _changed(npz, lambda a: a.update(test_labels=labels))
    assert f"does not label its images; expected whole numbers of shape (8, 1); got {got}. " in _error(npz)


@pytest.mark.parametrize(
    ("values", "got"),
    [([8], "8. "), ([-1], "-1. "), ([255, 9], "9, 255. "), ([8, 9, 10, 11], "8, 9, 10 .... ")],
)
def test_labels_out_of_range_are_refused(npz: Path, values: list[int], got: str) -> None:
    def change(arrays: Arrays) -> None:
        labels = arrays["train_labels"].astype(np.int64)
        labels[: len(values), 0] = values
        arrays["train_labels"] = labels

    text = _error(_changed(npz, change))
    assert f"labels that BloodMNIST does not have; expected 0 (basophil) to 7 (platelet); got {got}" in text


def test_a_member_that_is_no_array_is_refused(npz: Path) -> None:
    with np.load(npz, allow_pickle=False) as file:
        arrays = dict(file)
    arrays.pop("train_images")
    bloodmnist.save(npz, arrays)
    with zipfile.ZipFile(npz, "a") as archive:
        archive.writestr("train_images", b"bytes")
    assert "got no array" in _error(npz)


def test_a_file_that_may_not_be_read_is_one_line(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(reader, "sha256_file", forbidden)
    text = _error(npz)
    assert "cannot be read as an npz" in text
    assert "Permission denied" in text


def test_the_fake_is_the_published_layout() -> None:
    arrays = bloodmnist.arrays(n_per_class=1)
    assert tuple(bloodmnist.KINDS) == reader.NAMES
    assert tuple(arrays) == reader.KEYS
    assert {name: (a.dtype, a.shape) for name, a in arrays.items() if name.startswith("val")} == {
        "val_images": (np.uint8, (8, 28, 28, 3)),
        "val_labels": (np.uint8, (8, 1)),
    }
