"""Open fields with boxes by a name such as "yolo:PATH"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.datasets.fields.reader import FIND
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.datasets.open import check_spec, check_specs
from hemalens.datasets.readers import READERS
from hemalens.errors import DatasetError, near_matches, one_line, public
from hemalens.files import PathLike, as_path


@public
def open_fields(spec: PathLike) -> FieldDataset:
    """Open the fields that `spec`, "reader:path", names; of byte-identical images the first is kept.

    Raises `DatasetError` for an unknown reader, a folder of another layout, boxes that cannot be read, or no field;
    `ImageError` for an image whose size cannot be read.
    """
    text = check_spec(spec, "the fields")
    name, separator, path = text.partition(":")
    if not separator or not path:
        hint = f"With YOLO boxes: yolo:{text}. {FIND}" if Path(text).exists() else near_matches(text, FIELD_READERS)
        raise DatasetError(
            f"cannot read the name of fields {text!r}", expected="reader:path, as in yolo:my_fields", remedy=hint
        )
    if name not in FIELD_READERS:
        hint = f"`{name}:` reads single cells. {FIND}" if name in READERS else near_matches(name, FIELD_READERS)
        raise DatasetError(f"no reader of fields is named {name!r}", expected=", ".join(FIELD_READERS), remedy=hint)
    reader = FIELD_READERS[name]
    listing = reader.read(Path(as_path(path, "the fields")).expanduser())
    fields, notes = _without_copies(listing.fields)
    return FieldDataset(
        name=name,
        fields=fields,
        licence=reader.licence,
        citation=reader.citation,
        synthetic=reader.synthetic,
        notes=(*listing.notes, *notes),
        dropped=listing.dropped,
    )


@public
def open_fields_of(specs: PathLike | Sequence[PathLike]) -> FieldDataset:
    """Open one or several sets of fields as one; an image that two of them hold is kept with the boxes of the first."""
    opened = [open_fields(spec) for spec in check_specs(specs, "the fields")]
    return opened[0] if len(opened) == 1 else _together(opened)


def _together(opened: Sequence[FieldDataset]) -> FieldDataset:
    fields, notes = _without_copies([field for dataset in opened for field in dataset.fields])
    dropped: Counter[str] = Counter()
    for dataset in opened:
        dropped.update(dict(dataset.dropped))
    return FieldDataset(
        name=" + ".join(dataset.name for dataset in opened),
        fields=fields,
        licence="; ".join(dict.fromkeys(dataset.licence for dataset in opened)),
        citation="; ".join(dict.fromkeys(dataset.citation for dataset in opened)),
        synthetic=any(dataset.synthetic for dataset in opened),
        notes=(*(f"{dataset.name}: {note}" for dataset in opened for note in dataset.notes), *notes),
        dropped=tuple(dropped.most_common()),
    )


def _without_copies(fields: Sequence[Field]) -> tuple[tuple[Field, ...], list[str]]:
    """The fields, each image once, and a note on the copies that were left out."""
    kept: dict[str, Field] = {}
    copies = []
    for field in fields:
        first = kept.setdefault(field.record.content_id(), field)
        if first is not field:
            copies.append((first, field))
    if not copies:
        return tuple(fields), []
    first, copy = copies[0]
    note = f"{len(copies)} byte-identical image(s) are left out; the first one's boxes are kept"
    return tuple(kept.values()), [f"{note}: {one_line(copy.record.path.name)} is {one_line(first.record.path.name)}"]
