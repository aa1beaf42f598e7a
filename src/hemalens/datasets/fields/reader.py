"""`FieldReader`, and the gathering of fields: boxes of any source cleaned by one rule, and what was left out, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.kinds import kind_of, type_label
from hemalens.errors import DatasetError, one_line
from hemalens.imaging.boxes import KINDS, Boxes, Kind

FIND = "Fields without boxes are counted by `hemalens count`."
LEAST_PX = 1.0
"""Smallest side of a box, in pixels."""
BEYOND_PX = 1.0
"""How far a box may reach over the image's border, as rounding does, before it counts as clipped."""
LONGEST_NAME = 60
"""Letters of an unknown class that are shown."""
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
        for i, (name, wrong) in enumerate(zip(annotation.names, _wrong(corners, clipped), strict=True)):
            row = (name, *corners[i].tolist())
            reason = f"class {one_line(name[:LONGEST_NAME])} is no kind of cell" if kind_of(name) is None else wrong
            reason = reason or ("a copy of another box" if row in seen else "")
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


def _wrong(corners: NDArray[np.float64], clipped: NDArray[np.float64]) -> list[str]:
    """Why each box (n, 4) is left out, or "" for one that is not."""
    finite = np.isfinite(corners).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        wide, inside = ((box[:, 2:] - box[:, :2] >= LEAST_PX).all(axis=1) for box in (corners, clipped))
    reasons = np.where(inside, "", "outside the image")
    reasons = np.where(wide, reasons, "a side is shorter than 1 px")
    return [str(reason) for reason in np.where(finite, reasons, "a corner is no finite number")]


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
