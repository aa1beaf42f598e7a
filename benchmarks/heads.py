"""Learning from few labelled cells: `adapt`'s regression beside scikit-learn on the same embeddings.

python benchmarks/heads.py

Drawn cells of a second laboratory, embedded by the model of the package. Both learn from the same few cells of each class
and are tested on the same others: `LogisticRegressionCV` on standardised embeddings, and regression towards the model's
own head.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hemalens.bundle.default_model import default_model_path
from hemalens.classifiers.l2sp import fit_correction
from hemalens.datasets import open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.inference.predictor import Predictor
from hemalens.progress import set_quiet
from rows import Row, table

N_PER_CLASS, SHOTS = 30, (3, 10)


def embedded(folder: Path) -> tuple[Any, Any, Any]:
    """Embeddings (n, d), the model's log probabilities of the classes that are there (n, k), and class indices (n,)."""
    synthesize(folder, n_per_class=N_PER_CLASS, laboratories=["lab_b"], seed=1)
    predictor = Predictor(default_model_path(), embeddings=True)
    dataset = open_dataset(f"synthetic:{folder / 'lab_b'}", labels=predictor.bundle.manifest.label_map).labelled()
    known = [record for record in dataset.records if record.label in predictor.labels]
    found = [p for p in predictor.predict(known) if p.embedding is not None]
    classes = sorted({p.record.label for p in found})
    columns = [predictor.labels.index(label) for label in classes]
    probabilities = np.stack([p.probabilities for p in found])[:, columns]
    targets = np.array([classes.index(p.record.label) for p in found])
    return np.stack([p.embedding for p in found]).astype(float), np.log(np.maximum(probabilities, 1e-7)), targets


def measure(*, quick: bool = False) -> list[Row]:
    """Balanced accuracy and seconds for each number of cells a class, one round a drawing of them."""
    set_quiet(True)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        points, base, targets = embedded(Path(temporary))
    for n in SHOTS:
        scores: dict[str, list[float]] = {"ours": [], "peer": []}
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for seed in range(3 if quick else 10):
            rng = np.random.default_rng(seed)
            chosen = np.concatenate([rng.permutation(np.flatnonzero(targets == c))[:n] for c in range(base.shape[1])])
            others = np.setdiff1d(np.arange(len(targets)), chosen)
            begun = time.perf_counter()
            found = fit_correction(points[chosen], targets[chosen], base[chosen], np.arange(len(chosen)))
            logits = found.scale * base[others] + points[others] @ found.weight.T + found.bias
            seconds["ours"].append(time.perf_counter() - begun)
            scores["ours"].append(balanced_accuracy_score(targets[others], logits.argmax(axis=1)))
            begun = time.perf_counter()
            plain = make_pipeline(
                StandardScaler(), LogisticRegressionCV(cv=min(3, n), max_iter=1000, use_legacy_attributes=True)
            )
            answers = plain.fit(points[chosen], targets[chosen]).predict(points[others])
            seconds["peer"].append(time.perf_counter() - begun)
            scores["peer"].append(balanced_accuracy_score(targets[others], answers))
        peer = "scikit-learn on its embeddings"
        rows.append(Row.of(f"{n} cells a class", "bal. acc.", scores["ours"], scores["peer"], peer, more_is_better=True))
        rows.append(Row.of(f"learning from {n} cells a class", "s", seconds["ours"], seconds["peer"], peer))
    return rows


if __name__ == "__main__":
    print(table(measure()))
