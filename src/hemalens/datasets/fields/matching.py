"""Images and their annotations below a folder, matched; what has no partner is left out and noted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hemalens.datasets.base import Listing, Record, is_image_file
from hemalens.datasets.fields.reader import Annotation, FieldListing, Gathering
from hemalens.datasets.images import prepared
from hemalens.datasets.parts import part_named
from hemalens.datasets.walking import walk
from hemalens.errors import DatasetError, one_line
from hemalens.imaging.boxes import Kind
from hemalens.imaging.formats import note_not_read
from hemalens.imaging.reading import image_size


@dataclass(frozen=True, slots=True)
class Files:
    """What lies below a folder: records of its images, all other files, and notes on what is not read."""

    records: list[Record]
    others: list[Path]
    notes: list[str]


def files_in(root: Path) -> Files:
    """The images and other files below a folder; links out of it are not followed, unless they are asked for."""
    found = walk(root)
    images = [path for path in found.files if is_image_file(path)]
    listing = prepared(Listing([Record(path, "", domain=root.name) for path in images], links=found.outside), root)
    pages = [record.path for record in listing.records if record.page is not None]
    gathered = Gathering(notes=[*note_not_read(found.files), *listing.notes])
    gathered.note_files(list(dict.fromkeys(pages)), "TIFF file(s) of several pages are left out")
    chosen = set(images)
    others = [path for path in found.files if path not in chosen]
    return Files([record for record in listing.records if record.page is None], others, gathered.notes)


def part_of(image: Path, root: Path) -> str | None:
    """The part of a split that a folder between `root` and an image names, such as "train"; None where none does."""
    return next(filter(None, map(part_named, image.relative_to(root).parts[:-1])), None)


def nearest(path: Path, candidates: Sequence[Path], what: str) -> Path:
    """The candidate that shares the longest beginning with `path`; raises `DatasetError` where two share it."""

    def shared(other: Path) -> int:
        pairs = zip(path.parts, other.parts, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(path.parts), len(other.parts)))

    best = max(map(shared, candidates))
    found = [candidate for candidate in candidates if shared(candidate) == best]
    if len(found) > 1:
        raise DatasetError(
            f"two images fit {one_line(what)}",
            expected="one image of its name near it",
            got=f"{one_line(found[0])} and {one_line(found[1])}",
            remedy="Rename one of them, or open the folders one by one.",
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """The boxes of one image as a file gives them: the file's name in notes, the image or None, and the stated size."""

    name: Path
    record: Record | None
    size: tuple[int, int] | None
    annotation: Annotation
    complete: tuple[Kind, ...]


def matched(root: Path, files: Files, entries: Iterable[Entry], found: Gathering, *, domain: str) -> FieldListing:
    """The fields of `entries`, added to `found`; entries without an image, or of another size than it, are left out.

    Raises `DatasetError` for two entries of one image, and where no field is left.
    """
    used: dict[Path, Path] = {}
    lone, resized = [], []
    for entry in entries:
        if entry.record is None:
            lone.append(entry.name)
            continue
        path = entry.record.path
        if used.setdefault(path, entry.name) is not entry.name:
            got = f"{one_line(used[path])} and {one_line(entry.name)}"
            raise DatasetError(f"{one_line(path)} has two sets of boxes", expected="one", got=got)
        size = image_size(path)
        if entry.size not in (None, size):
            resized.append(entry.name)
            continue
        found.add(replace(entry.record, domain=domain, part=part_of(path, root)), size, entry.annotation, entry.complete)
    found.note_files([r.path for r in files.records if r.path not in used], "image(s) without boxes are left out")
    found.note_files(lone, "annotation(s) without an image are left out")
    found.note_files(resized, "annotation(s) of another image size are left out")
    if not found.fields:
        raise DatasetError(
            f"no field with boxes in {one_line(root)}",
            expected="an image for each annotation, of the size that it states",
            got="; ".join(found.notes) or None,
        )
    return found.listing()
