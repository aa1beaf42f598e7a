"""The file checks of a report's data card: those of the audit that need not decode every image."""

from __future__ import annotations

from collections import Counter

from hemalens.datasets import CellDataset
from hemalens.datasets.splits import Cleaning

NEAR_DUPLICATES = "not checked; see hemalens data audit"


def file_checks(dataset: CellDataset, cleaning: Cleaning) -> dict[str, str]:
    """Results of the checks on a cleaned dataset, as text by check.

    Near-duplicates and colours are left to `hemalens data audit`, which decodes every image (about 3 s for 1,000 images).
    """
    return {
        "unreadable": _unreadable(cleaning, dataset),
        "same image under two labels": _left_out(len(cleaning.conflicting)),
        "byte-identical copies": _left_out(len(cleaning.copies)),
        "near-duplicates": NEAR_DUPLICATES,
        "image sizes": _sizes(dataset, cleaning),
        "class sizes": _class_sizes(dataset.class_counts),
        "groups": _groups(dataset),
    }


def _left_out(n: int) -> str:
    return f"{n:,}, left out" if n else "none"


def _unreadable(cleaning: Cleaning, dataset: CellDataset) -> str:
    if cleaning.decoded:
        return f"{_left_out(len(cleaning.unreadable))}; every image was decoded"
    n = sum(content not in cleaning.sizes for content in dataset.contents)
    found = f"{n:,}, listed in the test that reads them" if n else "none"
    return f"{found}; checked by the files' headers"


def _sizes(dataset: CellDataset, cleaning: Cleaning) -> str:
    counts = Counter(cleaning.sizes[content] for content in dataset.contents if content in cleaning.sizes)
    if not counts:
        return "not known"
    ((width, height), n), *others = counts.most_common()
    common = f"{width:,} x {height:,} px"
    if not others:
        return f"all {common}"
    widths, heights = ([size[axis] for size in counts] for axis in (0, 1))
    return (
        f"width {_range(widths)} px, height {_range(heights)} px; {len(counts):,} sizes, most often {common} ({n:,} images)"
    )


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _class_sizes(counts: dict[str, int]) -> str:
    if not counts:
        return "no class"
    smallest, largest = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    low, high = counts[smallest], counts[largest]
    if low == high:
        return f"{high:,} image(s) each"
    times = f", {high / low:.3g} times as many" if low else ""
    return f"from {low:,} ({smallest}) to {high:,} ({largest}){times}"


def _groups(dataset: CellDataset) -> str:
    groups = {(record.domain, record.group) for record in dataset.records if record.group is not None}
    n_without = sum(record.group is None for record in dataset.records)
    if not groups:
        return "none: patients and smears are unknown, so a split may divide the images of one patient"
    without = f"{n_without:,} of {len(dataset):,} images in none" if n_without else "every image in one"
    return f"{len(groups):,}; {without}"
