"""Few-shot episodes: which images are memorised, and which are then tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.splits import seeded, units
from hemalens.errors import SplitError, one_line

N_PAIRS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Episode:
    """One drawing: indices of the support in the pool, (n_classes * k,), class by class, and what is tested.

    `query` is a mask (n,) over the target. With replacement an index may come several times.
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
) -> list[Episode]:
    """Episodes of `k_shot` support images a class, drawn from `pool`, or from the target itself without one.

    Each is drawn from (seed, k_shot, its number) alone: every model sees the same ones. A target image is tested unless it
    shares its content or its group with a support image. Raises `SplitError` when a class has fewer than `k_shot` images to
    draw from, or none left to test.
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
    for repeat in range(n_repeats):
        rng = seeded(seed, "episode", str(k_shot), str(repeat))
        support = np.concatenate([rng.choice(indices, k_shot, replace=replacement) for indices in members])
        query = ~np.isin(unit, unit[support]) if own else np.ones(len(target), bool)
        tested = np.bincount(target.targets[query], minlength=len(target.classes))
        if not tested.all():
            name = target.classes[int(tested.argmin())]
            raise SplitError(
                f"with {k_shot} images a class memorised, class {one_line(name)} of {target.name} has none left to test",
                remedy="Its groups or copies take all of them: take a smaller k, or a support of its own.",
            )
        episodes.append(Episode(support, query))
    return episodes


def _refuse(source: CellDataset, name: str, n: int, k_shot: int, *, own: bool) -> NoReturn:
    needed = k_shot + own
    raise SplitError(
        f"k = {k_shot} is larger than class {one_line(name)} of {source.name} allows",
        expected=f"at least {needed} images" + (", so that one is left to test" if own else ""),
        got=str(n),
        remedy=f"Take a smaller k, or leave small classes out with --min-per-class {needed}.",
    )


def refuse_overlap(support: CellDataset, test: CellDataset) -> None:
    """Raise `SplitError`, with the pairs named, when support and test share an image or a group."""
    by_content = dict(zip(support.contents, support.records, strict=True))
    by_group = {(r.domain, r.group): r for r in support.records if r.group is not None}
    pairs: list[tuple[Record, Record, str]] = []
    for content, record in zip(test.contents, test.records, strict=True):
        if content in by_content:
            pairs.append((by_content[content], record, "same image"))
        elif record.group is not None and (record.domain, record.group) in by_group:
            pairs.append((by_group[record.domain, record.group], record, f"same group {one_line(record.group)}"))
    if pairs:
        shown = "; ".join(f"{one_line(a.path)} and {one_line(b.path)} ({why})" for a, b, why in pairs[:N_PAIRS_SHOWN])
        more = f"; and {len(pairs) - N_PAIRS_SHOWN} more" if len(pairs) > N_PAIRS_SHOWN else ""
        raise SplitError(
            f"support {support.name} and test {test.name} overlap in {len(pairs)} image(s)",
            expected="no image and no group in both",
            got=shown + more,
            remedy="Take them out of either side.",
        )
