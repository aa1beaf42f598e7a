"""Synthetic fields of view, as `hemalens data synthesize-fields` draws them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hemalens.datasets.base import SYNTHETIC_MARKER, wrong_layout
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.reader import FieldListing, FieldReader
from hemalens.datasets.fields.readers.yolo import Domain, read_yolo
from hemalens.datasets.synthetic.fields import is_drawn_fields

LAYOUT = "<laboratory>/synthetic.json, images/<slide>/*.png, labels/<slide>/*.txt, masks/<slide>/*.png"


def read_synthetic_fields(root: Path) -> FieldListing:
    """The fields of each laboratory, grouped by slide, with the masks of their white cells."""
    laboratories = [root] if is_drawn_fields(root) else [p.parent for p in sorted(root.glob(f"*/{SYNTHETIC_MARKER}"))]
    drawn = [folder for folder in laboratories if is_drawn_fields(folder)]
    if not drawn:
        raise wrong_layout(root, "synthetic fields", LAYOUT)
    fields: list[Field] = []
    notes: list[str] = []
    dropped: Counter[str] = Counter()
    for laboratory in drawn:
        listing = read_yolo(laboratory, _always(laboratory.name))
        dropped.update(dict(listing.dropped))
        notes += listing.notes
        fields += [_with_mask(field, laboratory) for field in listing.fields]
    return FieldListing(tuple(fields), tuple(notes), tuple(dropped.most_common()))


def _always(name: str) -> Domain:
    return lambda size: name


def _with_mask(field: Field, laboratory: Path) -> Field:
    path = field.record.path
    mask = laboratory / "masks" / path.parent.name / path.name
    return replace(field, record=replace(field.record, group=path.parent.name, mask_path=mask))


READER = FieldReader(
    title="synthetic fields",
    licence="Apache-2.0",
    citation="drawn by hemalens",
    layout=LAYOUT,
    read=read_synthetic_fields,
    synthetic=True,
)
