"""What every reader keeps, over the tables of readers, fakes and label maps."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import FAKES, bloodmnist
from hemalens.datasets import READERS, CellDataset, open_dataset
from hemalens.errors import DatasetError, LabelError
from hemalens.taxonomy import AS_LABELLED, Excluded, cell_types, label_map_names

Fake = Callable[[str], str]

OTHER = {"folder": "bccd", "synthetic": "acevedo20"}
"""A layout that is foreign to a reader; `folder` reads almost any, so it gets one of whose words none is a class."""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    """Write each fake dataset once; the tests of this module leave it as it is."""
    specs: dict[str, str] = {}

    def spec(name: str) -> str:
        if name not in specs:
            specs[name] = FAKES[name](tmp_path_factory.mktemp(name) / "root", n_per_class=2)
        return specs[name]

    return spec


def _path(spec: str) -> Path:
    # the name of a reader of cut-outs holds a further one
    return Path(spec.rpartition(":")[2])


def _root(spec: str) -> Path:
    """The folder that holds the dataset, also where the name is a table's."""
    path = _path(spec)
    return path if path.is_dir() else path.parent


def _copied(spec: str, to: Path) -> str:
    """Copy a dataset to another root; return its name there."""
    shutil.copytree(_root(spec), to)
    name, path = spec.rpartition(":")[0], _path(spec)
    return f"{name}:{to if path.is_dir() else to / path.name}"


def test_every_reader_has_a_fake_and_every_fake_a_reader() -> None:
    assert set(FAKES) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_reader_is_named_as_in_the_table_and_says_whose_the_images_are(name: str) -> None:
    reader = READERS[name]
    assert reader.name == name
    assert all((reader.title, reader.licence, reader.citation, reader.layout))


@pytest.mark.parametrize("name", READERS)
def test_every_label_means_a_cell_type_or_has_a_reason_to_be_left_out(name: str) -> None:
    labels = READERS[name].labels
    assert labels is None or len(labels) > 0
    for meaning in (labels or {}).values():
        assert meaning.reason.strip() if isinstance(meaning, Excluded) else meaning in cell_types()


def test_only_folders_and_tables_hold_the_user_s_own_words() -> None:
    assert {name for name, reader in READERS.items() if reader.own_labels} == {"folder", "csv"}


@pytest.mark.parametrize("labels", label_map_names())
@pytest.mark.parametrize("name", READERS)
def test_opens_under_every_label_map_and_accounts_for_every_record(fake: Fake, name: str, labels: str) -> None:
    dataset = open_dataset(fake(name), labels=labels)
    assert dataset.label_map == labels
    assert len(dataset) == len(dataset.records) > 0
    for record in dataset.records:
        assert (record.label is None) != (record.excluded is None), record
        assert record.label is None or record.label in dataset.classes
        assert record.excluded is None or record.excluded.strip()
        assert record.cell_type is None or record.cell_type in cell_types()
        assert record.domain
        assert record.source_label
    # classes are those present, without repeats
    assert set(dataset.classes) == {r.label for r in dataset.records} - {None}
    assert len(set(dataset.classes)) == len(dataset.classes)
    assert sum(dataset.class_counts.values()) + sum(dataset.excluded_counts.values()) == len(dataset)
    assert dataset.class_counts == {c: sum(r.label == c for r in dataset.records) for c in dataset.classes}
    assert dataset.excluded_counts == dict(Counter(r.excluded for r in dataset.records if r.label is None))
    for record, target in zip(dataset.records, dataset.targets, strict=True):
        assert target == -1 if record.label is None else dataset.classes[target] == record.label


@pytest.mark.parametrize("name", READERS)
def test_as_labelled_keeps_each_source_label_as_its_own_class(fake: Fake, name: str) -> None:
    dataset = open_dataset(fake(name), labels=AS_LABELLED)
    labelled = [r for r in dataset.records if r.label is not None]
    assert all(r.label == r.source_label for r in labelled)
    assert dataset.classes == tuple(sorted({r.source_label for r in labelled}))


@pytest.mark.parametrize("name", READERS)
def test_every_image_is_rgb_uint8_and_every_mask_of_its_size(fake: Fake, name: str) -> None:
    for record in open_dataset(fake(name)).records:
        image = record.read()
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.std() > 0
        if record.mask_path is not None:
            with Image.open(record.mask_path) as mask:
                assert mask.size == (image.shape[1], image.shape[0])
                # a JPEG keeps levels only about
                assert mask.format == "JPEG" or set(np.unique(np.asarray(mask))) <= {0, 128, 255}


@pytest.mark.parametrize("name", READERS)
def test_records_come_in_the_same_order_each_time(fake: Fake, name: str) -> None:
    assert open_dataset(fake(name)).records == open_dataset(fake(name)).records


