"""Matek-19 (AML-Cytomorphology_LMU): one folder a code, TIFF with an alpha channel that means nothing."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Listing, Reader, Record, note_ignored, root_holding, wrong_layout
from hemalens.errors import DatasetError, one_line
from hemalens.taxonomy import source_labels

TITLE = "Matek-19"
LAYOUT = "AML-Cytomorphology*/<CODE>/<CODE>_<number>.tiff with the codes BAS, EBO, EOS, KSC, ..."


def _read(root: Path) -> Listing:
    top = root_holding(root, "AML-Cytomorphology*", TITLE, LAYOUT)
    codes = source_labels("matek19")
    records: list[Record] = []
    ignored: list[Path] = []
    for folder in sorted(p for p in top.iterdir() if not p.name.startswith(".")):
        if folder.name not in codes or not folder.is_dir():
            ignored.append(folder)
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in (".tif", ".tiff"):
                ignored.append(path)
            elif path.name.rpartition("_")[0] != folder.name:
                raise DatasetError(f"{one_line(path)} is not named as in {TITLE}", expected=f"{folder.name}_<number>.tiff")
            else:
                records.append(Record(path, folder.name, domain="matek19"))
    if not records:
        raise wrong_layout(top, TITLE, LAYOUT)
    return Listing(records, note_ignored(ignored))


READER = Reader(
    name="matek19",
    title=TITLE,
    licence="CC BY 3.0",
    citation="Matek et al., Human-level recognition of blast cells in acute myeloid leukaemia with convolutional neural "
    "networks, Nature Machine Intelligence 1 (2019); TCIA AML-Cytomorphology_LMU",
    layout=LAYOUT,
    read=_read,
)
