"""Files: digests, listings in a stable order, and atomic writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import DTypeLike, NDArray

from hemalens.errors import OutputError, one_line


def default_cache_dir() -> Path:
    """The folder of `HEMALENS_CACHE`, by default the user's cache folder."""
    named = os.environ.get("HEMALENS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("hemalens"))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; cached while its size and time stay the same."""
    stat = os.stat(path)
    return _sha256_of_state(os.fspath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _sha256_of_state(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(*parts: str) -> str:
    """SHA-256 over several texts; a separator keeps ("ab", "c") and ("a", "bc") apart."""
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _as_output_error(error: OSError, path: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"the disk is full while writing {one_line(path)}",
            remedy="Free space or choose another disk; no partial file remains.",
        )
    return OutputError(
        f"cannot write {one_line(path)}",
        expected="a writable place",
        got=error.strerror or str(error),
        remedy="Choose another folder or change the permissions.",
    )


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise _as_output_error(error, path) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success, remove it on failure.

    Raises `OutputError` for a full disk or a folder that is not writable.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` on success, remove it on failure.

    An existing folder at `path` is replaced at the end. Raises `OutputError` as `atomic_path` does.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            if path.exists():
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)


def _exchange(new: Path, path: Path) -> None:
    """Replace `path` by `new`; a failure restores the old folder."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".old", dir=path.parent))
    try:
        os.replace(path, aside / path.name)
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(aside / path.name, path)
            raise
    except BaseException:
        # only if empty: a folder that could not be restored is kept
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; undecodable bytes of file names become \\udc.. escapes, as in JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def claim_output(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` for an output that exists, unless `overwrite`, or that cannot be written; removes nothing."""
    with output_errors(path):
        occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not overwrite:
        raise OutputError(
            f"{one_line(path)} exists already",
            remedy="Choose another file or folder, or replace it with --overwrite.",
        )
    parent = path
    while not parent.exists():
        parent = parent.parent
        if parent.exists() and not parent.is_dir():
            raise OutputError(f"cannot write {one_line(path)}", expected="a folder", got=f"the file {one_line(parent)}")
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"cannot write {one_line(path)}", expected="a writable place", got=f"{one_line(parent)} is read-only"
        )


def claim_folder(path: Path, parts: Collection[str], what: str, *, overwrite: bool) -> None:
    """`claim_output` for a folder whose entries are named in `parts`; `overwrite` replaces only such a folder.

    `what` names it in the error, as in "a report". Raises `OutputError`.
    """
    if overwrite and path.exists() and not (path.is_dir() and {entry.name for entry in path.iterdir()} <= set(parts)):
        raise OutputError(
            f"{one_line(path)} holds something else than {what}", remedy="Choose another folder; it is not overwritten."
        )
    claim_output(path, overwrite=overwrite)


MAX_RAM_BYTES = 1_000_000_000
"""Larger arrays are memory-mapped files, so that memory stays flat."""


def large_array(shape: tuple[int, ...], dtype: DTypeLike, scratch: Path | None) -> NDArray[Any]:
    """An uninitialised array: in memory when it is small or `scratch` is None, otherwise mapped to the file `scratch`.

    Raises `OutputError`.
    """
    if scratch is None or int(np.prod(shape)) * np.dtype(dtype).itemsize <= MAX_RAM_BYTES:
        return np.empty(shape, dtype)
    with output_errors(scratch):
        scratch.parent.mkdir(parents=True, exist_ok=True)
        array: NDArray[Any] = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.dtype(dtype), shape=shape)
    return array


def walk_files(root: Path) -> list[Path]:
    """All files below `root`, sorted by name, without hidden files and folders."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(Path(folder) / name for name in names if not name.startswith("."))
    return sorted(found)
