"""Zheng-2018: two sets of single white cells with masks (0 background, 128 cytoplasm, 255 nucleus)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record, is_image_file, wrong_layout
from hemalens.errors import DatasetError, one_line
from hemalens.imaging.formats import note_not_read

CITATION = (
    "Zheng et al., Fast and robust segmentation of white blood cell images by self-supervised learning, Micron 107 (2018)"
)
LICENCE = "third-party pictures, research use only"

LABELS: Labels = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}


def _reader(number: int, name: str, title: str, size: str) -> Reader:
    layout = f"'Dataset {number}/NNN.bmp' with masks NNN.png, and 'Class Labels of Dataset {number}.csv'"
    return Reader(
        name=name,
        title=title,
        size=size,
        licence=LICENCE,
        citation=CITATION,
        layout=layout,
        labels=LABELS,
        read=_read_set(number, name, title, layout),
    )


def _read_set(number: int, domain: str, title: str, layout: str) -> Callable[[Path], Listing]:
    def read(root: Path) -> Listing:
        folder = root / f"Dataset {number}"
        table = root / f"Class Labels of Dataset {number}.csv"
        if not folder.is_dir() or not table.is_file():
            raise wrong_layout(root, title, layout)
        labels = _read_labels(table)
        # names without regard to the case of the suffix
        files = {path.name.lower(): path for path in sorted(folder.iterdir()) if is_image_file(path, (".bmp", ".png"))}
        records: list[Record] = []
        for image_id, label in sorted(labels.items()):
            name = f"{image_id:03d}"
            if f"{name}.bmp" not in files:
                raise DatasetError(
                    f"{one_line(table)} names image {image_id}, and {one_line(folder / f'{name}.bmp')} is missing"
                )
            records.append(Record(files[f"{name}.bmp"], label, domain=domain, mask_path=files.get(f"{name}.png")))
        without_mask = sum(record.mask_path is None for record in records)
        listed = {record.path for record in records}
        unlabelled = [one_line(p.name) for p in files.values() if p.suffix.lower() == ".bmp" and p not in listed]
        if unlabelled:
            raise DatasetError(f"{one_line(table)} has no label for {', '.join(unlabelled[:3])}")
        if not records:
            raise wrong_layout(root, title, layout)
        notes = [f"{without_mask} image(s) have no mask"] if without_mask else []
        return Listing(records, notes + note_not_read(folder.iterdir()))

    return read


def _read_labels(table: Path) -> dict[int, str]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        # the header says "class label" in one set and "class" in the other: go by position
        pairs = [(int(row[0]), row[1].strip()) for row in rows[1:]]
    except (OSError, csv.Error, ValueError, IndexError) as error:
        raise DatasetError(f"{one_line(table)} is damaged", expected="rows of image ID,class", got=str(error)) from error
    labels = dict(pairs)
    if len(labels) < len(pairs):
        raise DatasetError(f"{one_line(table)} names an image twice", expected="one row an image")
    return labels


JTSC = _reader(1, "jtsc", "JTSC (Zheng-2018, Dataset 1)", "300 images")
CELLAVISION100 = _reader(2, "cellavision100", "CellaVision-100 (Zheng-2018, Dataset 2)", "100 images")
