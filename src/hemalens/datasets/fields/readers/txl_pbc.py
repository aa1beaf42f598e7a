"""TXL-PBC: complete boxes of white cells, red cells and platelets in images of four sources."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.fields.reader import FieldListing, FieldReader
from hemalens.datasets.fields.readers.yolo import read_yolo
from hemalens.datasets.layouts import has_folder, root_holding

LAYOUT = "TXL_PBC/data.yaml, images/<part>/<uuid>.jpg and labels/<part>/<uuid>.txt"
SOURCES = {
    (575, 575): "raabin",
    (416, 416): "bccd",
    (640, 480): "bccd",
    **dict.fromkeys(((360, 360), (360, 363), (359, 360), (363, 360), (366, 369), (369, 366)), "acevedo20"),
}
"""Laboratory of an image by its size (width, height). The 416 px images are BCD's, which look like augmented BCCD."""


def read_txl_pbc(root: Path) -> FieldListing:
    """The fields, each in the domain of its source; an image of another size is of the domain "txl_pbc"."""
    top = root_holding(root, has_folder(["images"]), ["TXL*PBC*"], title="TXL-PBC", layout=LAYOUT)
    return read_yolo(top, lambda size: SOURCES.get(size, "txl_pbc"))


READER = FieldReader(
    title="TXL-PBC",
    size="1,008 fields in its training part",
    licence="MIT",
    citation="Gan and Li, TXL-PBC, arXiv 2407.13214",
    layout=LAYOUT,
    read=read_txl_pbc,
)
