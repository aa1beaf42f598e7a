"""Open a dataset by its name: records from its reader, labels under a label map."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hemalens.config import check_text
from hemalens.datasets.base import NO_LABEL, NO_TYPE, CellDataset, Reader, Record, Source
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.datasets.images import prepared
from hemalens.datasets.parts import part_named
from hemalens.datasets.readers import READERS
from hemalens.datasets.tables import table_file
from hemalens.datasets.unlabelled import as_classes, look_unlabelled, what_to_do
from hemalens.errors import DatasetError, InputError, LabelError, near_matches, one_line, public
from hemalens.files import PathLike, as_path
from hemalens.taxonomy import AS_LABELLED, Excluded, LabelMap, cell_type_of, find_cell_type, label_hint, label_map

Keep = Callable[[str], bool]
"""Whether a cell type, or an unknown word, becomes a class of its own where the label map leaves it out."""
MOST_LABELS = 5
"""Unknown labels that are named one by one."""
LONGEST_LABEL = 60
"""Letters of a label that are shown."""


@public
def open_dataset(
    spec: PathLike, *, labels: str = "five_class", keep: Keep = lambda label: False, strict: bool = False
) -> CellDataset:
    """Open the data named by `spec`, "reader:path", under the label map `labels`.

    Images under a user's label that names no cell type are left out, with the label as the reason; with `strict` they are
    an error. Raises `DatasetError` for an unknown reader or a folder of another layout, `LabelError` for an unknown label
    map, and where no label names a cell type.
    """
    spec = check_spec(spec, "the dataset")
    check_text(labels, "the label map")
    name, separator, path = spec.partition(":")
    if not separator or not path:
        raise DatasetError(
            f"cannot read the dataset name {spec!r}", expected="reader:path, as in folder:my_cells", remedy=_hint(spec)
        )
    if name not in READERS:
        raise DatasetError(f"unknown dataset {name!r}", remedy=near_matches(name, READERS, listed="hemalens data list"))
    reader = READERS[name]
    chosen = None if labels == AS_LABELLED else label_map(labels)
    try:
        root = Path(path).expanduser()
    except RuntimeError as error:
        raise DatasetError(f"cannot find the folder {one_line(path)}", got=str(error)) from error
    # in cut_outs:yolo:PATH the folder follows the second name
    listing = prepared(reader.read(root), spec_path(path) if path.partition(":")[0] in FIELD_READERS else root)
    left_out = {"": NO_LABEL} if reader.own_labels else {}
    if reader.own_labels and chosen is not None:
        left_out |= _unknown_labels(listing.records, root, keep, strict=strict)
    records = tuple(_labelled(record, reader, chosen, keep, left_out) for record in listing.records)
    present = {record.label for record in records if record.label is not None}
    mapped = chosen.classes if chosen else ()
    order = (*mapped, *sorted(present - set(mapped)))
    return CellDataset(
        name=listing.name or name,
        records=records,
        classes=tuple(c for c in order if c in present),
        label_map=labels,
        licence=listing.licence or reader.licence,
        citation=listing.citation or reader.citation,
        synthetic=reader.synthetic or listing.synthetic,
        notes=tuple(listing.notes),
    )


def check_spec(spec: PathLike, what: str) -> str:
    """A dataset's name "reader:path", or a path, as text; raises `InputError`, naming `what`, for anything else."""
    as_path(spec, what)
    return os.fspath(spec)


def check_specs(specs: PathLike | Sequence[PathLike], what: str) -> list[str]:
    """One or several names as texts; raises `InputError` for anything else, and for none."""
    several = isinstance(specs, Sequence) and not isinstance(specs, str | bytes)
    found = [check_spec(spec, what) for spec in specs] if several else [check_spec(specs, what)]  # type: ignore[union-attr, arg-type]
    if not found:
        raise InputError(f"{what} is empty", expected="reader:path, as in folder:my_cells, one or several")
    return found


def spec_path(spec: PathLike) -> Path:
    """The path in a dataset's name "reader:path", or in a plain path; nothing is opened or checked."""
    text = os.fspath(spec)
    name, separator, path = text.partition(":")
    # of os.path, which raises neither for a name too long nor for the home of an unknown user
    if separator and (name in READERS or name in FIELD_READERS) and not os.path.exists(text):
        inner = path.partition(":")[0]
        return spec_path(path) if inner in FIELD_READERS else table_file(Path(os.path.expanduser(path)))[0]
    return Path(os.path.expanduser(text))


