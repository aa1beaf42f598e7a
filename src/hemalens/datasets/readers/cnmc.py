"""C-NMC 2019 (ALL challenge): segmented cells on black; three training folds, and a preliminary test with its table."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from pathlib import Path

from hemalens.datasets.base import Found, Labels, Listing, Reader, Record, is_image_file, note_ignored, wrong_layout
from hemalens.errors import DatasetError, one_line

TITLE = "C-NMC 2019"
FOLDS = ("fold_0", "fold_1", "fold_2")
SUFFIXES = (".bmp",)
LABELS: Labels = {"all": "lymphoblast", "hem": "lymphoid_precursor"}
TABLE = "C-NMC_test_prelim_phase_data_labels.csv"
HEADER = ["Patient_ID", "new_names", "labels"]
# the folder's own name, then the one that redistributions give it
TRAINING = ("C-NMC_training_data", "training_data")
PRELIMINARY = ("C-NMC_test_prelim_phase_data", "validation_data")
FINAL = ("C-NMC_test_final_phase_data", "testing_data")
LAYOUT = (
    f"{TRAINING[0]}/fold_<0 to 2>/<all or hem>/UID_<subject>_<image>_<cell>_<all or hem>.bmp, "
    f"{PRELIMINARY[0]}/<number>.bmp with {TABLE}; or one of these two folders, or one fold"
)
# one healthy subject is written with a small h
NAME = re.compile(r"UID_([Hh]?[0-9]+)_[0-9]+_[0-9]+_(all|hem)\.(?:bmp|BMP)")
NUMBER = re.compile(r"[0-9]{1,6}\.bmp")
MEANING = {"1": "all", "0": "hem"}


def _read(root: Path) -> Listing:
    if not root.is_dir():
        raise wrong_layout(root, TITLE, LAYOUT)
    own = root.resolve().name
    # its images have the numbers of the preliminary test, whose table would mislabel them
    if own == FINAL[0]:
        raise DatasetError(
            f"{one_line(root)} is the final test of {TITLE}, which has no labels",
            expected=LAYOUT,
            remedy="Give the folder of another part.",
        )
    found = Found()
    if any((_inner(root) / label).is_dir() for label in LABELS):
        _read_fold(root, found)
        name: str | None = f"cnmc {own}"
    else:
        name = _read_parts(root, own, found)
    if not found.records:
        raise wrong_layout(root, TITLE, LAYOUT)
    return Listing(found.records, [*found.notes, *_subject_notes(found.records), *_left_out(found.ignored)], name=name)


def _read_parts(root: Path, own: str, found: Found) -> str | None:
    """Read the training folds and the preliminary test, whichever `root` holds; return the name, None for both."""
    training = root if any((root / fold).is_dir() for fold in FOLDS) else _part(root, TRAINING)
    if training is None and (own in PRELIMINARY or (root / TABLE).is_file()):
        _read_preliminary(root, found)
        return "cnmc preliminary test"
    preliminary = _part(root, PRELIMINARY)
    known: list[str] = []
    if training is not None:
        known += FOLDS if training == root else (training.name,)
    if preliminary is not None:
        known += (preliminary.name, TABLE)
    found.ignored += _others(root, known)
    if training == root:
        _read_folds(root, found)
    elif training is not None:
        folder = _entered(training, found)
        found.ignored += _others(folder, FOLDS)
        _read_folds(folder, found)
    if preliminary is not None:
        _read_preliminary(preliminary, found)
    if training is not None and preliminary is not None:
        return None
    if training != root and own not in TRAINING:
        missing = PRELIMINARY[0] if training is not None else TRAINING[0]
        found.notes.append(f"the folder {missing!r} is missing")
    return "cnmc training" if training is not None else "cnmc preliminary test"


def _read_folds(folder: Path, found: Found) -> None:
    for fold in FOLDS:
        if (folder / fold).is_dir():
            _read_fold(folder / fold, found)
        else:
            found.notes.append(f"the folder {fold!r} is missing")


def _read_fold(fold: Path, found: Found) -> None:
    folder = _entered(fold, found)
    found.ignored += _others(folder, LABELS.keys())
    for label in LABELS:
        place = f"{fold.resolve().name}/{label}"
        if not (folder / label).is_dir():
            found.notes.append(f"the folder {place!r} is missing")
            continue
        entries = sorted((folder / label).iterdir())
        images = [path for path in entries if is_image_file(path, SUFFIXES)]
        found.ignored += [path for path in entries if not is_image_file(path, SUFFIXES)]
        found.records += [_training_record(path, label) for path in images]
        if not images:
            found.notes.append(f"the folder {place!r} holds no image")


def _training_record(path: Path, label: str) -> Record:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise DatasetError(
            f"{one_line(path)} is not named as in {TITLE}",
            expected=f"UID_<subject>_<image>_<cell>_{label}.bmp",
            remedy="Give the file its original name, or take it out.",
        )
    if match[2] != label:
        raise DatasetError(
            f"the name and the folder of {one_line(path)} contradict each other",
            expected=f"a name ending in _{label}.bmp",
            got=f"_{match[2]}.bmp",
            remedy="Put the file where the original distribution has it.",
        )
    return Record(path, label, domain="cnmc", group=_subject(match))


def _read_preliminary(folder: Path, found: Found) -> None:
    nested = folder / PRELIMINARY[0]
    images = nested if nested.is_dir() else folder
    table = _table(folder, images)
    rows = _read_table(table)
    entries = sorted(images.iterdir())
    # the table's names end in .bmp, a file's may in .BMP
    present = {path.name.lower(): path for path in entries if is_image_file(path, SUFFIXES)}
    unlisted = sorted(path.name for name, path in present.items() if name not in rows)
    if unlisted:
        raise DatasetError(
            f"{one_line(table)} has no row for {len(unlisted)} image(s) of {one_line(images)}",
            expected="one row an image",
            got=_some(unlisted),
            remedy="Take out what does not belong to the preliminary test.",
        )
    missing = [name for name in rows if name not in present]
    if missing:
        raise DatasetError(
            f"{one_line(table)} names {len(missing)} image(s) that {one_line(images)} lacks",
            expected="one image a row",
            got=f"no {_some(missing)}",
            remedy="Unpack the preliminary test again.",
        )
    for name in sorted(rows, key=lambda name: (int(name.partition(".")[0]), name)):
        label, subject = rows[name]
        found.records.append(Record(present[name], label, domain="cnmc", group=subject))
    found.ignored += _others(images, {*(path.name for path in present.values()), TABLE})
    if images != folder:
        found.ignored += _others(folder, (nested.name, TABLE))


def _table(folder: Path, images: Path) -> Path:
    """The one table of labels: in the folder, next to it, or next to its images."""
    places = [images, folder]
    # next to a folder of another name, the table may belong to another folder
    if folder.resolve().name in PRELIMINARY:
        places += [folder.absolute().parent, folder.resolve().parent]
    tables = {path.resolve(): path for path in (place / TABLE for place in places) if path.is_file()}
    if len(tables) != 1:
        raise DatasetError(
            f"{one_line(folder)} needs one table of labels",
            expected=f"{TABLE} in the folder or next to it",
            got=" and ".join(one_line(path) for path in tables.values()) or "none",
            remedy="Keep one." if tables else "Copy it there from the distribution.",
        )
    return next(iter(tables.values()))


def _read_table(table: Path) -> dict[str, tuple[str, str]]:
    """Label and subject of each image by its file name."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [value.strip() for value in row]) for row in reader if row]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{one_line(table)} cannot be read as a UTF-8 CSV", got=str(error)) from error
    header = lines[0][1] if lines else []
    if header != HEADER:
        raise DatasetError(
            f"{one_line(table)} has another header",
            expected=",".join(HEADER),
            got=one_line(",".join(header)) if header else "no header",
            remedy="Use the table of the distribution.",
        )
    rows: dict[str, tuple[str, str]] = {}
    for number, row in lines[1:]:
        where = f"{one_line(table)}, line {number}"
        name, label, subject = _read_row(where, row)
        if name in rows:
            raise DatasetError(
                f"{where}: {name} is named a second time",
                expected="one row an image",
                remedy="Use the table of the distribution.",
            )
        rows[name] = label, subject
    if not rows:
        raise DatasetError(f"{one_line(table)} lists no image", expected="one row an image")
    return rows


