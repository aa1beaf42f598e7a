"""YOLO: an image, a text file of its boxes, and a list of class names for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hemalens.config import parse_yaml, read_settings
from hemalens.datasets.base import Record, wrong_layout
from hemalens.datasets.fields.matching import Files, files_in, part_of
from hemalens.datasets.fields.reader import FIND, Annotation, FieldListing, FieldReader, Gathering, complete_kinds
from hemalens.datasets.fields.yolo_rows import read_rows
from hemalens.errors import DatasetError, one_line
from hemalens.files import open_regular
from hemalens.imaging.reading import image_size

TITLE = "YOLO"
LAYOUT = "images/**/<image> and labels/**/<its name>.txt, or both in one folder; class names in data.yaml or classes.txt"
YAML_SUFFIXES = (".yaml", ".yml")
NAME_FILES = ("classes.txt", "obj.names")
MASKS = "masks"
"""A folder of masks, which are no fields."""
MAX_CLASSES = 10_000

Domain = Callable[[tuple[int, int]], str]
"""The laboratory of an image by its size (width, height)."""


def read_yolo(root: Path, domain: Domain = lambda size: "yolo") -> FieldListing:
    """The fields below a folder, or beside a file of class names. Subfolders such as train and val are parts."""
    root = root.parent if root.is_file() and (root.suffix in YAML_SUFFIXES or root.name in NAME_FILES) else root
    if not root.is_dir():
        raise wrong_layout(root, TITLE, LAYOUT)
    files = files_in(root)
    texts = {path for path in files.others if path.suffix.lower() == ".txt" and path.name not in NAME_FILES}
    records = [record for record in files.records if MASKS not in record.path.relative_to(root).parts]
    boxed = [(record, label) for record in records if (label := _label_file(record.path, root)) in texts]
    if not boxed and records:
        raise DatasetError(f"no image in {one_line(root)} has a YOLO label file", expected=LAYOUT, remedy=FIND)
    if not boxed:
        raise wrong_layout(root, TITLE, LAYOUT)
    names, source = class_names(root, files)
    complete = complete_kinds(names, source)
    found = Gathering(notes=files.notes)
    n_scored = n_outlined = 0
    for record, label in boxed:
        size = image_size(record.path)
        annotation = Annotation()
        for row in read_rows(label):
            name = names[row.index] if row.index < len(names) else f"{row.index} without a name"
            corners = [share * side for share, side in zip(row.corners, (*size, *size), strict=True)]
            annotation.add(name, corners, 1.0 if row.score is None else row.score)
            n_scored += row.score is not None
            n_outlined += row.outlined
        found.add(replace(record, domain=domain(size), part=part_of(record.path, root)), size, annotation, complete)
    if n_scored:
        found.notes.append(f"{n_scored} row(s) have a sixth column, which is read as the box's score")
    if n_outlined:
        found.notes.append(f"{n_outlined} polygon(s) are kept as their boxes")
    _note_unpaired(found, records, boxed, texts)
    return found.listing()


def _note_unpaired(
    found: Gathering, records: Sequence[Record], boxed: Sequence[tuple[Record, Path]], texts: set[Path]
) -> None:
    used = {record.path for record, _ in boxed}
    found.note_files([r.path for r in records if r.path not in used], "image(s) without a label file are left out")
    labels = {label for _, label in boxed}
    folders = {label.parent for label in labels}
    lone = sorted(path for path in texts - labels if path.parent in folders)
    found.note_files(lone, "label file(s) without an image are left out")


def _label_file(image: Path, root: Path) -> Path:
    """The label file of an image: in the folder "labels" for one in "images", otherwise beside it."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return root.joinpath(*parts)


def class_names(root: Path, files: Files) -> tuple[list[str], Path]:
    """The class names in the order of their indices, and the file that holds them; raises `DatasetError`."""
    for path in sorted(path for path in files.others if path.parent == root and path.suffix.lower() in YAML_SUFFIXES):
        values = read_settings(path, "YAML", parse_yaml)
        if isinstance(values, dict) and "names" in values:
            return _names(values["names"], path), path
    listed = {path: _lines(path) for path in files.others if path.name in NAME_FILES}
    if len(set(map(tuple, listed.values()))) > 1:
        several = list(listed)
        raise DatasetError(
            "two lists of class names differ",
            expected="one list for all boxes",
            got=f"{one_line(several[0])} and {one_line(several[1])}",
            remedy="Write the names into a data.yaml.",
        )
    for path, names in listed.items():
        return names, path
    raise DatasetError(
        f"no class names in {one_line(root)}",
        expected="a data.yaml with `names: [WBC, RBC, Platelets]`, or a classes.txt with a name a line",
        remedy="Write one: the classes of the boxes are never guessed.",
    )


def _names(given: Any, path: Path) -> list[str]:
    """The names of a list, or of a mapping from index to name; an index without a name is an empty text."""
    if isinstance(given, list):
        given = dict(enumerate(given))
    indices = isinstance(given, dict) and all(type(key) is int and 0 <= key < MAX_CLASSES for key in given)
    if not indices or not given or not all(isinstance(name, str | int) for name in given.values()):
        raise DatasetError(
            f"cannot read the class names in {one_line(path)}",
            expected="`names: [WBC, RBC, Platelets]`, or an index with each name",
            got=f"{given!r:.80}",
        )
    return [str(given.get(i, "")) for i in range(max(given) + 1)]


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            text = file.read(1_000_000).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the class names in {one_line(path)}", got=str(error)) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


READER = FieldReader(
    title="fields with YOLO boxes", licence="the user's own", citation="the user's own", layout=LAYOUT, read=read_yolo
)