def together(datasets: Sequence[CellDataset]) -> CellDataset:
    """Concatenate datasets under one label map; classes are in the order of the first one's label map, others follow."""
    first = datasets[0]
    if len(datasets) == 1:
        return first
    present = {label for dataset in datasets for label in dataset.classes}
    order = first.classes if first.label_map == AS_LABELLED else label_map(first.label_map).classes
    joined = CellDataset(
        name=" + ".join(dataset.name for dataset in datasets),
        records=tuple(replace(record, source=i) for i, dataset in enumerate(datasets) for record in dataset.records),
        classes=(*(c for c in order if c in present), *sorted(present - set(order))),
        label_map=first.label_map,
        licence="; ".join(dict.fromkeys(dataset.licence for dataset in datasets)),
        citation="; ".join(dict.fromkeys(dataset.citation for dataset in datasets)),
        synthetic=any(dataset.synthetic for dataset in datasets),
        notes=tuple(f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes),
        sources=tuple(Source(d.name, d.licence, d.citation, d.synthetic) for d in datasets),
    )
    joined.__dict__["contents"] = tuple(content for dataset in datasets for content in dataset.contents)
    return joined


def _hint(spec: str) -> str:
    return (
        f"For one folder a class: folder:{spec}"
        if Path(spec).is_dir()
        else near_matches(spec, READERS, listed="hemalens data list")
    )


def _labelled(record: Record, reader: Reader, chosen: LabelMap | None, keep: Keep, left_out: Mapping[str, str]) -> Record:
    if record.source_label in left_out:
        return replace(record, excluded=left_out[record.source_label])
    meaning = _meaning(record, reader)
    if isinstance(meaning, Excluded):
        own_class = chosen is None and meaning.own_class
        return replace(record, label=record.source_label) if own_class else replace(record, excluded=meaning.reason)
    if chosen is None or meaning is None:
        return replace(record, cell_type=meaning, label=record.source_label)
    target = chosen[meaning]
    if isinstance(target, Excluded) and keep(meaning):
        return replace(record, cell_type=meaning, label=meaning)
    if isinstance(target, Excluded):
        return replace(record, cell_type=meaning, excluded=target.reason)
    return replace(record, cell_type=meaning, label=target)


def _meaning(record: Record, reader: Reader) -> str | Excluded | None:
    if reader.labels is None:
        return cell_type_of(record.source_label)
    if record.source_label not in reader.labels:
        raise LabelError(
            f"{one_line(record.name)} has the label {record.source_label!r}, which {reader.title} does not use",
            remedy=near_matches(record.source_label, reader.labels),
        )
    return reader.labels[record.source_label]


def _unknown_labels(records: Sequence[Record], root: Path, keep: Keep, *, strict: bool) -> dict[str, str]:
    """Labels that name no cell type, each with the reason why its images are left out.

    Raises `LabelError` where no label does, and with `strict` for any.
    """
    counts = Counter(record.source_label for record in records)
    counts.pop("", None)
    names = [label for label in counts if cell_type_of(label) is None and not keep(label)]
    if not names:
        return {}
    if len(names) == len(counts) and root.is_dir() and look_unlabelled(names):
        raise LabelError(
            f"no folder of {one_line(root)} names a cell type: they look like unlabelled images by date or patient",
            got=_some(names),
            remedy=f"{what_to_do(root)} {as_classes()}",
        )
    if strict or len(names) == len(counts):
        find_cell_type(next((label for label in names if label_hint(label)), names[0])[:LONGEST_LABEL])
    reasons = {}
    for label in names[:MOST_LABELS]:
        hint = label_hint(label) or ("a part of a split, beside other folders" if part_named(label) else "")
        reasons[label] = f"{one_line(label[:LONGEST_LABEL])} is {NO_TYPE}" + (f" ({hint})" if hint else "")
    rest = names[MOST_LABELS:]
    return reasons | dict.fromkeys(rest, f"{len(rest)} other label(s) that are {NO_TYPE}, as {_some(rest)}")


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(one_line(label[:LONGEST_LABEL]) for label in labels[:3])
    return shown + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
