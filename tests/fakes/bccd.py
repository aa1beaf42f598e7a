"""BCCD as distributed: cropped white cells in class folders, and 640x480 fields with Pascal VOC boxes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {name.capitalize(): name for name in ("neutrophil", "eosinophil", "lymphocyte", "monocyte", "basophil")}
FIELD_PX = (640, 480)
# label, drawn as, box (x_min, y_min, x_max, y_max): one white cell, two red cells, one platelet in each field
OBJECTS = (
    ("WBC", "neutrophil", (260, 177, 420, 337)),
    ("RBC", "erythroblast", (78, 336, 158, 416)),
    ("RBC", "erythroblast", (470, 60, 550, 140)),
    ("Platelets", "platelet", (40, 40, 80, 80)),
)


def write_bccd(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write the crops below `root`, two to a field where there are two; return the name for `open_dataset`."""
    for label, kind, number, i in numbered(KINDS, n_per_class):
        folder = root / "BCCD_cropped" / label
        folder.mkdir(parents=True, exist_ok=True)
        side = 120 + 20 * (i % 3)
        image, _ = drawn_cell(kind, number, seed=seed, width=side, height=side)
        field = 10 * list(KINDS).index(label) + i // 2
        Image.fromarray(image).save(folder / f"BloodImage_{field:05d}_{i % 2 + 1}.jpg", quality=90)
    return f"bccd:{root}"


def write_bccd_fields(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write `n_per_class` fields with their boxes below `root`; return the name for `open_dataset`."""
    images, annotations = root / "BCCD" / "JPEGImages", root / "BCCD" / "Annotations"
    images.mkdir(parents=True)
    annotations.mkdir()
    for i in range(n_per_class):
        stem = f"BloodImage_{i:05d}"
        field = np.full((FIELD_PX[1], FIELD_PX[0], 3), (230, 210, 205), np.uint8)
        for k, (_, kind, (x_min, y_min, x_max, y_max)) in enumerate(OBJECTS):
            cell, _ = drawn_cell(kind, 4 * i + k, seed=seed, width=x_max - x_min, height=y_max - y_min)
            field[y_min:y_max, x_min:x_max] = cell
        Image.fromarray(field).save(images / f"{stem}.jpg", quality=90)
        annotate(annotations / f"{stem}.xml", [(label, box) for label, _, box in OBJECTS])
    return f"bccd_fields:{root}"


def annotate(path: Path, objects: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    """Write one Pascal VOC file as BCCD's: nested size, objects with boxes in whole pixels."""
    top = ElementTree.Element("annotation")
    for tag, text in (("folder", "JPEGImages"), ("filename", f"{path.stem}.jpg")):
        ElementTree.SubElement(top, tag).text = text
    size = ElementTree.SubElement(top, "size")
    for tag, value in (("width", FIELD_PX[0]), ("height", FIELD_PX[1]), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    ElementTree.SubElement(top, "segmented").text = "0"
    for label, box in objects:
        item = ElementTree.SubElement(top, "object")
        for tag, text in (("name", label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(item, tag).text = text
        corners = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, tag).text = str(value)
    ElementTree.indent(top, "\t")
    ElementTree.ElementTree(top).write(path)
