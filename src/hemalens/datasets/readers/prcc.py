"""Regions of papillary renal cell carcinoma, 2000 px: in one flat folder without labels, or in a folder a type.

Flat images have the source label "unlabelled"; labelled ones are in the folders `type1` and `type2`. Both layouts at once
are an error, because a region could be there twice. There are no patients and no masks.
"""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import (
    SYNTHETIC_MARKER,
    Labels,
    Listing,
    Reader,
    Record,
    is_image_file,
    note_ignored,
    wrong_layout,
)
from hemalens.errors import DatasetError, one_line
from hemalens.taxonomy import Excluded

TITLE = "the pRCC regions"
FOLDER = "pRCC_nolabel"
TYPES = ("type1", "type2")
UNLABELLED = "unlabelled"
LABELS: Labels = {
    UNLABELLED: Excluded("kidney tissue of no stated type, not a cell", own_class=True),
    "type1": Excluded("kidney tissue of type 1, not a cell", own_class=True),
    "type2": Excluded("kidney tissue of type 2, not a cell", own_class=True),
}
LAYOUT = f"{FOLDER}/<image>, all in one folder; or type1/<image> and type2/<image>"


def _read(root: Path) -> Listing:
    if not root.is_dir():
        raise wrong_layout(root, TITLE, LAYOUT)
    if root.resolve().name in TYPES:
        raise DatasetError(
            f"{one_line(root)} is the folder of one type",
            expected=LAYOUT,
            got=f"only {root.resolve().name}",
            remedy="Give the folder that it lies in.",
        )
    typed = _types(root)
    inner = root / FOLDER
    if inner.is_dir():
        if typed:
            raise _mixed(root, typed, f"the folder {FOLDER}")
        root, typed = inner, _types(inner)
    entries = sorted(path for path in root.iterdir() if path.name not in typed)
    images = [path for path in entries if is_image_file(path)]
    if typed and images:
        raise _mixed(root, typed, f"{len(images)} image(s) without a type")
    if any(path.is_dir() and not path.name.startswith(".") for path in entries):
        raise wrong_layout(root, TITLE, LAYOUT)
    ignored = [path for path in entries if path not in images]
    if not typed:
        drawn = [path for path in ignored if path.name == SYNTHETIC_MARKER]
        notes = note_ignored([path for path in ignored if path not in drawn])
        return Listing(_records(root, images, UNLABELLED), notes, synthetic=bool(drawn))
    records: list[Record] = []
    for label in typed:
        inside = sorted((root / label).iterdir())
        records += _records(root / label, [path for path in inside if is_image_file(path)], label)
        ignored += [path for path in inside if not is_image_file(path)]
    missing = [f"the folder {label!r} is missing" for label in TYPES if label not in typed]
    return Listing(records, missing + note_ignored(ignored))


def _types(folder: Path) -> list[str]:
    return [label for label in TYPES if (folder / label).is_dir()]


def _records(folder: Path, images: list[Path], label: str) -> list[Record]:
    if not images:
        names = sorted(path.name for path in folder.iterdir())
        raise DatasetError(
            f"the folder {one_line(folder)} holds no image",
            expected=LAYOUT,
            got=", ".join(one_line(name) for name in names[:3]) + (" ..." if len(names) > 3 else "") or "an empty folder",
            remedy="Unpack the set again." if label == UNLABELLED else "Fill the folder, or take it out.",
        )
    return [Record(path, label, domain="prcc") for path in images]


def _mixed(root: Path, typed: list[str], others: str) -> DatasetError:
    return DatasetError(
        f"{one_line(root)} holds regions with and without a type",
        expected=LAYOUT,
        got=f"{' and '.join(typed)}, and {others}",
        remedy="Move the folders type1 and type2 into a folder of their own, and give that or the other.",
    )


READER = Reader(
    name="prcc",
    title="papillary renal cell carcinoma regions",
    licence="not stated with the set",
    citation="Gao et al., Instance-based vision transformer for subtyping of papillary renal cell carcinoma in "
    "histopathological image, MICCAI (2021)",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
