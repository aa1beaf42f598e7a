"""`Field` and `FieldDataset`: fields of view with boxes around their cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import Record
from hemalens.files import sha256_text
from hemalens.imaging.boxes import KINDS, Boxes, Kind
from hemalens.taxonomy import cell_type_of


@dataclass(frozen=True, slots=True)
class Field:
    """One field of view: its image and the boxes of its cells.

    `record` names the image; its `group` is the slide, or None. `complete` are the kinds that are boxed completely: only
    where a kind is complete is an unboxed place background. A field without a box is a field without a cell. `labels` are
    the source labels of the boxes that name a cell type, "" for a box that names its kind alone; () where no box does. A
    mask, `record.mask_path`, has the levels of single cells: 0 background, 128 cytoplasm, 255 nucleus.
    """

    record: Record
    boxes: Boxes
    complete: tuple[Kind, ...] = KINDS
    labels: tuple[str, ...] = ()

    @property
    def cell_types(self) -> tuple[str | None, ...]:
        """The code of each box's cell type; None where the source names the kind alone."""
        return tuple(map(cell_type_of, self.labels)) if self.labels else (None,) * len(self.boxes)

    def read(self) -> NDArray[np.uint8]:
        """Read the image, RGB uint8 (H, W, 3); raises `ImageError`."""
        return self.record.read()


@dataclass(frozen=True)
class FieldDataset:
    """Fields with boxes under one name, licence and citation.

    `dropped` counts the boxes that were left out by reason, such as one without area.
    """

    name: str
    fields: tuple[Field, ...]
    licence: str
    citation: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}s" for kind, n in self.counts.items())
        return f"FieldDataset({self.name!r}, {len(self)} fields, {counts})"

    @property
    def counts(self) -> dict[Kind, int]:
        """Boxes of each kind."""
        found = Counter(int(kind) for field in self.fields for kind in field.boxes.kinds)
        return {kind: found[i] for i, kind in enumerate(KINDS)}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the images and boxes, independent of file names and order."""
        rows = [
            f"{field.record.content_id()}:{field.boxes.kinds.tolist()}:{field.boxes.corners.round(3).tolist()}:{field.complete}"
            f":{field.labels}"
            for field in self.fields
        ]
        return sha256_text("fields", *sorted(rows))

    def subset(self, indices: Iterable[int]) -> FieldDataset:
        """The fields at `indices`, in that order."""
        return replace(self, fields=tuple(self.fields[i] for i in indices))
