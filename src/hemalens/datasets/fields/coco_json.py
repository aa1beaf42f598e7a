"""The JSON of COCO: images, categories and annotations by id, checked; what refers to nothing is counted."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemalens.datasets.fields.reader import Annotation
from hemalens.errors import DatasetError, one_line
from hemalens.files import read_json

JsonObject = Mapping[str, Any]
MAX_PX = 1e9
"""Numbers beyond it are no corners."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: its file name, its size (width, height) or None where none is stated, and its boxes."""

    file_name: str
    size: tuple[int, int] | None
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The images of one file, the names of its categories, and counts of annotations that were left out."""

    images: tuple[CocoImage, ...]
    names: tuple[str, ...]
    dropped: Counter[str] = field(default_factory=Counter)


def read_coco(path: Path) -> CocoFile | None:
    """Read a file; None for JSON of another kind. Raises `DatasetError`, which names the file."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the boxes in {one_line(path)}", expected="COCO JSON", got=str(error)) from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    names = {_id(entry, path): str(entry.get("name", "")) for entry in _part(content, "categories", path)}
    images = {_id(entry, path): entry for entry in _part(content, "images", path)}
    if len(images) < len(content["images"]) or len(names) < len(content["categories"]):
        raise DatasetError(f"{one_line(path)} gives one id to two images or two categories", expected="each id once")
    dropped: Counter[str] = Counter()
    annotations: dict[int | str, Annotation] = defaultdict(Annotation)
    for entry in _part(content, "annotations", path):
        key = entry.get("image_id")
        if not isinstance(key, int | str) or key not in images:
            dropped["of an image id that the file does not list"] += 1
            continue
        reason = _add(entry, names, annotations[key])
        if reason:
            dropped[reason] += 1
    found = tuple(CocoImage(_file_name(entry, path), _size(entry), annotations[key]) for key, entry in images.items())
    return CocoFile(found, tuple(names.values()), dropped)


def _part(content: JsonObject, name: str, path: Path) -> list[JsonObject]:
    part = content.get(name)
    listed = isinstance(part, list) and all(isinstance(entry, dict) for entry in part)
    if not isinstance(part, list) or not listed or not (part or name == "annotations"):
        raise DatasetError(
            f"{one_line(path)} has no {name}",
            expected=f"a list of {name}" + (", each with an id and a name such as WBC" if name == "categories" else ""),
            got=None if part is None else f"{part!r:.60}",
        )
    return part


def _id(entry: JsonObject, path: Path) -> int | str:
    key = entry.get("id")
    if not isinstance(key, int | str):
        raise DatasetError(f"an entry of {one_line(path)} has no id", expected="a number or text", got=f"{key!r:.40}")
    return key


def _file_name(image: JsonObject, path: Path) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise DatasetError(f"an image of {one_line(path)} has no file_name", expected="a text", got=f"{name!r:.40}")
    return name


def _size(image: JsonObject) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None


def _add(entry: JsonObject, names: Mapping[int | str, str], annotation: Annotation) -> str:
    """Add the box of an entry; why it is left out, or ""."""
    category, box, score = entry.get("category_id"), _box(entry), entry.get("score", 1.0)
    if entry.get("iscrowd"):
        return "a crowd of cells in one box"
    if not isinstance(category, int | str) or category not in names:
        return "of a category id that the file does not list"
    if box is None:
        return "without a box of four numbers"
    if not _is_number(score) or not 0 <= score <= 1:
        return "a score outside 0 to 1"
    annotation.add(names[category], box, float(score))
    return ""


def _is_number(value: Any) -> bool:
    """Whether a value is a number, NaN included; whole numbers may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > MAX_PX


def _box(entry: JsonObject) -> Sequence[float] | None:
    """Left, top, right, bottom of an annotation: of its bbox, else around its polygons; None for neither."""
    given = entry.get("bbox")
    if isinstance(given, list) and len(given) == 4 and all(map(_is_number, given)):
        left, top, width, height = map(float, given)
        return left, top, left + width, top + height
    outlines = entry.get("segmentation")
    if given or not isinstance(outlines, list) or not outlines:
        return None
    if not all(isinstance(outline, list) and outline and len(outline) % 2 == 0 for outline in outlines):
        return None
    points = [value for outline in outlines for value in outline]
    if not all(map(_is_number, points)) or any(map(math.isnan, points)):
        return None
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
