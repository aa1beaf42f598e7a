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

N, SIZE, CLASSES, REPEATS = 2000, 1280, ("a", "b", "c", "d", "e"), 100


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


def main() -> None:
    """Time both, and say whether they agree."""
    set_quiet(True)
    given = _embedded()
    start = time.perf_counter()
    ours = KShotProtocol(repeats=REPEATS).score(EmbeddedLaboratory(given), method="drawn", source="drawn", seed=0)
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    plain = _plain(given)
    plain_s = time.perf_counter() - start
    apart = max(abs(s.balanced_accuracy.value - p) for s, p in zip(ours.shots, plain, strict=True))
    print(f"k-shot with intervals {ours_s:.1f} s, plain loop without {plain_s:.1f} s: {plain_s / ours_s:.2f} times as fast")
    print(f"largest difference of a mean balanced accuracy (other drawings): {apart:.3f}")


if __name__ == "__main__":
    main()
