"""Write a dataset as a CSV with groups, so that a split keeps copies of one image together."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.relatives import Relatives
from hemalens.datasets.table_text import cell
from hemalens.datasets.tables import read_table
from hemalens.errors import DatasetError, OutputError, one_line
from hemalens.files import atomic_path
from hemalens.imaging.reading import named
from hemalens.taxonomy import AS_LABELLED

COLUMNS = ("path", "label", "group", "domain")
"""Columns of every table of groups; mask and part follow where an image has one."""


def check_table_name(table: Path) -> None:
    """Raise `OutputError` unless `table` is named as a CSV."""
    if table.suffix.lower() != ".csv" or table.is_dir():
        raise OutputError(
            f"--groups-to {one_line(table)} is no CSV",
            expected="a file name that ends with .csv",
            got="a folder" if table.is_dir() else None,
        )


def check_group_table(dataset: CellDataset, table: Path) -> None:
    """Raise unless `table` can hold the dataset: it lies on or above all images, and each is a file or page of its own.

    An existing table must be one of groups, without a label that the new one would lose.
    """
    if any(record.box is not None for record in dataset.records):
        raise DatasetError(
            f"{dataset.name} has its cells in boxes, which a CSV does not hold",
            expected="one image a file with --groups-to",
            remedy="Leave --groups-to out; the cells of a field are one group already.",
        )
    files = [path for record in dataset.records for path in (record.path, record.mask_path) if path is not None]
    folder = table.parent.resolve()
    if not all(_parent(path).is_relative_to(folder) for path in files):
        common = Path(os.path.commonpath([_parent(path) for path in files]))
        raise OutputError(
            f"--groups-to {one_line(table)} does not lie on or above the images",
            expected="a CSV in a folder that holds all images",
            remedy=f"Choose {one_line(common / table.name)}.",
        )
    if table.exists():
        _check_replaced(dataset, table)


def _check_replaced(dataset: CellDataset, table: Path) -> None:
    """Raise `OutputError` for an existing table of something else, or with a label that the new one would lose."""
    known = {(name, label) for _, name, label in _labelled(dataset, table)}
    try:
        found = read_table(table, fits=lambda names: tuple(names[: len(COLUMNS)]) == COLUMNS)
    except DatasetError:
        found = None
    ours = found is not None and found.columns[: len(COLUMNS)] == COLUMNS
    if found is None or not ours or any(row[:2] not in known for _, row in found.rows):
        raise OutputError(
            f"--groups-to {one_line(table)} holds {'labels that these images do not have' if ours else 'something else'}",
            remedy="Choose another --groups-to; it is not overwritten.",
        )


def write_group_table(dataset: CellDataset, related: Sequence[Sequence[int]], table: Path) -> tuple[int, int]:
    """Write path, label, group, domain, mask and part; return the number of groups and of rows.

    `related` are sets of positions in the dataset. Groups of the dataset that hold relatives become one. Without
    `as_labelled`, the label is the code of the cell type; images without one are left out. Cells are those of
    `table_text.cell`, and a page of a TIFF is named as in "smear.tif#2".
    """
    check_group_table(dataset, table)
    records = dataset.records
    groups = _groups(records, related)
    further = {
        "mask": [_relative(record.mask_path, table) if record.mask_path else "" for record in records],
        "part": [record.part or "" for record in records],
    }
    used = {name: values for name, values in further.items() if any(values)}
    rows = [
        [name, label, groups[i], records[i].domain, *(values[i] for values in used.values())]
        for i, name, label in _labelled(dataset, table)
    ]
    if not rows:
        raise DatasetError(f"{dataset.name} has no cell type to write", remedy="Use --labels as_labelled.")
    with atomic_path(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *used])
        writer.writerows([[cell(value) for value in row] for row in rows])
    return len({group for _, _, group, *_ in rows if group}), len(rows)


def _labelled(dataset: CellDataset, table: Path) -> list[tuple[int, str, str]]:
    """Position, name relative to the table, and label of each image that has one."""
    by_word = dataset.label_map == AS_LABELLED
    labels = [record.source_label if by_word else record.cell_type for record in dataset.records]
    names = [named(Path(_relative(record.path, table)), record.page) for record in dataset.records]
    return [(i, name, label) for i, (name, label) in enumerate(zip(names, labels, strict=True)) if label is not None]


def _groups(records: Sequence[Record], related: Sequence[Sequence[int]]) -> list[str]:
    """The name of each record's group, "" for an image on its own; an existing group keeps its name."""
    joined = Relatives(len(records))
    for members in related:
        for other in members[1:]:
            joined.join(members[0], other)
    first: dict[tuple[str, str], int] = {}
    for i, record in enumerate(records):
        if record.group is not None:
            joined.join(first.setdefault((record.domain, record.group), i), i)
    taken = {record.group for record in records if record.group is not None}
    names = [record.group or "" for record in records]
    number = 0
    for members in joined.sets():
        known = [names[i] for i in members if names[i]]
        if not known:
            number += 1
            while f"copies_{number}" in taken:
                number += 1
        for i in members:
            names[i] = known[0] if known else f"copies_{number}"
    return names


def _parent(path: Path) -> Path:
    """The folder of an image, links in the folders above it followed."""
    return path.parent.resolve()


def _relative(path: Path, table: Path) -> str:
    return (_parent(path) / path.name).relative_to(table.parent.resolve()).as_posix()
