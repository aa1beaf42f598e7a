"""A user's own images listed in a CSV: path,label and, if there are any, group, domain and mask."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from hemalens.datasets.base import Listing, Reader, Record
from hemalens.datasets.images import FOLLOW, split_page
from hemalens.datasets.table_text import plain
from hemalens.errors import DatasetError, one_line
from hemalens.files import is_below, links_are_followed

COLUMNS = ("path", "label")
OPTIONAL = ("group", "domain", "mask")
LAYOUT = "a CSV with the columns path,label and optionally group,domain,mask; paths relative to the CSV, inside its folder"


def _read(table: Path) -> Listing:
    if not table.is_file():
        raise DatasetError(
            f"there is no CSV file {one_line(table)}", expected=LAYOUT, got="a folder" if table.is_dir() else None
        )
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{one_line(table)} cannot be read as a UTF-8 CSV", got=str(error)) from error
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DatasetError(
            f"{one_line(table)} lacks the column(s) {', '.join(missing)}",
            expected=LAYOUT,
            got=", ".join(names) or "no header",
        )
    records = [_record(table, line, row) for line, row in rows]
    if not records:
        raise DatasetError(f"{one_line(table)} lists no image", expected=LAYOUT)
    unknown = [name for name in names if name not in (*COLUMNS, *OPTIONAL)]
    return Listing(records, [f"column(s) not used: {', '.join(unknown)}"] if unknown else [], name=table.stem)


def _record(table: Path, line: int, row: dict[str | Any, str | Any]) -> Record:
    where = f"{one_line(table)}, line {line}"
    if None in row:
        raise DatasetError(f"{where}: more values than columns", remedy="Put a value that holds a comma in double quotes.")
    label = plain((row["label"] or "").strip())
    if not label:
        raise DatasetError(f"{where}: the label is empty", remedy="Fill it in, or take the row out.")
    mask = plain(row.get("mask") or "")
    name = plain(row["path"] or "")
    _, page = split_page(table.parent / name)
    return Record(
        path=_inside(table.parent, name if page is None else name.removesuffix(f"#{page}"), where),
        source_label=label,
        domain=plain((row.get("domain") or "").strip()) or table.stem,
        # a stray space would make two groups of one, and a group must not cross a split
        group=plain((row.get("group") or "").strip()) or None,
        mask_path=_inside(table.parent, mask, where) if mask else None,
        extra=tuple((name, plain(value or "")) for name, value in row.items() if name not in (*COLUMNS, *OPTIONAL)),
        page=page,
    )


def _inside(folder: Path, name: str, where: str) -> Path:
    if not name:
        raise DatasetError(f"{where}: the path is empty")
    path = folder / name
    try:
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
