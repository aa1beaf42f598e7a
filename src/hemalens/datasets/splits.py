"""Splits without leaks: copies and groups stay on one side, classes keep their shares."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.leaks import whole_content
from hemalens.errors import DatasetError, ImageError, SplitError, one_line
from hemalens.imaging.reading import image_size


def seeded(seed: int, *names: str) -> np.random.Generator:
    """A generator for one purpose, independent of all other draws."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in names]
    return np.random.default_rng([seed, *words])


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Records that `clean` removed: images under two labels, copies, unreadable files.

    `outside` counts the images without a label under the label map, by reason. `sizes` are (width, height) in px of
    each readable labelled image, by its content id; from the headers alone unless `decoded`.
    """

    conflicting: tuple[Record, ...]
    copies: tuple[Record, ...]
    unreadable: tuple[Record, ...]
    outside: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    decoded: bool

    def __str__(self) -> str:
        return (
            f"dropped {len(self.conflicting)} image(s) under two labels, {len(self.copies)} "
            f"duplicate{'s' * (len(self.copies) != 1)}, {len(self.unreadable)} unreadable"
        )

    def counts(self) -> dict[str, int]:
        """The three counts by name."""
        return {
            "conflicting": len(self.conflicting),
            "copies": len(self.copies),
            "unreadable": len(self.unreadable),
        }


Unreadable = Literal["refuse", "drop", "keep"]
"""Unreadable images are an error, are dropped and counted, or are kept for a caller that reports them."""


def clean(dataset: CellDataset, *, unreadable: Unreadable = "refuse") -> tuple[CellDataset, Cleaning]:
    """Labelled records without conflicts: no image under two labels, one of byte-identical images.

    Conflicts are between source labels, those of records outside the label map included. Unreadable images raise
    `ImageError`, are dropped, or are kept for a caller that reports them.
    """
    everything, dataset = dataset, dataset.labelled()
    thorough = unreadable == "drop"
    broken, sizes = _checked(dataset, thorough=thorough)
    if broken and unreadable == "refuse":
        _, error = broken[0]
        reason = error.what if error.got is None else f"{error.what} ({error.got})"
        raise ImageError(
            f"{len(broken)} of {len(dataset)} images cannot be read, first: {reason}",
            remedy="Run `hemalens data audit`, repair or remove them, or use --drop-unreadable (not in a study).",
        )
    if unreadable == "keep":
        broken = []
    bad = {id(record) for record, _ in broken}
    labels_of: dict[str, set[str]] = defaultdict(set)
    for content, record in zip(everything.contents, everything.records, strict=True):
        if record.source_label:
            labels_of[content].add(record.source_label)
    by_content: dict[str, list[Record]] = defaultdict(list)
    for content, record in zip(dataset.contents, dataset.records, strict=True):
        if id(record) not in bad:
            by_content[content].append(record)
    kept: list[Record] = []
    conflicting: list[Record] = []
    copies: list[Record] = []
    for content, records in by_content.items():
        if len(labels_of[content]) > 1:
            conflicting.extend(records)
        else:
            kept.append(records[0])
            copies.extend(records[1:])
    order = {id(record): i for i, record in enumerate(dataset.records)}
    cleaned = dataset.subset(sorted(order[id(record)] for record in kept))
    unread = tuple(record for record, _ in broken)
    return cleaned, Cleaning(tuple(conflicting), tuple(copies), unread, everything.excluded_counts, sizes, decoded=thorough)


def _checked(dataset: CellDataset, *, thorough: bool) -> tuple[list[tuple[Record, ImageError]], dict[str, tuple[int, int]]]:
    """Records whose header, or with `thorough` whose pixels, cannot be read; (width, height) of the others."""
    broken, sizes = [], {}
    for content, record in zip(dataset.contents, dataset.records, strict=True):
        try:
            sizes[content] = record.read().shape[1::-1] if thorough else _size(record)
        except ImageError as error:
            broken.append((record, error))
    return broken, sizes


def _size(record: Record) -> tuple[int, int]:
    """(width, height) by the header of the image, or of its box within the image."""
    width, height = image_size(record.path, page=record.page)
    if record.box is None:
        return width, height
    x_min, y_min, x_max, y_max = record.box
    return min(x_max, width) - max(x_min, 0), min(y_max, height) - max(y_min, 0)


def units(dataset: CellDataset) -> NDArray[np.int64]:
    """Unit of each record, (n,): records that share a group or their content share a unit.

    An image that is here as a whole shares one with all that is cut out of it.
    """
    parent = list(range(len(dataset)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, ...], int] = {}
    whole = {content for content, record in zip(dataset.contents, dataset.records, strict=True) if record.box is None}
    for i, (content, record) in enumerate(zip(dataset.contents, dataset.records, strict=True)):
        keys = [("content", content)]
        if record.box is not None and whole and (of := whole_content(record)) in whole:
            keys.append(("content", of))
        if record.group is not None:
            keys.append(("group", record.domain, record.group))  # type: ignore[arg-type]
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    roots = [root(i) for i in range(len(dataset))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def check_classes(dataset: CellDataset, *, n_units: int = 2, purpose: str = "training") -> None:
    """Raise unless there are two classes, each with `n_units` independent units (images that are no copies, or groups)."""
    if len(dataset.classes) < 2:
        raise DatasetError(
            f"{dataset.name}: one class cannot be classified",
            expected="images of at least two classes",
            got=", ".join(f"{name} ({n})" for name, n in dataset.class_counts.items()) or "none",
        )
    unit, target = units(dataset), dataset.targets
    for i, name in enumerate(dataset.classes):
        found = len(np.unique(unit[target == i]))
        if found < n_units:
            raise SplitError(
                f"class {one_line(name)} of {dataset.name} is too small for {purpose}",
                expected=f"at least {n_units} independent images or groups",
                got=str(found),
                remedy=_larger_classes(dataset, name, n_units),
            )


def _larger_classes(dataset: CellDataset, name: str, n_units: int) -> str:
    """What to do about the class `name`, which has too few units: with a minimum that leaves it out, where two remain."""
    counts = dataset.class_counts
    # a class of many images may be few groups
    least = max(n_units, counts[name] + 1)
    if sum(n >= least for n in counts.values()) < 2:
        return "Add images; where they have groups, from further groups."
    return (
        f"Add images, or leave small classes out with --min-per-class {least}; in a study with --set min_per_class={least}."
    )


def leave_out_small(dataset: CellDataset, minimum: int) -> tuple[CellDataset, dict[str, int]]:
    """The dataset without classes of fewer than `minimum` images, and those classes with their counts."""
    small = {name: n for name, n in dataset.class_counts.items() if n < minimum}
    return (dataset.only_classes([c for c in dataset.classes if c not in small]), small) if small else (dataset, {})


def hold_out(dataset: CellDataset, fraction: float, rng: np.random.Generator) -> tuple[CellDataset, CellDataset]:
    """(rest, held-out part): about `fraction` of every class in each source set, whole units only.

    Raises `SplitError` when a class would be missing on either side.
    """
    if not 0 < fraction < 1:
        raise SplitError("the held-out fraction is out of range", expected="between 0 and 1", got=str(fraction))
    check_classes(dataset, purpose="holding a part out")
    counts = _unit_class_counts(dataset)
    total = counts.sum(axis=0)
    # images of each class in each source set
    shares = _unit_share_counts(dataset)
    everything = shares.sum(axis=0)
    # at least one on either side, as far as whole units allow; a set's single image of a class stays
    wanted = np.clip(np.round(everything * fraction), everything > 1, np.maximum(everything - 1, 0))
    chosen = np.zeros(len(counts), bool)
    taken, given = np.zeros_like(total), np.zeros_like(everything)
    order = rng.permutation(len(counts))
    # large units first: they fit only while there is room
    for unit in sorted(order, key=lambda u: -counts[u].sum()):
        gain = np.abs(wanted - given).sum() - np.abs(wanted - given - shares[unit]).sum()
        if gain > 0 and np.all(total - taken - counts[unit] >= 1):
            chosen[unit] = True
            taken += counts[unit]
            given += shares[unit]
    # a class whose units are all larger than its share gives its smallest one
    for missing_class in np.flatnonzero(taken < 1):
        for unit in sorted(order, key=lambda u: counts[u].sum()):
            fits = counts[unit][missing_class] and not chosen[unit] and np.all(total - taken - counts[unit] >= 1)
            if fits and taken[missing_class] < 1:
                chosen[unit] = True
                taken += counts[unit]
    if np.any(taken < 1):
        missing = dataset.classes[int(np.argmin(taken))]
        raise SplitError(
            f"no part of {dataset.name} can be held out with class {one_line(missing)} on both sides",
            remedy="Its groups are too large: add images from other groups.",
        )
    held = chosen[units(dataset)]
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def part_of(dataset: CellDataset, fraction: float, rng: np.random.Generator) -> tuple[CellDataset, CellDataset]:
    """(rest, part): about `fraction` of the images by whole units, ignoring labels; raises `SplitError` for too few."""
    unit = units(dataset)
    n_units = int(unit.max()) + 1 if len(dataset) else 0
    n_held = min(max(1, round(n_units * fraction)), n_units - 1)
    if n_units < 2:
        raise SplitError(f"{dataset.name} cannot be split", expected="two independent images or groups", got=str(n_units))
    held = np.isin(unit, rng.permutation(n_units)[:n_held])
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def nested_fractions(
    dataset: CellDataset, fractions: Sequence[float], rng: np.random.Generator, *, strict: bool = False
) -> dict[float, CellDataset]:
    """Parts of `dataset` by fraction: floor(n * fraction) images of each class, every part inside the larger ones.

    A class that would be empty keeps one image; with `strict` that is a `SplitError`. Images with a mask are spread
    evenly: a part has their share of each class, to within one. A part does not depend on the other fractions. The subsets
    WBC_50, WBC_10 and WBC_1 have these sizes.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise SplitError("a fraction is out of range", expected="above 0, at most 1", got=str(fraction))
    orders = [_masks_evenly(dataset, np.flatnonzero(dataset.targets == i), rng) for i in range(len(dataset.classes))]
    parts = {}
    for fraction in fractions:
        chosen: list[int] = []
        for name, order in zip(dataset.classes, orders, strict=True):
            # exact: 0.57 of 100 is 57
            n = int(len(order) * Fraction(str(fraction)))
            if n == 0 and strict:
                raise SplitError(
                    f"{fraction:g} of class {one_line(name)} is no image",
                    expected=f"at least {int(np.ceil(1 / fraction))} images",
                    got=str(len(order)),
                    remedy="Leave --strict out to keep one image, or use a larger fraction.",
                )
            chosen.extend(order[: max(n, 1)].tolist())
        parts[fraction] = dataset.subset(sorted(chosen))
    return parts


