"""Embeddings on a plane, for figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation.results import Scatter, ScatterPoint

N_SCATTER = 1000


def scatter(
    embeddings: NDArray[np.floating[Any]], told: Sequence[tuple[str, str, str]], *, seed: int, n_points: int = N_SCATTER
) -> Scatter | None:
    """At most `n_points` of the embeddings (n, d), drawn at random, on their two principal components.

    `told` gives label, predicted label and domain of each. None for fewer than three.
    """
    from sklearn.decomposition import PCA

    n = len(embeddings)
    if n < 3:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_points])
    pca = PCA(n_components=2, random_state=seed)
    # embeddings that are all alike have no variance to share out
    with np.errstate(invalid="ignore"):
        plane = pca.fit_transform(embeddings[chosen])
    points = []
    for (x, y), i in zip(plane, chosen, strict=True):
        label, predicted, domain = told[i]
        points.append(
            ScatterPoint(x=round(float(x), 4), y=round(float(y), 4), label=label, predicted=predicted, domain=domain)
        )
    first, second = (float(v) for v in np.nan_to_num(pca.explained_variance_ratio_))
    return Scatter(explained=(first, second), n_total=n, points=tuple(points))
