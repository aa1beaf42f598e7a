"""Fields with boxes in the layouts that are read: noise with boxes of stated classes, in YOLO, Pascal VOC and COCO."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fakes import bccd
from hemalens.datasets.fields.yolo_rows import write_rows
from hemalens.datasets.synthetic.fields import synthesize_fields
from hemalens.datasets.synthetic.smear import SmearConfig
from hemalens.errors import HemalensError

SIZE = (120, 90)
NAMES = ("WBC", "RBC", "Platelets")
Object = tuple[str, tuple[float, float, float, float]]
OBJECTS: tuple[Object, ...] = (
    ("WBC", (10, 12, 50, 48)),
    ("RBC", (60, 10, 80, 30)),
    ("RBC", (90, 60, 110, 80)),
    ("Platelets", (20, 70, 28, 78)),
)
"""One white cell, two red cells and one platelet in each field."""


def error_of(call: Callable[[], object]) -> str | None:
    """The message of the `HemalensError` that a call raises, None where it raises none; any other error is raised."""
    try:
        call()
    except HemalensError as error:
        return str(error)
    return None


def noise(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """An image of noise, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([11, seed]).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_yolo(
    root: Path, objects: Sequence[Sequence[Object]] = (OBJECTS, OBJECTS), *, names: Sequence[str] = NAMES, seed: int = 0
) -> str:
    """Write images/train and labels/train, with a data.yaml."""
    for i, boxes in enumerate(objects):
        noise(root / "images" / "train" / f"{i}.png", 100 * seed + i)
        label = root / "labels" / "train" / f"{i}.txt"
        write_rows(label, [names.index(n) for n, _ in boxes], np.array([b for _, b in boxes]).reshape(-1, 4), SIZE)
    (root / "data.yaml").write_text(f"nc: {len(names)}\nnames: {json.dumps(list(names))}\n")
    return f"yolo:{root}"


def write_drawn(root: Path, drawn: Mapping[str, tuple[NDArray[np.uint8], Sequence[int], NDArray[np.float64]]]) -> str:
    """Write images by name, each with the kinds and corners of its boxes, as `write_yolo` does."""
    for name, (image, kinds, corners) in drawn.items():
        path = root / "images" / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        write_rows(root / "labels" / "train" / f"{name}.txt", kinds, corners, (image.shape[1], image.shape[0]))
    (root / "data.yaml").write_text(f"nc: {len(NAMES)}\nnames: {json.dumps(NAMES)}\ntrain: images/train\n")
    return f"yolo:{root}"


def voc_text(objects: Sequence[Object], size: tuple[int, int] | None = SIZE, filename: str = "") -> str:
    """One Pascal VOC annotation."""
    top = ElementTree.Element("annotation")
    ElementTree.SubElement(top, "filename").text = filename
    if size is not None:
        stated = ElementTree.SubElement(top, "size")
        for tag, value in zip(("width", "height", "depth"), (*size, 3), strict=True):
            ElementTree.SubElement(stated, tag).text = str(value)
    for name, box in objects:
        item = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(item, "name").text = name
        corners = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, tag).text = repr(value)
    return ElementTree.tostring(top, "unicode")


def write_voc(root: Path, objects: Sequence[Sequence[Object]] = (OBJECTS, OBJECTS), *, seed: int = 0) -> str:
    """Write JPEGImages and Annotations."""
    (root / "Annotations").mkdir(parents=True)
    for i, boxes in enumerate(objects):
        noise(root / "JPEGImages" / f"{i}.png", 100 * seed + i)
        (root / "Annotations" / f"{i}.xml").write_text(voc_text(boxes), encoding="utf-8")
    return f"voc:{root}"


def coco_content(objects: Sequence[Sequence[Object]], names: Sequence[str] = NAMES) -> dict[str, list[dict[str, object]]]:
    """The content of a COCO file, with ids that do not begin at 0."""
    boxes = [(i, name, box) for i, found in enumerate(objects) for name, box in found]
    return {
        "images": [
            {"id": 40 + i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(len(objects))
        ],
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": 40 + i, "category_id": 7 + names.index(name), "bbox": [a, b, c - a, d - b], "iscrowd": 0}
            for n, (i, name, (a, b, c, d)) in enumerate(boxes)
        ],
    }


def write_coco(
    root: Path,
    objects: Sequence[Sequence[Object]] = (OBJECTS, OBJECTS),
    *,
    names: Sequence[str] = NAMES,
    seed: int = 0,
    change: Callable[[dict[str, list[dict[str, object]]]], object] = lambda content: None,
) -> str:
    """Write images and annotations/instances.json, after a change of its content."""
    (root / "annotations").mkdir(parents=True)
    for i in range(len(objects)):
        noise(root / "images" / f"{i}.png", 100 * seed + i)
    content = coco_content(objects, names)
    change(content)
    (root / "annotations" / "instances.json").write_text(json.dumps(content))
    return f"coco:{root}"


TXL_SIZES = {(575, 575): "raabin", (416, 416): "bccd", (640, 480): "bccd", (360, 363): "acevedo20", (366, 369): "acevedo20"}


def write_txl_pbc(root: Path) -> str:
    """Write TXL-PBC as distributed: an image of each size, and the classes.txt that belongs to no image."""
    top = root / "TXL_PBC"
    for i, size in enumerate(TXL_SIZES):
        noise(top / "images" / "train" / f"uuid-{i}.jpg", i, size)
        boxes = np.array([[9, 9, 99, 99], [150, 9, 199, 60.0]])
        write_rows(top / "labels" / "train" / f"uuid-{i}.txt", [0, 1], boxes, size)
    (top / "labels" / "train" / "classes.txt").write_text("WBC\nRBC\nPC")
    (top / "data.yaml").write_text("train: ./images/train/\nnc: 3\nnames: ['WBC', 'RBC','Platelets']")
    return f"txl_pbc:{root}"


def write_synthetic_fields(root: Path) -> str:
    """Draw two small fields of a laboratory."""
    config = SmearConfig(n_slides=1, n_fields=2, width_px=160, height_px=128, white_cells=1)
    synthesize_fields(root, config=config, laboratories=("lab_a",))
    return f"synthetic_fields:{root}"


FAKES: Mapping[str, Callable[[Path], str]] = {
    "txl_pbc": write_txl_pbc,
    "bccd_fields": lambda root: bccd.write_bccd_fields(root, n_per_class=2),
    "yolo": write_yolo,
    "voc": write_voc,
    "coco": write_coco,
    "synthetic_fields": write_synthetic_fields,
}
"""A small fake of each set and format."""
