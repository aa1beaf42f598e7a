"""A user's own images: one folder a class."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Listing, Reader, Record, is_image_name, note_ignored, wrong_layout
from hemalens.datasets.images import FOLLOW, note_links
from hemalens.errors import DatasetError, one_line
from hemalens.files import walk
from hemalens.imaging.formats import note_not_read

LAYOUT = "<class>/<image>.jpg|.png|.bmp|.tif, one folder a class"


def _read(root: Path) -> Listing:
    if not root.is_dir():
        raise wrong_layout(root, "a folder of classes", LAYOUT)
    records: list[Record] = []
    ignored: list[Path] = []
    notes: list[str] = []
    outside: list[Path] = []
    for entry in sorted(p for p in root.iterdir() if not p.name.startswith(".")):
        if not entry.is_dir():
            ignored.append(entry)
            continue
        found = walk(entry, root)
        outside.extend(found.outside)
        images = [path for path in found.files if is_image_name(path)]
        ignored.extend(path for path in found.files if not is_image_name(path))
        if not images and not found.outside:
            notes.append(f"the folder {one_line(entry.name)} holds no image")
        records.extend(Record(path, entry.name, domain=root.resolve().name) for path in images)
    notes += note_links(outside)
    if not records:
        if outside:
            raise DatasetError(f"every class folder of {one_line(root)} is a link out of it", remedy=FOLLOW)
        if any(is_image_name(path) for path in ignored):
            raise DatasetError(
                f"the images in {one_line(root)} are not in class folders", expected=LAYOUT, remedy="Or list them in a CSV."
            )
        unread = note_not_read(ignored)
        if unread:
            raise DatasetError(f"no image in {one_line(root)}", expected=LAYOUT, got=unread[0])
        raise wrong_layout(root, "a folder of classes", LAYOUT)
    return Listing(records, notes + note_ignored(ignored), name=root.resolve().name)


READER = Reader(
    name="folder",
    title="folder of classes",
    licence="the user's own",
    citation="the user's own images",
    layout=LAYOUT,
    read=_read,
)
