"""The folder that holds a layout, within the folders of downloads and archives around it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from hemalens.datasets.base import wrong_layout


def root_holding(root: Path, holds: Callable[[Path], bool], outer: Collection[str], *, title: str, layout: str) -> Path:
    """The one folder for which `holds` is true: `root`, or a folder within it, entered by names that match `outer`.

    `outer` holds globs of the folders around the data, as archives and downloads name them. Raises `DatasetError` where
    no folder, or more than one on the same level, holds the data.
    """
    level = [root] if root.is_dir() else []
    while level:
        found = [folder for folder in level if holds(folder)]
        if len(found) == 1:
            return found[0]
        inner = [path for folder in level for path in sorted(folder.iterdir()) if any(map(path.match, outer))]
        level = [] if found else [path for path in inner if path.is_dir()]
    raise wrong_layout(root, title, layout)


def has_folder(names: Collection[str]) -> Callable[[Path], bool]:
    """A test of a folder: whether it holds a folder of one of `names`."""
    return lambda folder: any((folder / name).is_dir() for name in names)
