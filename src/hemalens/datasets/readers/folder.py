"""A user's own images: one folder a class, or the folders of a split with class folders in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemalens.datasets.base import Found, Listing, Reader, Record, is_image_name, note_ignored, wrong_layout
from hemalens.datasets.images import FOLLOW
from hemalens.datasets.parts import describe_parts, part_named
from hemalens.datasets.unlabelled import what_to_do
from hemalens.datasets.walking import walk, walk_files
from hemalens.errors import DatasetError, one_line
from hemalens.files import read_sealed
from hemalens.imaging.formats import note_not_read

IMITATION = "laboratory.json"
"""File that `hemalens data imitate` writes beside the class folders: sealed JSON on the images and where they are from."""
LAYOUT = "<class>/<image>.jpg|.png|.bmp|.tif, one folder a class; or train|val|test/<class>/<image>"


def _read(root: Path) -> Listing:
    if not root.is_dir():
        raise wrong_layout(root, "a folder of classes", LAYOUT)
    found, domain = Found(), root.resolve().name
    outside: list[Path] = []
    parts = _parts(root)
    if parts:
        found.ignored += [entry for entry in _visible(root) if entry not in parts and not entry.is_dir()]
        for folder, part in parts.items():
            outside += _read_classes(folder, root, found, part)
        found.notes += describe_parts(found.records)
    else:
        outside += _read_classes(root, root, found)
    if not found.records:
        if outside:
            raise DatasetError(f"every class folder of {one_line(root)} is a link out of it", remedy=FOLLOW)
        if any(is_image_name(path) for path in found.ignored):
            raise DatasetError(
                f"the images in {one_line(root)} are not in class folders, and have no label",
                expected=LAYOUT,
                remedy=f"{what_to_do(root)} Or list them in a CSV, with labels.",
            )
        unread = note_not_read(found.ignored)
        if unread:
            raise DatasetError(f"no image in {one_line(root)}", expected=LAYOUT, got=unread[0])
        raise wrong_layout(root, "a folder of classes", LAYOUT)
    imitation = read_sealed(root / IMITATION)
    if imitation is not None:
        found.ignored.remove(root / IMITATION)
        found.notes.append(_describe(imitation))
    notes = found.notes + note_ignored(found.ignored)
    synthetic = imitation is not None and bool(imitation.get("synthetic"))
    return Listing(found.records, notes, name=domain, links=outside, synthetic=synthetic)


def _describe(imitation: Mapping[str, Any]) -> str:
    """A note on a folder of an imitated laboratory: the set that its cells are from."""
    source, licence = (one_line(imitation.get(key, "unknown")) for key in ("name", "licence"))
    return f"the images imitate another laboratory: {source}, licence of their source: {licence}"


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(path) for path in walk_files(folder))


def _parts(root: Path) -> dict[Path, str]:
    """The folders of a split: where all folders with images are named as parts, and hold class folders."""
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    if not any(part_named(entry.name) for entry in folders):
        return {}
    holding = [entry for entry in folders if _holds_images(entry)]
    named = {entry: part for entry in holding if (part := part_named(entry.name)) is not None}
    nested = any(inner.is_dir() and _holds_images(inner) for entry in named for inner in _visible(entry))
    return named if nested and len(named) == len(holding) else {}


def _read_classes(folder: Path, root: Path, found: Found, part: str | None = None) -> list[Path]:
    """Add the images of the class folders in `folder`; the links that lead out of `root`."""
    outside: list[Path] = []
    for entry in _visible(folder):
        if not entry.is_dir():
            found.ignored.append(entry)
            continue
        inside = walk(entry, root)
        outside += inside.outside
        images = [path for path in inside.files if is_image_name(path)]
        found.ignored += [path for path in inside.files if not is_image_name(path)]
        if not images and not inside.outside:
            found.notes.append(f"the folder {one_line(entry.relative_to(root))} holds no image")
        found.records += [Record(path, entry.name, domain=root.resolve().name, part=part) for path in images]
    return outside


READER = Reader(
    name="folder",
    title="folder of classes",
    licence="the user's own",
    citation="the user's own images",
    layout=LAYOUT,
    read=_read,
)
