"""The audit finds planted defects, all of them and nothing else."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import bccd, folder
from fakes.cells import drawn_cell
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.datasets.audit import STEPS_PER_IMAGE, audit
from hemalens.datasets.near_copies import MAX_GRAY_DIFFERENCE
from hemalens.imaging.reading import read_image
from hemalens.taxonomy import AS_LABELLED, label_map_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder.write(tmp_path / "cells", n_per_class=2)
    return tmp_path / "cells"


def _dataset(records: Sequence[Record]) -> CellDataset:
    return CellDataset("cells", tuple(records), tuple(sorted({r.source_label for r in records})), AS_LABELLED, "-", "-")


def _save(path: Path, number: int, **changes: str | None) -> Record:
    """Save one drawn cell and describe it; other numbers are other pictures."""
    image, _ = drawn_cell("neutrophil", number, seed=5, width=64, height=64)
    Image.fromarray(image).save(path)
    return dataclasses.replace(Record(path, "a", "lab", label="a"), **changes)


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    dataset = _dataset([_save(tmp_path / f"{i}.png", 8 * i) for i in range(10)])
    found = audit(dataset)
    assert (found.unreadable, found.copies, found.conflicts, found.near_duplicates) == ({}, [], [], [])
    assert found.turned_copies == found.name_sources == found.related == []
    assert set(found.leaks.values()) == {0}


def test_turned_copies_are_sets_with_the_orientation_and_leak(tmp_path: Path) -> None:
    # eight orientations of each of three cells
    records = [_save(tmp_path / f"{i:02}.png", i) for i in range(24)]
    found = audit(_dataset(records))
    assert [[name for name, _ in members] for members in found.turned_copies] == [
        [str(records[i].path) for i in range(start, start + 8)] for start in (0, 8, 16)
    ]
    expected = ["", *(f"turned by {angle} degrees" for angle in (90, 180, 270)), "mirrored"]
    assert [turned for _, turned in found.turned_copies[0]][:5] == expected
    assert found.related == [list(range(start, start + 8)) for start in (0, 8, 16)]
    fold = np.random.default_rng(0).permutation(24) % 5
    assert all(len(set(fold[start : start + 8])) > 1 for start in (0, 8, 16))
    assert found.leaks["turned or mirrored copies"] == 24
    assert found.leaks["near-duplicates"] == 0


def test_many_images_that_are_all_alike_are_joined_with_few_pairs(tmp_path: Path) -> None:
    records = []
    for i in range(60):
        plain = np.full((40, 40, 3), 200, np.uint8)
        plain[0, 0] = i  # no two files are identical
        Image.fromarray(plain).save(tmp_path / f"{i}.png")
        records.append(Record(tmp_path / f"{i}.png", "a", "lab", label="a"))
    found = audit(_dataset(records))
    assert len(found.near_duplicates) == 59
    assert found.related == [list(range(60))]


def test_an_image_under_several_folders_is_a_conflict_with_all_labels_under_every_map(root: Path) -> None:
    source = root / "monocyte" / "cell 0.png"
    for label in ("LYM", "basophil", "blast"):
        shutil.copy(source, root / label / "same.png")
    labels = ("LYM", "basophil", "blast", "monocyte")
    for name in label_map_names():
        (members,) = audit(open_dataset(f"folder:{root}", labels=name)).conflicts
        assert [text.rpartition(" (")[2] for text in members] == [f"{label})" for label in labels]


def test_counts_sizes_and_colours_are_those_of_the_images(root: Path) -> None:
    wide, _ = drawn_cell("monocyte", 0, seed=9, width=70, height=50)
    Image.fromarray(wide).save(root / "monocyte" / "wide.png")
    dataset = open_dataset(f"folder:{root}")
    found = audit(dataset)
    assert (found.dataset, found.label_map, found.n_images) == ("cells", "five_class", 13)
    assert found.sizes == {"96 x 96": 12, "70 x 50": 1}
    assert found.class_counts == {"neutrophil": 2, "eosinophil": 2, "basophil": 2, "lymphocyte": 2, "monocyte": 3}
    assert found.source_label_counts == {label: 2 + (label == "monocyte") for label in sorted(folder.KINDS)}
    assert sum(found.excluded.values()) == 2
    assert (found.n_groups, found.n_without_group, found.n_with_mask) == (0, 13, 0)
    assert list(found.domains) == ["cells"]


def test_colour_of_a_plain_image_is_its_lab_value(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / f"{i}.png")
    records = [Record(tmp_path / f"{i}.png", "a", "red") for i in range(2)]
    # sRGB red under D65: L* 53.2, a* 80.1, b* 67.2 (CIE 1976)
    assert audit(_dataset(records)).domains == {"red": {"mean_lab": [53.2, 80.1, 67.2], "std_lab": [0.0, 0.0, 0.0]}}


def test_copies_under_one_label_are_sets_and_those_under_two_are_conflicts(root: Path) -> None:
    shutil.copy(root / "monocyte" / "cell 0.png", root / "monocyte" / "again.png")
    shutil.copy(root / "monocyte" / "cell 0.png", root / "monocyte" / "and again.png")
    shutil.copy(root / "basophil" / "cell 1.png", root / "LYM" / "other word.png")
    found = audit(open_dataset(f"folder:{root}"))
    assert found.copies == [[str(root / "monocyte" / name) for name in ("again.png", "and again.png", "cell 0.png")]]
    assert found.conflicts == [
        [f"{root / 'LYM' / 'other word.png'} (LYM)", f"{root / 'basophil' / 'cell 1.png'} (basophil)"]
    ]
    assert found.near_duplicates == []


def test_conflict_with_a_record_outside_the_label_map_is_found(root: Path) -> None:
    shutil.copy(root / "blast" / "cell 0.png", root / "LYM" / "cell 9.png")
    dataset = open_dataset(f"folder:{root}")
    assert [r.label for r in dataset.records if r.path.name == "cell 9.png"] == ["lymphocyte"]
    assert len(audit(dataset).conflicts) == 1


def test_recompressed_image_is_a_near_duplicate_with_its_difference(root: Path) -> None:
    with Image.open(root / "monocyte" / "cell 0.png") as image:
        before = image.convert("RGB")
    again = root / "LYM" / "recompressed.jpg"
    before.save(again, quality=85)
    found = audit(open_dataset(f"folder:{root}"))
    assert found.copies == []
    assert found.conflicts == []
    assert [pair[:2] for pair in found.near_duplicates] == [(str(again), str(root / "monocyte" / "cell 0.png"))]
    assert 0 < found.near_duplicates[0][2] <= MAX_GRAY_DIFFERENCE


def test_other_pictures_of_the_same_cell_type_are_no_near_duplicates(tmp_path: Path) -> None:
    records = [_save(tmp_path / f"{i}.png", 8 * i) for i in range(6)]
    assert audit(_dataset(records)).near_duplicates == []


def test_pale_images_of_one_gray_and_other_structure_are_no_near_duplicates(tmp_path: Path) -> None:
    # thumbnails differ by less than the limit; only the perceptual hash tells these empty fields apart
    records = []
    for i in range(4):
        coarse = np.random.default_rng(i).integers(226, 234, (8, 8), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
        records.append(Record(tmp_path / f"{i}.png", "a", "lab", label="a"))
    thumbnails = [read_image(r.path).astype(float).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)) for r in records]
    assert np.abs(thumbnails[0] - thumbnails[1]).mean() < MAX_GRAY_DIFFERENCE
    assert audit(_dataset(records)).near_duplicates == []


def test_near_duplicate_of_two_copies_is_reported_once(root: Path) -> None:
    original = root / "monocyte" / "cell 0.png"
    shutil.copy(original, root / "monocyte" / "copy.png")
    with Image.open(original) as image:
        image.convert("RGB").save(root / "monocyte" / "re.jpg", quality=85)
    found = audit(open_dataset(f"folder:{root}"))
    assert len(found.copies) == 1
    assert len(found.near_duplicates) == 1


def test_unreadable_images_are_listed_with_their_reason_and_left_out_of_the_rest(root: Path) -> None:
    (root / "monocyte" / "empty.png").write_bytes(b"")
    (root / "monocyte" / "text.jpg").write_text("not an image")
    whole = (root / "monocyte" / "cell 0.png").read_bytes()
    (root / "monocyte" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "monocyte" / "gone.png").symlink_to(root / "nowhere")
    found = audit(open_dataset(f"folder:{root}"))
    assert set(found.unreadable) == {str(root / "monocyte" / n) for n in ("empty.png", "text.jpg", "cut.png", "gone.png")}
    for path, reason in found.unreadable.items():
        assert Path(path).name in reason
        assert "\n" not in reason
    assert found.n_images == 16
    assert sum(found.sizes.values()) == 12
    assert found.class_counts["monocyte"] == 6


def test_all_unreadable_is_a_finding_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(3):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"x")
    found = audit(open_dataset(f"folder:{tmp_path}", labels=AS_LABELLED))
    assert len(found.unreadable) == 3
    assert found.sizes == found.domains == {}


def test_groups_masks_and_domains_are_counted(tmp_path: Path) -> None:
    records = [_save(tmp_path / f"{i}.png", i, group=f"p{i // 2}", domain=f"lab {i % 2}") for i in range(4)]
    records.append(dataclasses.replace(_save(tmp_path / "4.png", 4), mask_path=tmp_path / "mask.png"))
    found = audit(_dataset(records))
    # the same group name in two domains is two groups
    assert (found.n_groups, found.n_without_group, found.n_with_mask) == (4, 1, 1)
    assert set(found.domains) == {"lab 0", "lab 1", "lab"}


def test_leaks_count_the_images_a_blind_split_would_test_with_a_relative_in_training(tmp_path: Path) -> None:
    pair = [_save(tmp_path / "a.png", 0), _save(tmp_path / "b.png", 0)]
    crowd = [_save(tmp_path / f"{i}.png", 8 * i, group="one patient") for i in range(1, 11)]
    found = audit(_dataset([*pair, *crowd]))
    # ten images of one group in five folds of two or three: each meets another fold, wherever it falls
    assert found.leaks["members of a group"] == 10
    assert found.leaks["byte-identical copies"] in (0, 2)
    assert found.leaks["near-duplicates"] == 0


def test_leaks_of_copies_are_those_of_the_same_blind_split_counted_by_hand(tmp_path: Path) -> None:
    records = [_save(tmp_path / f"{i}.png", 8 * (i // 2)) for i in range(12)]
    found = audit(_dataset(records))
    assert len(found.copies) == 6
    fold = np.random.default_rng(0).permutation(12) % 5
    expected = sum(2 for i in range(0, 12, 2) if fold[i] != fold[i + 1])
    assert expected > 0
    assert found.leaks["byte-identical copies"] == expected


def test_boxes_of_one_field_are_named_apart_and_share_their_group(tmp_path: Path) -> None:
    spec = bccd.write_bccd_fields(tmp_path / "set", n_per_class=2)
    stem = tmp_path / "set" / "BCCD"
    for name, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        shutil.copy(stem / name / f"BloodImage_00000.{suffix}", stem / name / f"BloodImage_00007.{suffix}")
    found = audit(open_dataset(spec, labels=AS_LABELLED))
    assert found.n_groups == 3
    assert len(found.copies) == 4
    assert any("BloodImage_00007.jpg (260, 177, 420, 337)" in name for members in found.copies for name in members)


def test_progress_is_told_of_every_image_and_threads_change_nothing(root: Path) -> None:
    steps: list[tuple[int, str | None]] = []
    dataset = open_dataset(f"folder:{root}")

    def advance(n: int, what: str | None = None) -> None:
        steps.append((n, what))

    one, four = audit(dataset, n_threads=1, progress=advance), audit(dataset, n_threads=4)
    assert steps[: 2 * len(dataset)].count((1, "reading images")) >= len(dataset)
    assert sum(n for n, _ in steps) == STEPS_PER_IMAGE * len(dataset)
    assert {what for _, what in steps} == {"reading images", "comparing images"}
    assert one == four


def test_notes_of_the_reader_are_passed_on(root: Path) -> None:
    (root / "monocyte" / "notes.txt").write_text("")
    dataset = open_dataset(f"folder:{root}")
    assert audit(dataset).notes == list(dataset.notes) != []


def _trait(path: Path) -> tuple[int, bytes]:
    with open(path, "rb") as file:
        file.seek(2000)
        return os.path.getsize(path), file.read(64)


@pytest.mark.realdata
def test_real_acevedo_subset_has_one_conflict_and_six_copy_pairs(real_data: Path) -> None:
    dataset = open_dataset(f"acevedo20:{real_data / 'acevedo20'}", labels="eight_class")
    # identical files share their size and any part of their bytes: the others need not be looked at
    traits = [_trait(record.path) for record in dataset.records]
    shared = {trait for trait, n in Counter(traits).items() if n > 1}
    found = audit(dataset.subset([i for i, trait in enumerate(traits) if trait in shared]))
    assert [{Path(name).name for name in members} for members in found.conflicts] == [
        {"EO_225902.jpg (EO)", "BNE_191112.jpg (BNE)"}
    ]
    assert [len(members) for members in found.copies] == [2] * 6
    assert not found.unreadable


def test_black_white_and_flat_images_are_named(root: Path) -> None:
    for name, level in (("black", 9), ("white", 251), ("flat", 128)):
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(root / "monocyte" / f"{name}.png")
    found = audit(open_dataset(f"folder:{root}"))
    names = {kind: [Path(name).name for name in paths] for kind, paths in found.exposures.items()}
    assert names == {"black": ["black.png"], "flat": ["flat.png"], "white": ["white.png"]}


def test_a_warning_of_the_decoder_is_a_note_on_the_image(root: Path) -> None:
    block = b"Exif\0\0II*\0" + (8).to_bytes(4, "little") + b"\x02\0" + b"\x0e\x01\x02\0\x90\x01\0\0\xa0\x0f\0\0" + b"\x01"
    image, _ = drawn_cell("monocyte", 7, seed=5, width=64, height=64)
    Image.fromarray(image).save(root / "monocyte" / "odd.jpg", exif=block)
    found = audit(open_dataset(f"folder:{root}"))
    assert [Path(name).name for name in found.warned] == ["odd.jpg"]
    assert all(found.warned.values())
    assert found.unreadable == {}