def _masks_evenly(dataset: CellDataset, members: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """`members` in random order, such that the first p of n hold about p/n of those with a mask, for every p."""
    order = rng.permutation(members)
    has_mask = np.array([dataset.records[i].mask_path is not None for i in order], bool)
    n, n_masks = len(order), int(has_mask.sum())
    wanted = np.minimum(np.arange(2, n + 2) * n_masks // max(n, 1), np.minimum(np.arange(1, n + 1), n_masks))
    takes_mask = np.diff(wanted, prepend=0) > 0
    arranged = np.empty_like(order)
    arranged[takes_mask], arranged[~takes_mask] = order[has_mask], order[~has_mask]
    return arranged


def k_fold(dataset: CellDataset, n_folds: int, rng: np.random.Generator) -> list[tuple[CellDataset, CellDataset]]:
    """(train, test) of each fold: stratified, every unit tested exactly once.

    Every class is in every training part; a test part may lack one where groups mix classes.
    Raises `SplitError` when a class has fewer units than folds.
    """
    if n_folds < 2:
        raise SplitError("too few folds", expected="at least 2", got=str(n_folds))
    check_classes(dataset, n_units=n_folds, purpose=f"{n_folds} folds")
    counts = _unit_class_counts(dataset)
    total = counts.sum(axis=0)
    filled = np.zeros((n_folds, len(total)))
    fold_of_unit = np.zeros(len(counts), int)
    order = rng.permutation(len(counts))
    rare_first = sorted(order, key=lambda u: (-counts[u].sum(), total[counts[u] > 0].min()))
    for unit in rare_first:
        present = counts[unit] > 0
        # the fold that has least of what this unit brings; among equals the emptiest
        load = (filled[:, present] / total[present]).sum(axis=1) + 1e-6 * filled.sum(axis=1) / total.sum()
        fold_of_unit[unit] = int(np.argmin(load))
        filled[fold_of_unit[unit]] += counts[unit]
    fold = fold_of_unit[units(dataset)]
    return [(dataset.subset(np.flatnonzero(fold != f)), dataset.subset(np.flatnonzero(fold == f))) for f in range(n_folds)]


def _unit_class_counts(dataset: CellDataset) -> NDArray[np.float64]:
    """Images of each class in each unit, (n_units, n_classes)."""
    if (dataset.targets < 0).any():
        raise SplitError(f"{dataset.name} holds images without a label", remedy="Use its labelled() part.")
    unit = units(dataset)
    counts = np.zeros((unit.max() + 1, len(dataset.classes)))
    np.add.at(counts, (unit, dataset.targets), 1)
    return counts


def _unit_share_counts(dataset: CellDataset) -> NDArray[np.float64]:
    """Images of each class and source in each unit, (n_units, n_classes * n_sources)."""
    unit, n_sources = units(dataset), max(1, len(dataset.sources))
    source = np.array([record.source if dataset.sources else 0 for record in dataset.records], np.int64)
    counts = np.zeros((unit.max() + 1, len(dataset.classes) * n_sources))
    np.add.at(counts, (unit, dataset.targets * n_sources + source), 1)
    return counts


LargerClasses = Literal["equal", "proportional"]
"""What `capped` draws of the classes that it does not take whole: the same number of each, or the same share."""


def capped(dataset: CellDataset, total: int, rng: np.random.Generator, *, larger: LargerClasses = "equal") -> CellDataset:
    """`total` images: small classes whole, of the larger ones the same number or the same share, drawn at random.

    The larger classes are those above the cap that makes classes as even as `total` allows. Raises `SplitError` for fewer
    images than `total`.
    """
    if total > len(dataset):
        raise SplitError(f"{dataset.name} has too few images", expected=f"at least {total}", got=str(len(dataset)))
    members = [rng.permutation(np.flatnonzero(dataset.targets == i)) for i in range(len(dataset.classes))]
    wanted = capped_sizes(np.array([len(own) for own in members]), total, larger=larger)
    chosen = np.concatenate([own[:n] for own, n in zip(members, wanted, strict=True)])
    return dataset.subset(sorted(chosen.tolist()))


def capped_sizes(sizes: NDArray[np.int64], total: int, *, larger: LargerClasses) -> NDArray[np.int64]:
    """Images that `capped` draws of classes of these `sizes`, (k,); a remainder goes to the first of equal classes."""
    cap = int(max(c for c in range(int(sizes.max()) + 1) if np.minimum(sizes, c).sum() <= total))
    large = sizes > cap
    rest = total - int(sizes[~large].sum())
    exact = np.where(large, cap if larger == "equal" else sizes * rest / max(1, sizes[large].sum()), sizes)
    wanted = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(np.where(large, wanted - exact, np.inf), kind="stable")
    wanted[by_remainder[: total - int(wanted.sum())]] += 1
    return wanted


def balanced_weights(
    targets: NDArray[np.int64],
    *,
    shares: NDArray[np.float64] | None = None,
    domains: Sequence[str] | None = None,
    alpha: float = 1.0,
) -> NDArray[np.float64]:
    """Sampling weight of each record, (n,), by which classes are drawn in proportion to `shares`, (k,), else equally.

    Within a class, a laboratory of n images, by `domains`, is drawn in proportion to n ** `alpha`: with 1 every image
    equally often, with 0 every laboratory. The weights sum to 1.
    """
    strata = targets if domains is None else targets + (int(targets.max()) + 1) * np.unique(domains, return_inverse=True)[1]
    _, stratum, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    weights = sizes[stratum] ** (alpha - 1.0)
    of_class = np.bincount(targets, weights)
    weights = (1.0 if shares is None else shares[targets]) * weights / of_class[targets]
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
