"""Matek-19 (AML-Cytomorphology_LMU): one folder a code, TIFF whose alpha channel is ignored."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record, note_ignored, root_holding, wrong_layout
from hemalens.errors import DatasetError, one_line

TITLE = "Matek-19"
LAYOUT = "AML-Cytomorphology*/<CODE>/<CODE>_<number>.tiff with the codes BAS, EBO, EOS, KSC, ..."

# MYO is the myeloblast and MYB the myelocyte; public scripts swap them
LABELS: Labels = {
    "BAS": "basophil",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "KSC": "smudge_cell",
    "LYA": "variant_lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MOB": "monoblast",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "MYO": "myeloblast",
    "NGB": "band_neutrophil",
    "NGS": "segmented_neutrophil",
    "PMB": "bilobed_promyelocyte",
    "PMO": "promyelocyte",
}


def _read(root: Path) -> Listing:
    top = root_holding(root, "AML-Cytomorphology*", TITLE, LAYOUT)
    records: list[Record] = []
    ignored: list[Path] = []
    for folder in sorted(p for p in top.iterdir() if not p.name.startswith(".")):
        if folder.name not in LABELS or not folder.is_dir():
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
    size="18,365 images",
    licence="CC BY 3.0",
    citation="Matek et al., Human-level recognition of blast cells in acute myeloid leukaemia with convolutional neural "
    "networks, Nature Machine Intelligence 1 (2019); TCIA AML-Cytomorphology_LMU",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
