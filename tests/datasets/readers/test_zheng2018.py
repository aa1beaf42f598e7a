"""Zheng-2018: labels by position in a Windows CSV, masks, missing rows and images, the real counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import zheng2018
from hemalens.datasets import open_dataset
from hemalens.errors import DatasetError, LabelError
from hemalens.imaging.reading import read_mask
from hemalens.taxonomy import AS_LABELLED

SETS = [(1, "jtsc", zheng2018.write_jtsc), (2, "cellavision100", zheng2018.write_cellavision100)]
TYPES = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    zheng2018.write_jtsc(tmp_path / "set", n_per_class=1)
    return tmp_path / "set"


def _table(root: Path) -> Path:
    return root / "Class Labels of Dataset 1.csv"


@pytest.mark.parametrize(("number", "name", "write"), SETS)
def test_numbers_stand_for_the_five_types_and_each_image_has_its_mask(
    number: int, name: str, write: Callable[..., str], tmp_path: Path
) -> None:
    dataset = open_dataset(write(tmp_path / "set", n_per_class=2))
    assert {r.source_label: r.cell_type for r in dataset.records} == TYPES
    assert {r.domain for r in dataset.records} == {name}
    for record in dataset.records:
        assert record.path.parent.name == f"Dataset {number}"
        assert record.mask_path == record.path.with_suffix(".png")
        assert set(np.unique(read_mask(record.mask_path))) == {0, 128, 255}
    # the label of image NNN is that of the row NNN, whatever the order of the rows
    lines = (tmp_path / "set" / f"Class Labels of Dataset {number}.csv").read_bytes().split(b"\r\n")
    for record, line in zip(dataset.records, lines[1:], strict=False):
        assert line.decode() == f"{int(record.path.stem)},{record.source_label}"


def test_both_sets_are_read_from_one_root(tmp_path: Path) -> None:
    for number, _, write in SETS:
        write(tmp_path / "set", n_per_class=number)
    assert len(open_dataset(f"jtsc:{tmp_path / 'set'}")) == 5
    assert len(open_dataset(f"cellavision100:{tmp_path / 'set'}")) == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\r\n",
        lambda text: text.rstrip(),
        lambda text: text.replace("\r\n", "\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ", "),
        lambda text: "\r\n".join([text.split("\r\n")[0], *reversed(text.split("\r\n")[1:])]),
    ],
    ids=["blank line", "no last line end", "unix line ends", "BOM", "spaces", "other order"],
)
def test_ways_to_write_the_same_table_give_the_same_records(root: Path, change: Callable[[str], str]) -> None:
    before = open_dataset(f"jtsc:{root}").records
    text = _table(root).read_bytes().decode()
    _table(root).write_bytes(change(text).encode())
    assert open_dataset(f"jtsc:{root}").records == before


def test_image_without_a_row_is_an_error_that_names_both(root: Path) -> None:
    lines = _table(root).read_bytes().split(b"\r\n")
    _table(root).write_bytes(b"\r\n".join(line for line in lines if not line.startswith(b"3,")))
    with pytest.raises(DatasetError, match=r"Class Labels of Dataset 1.csv' has no label for '003.bmp'"):
        open_dataset(f"jtsc:{root}")


def test_row_without_an_image_is_an_error_that_names_both(root: Path) -> None:
    (root / "Dataset 1" / "002.bmp").unlink()
    with pytest.raises(DatasetError, match=r"Class Labels of Dataset 1.csv' names image 2, and '.*002.bmp' is missing"):
        open_dataset(f"jtsc:{root}")


def test_image_whose_name_is_no_number_is_an_error_not_a_crash(root: Path) -> None:
    (root / "Dataset 1" / "copy of 1.bmp").write_bytes((root / "Dataset 1" / "001.bmp").read_bytes())
    with pytest.raises(DatasetError, match=r"has no label for 'copy of 1.bmp'"):
        open_dataset(f"jtsc:{root}")


def test_missing_mask_is_noted_and_the_record_says_none(root: Path) -> None:
    (root / "Dataset 1" / "004.png").unlink()
    dataset = open_dataset(f"jtsc:{root}")
    assert [r.path.stem for r in dataset.records if r.mask_path is None] == ["004"]
    assert dataset.notes == ("1 image(s) have no mask",)


def test_unknown_class_number_is_a_label_error(root: Path) -> None:
    _table(root).write_bytes(_table(root).read_bytes().replace(b"5,5", b"5,9"))
    with pytest.raises(LabelError, match=r"005.bmp' has the label '9', which JTSC .* does not use.*known: 1, 2, 3, 4, 5"):
        open_dataset(f"jtsc:{root}")


def test_image_named_twice_is_refused(root: Path) -> None:
    _table(root).write_bytes(_table(root).read_bytes() + b"2,3\r\n")
    with pytest.raises(DatasetError, match=r"names an image twice; expected one row an image"):
        open_dataset(f"jtsc:{root}")


@pytest.mark.parametrize(
    "content", [b"image ID,class label\r\n1\r\n", b"image ID,class\r\none,1\r\n", b"\xff\xfe\x00", b"a\r\n,"]
)
def test_damaged_table_is_an_error_that_names_it(root: Path, content: bytes) -> None:
    _table(root).write_bytes(content)
    with pytest.raises(DatasetError, match=r"Class Labels of Dataset 1.csv' is damaged; expected rows of image ID,class"):
        open_dataset(f"jtsc:{root}")


def test_empty_table_is_an_error(root: Path) -> None:
    _table(root).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"has no label for '001.bmp'"):
        open_dataset(f"jtsc:{root}")


@given(content=st.binary(max_size=60))
def test_any_bytes_as_table_give_records_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.getbasetemp() / "zheng bytes"
    (root / "Dataset 1").mkdir(parents=True, exist_ok=True)
    _table(root).write_bytes(b"image ID,class\r\n" + content)
    with pytest.raises((DatasetError, LabelError)):
        open_dataset(f"jtsc:{root}")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("jtsc", {"neutrophil": 176, "eosinophil": 22, "basophil": 1, "lymphocyte": 53, "monocyte": 48}),
        ("cellavision100", {"neutrophil": 33, "eosinophil": 12, "basophil": 3, "lymphocyte": 37, "monocyte": 15}),
    ],
)
def test_real_set_has_the_counts_of_its_readme(real_data: Path, name: str, counts: dict[str, int]) -> None:
    dataset = open_dataset(f"{name}:{real_data / 'zheng2018'}")
    assert dataset.class_counts == counts
    assert not dataset.notes
    assert len(open_dataset(f"{name}:{real_data / 'zheng2018'}", labels=AS_LABELLED)) == sum(counts.values())
