"""Parts that a set is given in: folders such as TRAIN, val and Test-A, which a training keeps."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.leaks import seen_among, traces
from hemalens.datasets.splits import hold_out

PARTS = ("train", "validation", "test")
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
NAME = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(set|data|images|simple|[a-d]|\d{{1,2}})?")


def part_named(text: str) -> str | None:
    """The part that a folder's name means, "train", "validation" or "test", or None; as in TRAIN, Test-A and val_set."""
    match = NAME.fullmatch(re.sub(r"[\s_-]+", "", text.casefold()))
    return WORDS[match[1]] if match else None


def describe_parts(records: Sequence[Record]) -> list[str]:
    """A note with the parts of a set and their sizes; none where no part is given."""
    counts = Counter(record.part for record in records if record.part is not None)
    if not counts:
        return []
    return ["parts as given: " + ", ".join(f"{part} {counts[part]}" for part in PARTS if counts[part])]


def given_part(dataset: CellDataset, part: str) -> set[int]:
    """Indices of the images in a given part; those of a set that holds nothing else do not count."""
    of_source: dict[int, set[str | None]] = defaultdict(set)
    for record in dataset.records:
        of_source[record.source].add(record.part)
    return {i for i, r in enumerate(dataset.records) if r.part == part and len(of_source[r.source]) > 1}


def without(dataset: CellDataset, indices: Collection[int]) -> CellDataset:
    """The dataset without the images at `indices`."""
    return dataset.subset(i for i in range(len(dataset)) if i not in indices) if indices else dataset


def n_drawn(dataset: CellDataset, part: str) -> int:
    """Images of the sets in a dataset that are given without this part, and from which it is drawn."""
    having = {dataset.records[i].source for i in given_part(dataset, part)}
    return sum(record.source not in having for record in dataset.records)


def hold_out_part(
    dataset: CellDataset, part: str, fraction: float, rng: np.random.Generator
) -> tuple[CellDataset, CellDataset]:
    """(rest, held-out part): the given `part`; from sets without one, `fraction` is drawn as by `hold_out`.

    An image that is part of one in a given set, or of which that is a part, lies on the side of that one.
    """
    given = given_part(dataset, part)
    if not given:
        return hold_out(dataset, fraction, rng)
    having = {dataset.records[i].source for i in given}
    others = [i for i, record in enumerate(dataset.records) if record.source not in having]
    held_out, kept = set(given), [i for i, r in enumerate(dataset.records) if r.source in having and i not in given]
    beside = dataset.subset(others)
    with_held, with_kept = (seen_among(beside, traces(dataset.subset(sorted(side)))) for side in (held_out, kept))
    held_out |= {i for i, is_held in zip(others, with_held & ~with_kept, strict=True) if is_held}
    others = [i for i, is_bound in zip(others, with_held | with_kept, strict=True) if not is_bound]
    if others:
        rest = dataset.subset(others)
        _, held = hold_out(rest.only_classes([c for c, n in rest.class_counts.items() if n]), fraction, rng)
        chosen = {id(record) for record in held.records}
        held_out |= {i for i in others if id(dataset.records[i]) in chosen}
    return without(dataset, held_out), dataset.subset(sorted(held_out))


def shared_groups(one: CellDataset, other: CellDataset) -> int:
    """Groups, such as patients or smears, with images in both datasets."""
    groups = [{(r.domain, r.group) for r in dataset.records if r.group is not None} for dataset in (one, other)]
    return len(groups[0] & groups[1])