@pytest.mark.parametrize("name", READERS)
def test_fingerprint_does_not_depend_on_where_the_files_lie_or_on_their_order(
    fake: Fake, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_dataset(fake(name))
    # images that a reader unpacks lie in the cache
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "another cache"))
    there = open_dataset(_copied(fake(name), tmp_path / "another root"))
    assert {r.path for r in here.records}.isdisjoint(r.path for r in there.records)
    assert there.fingerprint == here.fingerprint
    assert here.subset(range(len(here) - 1, -1, -1)).fingerprint == here.fingerprint


@pytest.mark.parametrize("name", READERS)
def test_files_that_operating_systems_leave_behind_are_no_images(fake: Fake, name: str, tmp_path: Path) -> None:
    spec = _copied(fake(name), tmp_path / "copy")
    expected = open_dataset(spec)
    files = [path for path in _root(spec).rglob("*") if path.is_file()]
    for path in {path.parent: path for path in files}.values():
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    found = open_dataset(spec)
    assert found.records == expected.records
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("csv", "synthetic", "bloodmnist")])
def test_suffixes_in_capitals_are_read(fake: Fake, name: str, tmp_path: Path) -> None:
    """A table names its files as they are; hemalens writes synthetic cells and BloodMNIST's images itself."""
    spec = _copied(fake(name), tmp_path / "copy")
    expected = open_dataset(spec)
    fingerprint, mask_fingerprint = expected.fingerprint, expected.mask_fingerprint
    files = {path for record in expected.records for path in (record.path, record.mask_path) if path is not None}
    for path in files:
        path.rename(path.with_suffix(path.suffix.upper()))
    found = open_dataset(spec)
    assert (found.fingerprint, found.mask_fingerprint) == (fingerprint, mask_fingerprint)


@pytest.mark.parametrize("name", READERS)
def test_fingerprint_does_not_depend_on_file_names(fake: Fake, name: str, tmp_path: Path) -> None:
    dataset = open_dataset(fake(name))
    names = {path: tmp_path / f"{i}{path.suffix}" for i, path in enumerate({r.path for r in dataset.records})}
    for old, new in names.items():
        shutil.copyfile(old, new)
    renamed = tuple(dataclasses.replace(r, path=names[r.path]) for r in dataset.records)
    assert dataclasses.replace(dataset, records=renamed).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", READERS)
def test_fingerprint_changes_with_one_pixel(fake: Fake, name: str, tmp_path: Path) -> None:
    before = open_dataset(fake(name))
    spec = _copied(fake(name), tmp_path / "copy")
    if name == "bloodmnist":
        # the files its records name are made from the arrays: theirs is the pixel
        bloodmnist.change_pixel(_root(spec))
        assert open_dataset(spec).fingerprint != before.fingerprint
        return
    path = open_dataset(spec).records[-1].path
    with Image.open(path) as image:
        image.load()
        kind = image.format
    # a lossless format where there is one; a JPEG's pixel carries its 8x8 block along
    point = image.getpixel((3, 3))
    image.putpixel((3, 3), tuple((value + 128) % 256 for value in point))
    image.save(path, format=kind)
    assert open_dataset(spec).fingerprint != before.fingerprint


@pytest.mark.parametrize("name", READERS)
def test_fingerprint_changes_with_one_label_one_record_and_the_label_map(fake: Fake, name: str) -> None:
    dataset = open_dataset(fake(name))
    first, rest = dataset.records[0], dataset.records[1:]
    # a set may have one label only
    other = next((r.source_label for r in rest if r.source_label != first.source_label), "another label")
    relabelled = (dataclasses.replace(first, source_label=other), *rest)
    remapped = (dataclasses.replace(first, label="another class"), *rest)
    seen = {
        dataset.fingerprint,
        dataclasses.replace(dataset, records=relabelled).fingerprint,
        dataclasses.replace(dataset, records=remapped).fingerprint,
        dataclasses.replace(dataset, records=rest).fingerprint,
        dataclasses.replace(dataset, records=(first, *dataset.records)).fingerprint,
        open_dataset(fake(name), labels="eight_class").fingerprint,
    }
    assert len(seen) == 6


@pytest.mark.parametrize("name", READERS)
def test_missing_root_is_an_error_that_names_it_and_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no (folder|CSV file)") as caught:
        open_dataset(f"{name}:{tmp_path / 'nowhere'}")
    _check_layout_error(caught.value, name, "nowhere")


@pytest.mark.parametrize("name", READERS)
def test_empty_folder_is_an_error_that_says_what_was_expected_and_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DatasetError) as caught:
        open_dataset(f"{name}:{tmp_path / 'hollow'}")
    _check_layout_error(caught.value, name, "hollow")


