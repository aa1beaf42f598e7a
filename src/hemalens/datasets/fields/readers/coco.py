"""COCO: one JSON file with images, categories and boxes, and the images in folders near it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from hemalens.datasets.base import Record, wrong_layout
from hemalens.datasets.fields.coco_json import CocoFile, read_coco
from hemalens.datasets.fields.matching import Entry, files_in, matched, nearest
from hemalens.datasets.fields.reader import FieldListing, FieldReader, Gathering, complete_kinds
from hemalens.errors import DatasetError, one_line

TITLE = "COCO"
LAYOUT = "a JSON file with images, annotations and categories, and the images in its folder or the one above, or below them"
INNER = "annotations"
"""A folder of JSON files whose images lie in the folder above it, or below that."""


def read_fields(path: Path) -> FieldListing:
    """The fields of a JSON file, or of all COCO files in a folder and the folders below it."""
    root = path if not path.is_file() else path.parent.parent if path.parent.name == INNER else path.parent
    if not root.is_dir():
        raise wrong_layout(path, TITLE, LAYOUT)
    files = files_in(root)
    chosen = [path] if path.is_file() else [p for p in files.others if p.suffix.lower() == ".json"]
    sets = {p: coco for p in chosen if (coco := read_coco(p)) is not None}
    if path.is_file() and not sets:
        raise DatasetError(f"{one_line(path)} is no COCO file", expected="images, annotations and categories")
    if not sets:
        raise wrong_layout(root, TITLE, LAYOUT)
    found = Gathering(notes=files.notes)
    for coco in sets.values():
        found.dropped.update(coco.dropped)
    return matched(root, files, _entries(sets, files.records), found, domain="coco")


def _entries(sets: Mapping[Path, CocoFile], records: list[Record]) -> Iterator[Entry]:
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_name[record.path.name].append(record)
    for path, coco in sets.items():
        complete = complete_kinds(coco.names, path)
        for image in coco.images:
            found = _record(path, image.file_name, by_name)
            yield Entry(Path(image.file_name), found, image.size, image.annotation, complete)


def _record(path: Path, file_name: str, by_name: Mapping[str, list[Record]]) -> Record | None:
    """The image of that name whose folders end as stated, and that lies nearest to the JSON file."""
    stated = PurePosixPath(file_name.replace("\\", "/"))
    candidates = by_name.get(stated.name, [])
    shared = [_shared_end(record.path, stated) for record in candidates]
    best = {record.path: record for record, n in zip(candidates, shared, strict=True) if n == max(shared)}
    return best[nearest(path, list(best), file_name)] if best else None


def _shared_end(path: Path, stated: PurePosixPath) -> int:
    pairs = zip(reversed(path.parts), reversed(stated.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(stated.parts))


READER = FieldReader(
    title="fields with COCO boxes", licence="the user's own", citation="the user's own", layout=LAYOUT, read=read_fields
)
