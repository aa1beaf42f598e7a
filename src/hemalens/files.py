"""Files: regular ones alone are read; digests, listings in a stable order, and atomic writes."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import DTypeLike, NDArray

from hemalens.errors import InputError, OutputError, one_line

PathLike = str | os.PathLike[str]
"""A path as users pass it."""
STALE_AFTER_S = 86_400
"""Age at which a temporary file of another machine counts as left behind."""


def default_cache_dir() -> Path:
    """The folder of `HEMALENS_CACHE`, by default the user's cache folder."""
    named = os.environ.get("HEMALENS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("hemalens"))


def as_path(value: PathLike, what: str) -> Path:
    """A user's path; raises `InputError`, naming `what`, for anything but a text or a path, and for an empty one."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(f"{what} is no path", expected="a text or a path", got=type(value).__name__)
    text = os.fspath(value)
    if not text or "\x00" in text:
        raise InputError(f"{what} is no path", expected="the path of a file or folder", got=one_line(text))
    return Path(text)


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file, or a link to one: no folder, named pipe, socket or device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises `OSError` for anything else, without waiting for it."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a named pipe, socket or device, no regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def sha256_file(path: Path) -> str:
    """SHA-256 of a regular file's bytes, as 64 hexadecimal digits; cached while its size and time stay the same."""
    state = os.stat(path)
    return _sha256_of_state(os.fspath(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _sha256_of_state(path: str, size: int, mtime_ns: int) -> str:
    with open_regular(Path(path)) as file:
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


def _owner() -> str:
    """This process, as in the names of its temporary files: machine and process number."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
    return f"{machine}-{os.getpid()}"


def _temporary_prefix(path: Path) -> str:
    return f".{path.name[:40]}.{_owner()}."


def _is_stale(temporary: Path, owner: str) -> bool:
    """Whether the process that made a temporary file is gone; of another machine, whether the file is a day old."""
    machine, _, process = owner.partition("-")
    if machine == _owner().partition("-")[0] and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False
    return time.time() - temporary.stat().st_mtime > STALE_AFTER_S


def remove_stale(path: Path) -> None:
    """Remove the temporary files that killed processes left of `path`; bring back a folder that was being replaced."""
    for found in sorted(path.parent.glob(f".{glob.escape(path.name[:40])}.*-*.*")):
        owner = found.name.removeprefix(f".{path.name[:40]}.").partition(".")[0]
        if not re.fullmatch(r"[0-9a-f]{6}-[0-9]+", owner) or not re.search(r"\.(part(\..+)?|old)$", found.name):
            continue
        with suppress(OSError):
            if not _is_stale(found, owner):
                continue
            kept = found / path.name
            if found.suffix == ".old" and kept.exists() and not path.exists():
                os.replace(kept, path)
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success, remove it on failure.

    Raises `OutputError` for a full disk or a folder that is not writable.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=_temporary_prefix(path), suffix=f".part{path.suffix}", dir=path.parent)
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
        remove_stale(path)
        temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), suffix=".part", dir=path.parent))
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
    aside = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), suffix=".old", dir=path.parent))
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


_follow: ContextVar[bool] = ContextVar("follow_links", default=False)


@contextmanager
def following_links(follow: bool = True) -> Iterator[None]:
    """Follow links that leave a data folder, for every set that is listed inside the block."""
    before = _follow.set(follow)
    try:
        yield
    finally:
        _follow.reset(before)


def links_are_followed() -> bool:
    """Whether links that leave a data folder are followed here."""
    return _follow.get()


@dataclass(frozen=True, slots=True)
class Walk:
    """What lies below a folder, hidden entries left out: files, folders, and links to folders that were not followed."""

    files: list[Path]
    folders: list[Path]
    outside: list[Path]


def walk(top: Path, root: Path | None = None) -> Walk:
    """Everything below `top`, sorted by name. Links to folders outside `root`, by default `top`, are not followed.

    No folder is entered twice, so loops of links end.
    """
    found = Walk([], [], [])
    within = os.path.realpath(top if root is None else root)
    entered: set[str] = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        place = os.path.realpath(folder)
        if not links_are_followed() and not is_below(place, within):
            found.outside.append(Path(folder))
            folders.clear()
            continue
        if place in entered or (folder != os.fspath(top) and is_below(os.path.realpath(os.path.dirname(folder)), place)):
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.folders.append(Path(folder))
        found.files.extend(Path(folder) / name for name in names if not name.startswith("."))
    for paths in (found.files, found.folders, found.outside):
        paths.sort()
    return found


def is_below(path: str, folder: str) -> bool:
    """Whether a real path is a folder, or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def walk_files(root: Path) -> list[Path]:
    """All files below `root`, sorted by name, without hidden files and folders."""
    return walk(root).files
