"""Matek-19 (AML-Cytomorphology_LMU): one folder a code, TIFF whose alpha channel is ignored; cells annotated again.

The folders may lie in AML-Cytomorphology or AML-Cytomorphology_LMU, and these in the folder `PKG - ...` of the download.

The collection's table `annotations.dat` has a row an image: path, first label, and two re-annotations, as in
`EBO/EBO_0014.tiff EBO LYT EBO`. `nan` stands for no re-annotation, `UNC` for a cell that could not be assigned a class
again (its abbreviations.txt). The table is read where it lies in the given folder. `matek19` keeps the first label as the
label, all three as the record's `annotations`, and notes how often they agree. `matek19_reannotated` is the cells that
were annotated again, under their last label.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hemalens.datasets.base import Found, Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.layouts import has_folder, root_holding
from hemalens.errors import DatasetError, one_line
from hemalens.taxonomy import Excluded

TITLE = "Matek-19"
TABLE = "annotations.dat"
LEGEND = "abbreviations.txt"
LAYOUT = "AML-Cytomorphology*/<CODE>/<CODE>_<number>.tiff with the codes BAS, EBO, EOS, KSC, ..."
REANNOTATED_LAYOUT = f"{LAYOUT}, and {TABLE}"
OUTER = ("PKG*AML-Cytomorphology*", "AML-Cytomorphology*")
SUFFIXES = (".tif", ".tiff")
UNASSIGNED, NONE = "UNC", "nan"
CITATION = (
    "Matek et al., Human-level recognition of blast cells in acute myeloid leukaemia with convolutional neural "
    "networks, Nature Machine Intelligence 1 (2019); TCIA AML-Cytomorphology_LMU"
)

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
REANNOTATED_LABELS: Labels = {**LABELS, UNASSIGNED: Excluded("could not be assigned a class when annotated again")}


def _read(root: Path) -> Listing:
    records, notes, _ = _read_all(root, LAYOUT)
    return Listing(records, notes)


def _read_reannotated(root: Path) -> Listing:
    records, notes, table = _read_all(root, REANNOTATED_LAYOUT)
    again = [replace(record, source_label=record.annotations[-1]) for record in records if record.annotations]
    if not again:
        raise DatasetError(
            f"{one_line(root)} has no cell that was annotated again",
            expected=REANNOTATED_LAYOUT,
            got=f"no {TABLE}" if table is None else f"no re-annotation in {one_line(table)}",
            remedy=f"Put the collection's {TABLE} into the folder.",
        )
    return Listing(again, notes)


def _read_all(root: Path, layout: str) -> tuple[list[Record], list[str], Path | None]:
    """All records, their notes and the table of annotations, None where there is none."""
    top = root_holding(root, has_folder(LABELS), OUTER, title=TITLE, layout=layout)
    found = Found()
    for folder in sorted(top.iterdir()):
        if folder.name not in LABELS or not folder.is_dir():
            found.ignored.append(folder)
            continue
        for path in sorted(folder.iterdir()):
            if not is_image_file(path, SUFFIXES):
                found.ignored.append(path)
            elif path.name.rpartition("_")[0] != folder.name:
                raise DatasetError(f"{one_line(path)} is not named as in {TITLE}", expected=f"{folder.name}_<number>.tiff")
            else:
                found.records.append(Record(path, folder.name, domain="matek19"))
    if not found.records:
        raise wrong_layout(top, TITLE, layout)
    table = _table(root, top)
    if table is not None:
        found.records = _annotated(found, table)
    ignored = [path for path in found.ignored if path.name not in (TABLE, LEGEND)]
    return found.records, [*found.notes, *note_ignored(ignored)], table


def _table(root: Path, top: Path) -> Path | None:
    """The table of annotations in `top` or a folder around it, up to `root`."""
    around = [top, *(folder for folder in top.parents if folder.is_relative_to(root))]
    return next((folder / TABLE for folder in around if (folder / TABLE).is_file()), None)


def _annotated(found: Found, table: Path) -> list[Record]:
    """The records with their annotations; notes how many were annotated again, and how often the labels agree."""
    rows = _read_table(table)
    records = [
        replace(record, annotations=rows.get(f"{record.source_label}/{record.path.stem}", ())) for record in found.records
    ]
    again = [record.annotations for record in records if record.annotations]
    if again:
        first, second = (sum(labels[0] == labels[i] for labels in again) for i in (1, 2))
        unassigned = sum(UNASSIGNED in labels for labels in again)
        found.notes.append(
            f"{len(again)} of {len(records)} cells were annotated twice more: {first / len(again):.1%} kept their label "
            f"in the first round, {second / len(again):.1%} in the second; {unassigned} could not be assigned a class"
        )
    return records


def _read_table(table: Path) -> dict[str, tuple[str, ...]]:
    """The three labels of every image that was annotated again, by its path below the codes' folder without suffix."""
    rows: dict[str, tuple[str, ...]] = {}
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{one_line(table)} cannot be read", got=str(error)) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *labels = line.split()
        if len(labels) != 3 or labels[0] not in LABELS or not {*labels[1:]} <= {*REANNOTATED_LABELS, NONE}:
            raise DatasetError(
                f"{one_line(table)}, line {number}, is no row of annotations",
                expected="<CODE>/<file> and three codes, as in EBO/EBO_0014.tiff EBO LYT EBO",
                got=one_line(line),
            )
        if NONE not in labels:
            rows[name.rpartition(".")[0]] = tuple(labels)
    return rows


READER = Reader(
    name="matek19",
    title=TITLE,
    size="18,365 images",
    licence="CC BY 3.0",
    citation=CITATION,
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
REANNOTATED = Reader(
    name="matek19_reannotated",
    title=f"{TITLE}, cells annotated again",
    licence="CC BY 3.0",
    citation=CITATION,
    layout=REANNOTATED_LAYOUT,
    labels=REANNOTATED_LABELS,
    read=_read_reannotated,
)
