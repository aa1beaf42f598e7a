"""From rows of the image list to what a predictor reads: records of files, and bytes that are read in their turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from hemalens.bulk.containers import parquet_contents
from hemalens.bulk.image_list import record_of
from hemalens.bulk.remote import read_bytes
from hemalens.datasets.base import Record
from hemalens.errors import ImageError
from hemalens.inference.inputs import Input


@dataclass(frozen=True, slots=True)
class NamedRecord(Record):
    """The record of an image without a file of its own, under the name that its row gets.

    `Path` would change an address such as s3://bucket/cell.png.
    """

    shown: str = ""

    @property
    def name(self) -> str:
        """The address, or the file that holds the image and the image's name in it."""
        return self.shown


def inputs_of_shard(rows: Iterable[Mapping[str, Any]]) -> Iterator[Input]:
    """The inputs of a shard, in the order of its rows; few images are in memory at a time."""
    for (place, kind), part in groupby(rows, key=lambda row: (row["file"], _kind(row))):
        if kind == "file":
            yield from (Input(record_of(row)) for row in part)
        elif kind == "bytes":
            yield from (_in_place(row) for row in part)
        else:
            listed = list(part)
            names = [os.fsdecode(row["name"]) for row in listed]
            contents = parquet_contents(os.fsdecode(place), names, [row["row"] for row in listed])
            yield from (_input(name, _giving(content)) for name, content in zip(names, contents, strict=True))


def _kind(row: Mapping[str, Any]) -> str:
    if row["name"] is None:
        return "file"
    return "bytes" if row["row"] is None else "row"


def _in_place(row: Mapping[str, Any]) -> Input:
    name = os.fsdecode(row["name"])
    return _input(name, partial(read_bytes, os.fsdecode(row["file"]), name, offset=row["offset"], size=row["size"]))


def _giving(content: bytes | ImageError) -> Callable[[], bytes]:
    def give() -> bytes:
        if isinstance(content, ImageError):
            raise content
        return content

    return give


def _input(name: str, content: Callable[[], bytes]) -> Input:
    return Input(NamedRecord(Path(name), source_label="", domain="", shown=name), content)
