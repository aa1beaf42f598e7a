"""A user's CSV: columns, paths that must stay inside, empty labels, and the dialects spreadsheets write."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import csv
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.splits import clean
from hemalens.datasets.table_text import cell
from hemalens.errors import DatasetError, InputError
from hemalens.taxonomy import AS_LABELLED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    csv.write(tmp_path / "set", n_per_class=1)
    return tmp_path / "set"


def _open(root: Path, content: str | bytes) -> CellDataset:
    table = root / "list.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_dataset(f"csv:{table}", labels=AS_LABELLED)


def test_optional_columns_fill_group_domain_and_mask(root: Path) -> None:
    dataset = open_dataset(f"csv:{root / 'cells.csv'}")
    assert dataset.name == "cells"
    for n, record in enumerate(dataset.records):
        assert record.path == root / "images" / f"{n:03d}.png"
        assert record.mask_path == root / "masks" / f"{n:03d}.png"
        assert record.group == f"patient {n // 2}"
        assert record.domain == "ward 0"


def test_without_optional_columns_the_table_is_the_domain(root: Path) -> None:
    (record,) = _open(root, "path,label\nimages/000.png,neutrophil\n").records
    assert (record.domain, record.group, record.mask_path) == ("list", None, None)


def test_empty_optional_values_count_as_not_given_and_stray_spaces_make_no_new_group(root: Path) -> None:
    dataset = _open(
        root,
        "path,label,group,domain,mask\nimages/000.png,a,,,\nimages/001.png,a, p1 , d ,\n"
        "images/002.png,a,p1,d,\nimages/003.png,a, , ,\n",
    )
    assert [r.group for r in dataset.records] == [None, "p1", "p1", None]
    assert [r.domain for r in dataset.records] == ["list", "d", "d", "list"]


@pytest.mark.parametrize(
    ("header", "lacking"),
    [
        ("path", "label"),
        ("label", "path"),
        ("picture;meaning", "path, label"),
        ("", "path, label"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(root: Path, header: str, lacking: str) -> None:
    with pytest.raises(DatasetError, match=rf"list.csv' lacks the column\(s\) {lacking}; expected a CSV or .xlsx") as error:
        _open(root, f"{header}\nx\n" if header else "")
    assert f"got {header.replace(';', ', ') or 'no header'}" in str(error.value)


@pytest.mark.parametrize("name", ["../secret.png", "images/../../secret.png", "{outside}", "link.png", "linked/secret.png"])
@pytest.mark.parametrize("column", ["path", "mask"])
def test_paths_out_of_the_folder_are_refused_with_their_line(root: Path, name: str, column: str) -> None:
    outside = root.parent / "secret.png"
    outside.write_bytes((root / "images" / "000.png").read_bytes())
    (root / "link.png").symlink_to(outside)
    (root / "linked").symlink_to(root.parent)
    name = name.format(outside=outside)
    row = f"{name},a," if column == "path" else f"images/001.png,a,{name}"
    with pytest.raises(
        DatasetError, match=r"list.csv', line 3: .* lies outside the CSV's folder; expected a path inside it"
    ):
        _open(root, f"path,label,mask\nimages/000.png,a,\n{row}\n")


def test_absolute_path_and_link_inside_the_folder_are_taken(root: Path) -> None:
    (root / "link.png").symlink_to(root / "images" / "001.png")
    inside = root / "images" / "000.png"
    dataset = _open(root, f"path,label\n{inside},a\nlink.png,b\nimages/../images/002.png,b\n")
    assert all(record.read().shape == (84, 90, 3) for record in dataset.records)


@pytest.mark.parametrize("label", ["", "   ", '""'])
def test_a_row_without_a_label_is_kept_for_predictions_and_left_out_of_what_needs_labels(root: Path, label: str) -> None:
    dataset = _open(root, f"path,label\nimages/000.png,a\nimages/001.png,{label}\nimages/002.png\n")
    assert [(r.path.name, r.label) for r in dataset.records] == [("000.png", "a"), ("001.png", None), ("002.png", None)]
    assert dataset.excluded_counts == {"no label filled in": 2}
    assert [r.path.name for r in dataset.labelled().records] == ["000.png"]


def test_a_table_without_any_label_is_an_error_where_labels_are_needed(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"no image of list has a label; .*Fill the column label in"):
        _open(root, "path,label\nimages/000.png,\nimages/001.png,\n").labelled()


def test_an_unlabelled_copy_of_a_labelled_image_contradicts_nothing(root: Path) -> None:
    cleaned, cleaning = clean(_open(root, "path,label\nimages/000.png,a\nimages/000.png,\nimages/001.png,b\n"))
    assert [r.path.name for r in cleaned.records] == ["000.png", "001.png"]
    assert cleaning.counts() == {"conflicting": 0, "copies": 0, "unreadable": 0}


def test_short_row_names_the_line(root: Path) -> None:
    with pytest.raises(DatasetError, match="line 2: the path is empty"):
        _open(root, "path,label\n,a\n")


def test_row_with_more_values_than_columns_is_refused_with_its_line(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2: more values than columns. Put a value that holds a comma in double"):
        _open(root, "path,label\nimages/000.png,a,b\n")


@pytest.mark.parametrize("name", ["images/none.png", "x" * 300, "nul\0byte.png"])
def test_missing_or_impossible_file_names_the_line(root: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"list.csv', line 2: .*(there is no file|cannot be a path)") as error:
        _open(root, f"path,label\n{name},a\n")
    assert "\0" not in str(error.value)


def test_unused_columns_are_noted(root: Path) -> None:
    dataset = _open(root, "path,label,age,sex\nimages/000.png,a,44,f\n")
    assert dataset.notes == ("column(s) not used: age, sex",)


def test_table_without_rows_is_an_error(root: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"list.csv' lists no image; expected a CSV or .xlsx with the columns path,label"
    ):
        _open(root, "path,label\n")


def test_folder_in_the_place_of_the_table_is_said(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no CSV file .*; got a folder"):
        open_dataset(f"csv:{root}")


def test_duplicate_rows_stay_visible_and_cleaning_takes_one(root: Path) -> None:
    dataset = _open(root, "path,label\nimages/000.png,a\nimages/000.png,a\nimages/001.png,b\n")
    assert len(dataset) == 3
    cleaned, cleaning = clean(dataset)
    assert [r.path.name for r in cleaned.records] == ["000.png", "001.png"]
    assert len(cleaning.copies) == 1


def test_one_image_under_two_labels_is_left_out_by_cleaning(root: Path) -> None:
    dataset = _open(root, "path,label\nimages/000.png,a\nimages/000.png,b\nimages/001.png,b\n")
    cleaned, cleaning = clean(dataset)
    assert [r.path.name for r in cleaned.records] == ["001.png"]
    assert len(cleaning.conflicting) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label\nimages/000.png,a\n",
        b"path,label\r\nimages/000.png,a\r\n",
        b"path,label\nimages/000.png,a",
        b"path,label\n\nimages/000.png,a\n\n",
        b'"path","label"\n"images/000.png","a"\n',
        b"label,path\na,images/000.png\n",
        b"path,label\nimages/000.png,  a \n",
    ],
    ids=["BOM", "windows", "no last line end", "blank lines", "quoted", "other order", "spaces"],
)
def test_dialects_of_the_same_table_give_the_same_record(root: Path, content: bytes) -> None:
    (record,) = _open(root, content).records
    assert (record.path, record.label) == (root / "images" / "000.png", "a")


@pytest.mark.parametrize("content", [b"path,label\nimages/000.png,\x81\n", b'path,label\n"images/0'])
def test_other_encoding_or_open_quote_is_an_error_that_names_the_table(root: Path, content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"list.csv' cannot be read as a CSV; .*got .*\. Save it"):
        _open(root, content)


def test_quoted_line_break_in_a_label_keeps_the_row_and_the_error_on_one_line(root: Path) -> None:
    dataset = _open(root, 'path,label\nimages/000.png,"two\nlines"\n')
    assert dataset.classes == ("two\nlines",)
    with pytest.raises(InputError) as error:
        open_dataset(f"csv:{root / 'list.csv'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("Path,Label", {"Path": "path", "Label": "label"}),
        ("file;class", {"file": "path", "class": "label"}),
        ("File Name\tCell-Type", {"File Name": "path", "Cell-Type": "label"}),
        ("image_path,diagnosis", {"image_path": "path", "diagnosis": "label"}),
    ],
)
def test_other_names_of_the_columns_are_read_and_said(root: Path, header: str, read: dict[str, str]) -> None:
    separator = next(mark for mark in ";\t," if mark in header)
    dataset = _open(root, f"{header}\nimages/000.png{separator}a\n")
    assert [(r.path.name, r.label) for r in dataset.records] == [("000.png", "a")]
    assert [note for note in dataset.notes if "the column" in note] == [
        f"the column {name!r} is read as {wanted}" for name, wanted in read.items()
    ]


def test_the_exact_name_goes_before_others_and_two_others_are_refused(root: Path) -> None:
    dataset = _open(root, "image,path,label\nx,images/000.png,a\n")
    assert [r.path.name for r in dataset.records] == ["000.png"]
    assert dataset.notes == ("column(s) not used: image",)
    with pytest.raises(DatasetError, match=r"several columns for path; expected one; got 'image', 'file'"):
        _open(root, "image,file,label\nx,images/000.png,a\n")
    with pytest.raises(DatasetError, match="several columns for label"):
        _open(root, "path,label,label\nimages/000.png,a,b\n")


def test_parts_are_kept_and_an_unknown_one_is_refused_with_its_line(root: Path) -> None:
    rows = "path,label,split\nimages/000.png,a,TRAIN\nimages/001.png,a,val\nimages/002.png,a,\nimages/003.png,a,test\n"
    dataset = _open(root, rows)
    assert [r.part for r in dataset.records] == ["train", "validation", None, "test"]
    assert "parts as given: train 1, validation 1, test 1" in dataset.notes
    with pytest.raises(DatasetError, match=r"line 2: unknown part 'fold 3'; expected train, validation, test"):
        _open(root, "path,label,part\nimages/000.png,a,fold 3\n")


def test_backslashes_of_windows_are_separators_where_no_file_is_named_with_them(root: Path) -> None:
    (record,) = _open(root, "path,label\nimages\\000.png,a\n").records
    assert record.path == root / "images" / "000.png"
    with pytest.raises(DatasetError, match="lies outside"):
        _open(root, "path,label\n..\\..\\secret.png,a\n")


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-b.png", "@c.png", "'quoted.png", "plain'.png"])
def test_cells_that_are_no_formulas_name_the_file_that_they_named(root: Path, name: str) -> None:
    (root / name).write_bytes((root / "images" / "000.png").read_bytes())
    for written in {name, cell(name)} if not name.startswith("'") else {cell(name)}:
        (record,) = _open(root, f"path,label\n{written},a\n").records
        assert record.path == root / name


def test_a_sheet_of_a_workbook_is_read_by_its_name(root: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["nothing"])
    page = book.create_sheet("my cells")
    page.append(["path", "label", "group"])
    page.append(["images/000.png", "a", 7])
    book.save(root / "cells.xlsx")
    dataset = open_dataset(f"csv:{root / 'cells.xlsx'}#my cells", labels=AS_LABELLED)
    assert [(r.path.name, r.label, r.group) for r in dataset.records] == [("000.png", "a", "7")]
    assert dataset.name == "cells"
    with pytest.raises(DatasetError, match=r"lacks the column\(s\) path, label"):
        open_dataset(f"csv:{root / 'cells.xlsx'}")


@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text("a./~,;\"'\n\r\0 \\\u00e9", max_size=40).map(lambda text: f"path,label\n{text}".encode()),
    )
)
def test_any_bytes_give_records_or_an_input_error_on_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.getbasetemp() / "csv bytes"
    root.mkdir(exist_ok=True)
    refusal = None
    try:
        dataset = _open(root, content)
    except InputError as error:
        refusal = str(error)
    if refusal is None:
        assert len(dataset) > 0
    else:
        assert "\n" not in refusal
        assert "list.csv" in refusal or "no known cell type" in refusal


@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4
    )
)
def test_no_path_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    import csv as standard
    import io

    root = tmp_path_factory.getbasetemp() / "csv paths"
    root.mkdir(exist_ok=True)
    text = io.StringIO()
    standard.writer(text).writerows([["path", "label"], *([f"../{name}", "a"] for name in names)])
    with pytest.raises(DatasetError, match=r"lies outside|there is no file|cannot be a path"):
        _open(root, text.getvalue())


# Tables that predict has written

GUESSES = "path,label,probability,abstained,p_a,typicality,cell,error"


def test_the_labels_of_a_table_of_predictions_are_those_of_its_source(root: Path) -> None:
    dataset = _open(
        root,
        f"{GUESSES},source_label,group,p_id\nimages/000.png,a,0.9,False,0.9,0.5,,,b,g,7\nimages/001.png,a,0.9,False,0.9,0.5,,,,,\n",
    )
    assert [record.label for record in dataset.records] == ["b", None]
    assert [record.group for record in dataset.records] == ["g", None]
    # what `predict` filled is not carried through as a column of the source
    assert [record.extra for record in dataset.records] == [(("p_id", "7"),), (("p_id", ""),)]
    assert any("holds guesses" in note for note in dataset.notes)


def test_a_table_of_predictions_without_labels_has_none(root: Path) -> None:
    dataset = _open(root, f"{GUESSES}\nimages/000.png,a,0.9,False,0.9,0.5,,\n")
    assert [record.label for record in dataset.records] == [None]
    with pytest.raises(DatasetError, match="no image of list has a label"):
        clean(dataset)
