"""What fields with boxes hold: counts by laboratory, sizes of images and cells, types, and copies between sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemalens.datasets.audit import Audit, audit
from hemalens.datasets.base import CellDataset
from hemalens.datasets.fields.base import FieldDataset
from hemalens.imaging.boxes import KINDS
from hemalens.imaging.reading import image_size
from hemalens.progress import Advance
from hemalens.taxonomy import AS_LABELLED


@dataclass(frozen=True, slots=True)
class KindSummary:
    """The boxes of one kind in a laboratory: how many, their median longer side in pixels, and in how many fields boxed."""

    n: int
    median_px: float | None
    n_complete: int
    """Fields in which the kind is boxed completely."""


@dataclass(frozen=True, slots=True)
class FieldSummary:
    """What one set of fields holds."""

    name: str
    licence: str
    citation: str
    n_fields: int
    n_empty: int
    """Fields without a box."""
    n_slides: int
    sizes: dict[str, int]
    """Fields of each size, "width x height", most frequent first."""
    domains: dict[str, dict[str, KindSummary]]
    """The kinds of cells in each laboratory."""
    n_in_domain: dict[str, int]
    types: dict[str, int]
    """Boxes of each cell type that the source names, by code."""
    dropped: dict[str, int]
    notes: list[str]


def summarise(dataset: FieldDataset) -> FieldSummary:
    """Count what a set holds; reads the headers of the images alone. Raises `ImageError`."""
    sizes = Counter("{} x {}".format(*image_size(field.record.path)) for field in dataset.fields)
    by_domain = Counter(field.record.domain for field in dataset.fields)
    types = Counter(code for field in dataset.fields for code in field.cell_types if code is not None)
    return FieldSummary(
        name=dataset.name,
        licence=dataset.licence,
        citation=dataset.citation,
        n_fields=len(dataset),
        n_empty=sum(len(field.boxes) == 0 for field in dataset.fields),
        n_slides=len({(f.record.domain, f.record.group) for f in dataset.fields if f.record.group is not None}),
        sizes=dict(sizes.most_common()),
        domains={domain: _kinds(dataset, domain) for domain in sorted(by_domain)},
        n_in_domain=dict(sorted(by_domain.items())),
        types=dict(sorted(types.items())),
        dropped=dict(dataset.dropped),
        notes=list(dataset.notes),
    )


def _kinds(dataset: FieldDataset, domain: str) -> dict[str, KindSummary]:
    fields = [field for field in dataset.fields if field.record.domain == domain]
    found = {}
    for i, kind in enumerate(KINDS):
        sides = np.concatenate([field.boxes.of_kind(i).sides for field in fields])
        median = round(float(np.median(sides)), 1) if len(sides) else None
        found[str(kind)] = KindSummary(len(sides), median, sum(kind in field.complete for field in fields))
    return found


def compare_fields(datasets: Sequence[FieldDataset], *, progress: Advance = lambda n, what=None: None) -> Audit:
    """Read every image and find copies, near-duplicates and turned copies within the sets and between them.

    Fields are compared as whole images; overlapping fields of one slide are not found. `progress` is called as by `audit`.
    """
    records = tuple(field.record for dataset in datasets for field in dataset.fields)
    name = " + ".join(dataset.name for dataset in datasets)
    return audit(CellDataset(name, records, (), AS_LABELLED, licence="", citation=""), progress=progress)


def identical_fields(datasets: Sequence[FieldDataset]) -> list[list[str]]:
    """Sets of byte-identical images in several sets, by their paths."""
    by_content: dict[str, list[str]] = defaultdict(list)
    for dataset in datasets:
        for field in dataset.fields:
            by_content[field.record.content_id()].append(field.record.name)
    return [names for names in by_content.values() if len(names) > 1]
