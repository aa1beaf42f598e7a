"""The images of a source: a folder or dataset, tar shards, Parquet with bytes, or an address such as s3://bucket/cells."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hemalens.bulk.containers import is_container, list_container
from hemalens.bulk.image_list import ImageList, of_records, table_of
from hemalens.bulk.remote import file_system, is_address, stamp_of
from hemalens.datasets import READERS
from hemalens.datasets.base import is_image_name
from hemalens.datasets.walking import walk
from hemalens.errors import DatasetError, one_line
from hemalens.inference.predict import open_images
from hemalens.inference.rows import Source

READ = "images, .tar files with images, or .parquet files with a column image_bytes"


def list_images(source: str) -> ImageList:
    """The images of a source in their order; raises `DatasetError` where there is none.

    A folder with images is read as on one machine; tars and Parquet files in it are then left out, with a note. A folder
    without images is read for these.
    """
    if is_address(source):
        return _remote(source)
    path = Path(os.path.expanduser(source))
    named = source.partition(":")[0] in READERS and not path.exists()
    if not named and path.is_file() and is_container(source):
        return _contained([(source, str(path.absolute()))], source, [])
    containers = [] if named or not path.is_dir() else _containers_below(path)
    if containers and not _has_image(path):
        return _contained([(str(each), str(each.absolute())) for each in containers], source, [])
    notes: list[str] = []
    records = open_images(source, say=notes.append)
    return of_records(records, [*notes, *_left_out([str(each) for each in containers])])


def _containers_below(folder: Path) -> list[Path]:
    return [path for path in walk(folder).files if is_container(path.name)]


def _has_image(folder: Path) -> bool:
    found = walk(folder)
    return any(is_image_name(path) for path in (*found.files, *found.folders))


def _left_out(containers: Sequence[str]) -> list[str]:
    if not containers:
        return []
    return [f"left out {len(containers)} .tar or .parquet file(s) beside the images, the first {one_line(containers[0])}"]


def _remote(source: str) -> ImageList:
    """The images at an address: one file, or all below a folder, in the order of their names."""
    files, top = file_system(source)
    try:
        found: dict[str, dict[str, Any]] = files.find(top, detail=True)
    except Exception as error:
        # each file system has its own errors, of a missing bucket, a right, the network
        raise DatasetError(f"{one_line(source)} cannot be listed", got=str(error)[:160]) from error
    shown = {path: files.unstrip_protocol(path) for path in sorted(found) if not _is_hidden(path, top)}
    images = [path for path in shown if is_image_name(PurePosixPath(path))]  # type: ignore[arg-type]
    containers = [path for path in shown if is_container(path)]
    if images:
        rows = (
            {"name": shown[path], "file": shown[path], "size": found[path].get("size"), "stamp": stamp_of(found[path])}
            for path in images
        )
        return ImageList(table_of(rows), Source(), tuple(_left_out([shown[path] for path in containers])))
    return _contained([(shown[path], shown[path]) for path in containers], source, [])


def _is_hidden(path: str, top: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path[len(top) :]).parts)


def _contained(containers: Sequence[tuple[str, str]], source: str, notes: Sequence[str]) -> ImageList:
    """The images in tars and Parquet files, given as (name, place)."""

    def rows() -> Iterator[dict[str, Any]]:
        for name, place in containers:
            yield from list_container(place, name)

    table = table_of(rows())
    if not table.num_rows:
        raise DatasetError(f"no image in {one_line(source)}", expected=READ)
    return ImageList(table, Source(), tuple(notes))
