"""An index of 64-bit hashes: all within a Hamming distance of another, without comparing every pair.

A hash falls into bands. Two hashes that differ in at most d bits differ in at most r_b bits of some band b, where the radii
r_b of m bands add up to d - m + 1: the general pigeonhole principle (Qin et al., ICDE 2018). So it is enough to look up, in
a table of each band, the values within its radius.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]
Indices = NDArray[np.int64]
MAX_DISTANCE = 6
"""Largest Hamming distance that the bands are made for."""
SMALL, LARGE = ((16, 1), (16, 1), (16, 1), (16, 0)), ((22, 2), (21, 1), (21, 1))
"""Bands (bits, radius) for few and for many hashes: wider bands look up more values, and find fewer strangers."""
MANY = 300_000
_AT_ONCE = 1_000_000
"""Candidates that are compared at once, so that memory stays flat."""


def packed(bits: NDArray[np.bool_]) -> Codes:
    """Hashes bool (..., 64) as whole numbers (...,)."""
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8")[..., 0].astype(np.uint64)


@dataclass(frozen=True, slots=True)
class _Band:
    """The hashes in the order of one band's values, where each value begins, and the bits to flip in a lookup."""

    shift: np.uint64
    mask: np.uint64
    order: Indices
    begins: Indices
    flips: Codes

    @classmethod
    def of(cls, codes: Codes, shift: int, width: int, radius: int) -> _Band:
        mask = (1 << width) - 1
        values = (codes >> np.uint64(shift)) & np.uint64(mask)
        counts = np.bincount(values.astype(np.int64), minlength=mask + 1)
        flips = [sum(1 << bit for bit in bits) for n in range(radius + 1) for bits in combinations(range(width), n)]
        begins = np.concatenate([[0], np.cumsum(counts)])
        return cls(np.uint64(shift), np.uint64(mask), np.argsort(values, kind="stable"), begins, np.array(flips, np.uint64))

    def candidates(self, queries: Codes) -> Iterator[tuple[Indices, Indices]]:
        """(query, hash) pairs of a value within the radius, `_AT_ONCE` or so at a time."""
        values = ((queries >> self.shift) & self.mask)[:, None] ^ self.flips
        begins = self.begins[values.astype(np.int64)].ravel()
        counts = self.begins[values.astype(np.int64) + 1].ravel() - begins
        of = np.repeat(np.arange(len(queries)), len(self.flips))[counts > 0]
        begins, counts = begins[counts > 0], counts[counts > 0]
        for part in parts_of(counts, _AT_ONCE):
            yield np.repeat(of[part], counts[part]), self.order[ranges(begins[part], counts[part])]


class HashIndex:
    """Finds, among `codes` uint64 (n,), those within `MAX_DISTANCE` bits of others.

    Equal hashes are one entry.
    """

    def __init__(self, codes: Codes, bands: tuple[tuple[int, int], ...] | None = None) -> None:
        self._codes, of = np.unique(codes, return_inverse=True)
        self._order = np.argsort(of, kind="stable")
        self._begins = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(self._codes)))])
        chosen = bands or (SMALL if len(self._codes) < MANY else LARGE)
        shifts = np.cumsum([0, *(width for width, _ in chosen)])
        self._bands = [
            _Band.of(self._codes, int(at), width, radius) for at, (width, radius) in zip(shifts, chosen, strict=False)
        ]

    def near(self, queries: Codes) -> tuple[Indices, Indices]:
        """Pairs (query, entry) that differ in at most `MAX_DISTANCE` bits, in order, each once."""
        keys = [np.zeros(0, np.int64)]
        for band in self._bands:
            for of, entries in band.candidates(queries):
                near = np.bitwise_count(queries[of] ^ self._codes[entries]) <= MAX_DISTANCE
                keys.append(of[near] * len(self._codes) + entries[near])
        found = np.unique(np.concatenate(keys))
        return found // len(self._codes), found % len(self._codes)

    def sizes(self, entries: Indices) -> Indices:
        """Hashes in each entry."""
        return np.asarray(self._begins[entries + 1] - self._begins[entries])

    def members(self, entries: Indices) -> Indices:
        """The hashes of entries, one entry after the other."""
        return np.asarray(self._order[ranges(self._begins[entries], self.sizes(entries))])

    def common(self, values: Indices) -> Indices:
        """The value that all hashes of an entry share, by `values` (n,) of the hashes; -1 where they differ."""
        sorted_values, begins = values[self._order], self._begins[:-1]
        low, high = np.minimum.reduceat(sorted_values, begins), np.maximum.reduceat(sorted_values, begins)
        return np.where(low == high, low, -1)


def ranges(begins: Indices, counts: Indices) -> Indices:
    """The numbers begin, begin + 1, ... of each range, one range after the other."""
    ends = np.cumsum(counts)
    numbers: Indices = np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - (ends - counts), counts)
    return numbers


def parts_of(counts: Indices, most: int) -> Iterator[slice]:
    """Slices whose counts add up to at most `most`, or that hold one count."""
    ends, begin = np.cumsum(counts), 0
    while begin < len(counts):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(begin, end)
        begin = end
