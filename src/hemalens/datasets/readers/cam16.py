"""Patches of Camelyon-16: lymph-node tissue with and without tumour, 384 px, some of the training part with a mask.

`train`, `val` and `test` each hold `data` and perhaps `mask`, each with the folders `normal` and `tumor`. Masks are
optional and paired by file name (see `paired_masks`).

A patch with its name of the set, such as `normal_002-500-2-384ver.jpg`, belongs to the slide that its first part names.
Other patches have no group.
"""

from __future__ import annotations

import re
from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader
from hemalens.datasets.readers.paired_masks import PairedSet, read_paired
from hemalens.taxonomy import Excluded

FOLDER = "CAM16_100cls_10mask"
LAYOUT = (
    f"{FOLDER}/train/data/<normal or tumor>/<image>, masks of the same file name in {FOLDER}/train/mask/<normal or tumor>/"
    ", val/data/ and test/data/ likewise; or train, val or test alone"
)
LABELS: Labels = {
    "normal": Excluded("lymph-node tissue without tumour, not a cell", own_class=True),
    "tumor": Excluded("lymph-node tissue with tumour, not a cell", own_class=True),
}
# as in normal_002-500-2-384ver
NAME = re.compile(r"([a-z]+_[0-9]+)-.+")


def slide_of(path: Path) -> str | None:
    """The slide in the name of a patch, None in any other name."""
    match = NAME.fullmatch(path.stem)
    return match[1] if match else None


PAIRED = PairedSet(
    title="the Camelyon-16 patches",
    layout=LAYOUT,
    domain="cam16",
    parts=("train", "val", "test"),
    classes=tuple(LABELS),
    name_of=lambda folder: "cam16",
    group_of=slide_of,
    every_class=True,
)


def _read(root: Path) -> Listing:
    inner = root / FOLDER
    return read_paired(inner if inner.is_dir() else root, PAIRED)


READER = Reader(
    name="cam16",
    title="Camelyon-16 patches",
    licence="CC0 (the slides of Camelyon16)",
    citation="patches of Ehteshami Bejnordi et al., Diagnostic assessment of deep learning algorithms for detection of "
    "lymph node metastases in women with breast cancer, JAMA 318 (2017)",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
