"""YOLO: a text file an image, a row a box: class, centre x, centre y, width, height, as shares of the image's sides."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hemalens.datasets.base import Record, is_image_file, wrong_layout
from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.imaging.boxes import Boxes

LAYOUT = "images/<part>/<name>.jpg and labels/<part>/<name>.txt, classes in data.yaml"


def read_yolo(root: Path, *, domain: str = "yolo") -> tuple[Field, ...]:
    """The fields of a YOLO folder; classes 0, 1, 2 are white cells, red cells, platelets."""
    found = []
    for path in sorted(p for p in root.glob("images/*/*") if is_image_file(p)):
        with Image.open(path) as image:
            width, height = image.size
        labels = root / "labels" / path.parent.name / f"{path.stem}.txt"
        rows = [line.split() for line in labels.read_text().splitlines() if line.strip()]
        kinds, corners = [], []
        for kind, *shares in rows:
            x, y, across, down = (float(share) for share in shares)
            kinds.append(int(kind))
            corners.append(
                [(x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height]
            )
        found.append(Field(Record(path, "", domain=domain), Boxes.of(kinds, corners)))
    if not found:
        raise wrong_layout(root, "YOLO", LAYOUT)
    return tuple(found)


TXL_SOURCES = {(575, 575): "raabin", (416, 416): "bccd", (640, 480): "bccd"}
"""Laboratory of a TXL-PBC image by its size (width, height); the others are Acevedo-20's."""


def read_txl_pbc(root: Path) -> FieldDataset:
    """TXL-PBC, whose four sources are told apart by the images' size; BCD looks like BCCD augmented: one laboratory."""
    from dataclasses import replace

    top = root / "TXL_PBC" if (root / "TXL_PBC").is_dir() else root
    fields = []
    for field in read_yolo(top):
        with Image.open(field.record.path) as image:
            domain = TXL_SOURCES.get(image.size, "acevedo20")
        fields.append(replace(field, record=replace(field.record, domain=domain)))
    return FieldDataset("txl_pbc", tuple(fields), "MIT", "Gan and Li, TXL-PBC, arXiv 2407.13214")
