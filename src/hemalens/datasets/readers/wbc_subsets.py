"""WBC_100, WBC_50, WBC_10 and WBC_1: the training images of Raabin-WBC and parts of them, some with a mask.

Each subset has `train` and `val`, each with `data` and perhaps `mask`. Masks are optional and paired by file name (see
`paired_masks`). The smaller subsets repeat images of WBC_100, so you open one of the four at a time.

An image with its name of Raabin-WBC, such as `95-8-10-1_527_1.jpg`, belongs to the smear that its first part names. Other
images have no group. The notes count these images, and the smears that train and val share.
"""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record
from hemalens.datasets.readers.paired_masks import PairedSet, read_paired
from hemalens.datasets.readers.raabin import smear_of
from hemalens.errors import DatasetError, one_line

TITLE = "the WBC subsets"
SUBSETS = ("WBC_100", "WBC_50", "WBC_10", "WBC_1")
LAYOUT = (
    "WBC_100/train/data/<class>/<image>, masks of the same file name in WBC_100/train/mask/<class>/, "
    "WBC_100/val/data/<class>/<image> (or WBC_50, WBC_10, WBC_1); or train or val alone"
)

LABELS: Labels = {
    "Basophil": "basophil",
    "Eosinophil": "eosinophil",
    "Lymphocyte": "lymphocyte",
    "Monocyte": "monocyte",
    "Neutrophil": "neutrophil",
}


def _name_of(folder: Path) -> str:
    return folder.name if folder.name in SUBSETS else f"wbc_subsets {folder.name}".strip()


PAIRED = PairedSet(
    title=TITLE,
    layout=LAYOUT,
    domain="wbc_subsets",
    parts=("train", "val"),
    classes=tuple(LABELS),
    name_of=_name_of,
    group_of=smear_of,
)


def _read(root: Path) -> Listing:
    inside = [name for name in SUBSETS if (root / name).is_dir()]
    if len(inside) > 1:
        raise DatasetError(
            f"{one_line(root)} holds several subsets, which repeat each other's images",
            expected="the folder of one",
            got=" and ".join(inside),
            remedy=f"Name one, as in wbc_subsets:{root / inside[0]}",
        )
    listing = read_paired(root / inside[0] if inside else root, PAIRED)
    return Listing(listing.records, [*listing.notes, *_smear_notes(listing.records)], name=listing.name)


def _smear_notes(records: list[Record]) -> list[str]:
    parts: dict[str, set[Path]] = {}
    for record in records:
        if record.group is not None:
            # .../<part>/data/<class>/<image>
            parts.setdefault(record.group, set()).add(record.path.parents[2])
    shared = sum(len(where) > 1 for where in parts.values())
    without = sum(record.group is None for record in records)
    notes = [f"{shared} smear(s) lie in train and in val"] if shared else []
    return notes + ([f"{without} of {len(records)} image(s) have no smear in their name, so no group"] if without else [])


READER = Reader(
    name="wbc_subsets",
    title="WBC_100, WBC_50, WBC_10 and WBC_1",
    licence="free for research with citation (Raabin-WBC)",
    citation="subsets of Kouzehkanan et al., A large dataset of white blood cells containing cell locations and types, "
    "along with segmented nuclei and cytoplasm, Scientific Reports 12 (2022)",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
