"""COCO: one JSON file with images, categories and boxes, and the images in folders near it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hemalens.datasets.base import Record, wrong_layout
from hemalens.datasets.fields.reader import (
    Annotation,
    FieldListing,
    FieldReader,
    Gathering,
    complete_kinds,
    files_in,
    nearest,
    part_of,
)
from hemalens.errors import DatasetError, one_line
from hemalens.files import read_json
from hemalens.imaging.reading import image_size

TITLE = "COCO"
LAYOUT = "a JSON file with images, annotations and categories, and the images in folders beside or above it"
OUTER = ("annotations",)
"""Folders of JSON files whose images lie in the folder above."""
JsonObject = Mapping[str, Any]


@dataclass(slots=True)
class _Set:
    """One JSON file: its path, images by id, names of categories by id, and annotations by the id of their image."""

    path: Path
    images: dict[Any, JsonObject]
    names: dict[Any, str]
    annotations: dict[Any, list[JsonObject]] = field(default_factory=lambda: defaultdict(list))


def read_coco(path: Path) -> FieldListing:
    """The fields of a JSON file, or of all COCO files in a folder and the folders below it."""
    if path.is_file():
        root = path.parent.parent if path.parent.name in OUTER else path.parent
    else:
        root = path
    if not root.is_dir():
        raise wrong_layout(path, TITLE, LAYOUT)
    files = files_in(root)
    found = Gathering(notes=files.notes)
    if path.is_file():
        content = _content(path)
        if not _is_coco(content):
            raise DatasetError(f"{one_line(path)} is no COCO file", expected="images and annotations", got=_keys(content))
        sets = [_set(path, content, found)]
    else:
        contents = {p: _content(p) for p in files.others if p.suffix.lower() == ".json"}
        sets = [_set(p, content, found) for p, content in contents.items() if _is_coco(content)]
    if not sets:
        raise wrong_layout(root, TITLE, LAYOUT)
    used: set[Path] = set()
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in files.records:
        by_name[record.path.name].append(record)
    lone, resized = [], []
    for each in sets:
        complete = complete_kinds(each.names.values(), each.path)
        for key, image in each.images.items():
            record = _image_file(each.path, image, by_name)
            if record is None:
                lone.append(Path(_file_name(image, each.path)))
                continue
            if record.path in used:
                raise DatasetError(f"two COCO entries are of one image, {one_line(record.path)}", got=f"in {one_line(each.path)}")
            used.add(record.path)
            size = image_size(record.path)
            if not _same_size(image, size):
                resized.append(record.path)
                continue
            annotation = _annotation(each, key, found)
            found.add(replace(record, domain="coco", part=part_of(record.path, root)), size, annotation, complete)
    found.note_files([r.path for r in files.records if r.path not in used], "image(s) without an entry are left out")
    found.note_files(lone, "entries without an image file are left out")
    found.note_files(resized, "field(s) are left out, as their entry states another size than the image has")
    if not found.fields:
        raise DatasetError(f"no field with boxes in {one_line(path)}", expected=LAYOUT, got="; ".join(found.notes))
    return found.listing()


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the boxes in {one_line(path)}", expected="COCO JSON", got=str(error)) from error


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and "images" in content and "annotations" in content


def _keys(content: Any) -> str:
    return ", ".join(map(one_line, list(content)[:6])) if isinstance(content, dict) else type(content).__name__


def _set(path: Path, content: JsonObject, found: Gathering) -> _Set:
    """One file, its parts checked; what refers to no image or category is counted in `found`."""
    parts: dict[str, list[JsonObject]] = {}
    for name in ("images", "annotations", "categories"):
        part = content.get(name)
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part) or (name != "annotations" and not part):
            raise DatasetError(
                f"{one_line(path)} has no {name}",
                expected=f"a list of {name}" + (" with id and name, such as WBC" if name == "categories" else ""),
                got=f"{part!r:.60}" if part is not None else None,
            )
        parts[name] = part
    names = {_id(entry, "id", path): str(entry.get("name", "")) for entry in parts["categories"]}
    images = {_id(entry, "id", path): entry for entry in parts["images"]}
    if len(images) < len(parts["images"]) or len(names) < len(parts["categories"]):
        raise DatasetError(f"{one_line(path)} gives one id to two images or two categories", expected="each id once")
    made = _Set(path, images, names)
    for entry in parts["annotations"]:
        key = entry.get("image_id")
        if not isinstance(key, int | str) or key not in images:
            found.dropped["of an image id that the file does not list"] += 1
        else:
            made.annotations[key].append(entry)
    return made


def _id(entry: JsonObject, name: str, path: Path) -> int | str:
    key = entry.get(name)
    if not isinstance(key, int | str):
        raise DatasetError(f"an entry of {one_line(path)} has no {name}", expected="a number or text", got=f"{key!r:.40}")
    return key


def _file_name(image: JsonObject, path: Path) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise DatasetError(f"an image of {one_line(path)} has no file_name", expected="a text", got=f"{name!r:.40}")
    return name


def _image_file(path: Path, image: JsonObject, by_name: Mapping[str, list[Record]]) -> Record | None:
    """The record of an image: the file of that name whose folders end as the entry states, nearest to the JSON file."""
    stated = PurePosixPath(_file_name(image, path).replace("\\", "/"))
    candidates = by_name.get(stated.name, [])
    depth = [_shared_end(record.path, stated) for record in candidates]
    best = {record.path: record for record, shared in zip(candidates, depth, strict=True) if shared == max(depth)}
    return best[nearest(path, list(best))] if best else None


def _shared_end(path: Path, stated: PurePosixPath) -> int:
    pairs = zip(reversed(path.parts), reversed(stated.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(stated.parts))


def _same_size(image: JsonObject, size: tuple[int, int]) -> bool:
    """Whether the stated size is that of the image; an entry may state none."""
    stated = (image.get("width"), image.get("height"))
    return None in stated or stated == size


def _annotation(each: _Set, key: int | str, found: Gathering) -> Annotation:
    annotation = Annotation()
    for entry in each.annotations.get(key, []):
        category = entry.get("category_id")
        box = _box(entry)
        score = entry.get("score", 1.0)
        if entry.get("iscrowd"):
            found.dropped["a crowd of cells in one box"] += 1
        elif not isinstance(category, int | str) or category not in each.names:
            found.dropped["of a category id that the file does not list"] += 1
        elif box is None:
            found.dropped["without a box of four numbers"] += 1
        elif not _is_number(score) or not 0 <= score <= 1:
            found.dropped["a score outside 0 to 1"] += 1
        else:
            annotation.add(each.names[category], box, float(score))
    return annotation


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 or value != value  # NaN


def _box(entry: JsonObject) -> Sequence[float] | None:
    """Left, top, right, bottom of an annotation: of its bbox, else around its polygons; None for neither."""
    given = entry.get("bbox")
    if isinstance(given, list) and len(given) == 4 and all(map(_is_number, given)):
        left, top, width, height = map(float, given)
        return left, top, left + width, top + height
    outlines = entry.get("segmentation")
    if given is not None or not isinstance(outlines, list) or not outlines:
        return None
    points = [v for outline in outlines for v in (outline if isinstance(outline, list) else [None])]
    even = all(len(outline) % 2 == 0 and outline for outline in outlines if isinstance(outline, list))
    if not even or not all(map(_is_number, points)) or any(map(math.isnan, points)):
        return None
    x = [v for outline in outlines for v in outline[::2]]
    y = [v for outline in outlines for v in outline[1::2]]
    return min(x), min(y), max(x), max(y)


READER = FieldReader(
    title="fields with COCO boxes", licence="the user's own", citation="the user's own", layout=LAYOUT, read=read_coco
)
