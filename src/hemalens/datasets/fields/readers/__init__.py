"""Readers of fields with boxes, one set or format a file; `FIELD_READERS` is their table."""

from hemalens.datasets.fields.reader import FieldReader
from hemalens.datasets.fields.readers import bccd, coco, synthetic_fields, txl_pbc, voc, yolo

__all__ = ["FIELD_READERS"]

FIELD_READERS: dict[str, FieldReader] = {
    "txl_pbc": txl_pbc.READER,
    "bccd_fields": bccd.READER,
    "yolo": yolo.READER,
    "voc": voc.READER,
    "coco": coco.READER,
    "synthetic_fields": synthetic_fields.READER,
}
