"""A table of groups opens as the same images, and no split divides a group."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import bccd, folder
from fakes.cells import drawn_cell
from hemalens.datasets import open_dataset
from hemalens.datasets.audit import audit
from hemalens.datasets.group_table import check_group_table, check_table_name, write_group_table
from hemalens.datasets.splits import k_fold, units
from hemalens.errors import DatasetError, OutputError
from hemalens.taxonomy import AS_LABELLED


@pytest.fixture
def spec(tmp_path: Path) -> str:
    # of each type three pictures of one cell, turned
    return folder.write(tmp_path / "cells", n_per_class=3)


@pytest.mark.parametrize("labels", ["five_class", AS_LABELLED])
def test_round_trip(spec: str, tmp_path: Path, labels: str) -> None:
    dataset = open_dataset(spec, labels=labels)
    found = audit(dataset)
    table = tmp_path / "groups.csv"
    n_groups, n_rows = write_group_table(dataset, found.related, table)
    assert (n_groups, n_rows) == (6, 18)
    again = open_dataset(f"csv:{table}", labels=labels)
    assert [record.path.resolve() for record in again.records] == [record.path.resolve() for record in dataset.records]
    assert [record.label for record in again.records] == [record.label for record in dataset.records]
    assert {record.domain for record in again.records} == {"cells"}
    of_group = {record.group for record in again.records}
    assert of_group == {f"copies_{i}" for i in range(1, 7)}
    assert [sorted(np.flatnonzero(units(again) == u)) for u in range(6)] == found.related


def test_no_fold_divides_turned_copies(tmp_path: Path) -> None:
    for kind in ("neutrophil", "monocyte"):
        (tmp_path / "cells" / kind).mkdir(parents=True)
        for i in range(32):
            image, _ = drawn_cell(kind, i, seed=2, width=64, height=64)
            Image.fromarray(image).save(tmp_path / "cells" / kind / f"{i:02}.png")
    dataset = open_dataset(f"folder:{tmp_path / 'cells'}")
    write_group_table(dataset, audit(dataset).related, tmp_path / "groups.csv")
    again = open_dataset(f"csv:{tmp_path / 'groups.csv'}")
    for _, test in k_fold(again, 2, np.random.default_rng(0)):
        sources = [(record.label, int(record.path.stem) // 8) for record in test.records]
        assert all(sources.count(source) == 8 for source in sources)
        assert 0 < len(test) < len(again)


def test_groups_of_the_set_keep_their_names_and_copies_join_them(spec: str, tmp_path: Path) -> None:
    dataset = open_dataset(spec, labels=AS_LABELLED)
    groups = {0: "patient 1", 1: "patient 1", 2: "patient 2", 4: "copies_1"}
    records = [dataclasses.replace(r, group=groups.get(i)) for i, r in enumerate(dataset.records)]
    grouped = dataclasses.replace(dataset, records=tuple(records))
    write_group_table(grouped, [[1, 3], [5, 6], [7, 8, 9]], tmp_path / "g.csv")
    with open(tmp_path / "g.csv", newline="") as file:
        found = [row["group"] for row in csv.DictReader(file)]
    expected = ["patient 1", "patient 1", "patient 2", "patient 1", "copies_1", "copies_2", "copies_2", *["copies_3"] * 3]
    assert found[:10] == expected
    assert set(found[10:]) == {""}


def test_images_without_a_cell_type_are_left_out(spec: str, tmp_path: Path) -> None:
    dataset = open_dataset(spec)
    records = (dataclasses.replace(dataset.records[0], cell_type=None, label=None), *dataset.records[1:])
    assert write_group_table(dataclasses.replace(dataset, records=records), [], tmp_path / "g.csv") == (0, 17)
    nothing = dataclasses.replace(dataset, records=records[:1])
    with pytest.raises(DatasetError, match="as_labelled"):
        write_group_table(nothing, [], tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_a_name_that_a_spreadsheet_takes_for_a_formula_opens_again(tmp_path: Path) -> None:
    root = tmp_path / "cells"
    folder.write(root, n_per_class=1)
    for label in ("monocyte", "basophil"):
        shutil.move(root / label, root / f"={label}")
    dataset = open_dataset(f"folder:{root}", labels=AS_LABELLED)
    write_group_table(dataset, [], root / "g.csv")
    # marked as text, and read without the mark, as in a table of predictions
    assert "\n'=monocyte/" in (root / "g.csv").read_text()
    again = open_dataset(f"csv:{root / 'g.csv'}", labels=AS_LABELLED)
    assert len(again) == 6
    assert again.class_counts == dataset.class_counts


def test_a_label_that_begins_like_a_marked_cell_stays_itself(tmp_path: Path) -> None:
    root = tmp_path / "cells"
    folder.write(root, n_per_class=1)
    shutil.move(root / "monocyte", root / "'=x")
    dataset = open_dataset(f"folder:{root}", labels=AS_LABELLED)
    assert "'=x" in dataset.classes
    write_group_table(dataset, [], root / "g.csv")
    assert open_dataset(f"csv:{root / 'g.csv'}", labels=AS_LABELLED).classes == dataset.classes


def test_pages_stay_pages(tmp_path: Path) -> None:
    root = tmp_path / "cells"
    folder.write(root, n_per_class=1)
    pages = [Image.fromarray(drawn_cell("neutrophil", i, seed=4, width=40, height=40)[0]) for i in range(3)]
    pages[0].save(root / "Neutrophils" / "stack.tif", save_all=True, append_images=pages[1:])
    dataset = open_dataset(f"folder:{root}")
    assert sum(record.page is not None for record in dataset.records) == 3
    write_group_table(dataset, [], root / "g.csv")
    again = open_dataset(f"csv:{root / 'g.csv'}")
    assert sorted(again.contents) == sorted(dataset.contents)
    assert {record.group for record in again.records if record.page} == {"Neutrophils/stack.tif"}


def test_given_parts_stay_given(spec: str, tmp_path: Path) -> None:
    dataset = open_dataset(spec)
    parts = ["test" if i % 3 == 0 else "train" for i in range(len(dataset))]
    records = tuple(dataclasses.replace(r, part=part) for r, part in zip(dataset.records, parts, strict=True))
    write_group_table(dataclasses.replace(dataset, records=records), [], tmp_path / "g.csv")
    assert [record.part for record in open_dataset(f"csv:{tmp_path / 'g.csv'}").records] == parts


def test_a_table_is_replaced_by_one_with_all_of_its_labels_alone(spec: str, tmp_path: Path) -> None:
    dataset, table = open_dataset(spec), tmp_path / "g.csv"
    write_group_table(dataset, [], table)
    check_group_table(dataset, table)
    labelled = table.read_text()
    table.write_text(labelled.replace("cells/Neutrophils/cell 0.png,neutrophil", "cells/Neutrophils/cell 0.png,monocyte"))
    with pytest.raises(OutputError, match=r"g\.csv' holds labels that these images do not have.*it is not overwritten"):
        check_group_table(dataset, table)
    for other in ("path,label,note\n", "notes\nof mine\n", "\x00"):
        table.write_text(other)
        with pytest.raises(OutputError, match=r"--groups-to .* holds something else"):
            check_group_table(dataset, table)


def test_what_a_table_cannot_hold_is_refused_with_a_place_that_works(spec: str, tmp_path: Path) -> None:
    dataset = open_dataset(spec)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(OutputError, match="does not lie on or above the images") as caught:
        check_group_table(dataset, tmp_path / "elsewhere" / "g.csv")
    assert caught.value.remedy == f"Choose {str(tmp_path / 'cells' / 'g.csv')!r}."
    check_group_table(dataset, tmp_path / "cells" / "g.csv")
    for name in ("g.txt", "elsewhere"):
        with pytest.raises(OutputError, match=r"ends with \.csv"):
            check_table_name(tmp_path / name)
    fields = open_dataset(bccd.write_bccd_fields(tmp_path / "set", n_per_class=2), labels=AS_LABELLED)
    with pytest.raises(DatasetError, match="boxes"):
        check_group_table(fields, tmp_path / "g.csv")