@pytest.mark.parametrize("name", READERS)
def test_foreign_layout_is_an_error_that_says_what_was_expected_and_found(fake: Fake, name: str) -> None:
    foreign = _root(fake(OTHER.get(name, "synthetic")))
    # the user's own folders may be called anything: there the words are what is foreign
    kind = LabelError if READERS[name].own_labels and name != "csv" else DatasetError
    with pytest.raises(kind) as caught:
        open_dataset(f"{name}:{foreign}")
    if kind is DatasetError:
        _check_layout_error(caught.value, name, foreign.name)
    else:
        assert "BCCD_cropped" in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_file_where_a_folder_belongs_and_the_reverse_are_dataset_errors(name: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if name == "csv":
        place.mkdir()
    else:
        place.write_text("path,label\n")
    with pytest.raises(DatasetError) as caught:
        open_dataset(f"{name}:{place}")
    _check_layout_error(caught.value, name, "place")


def _check_layout_error(error: DatasetError, name: str, place: str) -> None:
    text = str(error)
    assert place in text
    assert "\n" not in text
    assert "expected" in text
    # BloodMNIST says more of a file: that its name is not a published one
    assert ("bloodmnist_64.npz" if (name, place) == ("bloodmnist", "place") else READERS[name].layout) in text
    if not text.startswith("there is no"):
        assert "got" in text


@pytest.mark.parametrize("name", READERS)
def test_subset_keeps_the_order_asked_for_and_the_classes(fake: Fake, name: str) -> None:
    dataset = open_dataset(fake(name), labels=AS_LABELLED)
    indices = [len(dataset) - 1, 0, 1]
    part = dataset.subset(indices)
    assert part.records == tuple(dataset.records[i] for i in indices)
    assert part.classes == dataset.classes
    assert sum(part.class_counts.values()) + sum(part.excluded_counts.values()) == 3
    assert (part.name, part.label_map, part.licence) == (dataset.name, dataset.label_map, dataset.licence)


@pytest.mark.parametrize("name", READERS)
def test_only_classes_drops_the_others_and_keeps_the_label_order(fake: Fake, name: str) -> None:
    dataset = open_dataset(fake(name), labels=AS_LABELLED)
    wanted = dataset.classes[:2][::-1]
    part = dataset.only_classes(wanted)
    assert part.classes == dataset.classes[:2]
    assert part.records == tuple(r for r in dataset.records if r.label in wanted)
    assert part.class_counts == {c: dataset.class_counts[c] for c in dataset.classes[:2]}


@pytest.mark.parametrize("name", READERS)
def test_labelled_drops_the_excluded_or_says_that_nothing_is_left(fake: Fake, name: str) -> None:
    dataset = open_dataset(fake(name))
    expected = tuple(r for r in dataset.records if r.label is not None)
    if expected:
        assert dataset.labelled().records == expected
        assert dataset.labelled().classes == dataset.classes
    else:
        with pytest.raises(DatasetError, match=r"no image with a label of five_class.*Choose other --labels") as caught:
            dataset.labelled()
        assert all(reason in str(caught.value) for reason in dataset.excluded_counts)


def test_at_least_one_fake_has_records_the_label_map_leaves_out(fake: Fake) -> None:
    datasets: list[CellDataset] = [open_dataset(fake(name)) for name in READERS]
    assert any(dataset.excluded_counts for dataset in datasets)
    assert any(not dataset.excluded_counts for dataset in datasets)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
@pytest.mark.parametrize("name", [name for name in READERS if name not in ("matek19", "matek19_reannotated", "synthetic")])
def test_a_fake_is_determined_by_its_seed(fake: Fake, name: str, seed: int, same: bool, tmp_path: Path) -> None:
    again = open_dataset(FAKES[name](tmp_path / "again", n_per_class=2, seed=seed))
    assert (again.fingerprint == open_dataset(fake(name)).fingerprint) is same


@pytest.mark.parametrize("spec", ["acevedo20", "acevedo20:", "./cells"])
def test_name_without_a_reader_or_a_path_says_how_to_write_it(spec: str) -> None:
    with pytest.raises(DatasetError, match=r"expected reader:path, as in folder:my_cells"):
        open_dataset(spec)


def test_folder_given_without_a_reader_is_told_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(str(tmp_path))
    assert f"For one folder a class: folder:{tmp_path}" in str(caught.value)


def test_unknown_reader_and_label_map_name_the_near_ones(fake: Fake) -> None:
    with pytest.raises(DatasetError, match=r"unknown dataset 'acevedo'.*did you mean 'acevedo20'"):
        open_dataset("acevedo:/data")
    with pytest.raises(LabelError, match=r"unknown label map 'fiveclass'.*did you mean 'five_class'"):
        open_dataset(fake("folder"), labels="fiveclass")


def test_only_drawn_images_are_called_synthetic(fake: Fake) -> None:
    assert {name for name in READERS if open_dataset(fake(name)).synthetic} == {"synthetic"}
