"""Audit a dataset before training: unreadable files, copies, contradictory labels, leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.alignment import N_FREQUENCIES, N_RINGS, SIDE_PX
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.copy_names import name_sources
from hemalens.datasets.near_copies import ORIENTATIONS, THUMBNAIL_PX, Thumbnail, join_near_copies, thumbnail
from hemalens.datasets.relatives import UPRIGHT, Relatives
from hemalens.datasets.turned_copies import View, join_turned_copies, view
from hemalens.errors import ImageError
from hemalens.imaging.exposure import Exposure, exposure
from hemalens.progress import Advance

STEPS_PER_IMAGE = 2
"""Steps of progress: an image is read, and compared."""
_AT_ONCE = 256


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
    """Pairs that look alike but are not identical, with their mean difference in gray levels; as few as join each set."""
    turned_copies: list[list[tuple[str, str]]]
    """Sets of images of one cell, turned, mirrored, shifted or scaled: path, and orientation against the set's first."""
    name_sources: list[list[str]]
    """Sets of images whose file names look like copies of one source."""
    related: list[list[int]]
    """Sets of images, by position in the dataset, that are identical, near-duplicates or turned copies."""
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
    exposures: dict[str, list[str]]
    """Images that are nearly "black", nearly "white" or "flat", which a camera or an export went wrong on."""
    warned: dict[str, str]
    """What the decoder warned of, by image; the image is read."""
    leaks: dict[str, int]
    """Test images of a plain 5-fold split that have a copy, near-duplicate, turned copy or group member in training."""
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Look:
    size: str
    thumbnail: Thumbnail
    view: View | None
    lab: NDArray[np.float64]
    exposure: Exposure | None
    warnings: tuple[str, ...]


def audit(dataset: CellDataset, *, n_threads: int = 2, progress: Advance = lambda n, what=None: None) -> Audit:
    """Read every image once and report copies, contradictions and leaks; nothing on disk changes.

    `progress` is called with numbers of steps, `STEPS_PER_IMAGE` an image, and what is being done.
    """
    looks, unreadable = _read(dataset, n_threads, progress)
    readable = sorted(looks)
    by_content: dict[str, list[int]] = defaultdict(list)
    for i in readable:
        by_content[dataset.records[i].content_id()].append(i)
    identical = [members for members in by_content.values() if len(members) > 1]
    conflicts = [m for m in identical if len({dataset.records[i].source_label for i in m}) > 1]
    progress(len(dataset) - len(by_content), "comparing images")
    found = _compare([members[0] for members in by_content.values()], looks, len(dataset), progress)
    for members in identical:
        for other in members[1:]:
            found.related.join(members[0], other)
    groups = {(r.domain, r.group) for r in dataset.records if r.group is not None}
    names = [_name(record) for record in dataset.records]
    return Audit(
        dataset=dataset.name,
        label_map=dataset.label_map,
        n_images=len(dataset),
        unreadable=unreadable,
        copies=[[names[i] for i in m] for m in identical if m not in conflicts],
        conflicts=[[f"{names[i]} ({dataset.records[i].source_label})" for i in m] for m in conflicts],
        near_duplicates=[(names[i], names[j], d) for i, j, d in found.near],
        turned_copies=[[(names[i], turned) for i, turned in members] for members in found.turned],
        name_sources=[[names[i] for i in members] for members in name_sources(dataset.records)],
        related=found.related.sets(),
        sizes=dict(Counter(looks[i].size for i in readable).most_common()),
        class_counts=dataset.class_counts,
        source_label_counts=dict(sorted(Counter(r.source_label for r in dataset.records).items())),
        excluded=dataset.excluded_counts,
        n_groups=len(groups),
        n_without_group=sum(record.group is None for record in dataset.records),
        n_with_mask=sum(record.mask_path is not None for record in dataset.records),
        domains=_colours(dataset, looks),
        exposures=_exposures(dataset, looks),
        warned={_name(dataset.records[i]): "; ".join(looks[i].warnings) for i in readable if looks[i].warnings},
        leaks=_leaks(dataset, readable, identical, found),
        notes=list(dataset.notes),
    )


def _read(dataset: CellDataset, n_threads: int, progress: Advance) -> tuple[dict[int, _Look], dict[str, str]]:
    """What the comparison needs of each readable image, and why the others are not readable."""
    looks: dict[int, _Look] = {}
    unreadable: dict[str, str] = {}
    kept = _Kept(len(dataset))
    with ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, len(dataset), _AT_ONCE):
            for i, found in enumerate(pool.map(_look, dataset.records[start : start + _AT_ONCE]), start):
                if isinstance(found, _Look):
                    looks[i] = kept.keep(i, found)
                else:
                    unreadable[_name(dataset.records[i])] = found
                progress(1, "reading images")
    return looks, unreadable


