"""Files that hold many images: tar shards, and Parquet with the bytes of images."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from hemalens.bulk.remote import MAX_BYTES, file_system, stamp_of
from hemalens.datasets.base import is_image_name
from hemalens.errors import DatasetError, ImageError, one_line

TAR, PARQUET = ".tar", ".parquet"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Tars that cannot be read from their middle."""
BYTES = ("image_bytes", "bytes")
"""Columns with the bytes of an image, the first that is there."""
PATH = "path"
ROWS_AT_ONCE = 16


def is_container(path: str) -> bool:
    """Whether a file is a tar or a Parquet file, by its name."""
    return path.lower().endswith((TAR, PARQUET, *PACKED))


def list_container(place: str, name: str) -> Iterator[dict[str, Any]]:
    """A row of the image list for each image in the file at `place`, which users know as `name`; raises `DatasetError`."""
    if name.lower().endswith(PACKED):
        raise DatasetError(
            f"{one_line(name)} is a compressed tar, which is not read from its middle",
            expected="a .tar without compression",
            remedy="Unpack it: gunzip, or the program for its suffix.",
        )
    files, path = file_system(place)
    read = _parquet_rows if name.lower().endswith(PARQUET) else _tar_rows
    try:
        stamp = stamp_of(files.info(path))
        with files.open(path, "rb") as file:
            for row in read(file, name):
                yield {"file": place, "stamp": stamp, **row}
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file {one_line(name)}", remedy="Check the path.") from error
    except Exception as error:
        # of tarfile, Arrow or a file system
        raise DatasetError(f"{one_line(name)} is damaged or cannot be read", got=str(error)[:160]) from error


def _tar_rows(file: Any, name: str) -> Iterator[dict[str, Any]]:
    """The image members of a tar, in its order."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and is_image_name(PurePosixPath(member.name)):  # type: ignore[arg-type]
                yield {"name": f"{name}/{member.name}", "offset": member.offset_data, "size": member.size}
            tar.members = []  # type: ignore[attr-defined]  # otherwise all members stay in memory


def _parquet_rows(file: Any, name: str) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    _bytes_column(table, name)
    columns = [PATH] if PATH in table.schema_arrow.names else []
    row = 0
    if not columns:
        for row in range(table.metadata.num_rows):
            yield {"name": f"{name}/{row}", "row": row}
        return
    for batch in table.iter_batches(1024, columns=columns):
        for given in batch.column(0).to_pylist():
            yield {"name": f"{name}/{row}" if given is None else str(given), "row": row}
            row += 1


def _bytes_column(table: Any, name: str) -> str:
    """The column with the bytes; raises `DatasetError` for a table without."""
    from pyarrow import types

    schema = table.schema_arrow
    column = next((each for each in BYTES if each in schema.names), None)
    if column is None:
        raise DatasetError(
            f"{one_line(name)} has no column of image bytes",
            expected=" or ".join(BYTES),
            got=", ".join(schema.names[:6]) or "no column",
        )
    kind = schema.field(column).type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise DatasetError(f"the column {column} of {one_line(name)} holds no bytes", expected="binary", got=str(kind))
    return column


def parquet_contents(place: str, names: Sequence[str], rows: Sequence[int]) -> Iterator[bytes | ImageError]:
    """The bytes of the images `names` in ascending `rows` of a Parquet file, or why there are none; few at a time."""
    from pyarrow import parquet

    done = 0
    try:
        files, path = file_system(place)
        with files.open(path, "rb") as file:
            table = parquet.ParquetFile(file)
            column = _bytes_column(table, place)
            for content in _rows_of(table, column, rows):
                yield _checked(content, names[done])
                done += 1
    except GeneratorExit:
        raise
    except Exception as error:
        # of Arrow or a file system: what is left of this file has no bytes
        for name in names[done:]:
            yield ImageError(f"image {one_line(name)} cannot be read", got=str(error)[:120])


def _checked(content: bytes | None, name: str) -> bytes | ImageError:
    if content is None:
        return ImageError(f"image {one_line(name)} is empty", got="no bytes")
    return content if len(content) <= MAX_BYTES else ImageError(f"image {one_line(name)} is too large")


def _rows_of(table: Any, column: str, rows: Sequence[int]) -> Iterator[bytes | None]:
    """The values of a column in ascending rows; only the row groups that hold them are read."""
    first, wanted = 0, iter(rows)
    row = next(wanted, None)
    for number in range(table.num_row_groups):
        end = first + table.metadata.row_group(number).num_rows
        if row is None:
            return
        if row >= end:
            first = end
            continue
        for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[column]):
            values = batch.column(0)
            while row is not None and row < first + len(values):
                yield values[row - first].as_py()
                row = next(wanted, None)
            first += len(values)
            if row is None or row >= end:
                break
        first = end
