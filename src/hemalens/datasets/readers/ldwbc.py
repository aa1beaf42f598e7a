"""LDWBC: five types of white cells from the blood of 150 people, one folder a class.

The set has 22,645 images (Chen et al. 2022) and is distributed from the page of its authors' laboratory, biod.whu.edu.cn.
Its layout there is not documented in public. Code that uses the set, on GitHub, has one folder a class, in capitals or not;
that is what this reader opens, in any image format. No public source documents a person or smear in the file names, so
images have no group.
"""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Found, Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.errors import DatasetError, one_line

TITLE = "LDWBC"
LAYOUT = (
    "LDWBC*/<class>/<image> with the classes basophil, eosinophil, lymphocyte, monocyte, neutrophil, in capitals or not"
)
LABELS: Labels = {name: name.lower() for name in ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")}


def _read(root: Path) -> Listing:
    top = _top(root)
    found = Found()
    taken: dict[str, Path] = {}
    for folder in sorted(top.iterdir()):
        label = folder.name.lower().removesuffix("s").capitalize()
        if label not in LABELS or not folder.is_dir():
            found.ignored.append(folder)
            continue
        if label in taken:
            raise DatasetError(
                f"{one_line(top)} has two folders of {label}",
                got=f"{one_line(taken[label].name)} and {one_line(folder.name)}",
            )
        taken[label] = folder
        entries = sorted(folder.iterdir())
        found.ignored += [path for path in entries if not is_image_file(path)]
        found.records += [Record(path, label, domain="ldwbc") for path in entries if is_image_file(path)]
    if not found.records:
        raise wrong_layout(top, TITLE, LAYOUT)
    found.notes += [f"no folder of {label}" for label in LABELS if label not in taken]
    return Listing(found.records, [*found.notes, *note_ignored(found.ignored)])


def _top(root: Path) -> Path:
    """The folder of the set, known by its name: other sets have folders of the same classes."""
    if root.is_dir():
        if root.resolve().name.upper().startswith(TITLE):
            return root
        inner = [path for path in sorted(root.iterdir()) if path.name.upper().startswith(TITLE) and path.is_dir()]
        if len(inner) == 1:
            return inner[0]
    raise wrong_layout(root, TITLE, LAYOUT)


READER = Reader(
    name="ldwbc",
    title=TITLE,
    size="22,645 images",
    licence="not stated with the set",
    citation="Chen et al., Accurate classification of white blood cells by coupling pre-trained ResNet and DenseNet with "
    "SCAM mechanism, BMC Bioinformatics 23 (2022), doi:10.1186/s12859-022-04824-6",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
