"""The list of images: an Arrow table with a row an image, kept as Parquet with a row group a shard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemalens.datasets.base import Record
from hemalens.errors import DatasetError, one_line
from hemalens.files import atomic_path
from hemalens.inference.rows import BOX, Source

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("name", "file", "stamp", "group", "source_label", "domain")
"""Columns of texts, kept as bytes: names of files need not be UTF-8. `name` is None for a file by its own path."""
NUMBERS = ("page", "bits", *BOX, "offset", "row", "size")
"""`offset` and `size` in bytes lie within a tar, `row` within a Parquet file; None elsewhere."""
COLUMNS = (*TEXTS, *NUMBERS, "extra")
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class ImageList:
    """The images of a source: the table, what the source knows of them, and notes on what was left out."""

    table: pa.Table
    source: Source
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def digest(self) -> str:
        """A digest of the rows in their order."""
        digest = hashlib.sha256()
        for first in range(0, len(self), ROWS_AT_ONCE):
            part = self.table.slice(first, ROWS_AT_ONCE)
            for name in COLUMNS:
                column = part[name]
                if column.null_count < len(column):
                    digest.update(f"{name} {first} {column.to_pylist()!r}".encode())
        return digest.hexdigest()


def schema() -> pa.Schema:
    """The columns of the list."""
    import pyarrow as pa

    fields = [pa.field(name, pa.binary()) for name in TEXTS] + [pa.field(name, pa.int64()) for name in NUMBERS]
    pairs = pa.list_(pa.struct([pa.field("name", pa.binary()), pa.field("value", pa.binary())]))
    return pa.schema([*fields, pa.field("extra", pairs)])


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of rows by column; columns that a row lacks are None, and texts become bytes. Few rows lie in Python."""
    import pyarrow as pa

    known, given = schema(), iter(rows)
    batches = []
    while part := list(islice(given, ROWS_AT_ONCE)):
        columns = {name: [_bytes(row.get(name)) for row in part] for name in COLUMNS}
        arrays = [pa.array(columns[name], known.field(name).type) for name in COLUMNS]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=known))
    return pa.Table.from_batches(batches, known)


def _bytes(value: Any) -> Any:
    return os.fsencode(value) if isinstance(value, str) else value


def of_records(records: Sequence[Record], notes: Sequence[str]) -> ImageList:
    """The list of records: images that lie in files of their own, each with its size and time."""
    return ImageList(table_of(map(_row, records)), Source.of(records), tuple(notes))


def _row(record: Record) -> dict[str, Any]:
    try:
        state = os.stat(record.path)
        size, stamp = state.st_size, str(state.st_mtime_ns)
    except OSError:
        size, stamp = None, None  # an unreadable image, whose row has the error
    box = dict(zip(BOX, record.box or (None,) * 4, strict=True))
    texts = {"file": str(record.path), "stamp": stamp, "group": record.group, "source_label": record.source_label}
    extra = [{"name": os.fsencode(name), "value": os.fsencode(value)} for name, value in record.extra] or None
    own = {"domain": record.domain, "page": record.page, "bits": record.bits, "size": size, "extra": extra}
    return texts | own | box


def record_of(row: Mapping[str, Any]) -> Record:
    """The record of a row that `of_records` has listed."""
    text = {name: None if row[name] is None else os.fsdecode(row[name]) for name in TEXTS}
    box = tuple(row[name] for name in BOX)
    return Record(
        Path(str(text["file"])),
        source_label=text["source_label"] or "",
        domain=text["domain"] or "",
        group=text["group"],
        box=None if box[0] is None else box,  # type: ignore[arg-type]
        page=row["page"],
        bits=row["bits"],
        extra=tuple((os.fsdecode(pair["name"]), os.fsdecode(pair["value"])) for pair in row["extra"] or ()),
    )


def write_list(path: Path, images: ImageList, shard_size: int) -> None:
    """Write the list with a row group a shard; the file appears whole."""
    from pyarrow import parquet

    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema()) as file:
        for first in range(0, len(images), shard_size):
            file.write_table(images.table.slice(first, shard_size), row_group_size=shard_size)


def read_shard(path: Path, number: int) -> Iterator[dict[str, Any]]:
    """The rows of a shard of the list, by column."""
    from pyarrow import lib, parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = file.read_row_group(number)
    except (OSError, lib.ArrowException) as error:
        raise DatasetError(f"the list of images {one_line(path)} cannot be read", got=str(error)[:120]) from error
    for batch in rows.to_batches(256):
        yield from batch.to_pylist()
