"""BCCD: whole fields with boxes, of which those of red cells are incomplete."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.fields.reader import FieldListing, FieldReader
from hemalens.datasets.fields.readers.voc import read_fields
from hemalens.datasets.layouts import has_folder, root_holding
from hemalens.datasets.readers import bccd


def read_bccd(root: Path) -> FieldListing:
    """The fields; white cells and platelets are boxed completely, red cells are not."""
    top = root_holding(root, has_folder(["Annotations"]), ["BCCD*"], title=bccd.FIELDS.title, layout=bccd.FIELDS_LAYOUT)
    return read_fields(top, "bccd", ("white cell", "platelet"))


READER = FieldReader(
    title=bccd.FIELDS.title,
    size=bccd.FIELDS.size,
    licence=bccd.LICENCE,
    citation=bccd.CITATION,
    layout=bccd.FIELDS_LAYOUT,
    read=read_bccd,
)