def _read_row(where: str, row: list[str]) -> tuple[str, str, str]:
    """File name, label and subject of one row."""
    if len(row) != len(HEADER):
        raise DatasetError(f"{where}: another number of values", expected=",".join(HEADER), got=one_line(",".join(row)))
    original, name, digit = row
    match = NAME.fullmatch(original)
    if match is None:
        raise DatasetError(
            f"{where}: the Patient_ID names no subject",
            expected="UID_<subject>_<image>_<cell>_<all or hem>.bmp",
            got=one_line(original),
        )
    if NUMBER.fullmatch(name) is None:
        raise DatasetError(
            f"{where}: the new name is not one of {TITLE}", expected="<number>.bmp, as in 1.bmp", got=one_line(name)
        )
    if digit not in MEANING:
        raise DatasetError(f"{where}: {name} has an unknown label", expected="1 (all) or 0 (hem)", got=one_line(digit))
    if match[2] != MEANING[digit]:
        raise DatasetError(
            f"{where}: the label and the Patient_ID of {name} contradict each other",
            expected=f"a Patient_ID ending in _{MEANING[digit]}.bmp with the label {digit}",
            got=one_line(original),
            remedy="Use the table of the distribution.",
        )
    return name, MEANING[digit], _subject(match)


def _subject(match: re.Match[str]) -> str:
    return match[1].upper()


def _subject_notes(records: list[Record]) -> list[str]:
    against = sum((record.source_label == "hem") != (record.group or "").startswith("H") for record in records)
    if not against:
        return []
    return [f"{against} image(s) have a label that contradicts their subject's number (H marks healthy subjects, hem)"]


def _left_out(ignored: list[Path]) -> list[str]:
    final = [path for path in ignored if path.name in FINAL]
    notes = [f"the final test ({path.name!r}) has no labels and was left out" for path in final]
    return notes + note_ignored([path for path in ignored if path not in final])


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    parts = [root / name for name in names if (root / name).is_dir()]
    if len(parts) > 1:
        raise DatasetError(
            f"{one_line(root)} holds one part of {TITLE} twice",
            expected=" or ".join(names),
            got=" and ".join(names),
            remedy="Give the folder of one of them, or take one out.",
        )
    return parts[0] if parts else None


def _inner(folder: Path) -> Path:
    """The folder itself, or the folder of the same name in it, which some archives make."""
    inner = folder / folder.resolve().name
    return inner if inner.is_dir() else folder


def _entered(folder: Path, found: Found) -> Path:
    inner = _inner(folder)
    if inner != folder:
        found.ignored += _others(folder, (inner.name,))
    return inner


def _others(folder: Path, known: Collection[str]) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name not in known]


def _some(names: list[str]) -> str:
    return ", ".join(one_line(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")


READER = Reader(
    name="cnmc",
    title=TITLE,
    size="10,661 training and 1,867 preliminary test images",
    licence="CC BY 3.0",
    citation="Gupta & Gupta, ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive (2019), "
    "doi:10.7937/tcia.2019.dc64i46r",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
