"""What lies below a folder: files in a stable order, and links that lead out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


def _raise(error: OSError) -> None:
    raise error


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

    No folder is entered twice, so loops of links end. Raises `OSError` for a folder that cannot be listed.
    """
    found = Walk([], [], [])
    within = os.path.realpath(top if root is None else root)
    if root is not None and top != root and is_below(within, os.path.realpath(top)):
        # a link back to the root or above it
        return found
    entered: set[str] = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=_raise):
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
