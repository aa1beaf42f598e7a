"""Near-duplicates by the index of hashes are those of a comparison of all pairs."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hemalens.datasets import near_copies
from hemalens.datasets.hash_index import packed
from hemalens.datasets.near_copies import (
    MAX_GRAY_DIFFERENCE,
    MAX_HASH_DISTANCE,
    ORIENTATIONS,
    Thumbnail,
    join_near_copies,
    perceptual_hashes,
    turned,
)
from hemalens.datasets.relatives import Relatives


def _bits(codes: np.ndarray) -> np.ndarray:
    return np.unpackbits(codes.astype("<u8")[..., None].view(np.uint8), axis=-1, bitorder="little").astype(bool)


def _by_all_pairs(looks: list[Thumbnail]) -> list[tuple]:
    """What joins each set, by the definition: all pairs in order, each orientation in turn."""
    relatives, found = Relatives(len(looks)), []
    for k, orientation in enumerate(ORIENTATIONS):
        for i, first in enumerate(looks):
            for j in range(i + 1, len(looks)):
                distance = (_bits(first.hashes[k]) != _bits(looks[j].hashes[0])).sum()
                difference = np.abs(turned(first.gray, orientation).astype(float) - looks[j].gray).mean()
                alike = distance <= MAX_HASH_DISTANCE and difference <= MAX_GRAY_DIFFERENCE
                if alike and relatives.join(i, j, orientation):
                    found.append((i, j, orientation, round(float(difference), 2)))
    return found


def _looks(rng: np.random.Generator, n: int, n_cells: int, noise: float) -> list[Thumbnail]:
    """Smooth pictures of few cells, each turned, brightened and noisy."""
    coarse = rng.integers(60, 200, (n_cells, 6, 6)).astype(np.uint8)
    looks = []
    for _ in range(n):
        cell = Image.fromarray(coarse[rng.integers(n_cells)]).resize((32, 32), Image.Resampling.BICUBIC)
        gray = turned(np.asarray(cell, float), ORIENTATIONS[rng.integers(8)]) + rng.uniform(-6, 6)
        gray = np.clip(gray + rng.normal(0, noise, (32, 32)), 0, 255).astype(np.uint8)
        looks.append(Thumbnail(perceptual_hashes(np.stack([turned(gray, o) for o in ORIENTATIONS])), gray))
    return looks


@pytest.mark.parametrize("at_once", [5, 1_000_000], ids=["in small parts", "at once"])
@given(seed=st.integers(0, 2**32), n=st.integers(0, 25), n_cells=st.integers(1, 6), noise=st.floats(0, 8))
def test_the_pairs_are_those_of_a_comparison_of_all_pairs(
    at_once: int, seed: int, n: int, n_cells: int, noise: float
) -> None:
    looks = _looks(np.random.default_rng(seed), n, n_cells, noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_copies, "_CANDIDATES", at_once)
        patch.setattr(near_copies, "_ROWS", 7)
        assert join_near_copies(looks, Relatives(n)) == _by_all_pairs(looks)


def test_the_generated_pictures_have_pairs_and_strangers() -> None:
    found = join_near_copies(_looks(np.random.default_rng(0), 25, 4, 2), Relatives(25))
    assert 10 < len(found) < 24
    assert len({orientation for _, _, orientation, _ in found}) > 1


@given(st.integers(0, 2**32))
def test_hashes_are_those_of_imagehash(seed: int) -> None:
    gray = np.random.default_rng(seed).integers(0, 256, (32, 32)).astype(np.uint8)
    bits = imagehash.phash(Image.fromarray(gray)).hash.ravel()
    assert perceptual_hashes(gray[None])[0] == packed(bits)


def test_a_crowd_of_one_hash_takes_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    look = _looks(np.random.default_rng(1), 1, 1, 0)[0]
    compared, original = [], near_copies._confirmed

    def counted(i: np.ndarray, *others: object) -> list:
        compared.append(len(i))
        return original(i, *others)

    monkeypatch.setattr(near_copies, "_confirmed", counted)
    monkeypatch.setattr(near_copies, "_CANDIDATES", 1000)
    relatives = Relatives(3000)
    assert len(join_near_copies([look] * 3000, relatives)) == 2999
    assert sum(compared) < 100_000, "of 4.5 million pairs of each orientation"
    assert relatives.n_sets == 1
