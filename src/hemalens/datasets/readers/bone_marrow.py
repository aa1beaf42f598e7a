"""Bone-marrow cytomorphology (TCIA Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer): 21 codes, JPEG 250x250.

A code's images lie in blocks of a thousand, `ART/0001-1000/ART_00001.jpg`; codes of few images, and copies of the set
elsewhere, have them in the code's own folder. The folders around the codes in the download are
`PKG - Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer_v1`, `Bone-Marrow-Cytomorphology`, `jpgs` and
`BM_cytomorphology_data`; each of them opens, and `bone_marrow_cell_dataset` of the copies.

The cells come from 945 patients. No name holds a patient, so images have no group, and a split can divide a patient.
"""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Found, Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.layouts import has_folder, root_holding
from hemalens.errors import DatasetError, one_line
from hemalens.taxonomy import Excluded

TITLE = "Bone-marrow cytomorphology"
LAYOUT = "BM_cytomorphology_data/<CODE>/<first>-<last>/<CODE>_<number>.jpg with the codes ABE, ART, BAS, BLA, ..."
OUTER = (
    "PKG*Bone-Marrow-Cytomorphology*",
    "Bone-Marrow-Cytomorphology*",
    "jpgs",
    "BM_cytomorphology_data",
    "bone_marrow_cell_*",
)
SUFFIXES = (".jpg", ".jpeg")

# MYB is the myelocyte, as in Matek-19; BLA is a blast of no stated lineage
LABELS: Labels = {
    "ABE": "abnormal_eosinophil",
    "ART": Excluded("artefact, not a cell", own_class=True),
    "BAS": "basophil",
    "BLA": "blast",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "FGC": "faggot_cell",
    "HAC": "hairy_cell",
    "KSC": "smudge_cell",
    "LYI": "immature_lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "NGB": "band_neutrophil",
    "NGS": "segmented_neutrophil",
    "NIF": Excluded("not identifiable", own_class=True),
    "OTH": "other_cell",
    "PEB": "proerythroblast",
    "PLM": "plasma_cell",
    "PMO": "promyelocyte",
}


def _read(root: Path) -> Listing:
    top = root_holding(root, has_folder(LABELS), OUTER, title=TITLE, layout=LAYOUT)
    found = Found(ignored=[path for path in sorted(top.iterdir()) if path.name not in LABELS or not path.is_dir()])
    for code in LABELS:
        if not (top / code).is_dir():
            found.notes.append(f"the folder {code!r} is missing")
            continue
        entries = sorted((top / code).iterdir())
        blocks = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
        _read_files(code, [path for path in entries if path not in blocks], found)
        for block in blocks:
            _read_files(code, sorted(block.iterdir()), found)
    if not found.records:
        raise wrong_layout(top, TITLE, LAYOUT)
    return Listing(found.records, [*found.notes, *note_ignored(found.ignored)])


def _read_files(code: str, paths: list[Path], found: Found) -> None:
    for path in paths:
        if not is_image_file(path, SUFFIXES):
            found.ignored.append(path)
        elif path.name.rpartition("_")[0] != code:
            raise DatasetError(f"{one_line(path)} is not named as in {TITLE}", expected=f"{code}_<number>.jpg")
        else:
            found.records.append(Record(path, code, domain="bone_marrow"))


READER = Reader(
    name="bone_marrow",
    title=TITLE,
    size="171,374 images",
    licence="CC BY 4.0",
    citation="Matek et al., Highly accurate differentiation of bone marrow cell morphologies using deep neural networks on "
    "a large image data set, Blood 138 (2021), doi:10.1182/blood.2020010568; The Cancer Imaging Archive, "
    "doi:10.7937/TCIA.AXH3-T579",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
