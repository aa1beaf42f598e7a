"""Time of the whole k-shot evaluation (9 values of k, 100 repeats, 2,000 embeddings of 5 classes) after embedding.

Beside it, in the same run, the plain loop that normalises all embeddings anew in every repeat and scores with scikit-learn,
without intervals; the ratio is what counts on a noisy machine.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import normalize

from hemalens.benchmark.protocols.k_shot import PUBLISHED_SHOTS, KShotProtocol
from hemalens.benchmark.protocols.laboratory import Embedded, EmbeddedLaboratory
from hemalens.datasets import CellDataset, Record
from hemalens.progress import set_quiet
from rows import Row, table

N, SIZE, CLASSES, REPEATS = 2000, 1280, ("a", "b", "c", "d", "e"), 100
MOST_APART = 0.02
"""Difference of a mean balanced accuracy between two drawings of the supports."""


def _embedded() -> Embedded:
    rng = np.random.default_rng(0)
    target = rng.integers(len(CLASSES), size=N)
    centres = rng.normal(size=(len(CLASSES), SIZE))
    embeddings = np.maximum(centres[target] + rng.normal(scale=6, size=(N, SIZE)), 0)
    records = tuple(Record(Path(f"{i}.png"), CLASSES[t], domain="drawn", label=CLASSES[t]) for i, t in enumerate(target))
    return Embedded(CellDataset("drawn", records, CLASSES, "as_labelled", "none", "none"), embeddings)


def _plain(given: Embedded) -> list[float]:
    target, rng, means = given.dataset.targets, np.random.default_rng(0), []
    for k in PUBLISHED_SHOTS:
        scores = []
        for _ in range(REPEATS):
            support = np.concatenate([rng.choice(np.flatnonzero(target == c), k) for c in range(len(CLASSES))])
            query = np.setdiff1d(np.arange(N), support)
            prototypes = np.stack([given.embeddings[support[i * k : (i + 1) * k]].mean(0) for i in range(len(CLASSES))])
            answers = (normalize(given.embeddings[query]) @ normalize(prototypes).T).argmax(1)
            scores.append(balanced_accuracy_score(target[query], answers))
        means.append(float(np.mean(scores)))
    return means


def measure(*, quick: bool = False) -> list[Row]:
    """Seconds of both; raises `SystemExit` where their means differ."""
    set_quiet(True)
    given = _embedded()
    ours_s, plain_s = [], []
    for _ in range(1 if quick else 3):
        begun = time.perf_counter()
        ours = KShotProtocol(repeats=REPEATS).score(EmbeddedLaboratory(given), method="drawn", source="drawn", seed=0)
        ours_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        plain = _plain(given)
        plain_s.append(time.perf_counter() - begun)
        apart = max(abs(s.balanced_accuracy.value - p) for s, p in zip(ours.shots, plain, strict=True))
        if apart > MOST_APART:
            raise SystemExit(f"the mean balanced accuracies differ by {apart:.3f}")
    return [Row.of("k-shot scores with intervals", "s", ours_s, plain_s, "a plain loop without intervals")]


if __name__ == "__main__":
    print(table(measure()))
