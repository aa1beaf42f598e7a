"""Write a dataset as a CSV with groups, so that a split keeps copies of one image together."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.relatives import Relatives
from hemalens.errors import DatasetError, OutputError, one_line
from hemalens.files import atomic_path
from hemalens.taxonomy import AS_LABELLED


def check_table_name(table: Path, source: Path) -> None:
    """Raise unless `table` is named as a CSV and is another file than `source`, the data that it is made of."""
    if table.suffix.lower() != ".csv" or table.is_dir():
        raise OutputError(
            f"--groups-to {one_line(table)} is no CSV",
            expected="a file name that ends with .csv",
            got="a folder" if table.is_dir() else None,
        )
    if table.resolve() == source.resolve():
        raise OutputError(
            f"--groups-to {one_line(table)} would replace the table that is audited",
            remedy="Choose another --groups-to; nothing was changed.",
        )


def check_group_table(dataset: CellDataset, table: Path) -> None:
    """Raise unless `table` can hold the dataset: it lies on or above all images, and each is a file of its own."""
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


def write_group_table(dataset: CellDataset, related: Sequence[Sequence[int]], table: Path) -> tuple[int, int]:
    """Write path, label, group, domain and mask; return the number of groups and of rows.

    `related` are sets of positions in the dataset. Groups of the dataset that hold relatives become one. Without
    `as_labelled`, the label is the code of the cell type; images without one are left out.
    """
    check_group_table(dataset, table)
    records = dataset.records
    groups = _groups(records, related)
    with_mask = any(record.mask_path is not None for record in records)
    rows = []
    for record, group in zip(records, groups, strict=True):
        label = record.source_label if dataset.label_map == AS_LABELLED else record.cell_type
        if label is None:
            continue
        row = [_relative(record.path, table), label, group, record.domain]
        rows.append(row + ([_relative(record.mask_path, table) if record.mask_path else ""] if with_mask else []))
    if not rows:
        raise DatasetError(f"{dataset.name} has no cell type to write", remedy="Use --labels as_labelled.")
    with atomic_path(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group", "domain", *(["mask"] if with_mask else [])])
        writer.writerows(rows)
    return len({group for _, _, group, *_ in rows if group}), len(rows)


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
    name = (_parent(path) / path.name).relative_to(table.parent.resolve()).as_posix()
    # a spreadsheet takes a cell that begins so for a formula
    return f"./{name}" if name[0] in "=+-@" else name
