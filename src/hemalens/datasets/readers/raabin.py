"""Raabin-WBC: the double-labelled crops in three parts, grouped by smear."""

from __future__ import annotations

import re
from pathlib import Path

from hemalens.datasets.base import Found, Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.parts import part_named

TITLE = "Raabin-WBC (double-labelled crops)"
PARTS = ("Train", "TestA", "TestB")
SUFFIXES = (".jpg", ".jpeg")
LAYOUT = (
    "Train|TestA|TestB/<Class>/<smear>_<field>_<number>.jpg with the classes Basophil ... Neutrophil, or one part of it"
)
LABELS: Labels = {
    "Basophil": "basophil",
    "Eosinophil": "eosinophil",
    "Lymphocyte": "lymphocyte",
    "Monocyte": "monocyte",
    "Neutrophil": "neutrophil",
}
# as in 95-8-10-1_527_1
NAME = re.compile(r"([0-9]+(?:-[0-9]+)+)_[0-9]+_[0-9]+")


def _read(root: Path) -> Listing:
    if not root.is_dir():
        raise wrong_layout(root, TITLE, LAYOUT)
    found = Found()
    name: str | None = None
    folders = {part: path for path in sorted(root.iterdir()) if path.is_dir() and (part := _part(path.name)) is not None}
    present = [part for part in PARTS if part in folders]
    if present:
        found.ignored += [path for path in sorted(root.iterdir()) if path not in folders.values()]
        found.notes += [f"the folder {part!r} is missing" for part in PARTS if part not in present]
        for part in present:
            _read_part(folders[part], part, found)
        found.notes += _shared_smears(root, found.records)
    # the folder's own name decides: other sets have folders of the same classes
    elif (own := _part(root.resolve().name)) is not None:
        name = f"raabin {own}"
        _read_part(root, own, found)
    if not found.records:
        raise wrong_layout(root, TITLE, LAYOUT)
    return Listing(found.records, [*found.notes, *_ungrouped(found.records), *note_ignored(found.ignored)], name=name)


def _part(name: str) -> str | None:
    """The published part that a folder's name means, as in Train, TestA, Test-A and test_a, or None."""
    return {part.casefold(): part for part in PARTS}.get(re.sub(r"[\s_-]", "", name.casefold()))


def _read_part(folder: Path, part: str, found: Found) -> None:
    found.ignored += [path for path in sorted(folder.iterdir()) if path.name not in LABELS or not path.is_dir()]
    missing = [label for label in LABELS if not (folder / label).is_dir()]
    if missing:
        found.notes.append(f"{part} has no folder {', '.join(map(repr, missing))}")
    for label in LABELS:
        if label in missing:
            continue
        entries = sorted((folder / label).iterdir())
        images = [path for path in entries if is_image_file(path, SUFFIXES)]
        found.ignored += [path for path in entries if not is_image_file(path, SUFFIXES)]
        found.records += [
            Record(path, label, domain="raabin", group=smear_of(path), part=part_named(part)) for path in images
        ]
        if not images:
            found.notes.append(f"the folder '{part}/{label}' holds no image")


def smear_of(path: Path) -> str | None:
    """The smear in the name of an image of Raabin-WBC, None in any other name."""
    match = NAME.fullmatch(path.stem)
    return match[1] if match else None


def _ungrouped(records: list[Record]) -> list[str]:
    without = [record.path.name for record in records if record.group is None]
    if not without:
        return []
    return [
        f"{len(without)} image(s) do not name their smear as <smear>_<field>_<number> does and have no group, "
        f"as {without[0]!r}: a split can put one smear on both sides"
    ]


def _shared_smears(root: Path, records: list[Record]) -> list[str]:
    """A note on smears in more than one published part."""
    parts: dict[str, set[str]] = {}
    for record in records:
        if record.group is not None:
            parts.setdefault(record.group, set()).add(record.path.relative_to(root).parts[0])
    shared = sum(len(where) > 1 for where in parts.values())
    return [f"{shared} smear(s) lie in more than one of the published parts"] if shared else []


READER = Reader(
    name="raabin",
    title=TITLE,
    size="10,175 training images, 4,339 in TestA, 2,119 in TestB",
    licence="free for research with citation",
    citation="Kouzehkanan et al., A large dataset of white blood cells containing cell locations and types, along with "
    "segmented nuclei and cytoplasm, Scientific Reports 12 (2022)",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
