"""Acevedo-20: eight folders of normal peripheral blood cells, finer types in the file names' prefixes."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record, note_ignored, wrong_layout
from hemalens.datasets.layouts import has_folder, root_holding
from hemalens.errors import DatasetError, one_line
from hemalens.taxonomy import Excluded

TITLE = "Acevedo-20"
FOLDER = "PBC_dataset_normal_DIB"
LAYOUT = f"{FOLDER}/<folder>/<PREFIX>_<number>.jpg with the folders basophil ... platelet"
SUFFIXES = (".jpg", ".jpeg")
PREFIXES = {
    "basophil": ("BA",),
    "eosinophil": ("EO",),
    "erythroblast": ("ERB",),
    "ig": ("PMY", "MY", "MMY", "IG"),
    "lymphocyte": ("LY",),
    "monocyte": ("MO",),
    "neutrophil": ("BNE", "SNE", "NEUTROPHIL", ".DS"),
    "platelet": ("PLATELET",),
}
LABELS: Labels = {
    "BA": "basophil",
    "EO": "eosinophil",
    "ERB": "erythroblast",
    "PMY": "promyelocyte",
    "MY": "myelocyte",
    "MMY": "metamyelocyte",
    "IG": "immature_granulocyte",
    "BNE": "band_neutrophil",
    "SNE": "segmented_neutrophil",
    "NEUTROPHIL": "neutrophil",
    "MO": "monocyte",
    "LY": "lymphocyte",
    "PLATELET": "platelet",
    ".DS": Excluded("stray file of the original distribution (.DS_169665.jpg)"),
}


def _read(root: Path) -> Listing:
    top = root_holding(root, has_folder(PREFIXES), (FOLDER,), title=TITLE, layout=LAYOUT)
    records: list[Record] = []
    ignored: list[Path] = []
    notes: list[str] = []
    ignored.extend(p for p in sorted(top.iterdir()) if p.name not in PREFIXES)
    for folder, prefixes in PREFIXES.items():
        if not (top / folder).is_dir():
            notes.append(f"the folder {folder!r} is missing")
            continue
        for path in sorted((top / folder).iterdir()):
            # the set's stray .DS_169665.jpg is hidden too, and no file of macOS
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("._"):
                ignored.append(path)
                continue
            prefix = path.name.rpartition("_")[0]
            if prefix not in prefixes:
                raise DatasetError(
                    f"{one_line(path)} is not named as in {TITLE}", expected=f"a prefix of {folder}: {', '.join(prefixes)}"
                )
            records.append(Record(path, prefix, domain="acevedo20"))
    if not records:
        raise wrong_layout(top, TITLE, LAYOUT)
    return Listing(records, notes + note_ignored(ignored))


READER = Reader(
    name="acevedo20",
    title=TITLE,
    size="17,092 images",
    licence="CC BY 4.0",
    citation="Acevedo et al., A dataset of microscopic peripheral blood cell images, Data in Brief 30 (2020), "
    "Mendeley Data snkd93bnjr",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
