"""Mixes of cell types: what a laboratory's set holds of each, drawn from the cells of another set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset
from hemalens.datasets.splits import seeded
from hemalens.errors import InputError, near_matches

Mix = Literal["balanced", "blood", "absent", "lymphocytic", "eosinophilic"]
"""A mix by name: as many of each type; as in healthy blood; one type without a cell; most of one type."""
MIXES: tuple[Mix, ...] = get_args(Mix)
BLOOD = {"neutrophil": 0.60, "lymphocyte": 0.30, "monocyte": 0.06, "eosinophil": 0.03, "basophil": 0.01}
"""Shares of the mix "blood"; every other type gets as much as the rarest of these."""
LEADING = {"lymphocytic": ("lymphocyte", 0.80), "eosinophilic": ("eosinophil", 0.60)}
"""The type that leads a mix, with its share; the others have equal parts of the rest."""
LEAST = 5
"""Cells of each type that a mix holds at least, where the set has them."""


def mix_named(name: str) -> Mix:
    """The mix of this name; raises `InputError` with the nearest names."""
    for mix in MIXES:
        if mix == name:
            return mix
    raise InputError(f"unknown mix {name!r}", remedy=near_matches(name, MIXES))


def mixed(dataset: CellDataset, mix: Mix, n: int, seed: int) -> CellDataset:
    """Draw `n` cells, without replacement, as near to the shares of `mix` as the cells of each type allow.

    Identical copies count as one cell. Each type of the mix has at least `LEAST` cells where the set has so many, so a
    small set of rare types departs from the shares. Where a type has too few cells, the others fill up by their shares; a
    set too small for `n` gives all that the mix takes. The draw keeps the set's classes and the order of its records.
    Raises `InputError` for a mix whose leading type the set lacks, and an `n` below `LEAST` a type.
    """
    rng = seeded(seed, "mix", mix)
    members = _members(dataset)
    shares = shares_of(mix, [label for label in dataset.classes if members[label]], rng)
    if n < LEAST * len(shares):
        raise InputError(
            f"too few images for a mix of {len(shares)} types",
            expected=f"{LEAST * len(shares)} or more, {LEAST} a type",
            got=str(n),
        )
    counts = counts_of(list(shares.values()), [len(members[label]) for label in shares], n)
    chosen = [rng.permutation(members[label])[:count] for label, count in zip(shares, counts, strict=True)]
    return dataset.subset(sorted(int(i) for drawn in chosen for i in drawn))


def shares_of(mix: Mix, labels: Sequence[str], rng: np.random.Generator) -> Mapping[str, float]:
    """The share of each of `labels` that the mix holds; they sum to 1. `rng` draws the type that is absent."""
    if mix == "absent":
        if len(labels) < 2:
            raise InputError("the mix absent needs two types, one of which it leaves out", got=", ".join(labels) or "none")
        gone = labels[int(rng.integers(len(labels)))]
        labels = [label for label in labels if label != gone]
    weights = dict.fromkeys(labels, 1.0)
    if mix == "blood":
        weights = {label: BLOOD.get(label, min(BLOOD.values())) for label in labels}
    if mix in LEADING:
        leader, share = LEADING[mix]
        if leader not in labels:
            raise InputError(
                f"the mix {mix} needs a cell of the type {leader}", got=", ".join(labels) or "no labelled image"
            )
        others = max(1, len(labels) - 1)
        weights = {label: share if label == leader else (1 - share) / others for label in labels}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def counts_of(shares: Sequence[float], available: Sequence[int], n: int) -> NDArray[np.int64]:
    """Cells of each type, (k,), `n` in all: the least of each, then one by one by the rule of Sainte-Lague.

    The rule gives the next cell to the type with the largest share / (2 count + 1), so that types that do not run short
    keep the proportions of their shares.
    """
    room = np.asarray(available, np.int64)
    weights = np.asarray(shares, np.float64)
    counts = np.minimum(LEAST, room)
    for _ in range(n - int(counts.sum())):
        free = counts < room
        if not free.any():
            break
        counts[int(np.argmax(np.where(free, weights / (2 * counts + 1), -1)))] += 1
    return counts


def _members(dataset: CellDataset) -> dict[str, list[int]]:
    """Records of each class, the first of identical ones alone."""
    found: dict[str, list[int]] = {label: [] for label in dataset.classes}
    seen: set[str] = set()
    for i, (content, record) in enumerate(zip(dataset.contents, dataset.records, strict=True)):
        if record.label is not None and content not in seen:
            seen.add(content)
            found[record.label].append(i)
    return found
