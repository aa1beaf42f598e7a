"""A user's own images listed in a table: path,label and, if there are any, group, domain, mask and part."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hemalens.datasets.base import Listing, Reader, Record
from hemalens.datasets.images import FOLLOW, split_page
from hemalens.datasets.parts import describe_parts, part_named
from hemalens.datasets.tables import read_table, table_file
from hemalens.datasets.walking import is_below, links_are_followed
from hemalens.errors import DatasetError, one_line

REQUIRED = {
    "path": ("filename", "file_name", "file", "filepath", "file_path", "image", "image_path", "image_file", "img"),
    "label": ("class", "class_name", "type", "cell_type", "celltype", "diagnosis"),
}
"""Columns that a table must have, and what others call them."""
COLUMNS: Mapping[str, tuple[str, ...]] = {**REQUIRED, "group": (), "domain": (), "mask": (), "part": ("split",)}
PREDICTIONS = {"path", "label", "probability", "abstained", "error"}
"""Columns of a table that `predict` has written: its labels are guesses, and no one may learn or test by them."""
SOURCE_LABEL = "source_label"
"""The column of such a table with the labels of its source."""
GUESSES = (
    "a table of predictions: its column 'label' holds guesses and is not used as labels; "
    "save corrected labels as a CSV of path,label alone"
)
LAYOUT = (
    "a CSV or .xlsx with the columns path,label and optionally group,domain,mask,part; "
    "paths relative to the table, inside its folder"
)


def _read(table: Path) -> Listing:
    file, _ = table_file(table)
    if not file.is_file():
        raise DatasetError(
            f"there is no CSV file {one_line(file)}", expected=LAYOUT, got="a folder" if file.is_dir() else None
        )
    found = read_table(table, fits=lambda names: all(_column(names, wanted) for wanted in REQUIRED))
    predicted = set(found.columns) >= PREDICTIONS
    named = {wanted: _one_column(file, found.columns, wanted) for wanted in COLUMNS}
    if predicted:
        named["label"] = _one_column(file, found.columns, SOURCE_LABEL)
    missing = [wanted for wanted in REQUIRED if named[wanted] is None and not (predicted and wanted == "label")]
    if missing:
        raise DatasetError(
            f"{one_line(file)} lacks the column(s) {', '.join(missing)}",
            expected=LAYOUT,
            got=", ".join(found.columns)[:200] or "no header",
        )
    used = {wanted: name for wanted, name in named.items() if name is not None}
    places = {wanted: found.columns.index(name) for wanted, name in used.items()}
    further = [(i, name) for i, name in enumerate(found.columns) if i not in places.values()]
    if predicted:
        # what `predict` has filled; the columns of its source follow the errors
        further = [(i, name) for i, name in further if i > found.columns.index("error")]
    records = [
        _record(file, line, {w: row[i] for w, i in places.items()}, tuple((name, row[i]) for i, name in further))
        for line, row in found.rows
    ]
    if not records:
        raise DatasetError(f"{one_line(file)} lists no image", expected=LAYOUT)
    notes = [found.read_as] if found.read_as else []
    notes += [f"the column {one_line(name)} is read as {wanted}" for wanted, name in used.items() if name != wanted]
    notes += [GUESSES] if predicted else []
    unknown = [name for name in found.columns if name not in used.values()]
    notes += [f"column(s) not used: {', '.join(unknown)}"] if unknown else []
    return Listing(records, [*notes, *describe_parts(records)], name=file.stem)


def _folded(name: str) -> str:
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def _column(names: Sequence[str], wanted: str) -> list[str]:
    """The columns that may be the wanted one: that of its name, otherwise in other letters, otherwise of a like name."""
    if wanted in names:
        return [wanted]
    same = [name for name in names if _folded(name) == wanted]
    return same or [name for name in names if _folded(name) in COLUMNS.get(wanted, ())]


def _one_column(file: Path, names: Sequence[str], wanted: str) -> str | None:
    found = _column(names, wanted)
    if len(found) > 1 or (found and names.count(found[0]) > 1):
        raise DatasetError(
            f"{one_line(file)} has several columns for {wanted}",
            expected="one",
            got=", ".join(map(one_line, found if len(found) > 1 else found * 2)),
            remedy=f"Name the one that counts {wanted!r}, and the others otherwise.",
        )
    return found[0] if found else None


def _record(table: Path, line: int, row: Mapping[str, str], extra: tuple[tuple[str, str], ...]) -> Record:
    where = f"{one_line(table)}, line {line}"
    mask, name = row.get("mask", "").strip(), row["path"]
    _, page = split_page(table.parent / name)
    return Record(
        path=path_in_table(table.parent, name if page is None else name.removesuffix(f"#{page}"), where),
        # an empty one is left out under every label map, and counted
        source_label=row.get("label", "").strip(),
        domain=row.get("domain", "").strip() or table.stem,
        # a stray space would make two groups of one, and a group must not cross a split
        group=row.get("group", "").strip() or None,
        mask_path=path_in_table(table.parent, mask, where) if mask else None,
        part=_part(row.get("part", "").strip(), where),
        extra=extra,
        page=page,
    )


def _part(text: str, where: str) -> str | None:
    part = part_named(text)
    if text and part is None:
        raise DatasetError(f"{where}: unknown part {one_line(text)}", expected="train, validation, test or nothing")
    return part


def path_in_table(folder: Path, name: str, where: str) -> Path:
    """The file that a row of a table in `folder` names; raises `DatasetError`, which begins with `where`."""
    if not name.strip():
        raise DatasetError(f"{where}: the path is empty")
    try:
        path = folder / name
        if "\\" in name and not path.exists():
            path = folder / name.replace("\\", "/")
        inside, exists = path.resolve().is_relative_to(folder.resolve()), path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{where}: {one_line(name)} cannot be a path", got=str(error)) from error
    if not inside:
        linked = is_below(os.path.abspath(path), os.path.abspath(folder))
        if not (linked and links_are_followed()):
            raise DatasetError(
                f"{where}: {one_line(name)} lies outside the CSV's folder",
                expected="a path inside it",
                got="a link out of it" if linked else None,
                remedy=FOLLOW if linked else None,
            )
    if not exists:
        raise DatasetError(
            f"{where}: there is no file {one_line(path)}", remedy="Correct the path; it starts at the CSV's folder."
        )
    return path


READER = Reader(
    name="csv",
    title="CSV table",
    licence="the user's own",
    citation="the user's own images",
    layout=LAYOUT,
    read=_read,
)
