"""Outputs: what a command may write to, and that nothing else is lost.

An output never lies on or above an input. An existing one stays until the new one is complete, and is replaced on request
alone. While a command writes an output, a lock keeps a second one away.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hemalens.errors import OutputError, one_line
from hemalens.files import output_errors

LOCK = ".lock"
"""Name of the lock in a run folder; that of any other output is hidden beside it."""


@contextmanager
def locked(output: Path, lock: Path) -> Iterator[None]:
    """Hold the lock file `lock` of `output` inside the block; the lock goes with the process, whatever ends it.

    Raises `OutputError` at once where another process holds it.
    """
    with output_errors(output):
        made = _missing_parents(lock)
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder = FileLock(lock, timeout=0)
        try:
            holder.acquire()
        except Timeout as error:
            raise OutputError(
                f"{one_line(output)} is being written by another process",
                remedy="Wait until that ends, or choose another --out.",
            ) from error
    try:
        yield
    finally:
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


def check_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Raise `OutputError` where `output` lies on or above one of `inputs`, links followed."""
    place = output.resolve()
    for given in inputs:
        if given.resolve().is_relative_to(place) or (output.exists() and given.exists() and output.samefile(given)):
            raise OutputError(
                f"the output {one_line(output)} would replace the input {one_line(given)}",
                expected="an output apart from all inputs",
                remedy="Choose another --out; nothing was changed.",
            )


def check_output(path: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise `OutputError` for an output on or above an input, one that cannot be written, or an existing one.

    An existing output passes with `overwrite`. Writes and removes nothing.
    """
    with output_errors(path):
        check_apart(path, inputs)
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


@contextmanager
def claim_output(path: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> Iterator[None]:
    """Check the output as `check_output` does, and keep other processes away from it inside the block."""
    check_output(path, overwrite=overwrite, inputs=inputs)
    with locked(path, path.parent / f".{path.name[:80]}{LOCK}"):
        yield


@contextmanager
def claim_folder(
    path: Path, parts: Collection[str], what: str, *, overwrite: bool, inputs: Sequence[Path] = ()
) -> Iterator[None]:
    """`claim_output` for a folder whose entries are named in `parts`; `overwrite` replaces only such a folder.

    `what` names it in the error, as in "a report". Raises `OutputError`.
    """
    with output_errors(path):
        check_apart(path, inputs)
        ours = not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= set(parts))
    if overwrite and not ours:
        raise OutputError(
            f"{one_line(path)} holds something else than {what}", remedy="Choose another folder; it is not overwritten."
        )
    with claim_output(path, overwrite=overwrite, inputs=inputs):
        yield
