"""Raabin-WBC's ground truths: 1,145 single white cells, each with a mask of nucleus and cytoplasm.

A mask has the file name of its image, so it is a JPEG of three gray levels: background near 0, nucleus and cytoplasm near
100 and 255. The cell is everything brighter than the traces that compression leaves.

Layout and levels come from public code that loads the set, such as MarlonGarcia/attacking-white-blood-cells on GitHub.
Such code disagrees which level is the nucleus, which the mask of the whole cell does not need.
"""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Found, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.layouts import root_holding
from hemalens.datasets.readers.paired_masks import pair_masks
from hemalens.datasets.readers.raabin import LABELS, smear_of
from hemalens.datasets.readers.raabin import READER as CROPS
from hemalens.errors import one_line

TITLE = "Raabin-WBC (nucleus and cytoplasm)"
IMAGES, MASKS = "Original", "Ground Truth"
LAYOUT = f"GrTh/{IMAGES}/<Class>/<smear>_<field>_<number>.jpg and GrTh/{MASKS}/<Class>/<the same name>"
OUTER = ("*Nucleus_cytoplasm*", "GrTh")


def _read(root: Path) -> Listing:
    top = root_holding(root, _holds, OUTER, title=TITLE, layout=LAYOUT)
    found = Found(ignored=[path for path in sorted(top.iterdir()) if path.name not in (IMAGES, MASKS)])
    orphans: list[Path] = []
    for label in LABELS:
        images, masks = (_files(top / part / label, found) for part in (IMAGES, MASKS))
        if not images:
            found.notes.append(f"the folder '{IMAGES}/{label}' holds no image")
        pairs, without_image = pair_masks(images, masks)
        orphans += without_image
        found.records += [
            Record(path, label, domain="raabin", group=smear_of(path), mask_path=pairs.get(path)) for path in images
        ]
    for part in (IMAGES, MASKS):
        found.ignored += [path for path in sorted((top / part).iterdir()) if path.name not in LABELS]
    if not found.records:
        raise wrong_layout(top, TITLE, LAYOUT)
    return Listing(found.records, [*found.notes, *_mask_notes(found.records, orphans), *note_ignored(found.ignored)])


def _holds(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _files(folder: Path, found: Found) -> list[Path]:
    """The images in a folder, sorted; none where there is no folder."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    found.ignored += [path for path in entries if not is_image_file(path)]
    return [path for path in entries if is_image_file(path)]


def _mask_notes(records: list[Record], orphans: list[Path]) -> list[str]:
    without = sum(record.mask_path is None for record in records)
    notes = [f"{without} of {len(records)} image(s) have no mask"] if without else []
    if orphans:
        notes.append(f"{len(orphans)} mask(s) have no image and were left out, the first {one_line(orphans[0].name)}")
    return notes


READER = Reader(
    name="raabin_masks",
    title=TITLE,
    size="1,145 images with masks",
    licence=CROPS.licence,
    citation=CROPS.citation,
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
