"""Outputs: what a command may write to, and that nothing else is lost.

An output never lies on or above an input. An existing one stays until the new one is complete, and is replaced on request
alone. While a command writes an output, a lock keeps a second one away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hemalens.errors import OutputError, one_line, shell_words
from hemalens.files import files_below, output_errors, remove_stale, short_name

LOCK = ".lock"
"""Name of the lock in a run folder; that of any other output is hidden beside it."""


@contextmanager
def locked(output: Path, lock: Path, *, option: str = "--out") -> Iterator[None]:
    """Hold the lock file `lock` of `output` inside the block; the lock goes with the process, whatever ends it.

    Raises `OutputError`, which names the `option` of the output, at once where another process holds it.
    """
    with output_errors(output):
        made = _missing_parents(lock)
        lock.parent.mkdir(parents=True, exist_ok=True)
        # not a singleton: a second claim in this process waits for nobody, it is refused
        holder = FileLock(lock, timeout=0, is_singleton=False)
        try:
            holder.acquire()
        except Timeout as error:
            raise OutputError(
                f"{one_line(output)} is being written by another process",
                remedy=f"Wait until that ends, or choose another {option}.",
            ) from error
    try:
        yield
    finally:
        # before the release: who opened this file meanwhile finds that it is gone, and makes a new one
        with suppress(OSError):
            lock.unlink()
        holder.release()
        # folders that only the lock has needed
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _missing_parents(path: Path) -> list[Path]:
    """The folders above `path` that do not exist, the innermost first."""
    return [folder for folder in path.parents if not folder.exists()]


def check_apart(output: Path, inputs: Sequence[Path], *, option: str = "--out") -> None:
    """Raise `OutputError` where `output` lies on or above one of `inputs`, whatever links and names lead there.

    An input that is not there, such as the word for a built-in segmenter, is in no danger.
    """
    place = output.resolve()
    for given in filter(os.path.lexists, inputs):
        resolved = given.resolve()
        above = (resolved, *resolved.parents)
        # the same file under another name: a hard link, another case of letters, a mount
        same = place.exists() and any(folder.exists() and folder.samefile(place) for folder in above)
        if place in above or same:
            raise OutputError(
                f"the output {one_line(output)} would replace the input {one_line(given)}",
                expected="an output apart from all inputs",
                remedy=f"Choose another {option}; nothing was changed.",
            )


def check_outside(output: Path, images: Path, option: str) -> None:
    """Raise `OutputError` for pictures in a folder of images, where the next command would read them as cells.

    `option` names the output. One that exists has passed before, or is refused for what it is.
    """
    if not os.path.lexists(output) and images.is_dir() and output.resolve().is_relative_to(images.resolve()):
        raise OutputError(
            f"{one_line(output)} would lie among the images, and be read as cells",
            expected=f"{'an' if option == '--out' else 'a'} {option} outside their folder",
            remedy=f"Use {option} {shell_words([str(images.resolve().parent / output.name)])}",
        )


def check_output(path: Path, *, overwrite: bool, inputs: Sequence[Path] = (), option: str = "--out") -> None:
    """Raise `OutputError` for an output on or above an input, one that cannot be written, or an existing one.

    An existing file or folder passes with `overwrite`. Writes and removes nothing.
    """
    with output_errors(path):
        check_apart(path, inputs, option=option)
        occupied = os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
        odd = occupied and not path.is_dir() and not path.is_file()
    if odd:
        raise OutputError(
            f"{one_line(path)} is neither a file nor a folder", remedy=f"Choose another {option}; it is not overwritten."
        )
    if occupied and not overwrite:
        raise OutputError(
            f"{one_line(path)} exists already",
            remedy="Choose another file or folder, or replace it with --overwrite.",
        )
    with output_errors(path):
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        below_file = parent != path and not parent.is_dir()
    if below_file:
        raise OutputError(f"cannot write {one_line(path)}", expected="a folder", got=f"the file {one_line(parent)}")
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"cannot write {one_line(path)}", expected="a writable place", got=f"{one_line(parent)} is read-only"
        )


Owned = Callable[[Path], Collection[str] | None]
"""The files in a folder that a command has written there, relative to it; None for a folder of something else."""


@contextmanager
def claim_output(
    path: Path,
    *,
    overwrite: bool,
    inputs: Sequence[Path] = (),
    check: Callable[[Path], None] = lambda path: None,
    option: str = "--out",
) -> Iterator[None]:
    """Check an output file as `check_output` does, and keep other processes away from it inside the block.

    What killed processes left of it is removed. `check` raises `OutputError` for a file that is not to be replaced. Errors
    name the `option` of the output.
    """
    with _claimed(path, inputs, option):
        if path.is_dir():
            raise OutputError(f"{one_line(path)} is a folder", expected="the name of a file")
        # first, so that --overwrite is named only where it replaces
        if path.is_file():
            check(path)
        check_output(path, overwrite=overwrite)
        yield


@contextmanager
def claim_folder(
    path: Path, owned: Owned, what: str, *, overwrite: bool, inputs: Sequence[Path] = (), option: str = "--out"
) -> Iterator[None]:
    """`claim_output` for a folder; `overwrite` replaces only one in which every file is named by `owned`.

    `what` names it in the error, as in "a report". Raises `OutputError`.
    """
    with _claimed(path, inputs, option):
        check_output(path, overwrite=overwrite)
        if path.is_file():
            raise OutputError(f"{one_line(path)} is a file", expected="the name of a folder")
        empty = [Path(where) for where, folders, names in os.walk(path) if not folders and not names]
        below = [*files_below(path), *(f"{each.relative_to(path).as_posix()}/" for each in empty if each != path)]
        own = owned(path) if below else ()
        if own is None:
            raise OutputError(
                f"{one_line(path)} holds something else than {what}",
                remedy="Choose another folder; it is not overwritten.",
            )
        foreign = [name for name in below if name not in own]
        if foreign:
            more = f" and {len(foreign) - 1} more file(s)" if len(foreign) > 1 else ""
            raise OutputError(
                f"{one_line(path)} holds {one_line(foreign[0])}{more} besides {what}",
                remedy=f"Move what is not replaced to another folder, or choose another {option}.",
            )
        yield


@contextmanager
def _claimed(path: Path, inputs: Sequence[Path], option: str) -> Iterator[None]:
    """Hold the lock of an output that can be written, without what killed processes left of it."""
    check_output(path, overwrite=True, inputs=inputs, option=option)
    # two names of one place have one lock
    place = path.resolve()
    with locked(path, place.parent / f".{short_name(place.name, 80)}{LOCK}", option=option):
        remove_stale(path.parent, held=path.name)
        yield
