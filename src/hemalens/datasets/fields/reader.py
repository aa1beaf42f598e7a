"""`FieldReader`, and the gathering of fields: boxes of any source cleaned by one rule, and what was left out, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import Listing, Record, is_image_file
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.kinds import kind_of, type_label
from hemalens.datasets.images import prepared
from hemalens.datasets.parts import part_named
from hemalens.datasets.walking import walk
from hemalens.errors import DatasetError, one_line
from hemalens.imaging.boxes import KINDS, Boxes, Kind
from hemalens.imaging.formats import note_not_read

LEAST_PX = 1.0
"""Smallest side of a box, in pixels."""
BEYOND_PX = 1.0
"""How far a box may reach over the image's border, as rounding does, before it counts as clipped."""
N_NAMED = 3
"""Files that a note names."""


@dataclass(frozen=True, slots=True)
class FieldListing:
    """What a reader of fields found: fields, notes, and how many boxes were left out by reason."""

    fields: tuple[Field, ...]
    notes: tuple[str, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReader:
    """A set or a format of fields with boxes: what it is, and `read`, which lists the fields below a path.

    `read` raises `DatasetError` for another layout, `ImageError` for an unreadable image.
    """

    title: str
    licence: str
    citation: str
    layout: str
    read: Callable[[Path], FieldListing]
    size: str = ""
    synthetic: bool = False


@dataclass(slots=True)
class Annotation:
    """The boxes of one image as its file gives them: class names, corners in pixels, scores where they are given."""

    names: list[str] = field(default_factory=list)
    corners: list[Sequence[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, name: str, corners: Sequence[float], score: float = 1.0) -> None:
        """One more box: left, top, right, bottom."""
        self.names.append(name)
        self.corners.append(corners)
        self.scores.append(score)


@dataclass(slots=True)
class Gathering:
    """Fields as they are read, with counts of the boxes that were left out and notes on files."""

    fields: list[Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    n_clipped: int = 0

    def add(self, record: Record, size: tuple[int, int], annotation: Annotation, complete: Collection[Kind]) -> None:
        """Add a field of `size` (width, height), with the boxes that show a cell of a known kind."""
        corners = np.asarray(annotation.corners, float).reshape(-1, 4)
        clipped = corners.clip(0, [*size, *size])
        kept, seen = [], set()
        for i, name in enumerate(annotation.names):
            row = (name, *corners[i].tolist())
            reason = "a copy of another box" if row in seen else _wrong(name, corners[i], clipped[i])
            seen.add(row)
            if reason:
                self.dropped[reason] += 1
            else:
                kept.append(i)
        self.n_clipped += int((np.abs(corners - clipped)[kept] > BEYOND_PX).any(axis=1).sum())
        names = [annotation.names[i] for i in kept]
        boxes = Boxes.of([kind_of(n) or 0 for n in names], clipped[kept].tolist(), [annotation.scores[i] for i in kept])
        labels = tuple(map(type_label, names))
        self.fields.append(Field(record, boxes, tuple(complete), labels if any(labels) else ()))

    def note_files(self, paths: Sequence[Path], what: str) -> None:
        """Note how many files are `what`, and the first of them; nothing where there are none."""
        if paths:
            shown = ", ".join(one_line(path.name) for path in paths[:N_NAMED]) + (" ..." if len(paths) > N_NAMED else "")
            self.notes.append(f"{len(paths)} {what}: {shown}")

    def listing(self) -> FieldListing:
        """All that was gathered, most frequent reasons first."""
        if self.n_clipped:
            self.notes.append(f"{self.n_clipped} box(es) reach over the image's border and are clipped")
        return FieldListing(tuple(self.fields), tuple(self.notes), tuple(self.dropped.most_common()))


def _wrong(name: str, corners: NDArray[np.float64], clipped: NDArray[np.float64]) -> str:
    """Why a box is left out, or ""."""
    if kind_of(name) is None:
        return f"class {one_line(name)} is no kind of cell"
    if not np.isfinite(corners).all():
        return "a corner is no finite number"
    if (corners[2:] - corners[:2]).min() < LEAST_PX:
        return "a side is shorter than 1 px"
    if (clipped[2:] - clipped[:2]).min() < LEAST_PX:
        return "outside the image"
    return ""


def complete_kinds(names: Collection[str], where: Path) -> tuple[Kind, ...]:
    """The kinds that a list of classes names; raises `DatasetError` where no class is a kind of cell."""
    found = {kind_of(name) for name in names} - {None}
    if not found:
        raise DatasetError(
            f"no class of {one_line(where)} is a kind of cell",
            expected="WBC, RBC, Platelets, or names of cell types as `hemalens data types` lists them",
            got=", ".join(one_line(name) for name in sorted(names)[:8]) or "no class",
        )
    return tuple(kind for i, kind in enumerate(KINDS) if i in found)


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


def nearest(path: Path, candidates: Sequence[Path]) -> Path:
    """The candidate that shares the longest beginning with `path`; raises `DatasetError` where two share it."""

    def shared(other: Path) -> int:
        pairs = zip(path.parts, other.parts, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(path.parts), len(other.parts)))

    best = max(map(shared, candidates))
    found = [candidate for candidate in candidates if shared(candidate) == best]
    if len(found) > 1:
        raise DatasetError(
            f"two images fit {one_line(path)}",
            expected="one image of its name near it",
            got=f"{one_line(found[0])} and {one_line(found[1])}",
            remedy="Rename one of them, or open the folders one by one.",
        )
    return found[0]
