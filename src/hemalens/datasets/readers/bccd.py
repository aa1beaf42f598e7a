"""BCCD: white cells cut out of their fields, one folder a type; and the whole fields with boxes as a second view."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.fields.voc_xml import read_voc
from hemalens.errors import DatasetError, one_line
from hemalens.imaging.formats import note_not_read
from hemalens.imaging.reading import Box

CROPS_LAYOUT = "BCCD_cropped/<Class>/<field>_<number>.jpg with the classes Neutrophil ... Basophil"
FIELDS_LAYOUT = "BCCD/JPEGImages/<field>.jpg and BCCD/Annotations/<field>.xml (Pascal VOC boxes)"
SUFFIXES = (".jpg", ".jpeg")
LICENCE = "MIT"
CITATION = "Shenggan, BCCD_Dataset"
CROP_LABELS: Labels = {
    "Neutrophil": "neutrophil",
    "Eosinophil": "eosinophil",
    "Lymphocyte": "lymphocyte",
    "Monocyte": "monocyte",
    "Basophil": "basophil",
}
FIELD_LABELS: Labels = {"WBC": "leukocyte", "RBC": "erythrocyte", "Platelets": "platelet"}


def _read_crops(root: Path) -> Listing:
    top = root / "BCCD_cropped"
    if not top.is_dir():
        raise wrong_layout(root, "BCCD crops", CROPS_LAYOUT)
    records: list[Record] = []
    ignored: list[Path] = [p for p in sorted(top.iterdir()) if not p.is_dir()]
    notes: list[str] = []
    for label in CROP_LABELS:
        if not (top / label).is_dir():
            notes.append(f"the folder {label!r} is missing")
            continue
        for path in sorted((top / label).iterdir()):
            if not is_image_file(path, SUFFIXES):
                ignored.append(path)
                continue
            # crops of one field share its stain, focus and patient: they stay together
            records.append(Record(path, label, domain="bccd", group=path.stem.rpartition("_")[0] or None))
    unknown = [p for p in sorted(top.iterdir()) if p.is_dir() and p.name not in CROP_LABELS and not p.name.startswith(".")]
    if not records or unknown:
        raise wrong_layout(top, "BCCD crops", CROPS_LAYOUT)
    return Listing(records, notes + note_ignored(ignored))


def _read_fields(root: Path) -> Listing:
    images, annotations = root / "BCCD" / "JPEGImages", root / "BCCD" / "Annotations"
    if not images.is_dir() or not annotations.is_dir():
        raise wrong_layout(root, "BCCD fields", FIELDS_LAYOUT)
    records: list[Record] = []
    empty = 0
    for path in sorted(entry for entry in images.iterdir() if is_image_file(entry, SUFFIXES)):
        for label, box in _boxes(annotations / f"{path.stem}.xml"):
            if box[0] >= box[2] or box[1] >= box[3]:
                empty += 1
                continue
            records.append(Record(path, label, domain="bccd", group=path.stem, box=box))
    if not records:
        raise wrong_layout(root, "BCCD fields", FIELDS_LAYOUT)
    notes = [f"{empty} box(es) without area were left out"] if empty else []
    return Listing(records, notes + note_not_read(images.iterdir()))


def _boxes(path: Path) -> list[tuple[str, Box]]:
    """The name and box of each object, in whole pixels."""
    try:
        return [(name, (int(a), int(b), int(c), int(d))) for name, (a, b, c, d) in read_voc(path).objects]
    except (ValueError, OverflowError) as error:
        raise DatasetError(
            f"cannot read the boxes in {one_line(path)}", expected="Pascal VOC XML", got=str(error)
        ) from error


CROPS = Reader(
    name="bccd",
    title="BCCD crops",
    size="351 images",
    licence=LICENCE,
    citation=CITATION,
    layout=CROPS_LAYOUT,
    labels=CROP_LABELS,
    read=_read_crops,
)
FIELDS = Reader(
    name="bccd_fields",
    title="BCCD fields",
    size="364 fields",
    licence=LICENCE,
    citation=CITATION,
    layout=FIELDS_LAYOUT,
    labels=FIELD_LABELS,
    read=_read_fields,
)
