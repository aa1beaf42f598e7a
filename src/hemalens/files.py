"""Files: regular ones alone are read; digests, listings in a stable order, and atomic writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import DTypeLike, NDArray

from hemalens.errors import InputError, OutputError, one_line
from hemalens.progress import note

PathLike = str | os.PathLike[str]
"""A path as users pass it."""
STALE_AFTER_S = 7 * 86_400
"""Age at which a temporary file of another machine, or of a process that runs, counts as left behind."""


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
    special = OSError(errno.EINVAL, "a named pipe, socket or device, no regular file", str(path))
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        # of a socket, or a device that is not there
        raise (special if error.errno == errno.ENXIO else error) from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise special
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
    cache = default_cache_dir()
    if path.is_relative_to(cache):
        return OutputError(
            f"the cache {one_line(cache)} cannot be written",
            got=error.strerror or str(error),
            remedy="Free space, change the permissions, or name another folder in HEMALENS_CACHE.",
        )
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


@cache
def _machine() -> str:
    """This machine, and the space of its process numbers, in six hexadecimal digits."""
    name = socket.gethostname()
    with suppress(OSError):
        name += f" {os.stat('/proc/self/ns/pid').st_ino}"  # containers may share a name
    return hashlib.sha256(name.encode()).hexdigest()[:6]


@contextmanager
def optional_cache() -> Iterator[None]:
    """Go on, with a note, where the block cannot use the cache: an `OutputError` ends the block alone."""
    try:
        yield
    except OutputError as error:
        note(f"going on without the cache: {error}")


def _owner() -> str:
    """This process, as in the names of its temporary files: machine and process number."""
    return f"{_machine()}-{os.getpid()}"


def short_name(name: str, longest: int = 40) -> str:
    """The name itself, or, beyond so many bytes, its beginning with a digest of it."""
    encoded = os.fsencode(name)
    if len(encoded) <= longest:
        return name
    return f"{os.fsencode(name[: longest // 5]).decode('utf-8', 'replace')}~{hashlib.sha256(encoded).hexdigest()[:8]}"


def _temporary_prefix(path: Path) -> str:
    return f".{short_name(path.name)}.{_owner()}."


def _suffix(path: Path) -> str:
    return path.suffix if len(os.fsencode(path.suffix)) <= 16 else ""


_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{6})-(?P<process>[0-9]+)\.[a-z0-9_]+\.(part(\..+)?|old)", re.DOTALL
)
"""Names of temporary files and folders: of `atomic_path`, `atomic_dir` and `scratch_folder`."""


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a temporary file or folder of ours."""
    return _TEMPORARY.fullmatch(name) is not None


def _is_stale(temporary: Path, machine: str, process: int) -> bool:
    """Whether the process that made a temporary file is gone; of another machine, whether it is a week old."""
    if machine == _machine() and os.name == "posix":
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            pass  # another user's process
    # also a process whose number was used again; a clock may have jumped in either direction
    folders = (Path(where) for where, _, _ in os.walk(temporary))
    return abs(time.time() - max(path.lstat().st_mtime for path in (temporary, *folders))) > STALE_AFTER_S


def remove_stale(folder: Path, *, held: str | None = None) -> None:
    """Remove the temporary files that killed processes left in `folder`; bring back folders that were being replaced.

    Those of the output named `held`, whose lock the caller holds, have no other owner: they go at once.
    """
    with suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            parts = _TEMPORARY.fullmatch(entry)
            if parts is None:
                continue
            found = folder / entry
            with suppress(OSError):
                ours = held is not None and parts["name"] == short_name(held)
                if ours or _is_stale(found, parts["machine"], int(parts["process"])):
                    _remove_or_restore(found)


def _remove_or_restore(found: Path) -> None:
    """Remove a stale temporary file or folder; what stood in a place that is empty returns to it."""
    if found.suffix == ".old":
        for kept in found.iterdir():
            if not os.path.lexists(found.parent / kept.name):
                os.replace(kept, found.parent / kept.name)
    if found.is_dir() and not found.is_symlink():
        shutil.rmtree(found)
    else:
        found.unlink()


@cache
def _swept(folder: Path) -> None:
    """Remove what killed processes left in a folder, once in each process."""
    remove_stale(folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end; those of killed processes go first."""
    place = Path(tempfile.gettempdir())
    with output_errors(place):
        _swept(place)
        folder = Path(tempfile.mkdtemp(prefix=f".hemalens.{_owner()}.", suffix=".part", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success, remove it on failure.

    Raises `OutputError` for a full disk or a folder that is not writable.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _swept(path.parent.absolute())
        handle, name = tempfile.mkstemp(prefix=_temporary_prefix(path), suffix=f".part{_suffix(path)}", dir=path.parent)
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
def atomic_dir(path: Path, own: Callable[[Path], Collection[str] | None] = lambda path: None) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` on success, remove it on failure.

    An existing folder at `path` is replaced at the end; with `own`, the names of its own files, relative to it, all others
    stay, as "NAME.before" where the new folder has a file of that name. Raises `OutputError` as `atomic_path` does.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _swept(path.parent.absolute())
        temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), suffix=".part", dir=path.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            if path.exists():
                _exchange(temporary, path, own(path) if path.is_dir() else None)
            else:
                os.replace(temporary, path)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)


def _exchange(new: Path, path: Path, own: Collection[str] | None) -> None:
    """Replace `path` by `new`; a failure restores the old folder. Files that `own` does not name move into `new`."""
    aside = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), suffix=".old", dir=path.parent))
    old = aside / path.name
    try:
        os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(old, path)
            raise
    except BaseException:
        # only if empty: a folder that could not be restored is kept
        aside.rmdir()
        raise
    for name in [] if own is None else set(files_below(old)) - set(own):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(old / name, path / (f"{name}.before" if os.path.lexists(path / name) else name))
    shutil.rmtree(aside)


def files_below(folder: Path) -> list[str]:
    """All files and links below a folder, hidden ones included, relative to it; links are not followed."""
    found = []
    for where, folders, names in os.walk(folder):
        names += [name for name in folders if (Path(where) / name).is_symlink()]
        found += [(Path(where) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; undecodable bytes of file names become \\udc.. escapes, as in JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


MAX_JSON_BYTES = 64_000_000
"""Size of the largest JSON file that is read."""


def read_json(file: Path) -> Any:
    """The content of a JSON file; `OSError` where it cannot be read, `ValueError` where it is no JSON.

    Content nested too deeply, or of more than `MAX_JSON_BYTES`, is no JSON either.
    """
    with open_regular(file) as handle:
        content = handle.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
    return parse_json(content)


def parse_json(content: str | bytes) -> Any:
    """What a JSON text holds; `ValueError` where it is no JSON, or nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


SEAL = "digest"
"""The key with which sealed JSON vouches for its other keys."""
MAX_SEALED_BYTES = 2_000_000_000


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a digest of its content; raises `OutputError`."""
    # as it will be read: with keys that are texts, and lists for tuples
    plain = json.loads(json.dumps(value))
    plain.pop(SEAL, None)
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object that `write_sealed` wrote; None for a missing or damaged file, and for one that was edited."""
    try:
        with open_regular(path) as file:
            content = parse_json(file.read(MAX_SEALED_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.pop(SEAL, None) != _seal(content):
        return None
    return content


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


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
