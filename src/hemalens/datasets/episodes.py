"""Few-shot episodes: a support set and the query images to test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.splits import seeded, units
from hemalens.errors import SplitError, one_line

N_PAIRS_SHOWN = 3

Generator = Literal["each", "one"]
"""A random generator for each episode, or one for all of them."""
Shared = Literal["refuse", "allow"]
"""What to do where support and test images are of the same group."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: indices of the support set in the pool, (n_classes * k,), class by class, and the query mask.

    `query` is a mask (n,) over the target. With replacement, an index may occur several times.
    """

    support: NDArray[np.int64]
    query: NDArray[np.bool_]


def draw_episodes(
    target: CellDataset,
    pool: CellDataset | None,
    *,
    k_shot: int,
    n_repeats: int,
    seed: int,
    replacement: bool,
    generator: Generator = "each",
) -> list[Episode]:
    """Draw episodes of `k_shot` support images a class from `pool`, or from the target where `pool` is None.

    Every model gets the same episodes. With a generator for "each", an episode depends on the seed, `k_shot` and its
    number; "one" generator of the seed draws all, as in BloodShot's code. Target images that share their content or group
    with a support image are not in the query. Raises `SplitError` when a class has fewer than `k_shot` images to draw
    from, or no query image left.
    """
    own = pool is None
    source = target if pool is None else pool
    if source.classes != target.classes:
        raise SplitError(
            f"the support {source.name} and the target {target.name} have different classes",
            expected=", ".join(target.classes),
            got=", ".join(source.classes),
        )
    for name, n in source.class_counts.items():
        if n < k_shot + own:
            _refuse(source, name, n, k_shot, own=own)
    members = [np.flatnonzero(source.targets == i) for i in range(len(source.classes))]
    unit = units(target)
    episodes = []
    common = np.random.default_rng(seed)
    for repeat in range(n_repeats):
        rng = common if generator == "one" else seeded(seed, "episode", str(k_shot), str(repeat))
        support = np.concatenate([rng.choice(indices, k_shot, replace=replacement) for indices in members])
        query = ~np.isin(unit, unit[support]) if own else np.ones(len(target), bool)
        tested = np.bincount(target.targets[query], minlength=len(target.classes))
        if not tested.all():
            name = target.classes[int(tested.argmin())]
            raise SplitError(
                f"with {k_shot} support images a class, class {one_line(name)} of {target.name} has no image left to test",
                remedy="The support's groups and copies take all: choose a smaller k, or other data for the support.",
            )
        episodes.append(Episode(support, query))
    return episodes


def _refuse(source: CellDataset, name: str, n: int, k_shot: int, *, own: bool) -> NoReturn:
    needed = k_shot + own
    raise SplitError(
        f"k = {k_shot} is larger than class {one_line(name)} of {source.name} allows",
        expected=f"at least {needed} images" + (", one of them to test" if own else ""),
        got=str(n),
        remedy=f"Choose a smaller k, or leave small classes out with --min-per-class {needed}.",
    )


def refuse_overlap(support: CellDataset, test: CellDataset, *, groups: Shared = "refuse") -> None:
    """Raise `SplitError`, naming the pairs, when support and test share an image, or a group where `groups` says so."""
    by_content = dict(zip(support.contents, support.records, strict=True))
    by_group = _groups(support) if groups == "refuse" else {}
    pairs: list[tuple[Record, Record, str]] = []
    for content, record in zip(test.contents, test.records, strict=True):
        if content in by_content:
            pairs.append((by_content[content], record, "same image"))
        elif record.group is not None and (record.domain, record.group) in by_group:
            pairs.append((by_group[record.domain, record.group], record, f"same group {one_line(record.group)}"))
    if pairs:
        shown = "; ".join(f"{one_line(a.name)} and {one_line(b.name)} ({why})" for a, b, why in pairs[:N_PAIRS_SHOWN])
        more = f"; and {len(pairs) - N_PAIRS_SHOWN} more" if len(pairs) > N_PAIRS_SHOWN else ""
        raise SplitError(
            f"support {support.name} and test {test.name} overlap in {len(pairs)} image(s)",
            expected="no image and no group in both" if groups == "refuse" else "no image in both",
            got=shown + more,
            remedy="Remove them from one side.",
        )


def shared_groups(support: CellDataset, test: CellDataset) -> tuple[str, ...]:
    """The groups, such as patients, with images in both."""
    return tuple(group for _, group in sorted(_groups(support).keys() & _groups(test).keys()))


def _groups(dataset: CellDataset) -> dict[tuple[str, str], Record]:
    """The last record of each group, by domain and group."""
    return {(r.domain, r.group): r for r in dataset.records if r.group is not None}


def draw_labelled(dataset: CellDataset, k: int, rng: np.random.Generator) -> Episode:
    """Draw up to `k` images of each class as the support; the images that share no content and no group with it are tested.

    The support has half of a class's images at most, fewer where whole groups allow no more, so that every class is
    tested: groups are taken in a random order until each class has enough.
    """
    unit, target = units(dataset), dataset.targets
    counts = np.zeros((int(unit.max(initial=-1)) + 1, len(dataset.classes)), np.int64)
    np.add.at(counts, (unit, target), 1)
    wanted, left, having = np.minimum(k, counts.sum(axis=0) // 2), counts.sum(axis=0), np.zeros_like(counts[0])
    taken = np.zeros(len(counts), bool)
    for i in rng.permutation(len(counts)):
        lacks = (counts[i] > 0) & (having < wanted)
        # a group with the last images of a class stays to be tested
        if lacks.any() and np.all((left - counts[i] >= 1) | (counts[i] == 0)):
            taken[i] = True
            having += counts[i]
            left -= counts[i]
    drawn = [rng.permutation(np.flatnonzero(taken[unit] & (target == c)))[: wanted[c]] for c in range(len(dataset.classes))]
    return Episode(np.concatenate(drawn), ~taken[unit])