class _Kept:
    """Arrays that hold the looks of all images: one allocation, where one for each image would scatter the memory."""

    def __init__(self, n: int) -> None:
        self._hashes = np.empty((n, len(ORIENTATIONS)), np.uint64)
        self._thumbnails = np.empty((n, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
        self._grays = np.empty((n, SIDE_PX, SIDE_PX), np.uint8)
        self._spectra = np.empty((n, N_RINGS, N_FREQUENCIES), np.complex64)

    def keep(self, i: int, look: _Look) -> _Look:
        """The look of image `i`, with its arrays in those of all."""
        self._hashes[i], self._thumbnails[i] = look.thumbnail.hashes, look.thumbnail.gray
        seen = look.view
        if seen is not None:
            self._grays[i], self._spectra[i] = seen.gray, seen.spectrum
            seen = View(self._grays[i], seen.centre, self._spectra[i])
        return replace(look, thumbnail=Thumbnail(self._hashes[i], self._thumbnails[i]), view=seen)


def _name(record: Record) -> str:
    return record.name if record.box is None else f"{record.name} {record.box}"


def _look(record: Record) -> _Look | str:
    from skimage.color import rgb2lab

    warnings: list[str] = []
    try:
        image = record.read(warnings)
    except ImageError as error:
        return str(error)
    pillow = Image.fromarray(image)
    small = pillow.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    # the thumbnail's pixels are means: its colour statistics are those of the image without noise
    lab = rgb2lab(np.asarray(small)).reshape(-1, 3)
    return _Look(
        size=f"{image.shape[1]} x {image.shape[0]}",
        thumbnail=thumbnail(pillow),
        view=view(pillow),
        lab=np.stack([lab.mean(axis=0), lab.std(axis=0)]),
        exposure=exposure(image),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _exposures(dataset: CellDataset, looks: dict[int, _Look]) -> dict[str, list[str]]:
    """Names of the images of each unusual exposure."""
    found: dict[str, list[str]] = {}
    for i, look in sorted(looks.items()):
        if look.exposure is not None:
            found.setdefault(look.exposure, []).append(_name(dataset.records[i]))
    return found


@dataclass(frozen=True, slots=True)
class _Found:
    """Near-duplicates as pairs, turned copies as sets with orientations, and all of them as sets of related images."""

    near: list[tuple[int, int, float]]
    turned: list[list[tuple[int, str]]]
    related: Relatives


def _compare(chosen: list[int], looks: dict[int, _Look], n_images: int, progress: Advance) -> _Found:
    """Compare the images `chosen`, one of each set of identical ones."""
    relatives = Relatives(len(chosen))
    close = join_near_copies([looks[i].thumbnail for i in chosen], relatives)
    upright = [(chosen[i], chosen[j], difference) for i, j, turned, difference in close if turned == UPRIGHT]
    turned = [(i, j) for i, j, orientation, _ in close if orientation != UPRIGHT]
    views = [looks[i].view for i in chosen]
    turned += [(i, j) for i, j, _ in join_turned_copies(views, relatives, lambda n: progress(n, "comparing images"))]
    roots = {relatives.root(i) for i, _ in turned}
    sets = [members for members in relatives.sets() if relatives.root(members[0]) in roots]
    related = Relatives(n_images)
    for members in relatives.sets():
        for other in members[1:]:
            related.join(chosen[members[0]], chosen[other])
    return _Found(
        upright,
        [[(chosen[i], str(relatives.orientation(i, m[0])) if i != m[0] else "") for i in m] for m in sets],
        related,
    )


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


def _leaks(dataset: CellDataset, readable: list[int], identical: list[list[int]], found: _Found) -> dict[str, int]:
    """Images that a random 5-fold split, blind to copies and groups, would test with a relative in training."""
    fold = dict(zip(readable, np.random.default_rng(0).permutation(len(readable)) % 5, strict=True))

    def crossing(sets: list[list[int]]) -> int:
        # in a set of more than one fold, each member meets another fold
        return sum(len(members) for members in sets if len({fold[i] for i in members}) > 1)

    by_group: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in readable:
        record: Any = dataset.records[i]
        if record.group is not None:
            by_group[record.domain, record.group].append(i)
    near = Relatives(len(dataset))
    for i, j, _ in found.near:
        near.join(i, j)
    return {
        "byte-identical copies": crossing(identical),
        "near-duplicates": crossing(near.sets()),
        "turned or mirrored copies": crossing([[i for i, _ in members] for members in found.turned]),
        "members of a group": crossing(list(by_group.values())),
    }
