"""Audit a dataset before training: unreadable files, copies, contradictory labels, leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ImageError

HASH_SIDE = 8
MAX_HASH_DISTANCE = 6
"""Largest Hamming distance between the 64-bit perceptual hashes of a pair whose thumbnails are compared."""
THUMBNAIL_PX = 32
MAX_GRAY_DIFFERENCE = 4.0
"""A pair is a near-duplicate when its 32x32 thumbnails differ by at most this many gray levels on average."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Results of an audit. Images are named by their paths as the reader lists them."""

    dataset: str
    label_map: str
    n_images: int
    unreadable: dict[str, str]
    copies: list[list[str]]
    """Sets of byte-identical images under one label."""
    conflicts: list[list[str]]
    """Sets of byte-identical images under different labels, each as "path (label)"."""
    near_duplicates: list[tuple[str, str, float]]
    """Pairs that look alike but are not identical, with their mean difference in gray levels."""
    sizes: dict[str, int]
    """Images of each size, "width x height", most frequent first."""
    class_counts: dict[str, int]
    source_label_counts: dict[str, int]
    excluded: dict[str, int]
    n_groups: int
    n_without_group: int
    n_with_mask: int
    domains: dict[str, dict[str, list[float]]]
    """Mean and standard deviation of L*, a*, b* over the images of each domain."""
    leaks: dict[str, int]
    """Test images of a plain 5-fold split that have a copy, near-duplicate or group member in training."""
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Look:
    size: str
    perceptual: NDArray[np.bool_]
    thumbnail: NDArray[np.float32]
    lab: NDArray[np.float64]


def audit(dataset: CellDataset, *, n_threads: int = 2, progress: Callable[[int], None] = lambda n: None) -> Audit:
    """Read every image once and report copies, contradictions and leaks; nothing on disk changes."""
    looks: dict[int, _Look] = {}
    unreadable: dict[str, str] = {}
    with ThreadPoolExecutor(n_threads) as pool:
        for i, found in enumerate(pool.map(_look, dataset.records)):
            if isinstance(found, _Look):
                looks[i] = found
            else:
                unreadable[_name(dataset.records[i])] = found
            progress(1)
    readable = sorted(looks)
    by_content: dict[str, list[int]] = defaultdict(list)
    for i in readable:
        by_content[dataset.records[i].content_id()].append(i)
    identical = [members for members in by_content.values() if len(members) > 1]
    conflicts = [m for m in identical if len({dataset.records[i].source_label for i in m}) > 1]
    near = _near_duplicates(readable, looks, {i: m[0] for m in by_content.values() for i in m})
    groups = {(r.domain, r.group) for r in dataset.records if r.group is not None}
    return Audit(
        dataset=dataset.name,
        label_map=dataset.label_map,
        n_images=len(dataset),
        unreadable=unreadable,
        copies=[[_name(dataset.records[i]) for i in m] for m in identical if m not in conflicts],
        conflicts=[[f"{_name(r)} ({r.source_label})" for r in (dataset.records[i] for i in m)] for m in conflicts],
        near_duplicates=[(_name(dataset.records[i]), _name(dataset.records[j]), d) for i, j, d in near],
        sizes=dict(Counter(looks[i].size for i in readable).most_common()),
        class_counts=dataset.class_counts,
        source_label_counts=dict(sorted(Counter(r.source_label for r in dataset.records).items())),
        excluded=dataset.excluded_counts,
        n_groups=len(groups),
        n_without_group=sum(record.group is None for record in dataset.records),
        n_with_mask=sum(record.mask_path is not None for record in dataset.records),
        domains=_colours(dataset, looks),
        leaks=_leaks(dataset, readable, identical, near),
        notes=list(dataset.notes),
    )


def _name(record: Record) -> str:
    return record.name if record.box is None else f"{record.name} {record.box}"


def _look(record: Record) -> _Look | str:
    import imagehash
    from skimage.color import rgb2lab

    try:
        image = record.read()
    except ImageError as error:
        return str(error)
    pillow = Image.fromarray(image)
    thumbnail = pillow.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    # the thumbnail's pixels are means: its colour statistics are those of the image without noise
    lab = rgb2lab(np.asarray(thumbnail)).reshape(-1, 3)
    return _Look(
        size=f"{image.shape[1]} x {image.shape[0]}",
        perceptual=np.asarray(imagehash.phash(pillow, hash_size=HASH_SIDE).hash).ravel(),
        thumbnail=np.asarray(thumbnail.convert("L"), np.float32).ravel(),
        lab=np.stack([lab.mean(axis=0), lab.std(axis=0)]),
    )


def _near_duplicates(
    readable: list[int], looks: dict[int, _Look], first_copy: dict[int, int]
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, mean gray difference) close in both the perceptual hash and the thumbnail; copies are not repeated."""
    chosen = [i for i in readable if first_copy[i] == i]
    if len(chosen) < 2:
        return []
    bits = np.stack([looks[i].perceptual for i in chosen]).astype(np.float32)
    pairs = []
    for start in range(0, len(chosen), 1000):
        part = bits[start : start + 1000]
        # Hamming distance of 0/1 rows by one matrix product: |a - b| = a + b - 2ab
        distance = part.sum(axis=1)[:, None] + bits.sum(axis=1)[None, :] - 2 * part @ bits.T
        for a, b in np.argwhere(distance <= MAX_HASH_DISTANCE):
            i, j = start + int(a), int(b)
            if i < j:
                difference = float(np.abs(looks[chosen[i]].thumbnail - looks[chosen[j]].thumbnail).mean())
                if difference <= MAX_GRAY_DIFFERENCE:
                    pairs.append((chosen[i], chosen[j], round(difference, 2)))
    return pairs


def _colours(dataset: CellDataset, looks: dict[int, _Look]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for i, look in looks.items():
        found[dataset.records[i].domain].append(look.lab)
    return {
        domain: {
            "mean_lab": [round(float(v), 1) for v in np.mean(stats, axis=0)[0]],
            "std_lab": [round(float(v), 1) for v in np.mean(stats, axis=0)[1]],
        }
        for domain, stats in sorted(found.items())
    }


def _leaks(
    dataset: CellDataset, readable: list[int], identical: list[list[int]], near: list[tuple[int, int, float]]
) -> dict[str, int]:
    """Images that a random 5-fold split, blind to copies and groups, would test with a relative in training."""
    fold = dict(zip(readable, np.random.default_rng(0).permutation(len(readable)) % 5, strict=True))

    def crossing(sets: list[list[int]]) -> int:
        return sum(any(fold[j] != fold[i] for j in members) for members in sets for i in members)

    by_group: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in readable:
        record: Any = dataset.records[i]
        if record.group is not None:
            by_group[record.domain, record.group].append(i)
    return {
        "byte-identical copies": crossing(identical),
        "near-duplicates": crossing([[i, j] for i, j, _ in near]),
        "members of a group": crossing(list(by_group.values())),
    }
