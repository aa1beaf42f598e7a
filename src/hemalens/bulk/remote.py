"""Files by fsspec: local paths and addresses such as s3://bucket/cells."""

from __future__ import annotations

import time
from typing import Any

from hemalens.errors import DatasetError, ImageError, MissingExtraError, one_line, require_extra
from hemalens.imaging.reading import MAX_PIXELS

MAX_BYTES = 8 * MAX_PIXELS
"""Largest image that is read into memory: more bytes than the largest accepted image has uncompressed, at 16 bits."""
TRIES, PAUSE_S = 3, 0.5
STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""Keys under which file systems state a file's version or time."""


def is_address(source: str) -> bool:
    """Whether a source names a file system, as in s3://bucket/cells."""
    return "://" in source


def file_system(place: str) -> tuple[Any, str]:
    """The file system of a local path or an address, and the path in it.

    Raises `MissingExtraError` without the package that the address needs, and `DatasetError` for an unknown file system.
    """
    require_extra("fsspec", "ray", f"reading {one_line(place)[:80]}")
    from fsspec.core import url_to_fs

    try:
        found: tuple[Any, str] = url_to_fs(place)
    except ImportError as error:
        raise MissingExtraError(f"{one_line(place)} needs a package that is not installed", remedy=str(error)) from error
    except ValueError as error:
        raise DatasetError(
            f"cannot read the address {one_line(place)}", expected="s3://, gs://, az://, file:// or a path", got=str(error)
        ) from error
    return found


def stamp_of(info: dict[str, Any]) -> str | None:
    """The version or time of a file, by what its file system states."""
    return next((str(info[name]) for name in STAMPS if info.get(name)), None)


def read_bytes(place: str, name: str, *, offset: int | None, size: int | None) -> bytes:
    """The bytes of an image that lies at `place`, or within that file; raises `ImageError`, which calls it `name`.

    What may pass, such as a lost connection, is tried again.
    """
    if size is not None and size > MAX_BYTES:
        raise ImageError(
            f"image {one_line(name)} is too large", expected=f"at most {MAX_BYTES:,} bytes", got=f"{size:,} bytes"
        )
    files, path = file_system(place)
    end = None if offset is None or size is None else offset + size
    for number in range(TRIES):
        try:
            content = bytes(files.cat_file(path, start=offset, end=end))
            break
        except FileNotFoundError as error:
            raise ImageError(f"image {one_line(name)} does not exist") from error
        except PermissionError as error:
            raise ImageError(f"image {one_line(name)} cannot be opened", got="permission denied") from error
        except Exception as error:
            # a connection's: each file system has its own
            if number == TRIES - 1:
                raise ImageError(f"image {one_line(name)} cannot be read", got=str(error)[:120]) from error
            time.sleep(PAUSE_S * 2**number)
    if offset is not None and len(content) < (size or 0):
        raise ImageError(f"image {one_line(name)} is damaged or truncated", got=f"{len(content)} of {size} bytes")
    return content
