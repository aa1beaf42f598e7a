"""Cut-outs of fields with boxes, as single-cell images: red cells, platelets, and places without a cell.

They show a classifier of white cells what is none. White cells are not cut out: most fields give them no type.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hemalens.datasets.base import Labels, Listing, Reader, Record, wrong_layout
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.cut_outs import windows_of
from hemalens.datasets.splits import seeded
from hemalens.errors import DatasetError, near_matches, one_line
from hemalens.imaging.reading import image_size

NAME = "cut_outs"
TITLE = "cut-outs of fields with boxes"
LAYOUT = f"{NAME}:READER:PATH with a reader of fields and its path, as in {NAME}:yolo:my_fields"
LABELS: Labels = {"erythrocyte": "erythrocyte", "platelet": "platelet", "artefact": "artefact"}


def _read(root: Path) -> Listing:
    """The cut-outs of the fields that `root`, "READER:PATH", names; which they are depends on each field's content alone.

    Cut-outs of one field are one group. Raises `DatasetError` for another name, and where no field can be cut up.
    """
    # one of the readers of fields is of a set in this table, which it imports
    from hemalens.datasets.fields.readers import FIELD_READERS

    name, separator, path = str(root).partition(":")
    if not separator or not path:
        raise wrong_layout(root, TITLE, LAYOUT)
    if name not in FIELD_READERS:
        raise DatasetError(
            f"no reader of fields is named {name!r}", expected=LAYOUT, remedy=near_matches(name, FIELD_READERS)
        )
    reader = FIELD_READERS[name]
    listing = reader.read(Path(path).expanduser())
    records = [cut for field in listing.fields for cut in _cut(field)]
    if not records:
        raise DatasetError(
            f"no field of {one_line(root)} gives a cut-out",
            expected="fields whose white cells, and red cells or platelets, are boxed completely",
            got=f"{len(listing.fields)} field(s)",
        )
    counts = Counter(record.source_label for record in records)
    told = ", ".join(f"{n} {label}" for label, n in counts.items())
    return Listing(
        records,
        [*listing.notes, f"cut out of {len(listing.fields)} field(s): {told}"],
        name=f"{NAME} of {name}",
        synthetic=reader.synthetic,
        licence=reader.licence,
        citation=reader.citation,
    )


def _cut(field: Field) -> list[Record]:
    whole = field.record
    rng = seeded(0, NAME, whole.content_id())
    group = whole.group or whole.path.stem
    return [
        replace(whole, source_label=label, box=box, group=group, mask_path=None)
        for label, box in windows_of(field, image_size(whole.path, page=whole.page), rng)
    ]


READER = Reader(
    name=NAME,
    title=TITLE,
    licence="that of the fields",
    citation="that of the fields",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
)
