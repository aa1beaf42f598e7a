"""Open fields with boxes by a name such as "yolo:PATH"."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.fields.readers.yolo import read_txl_pbc, read_yolo
from hemalens.errors import DatasetError

FIELD_READERS = ("yolo", "txl_pbc")
"""Names of the readers."""


def open_fields(spec: str) -> FieldDataset:
    """Open the fields that `spec`, "reader:path", names; raises `DatasetError`."""
    name, _, path = spec.partition(":")
    if name == "txl_pbc":
        return read_txl_pbc(Path(path))
    if name == "yolo":
        return FieldDataset("yolo", read_yolo(Path(path)), "unknown", "unknown")
    raise DatasetError(f"unknown reader of fields {name!r}", expected="yolo or txl_pbc")
