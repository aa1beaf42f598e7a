"""Projection of embeddings to two dimensions, by PCA or UMAP."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import require_extra
from hemalens.evaluation.results import Scatter, ScatterPoint

N_SCATTER = 1000
N_JOINT = 400
N_NEIGHBOURS = 15

Projection = Literal["PCA", "UMAP"]
Embeddings = NDArray[np.floating[Any]]
Point = tuple[str, str, str]
"""Label, predicted label and domain of an image."""


def scatter(
    embeddings: Embeddings,
    points: Sequence[Point],
    *,
    seed: int,
    n_points: int = N_SCATTER,
    projection: Projection = "PCA",
) -> Scatter | None:
    """At most `n_points` of the embeddings (n, d), drawn at random, on a plane that is fitted on them.

    `points` has an entry for each of the n. None for fewer than three. Raises `MissingExtraError` for a UMAP without its
    package.
    """
    n = min(n_points, len(embeddings))
    chosen = np.sort(np.random.default_rng(seed).choice(len(embeddings), n, replace=False))
    return _scatter(embeddings, points, chosen, seed=seed, projection=projection)


def joint_scatter(
    embedded: Sequence[tuple[Embeddings, Sequence[Point]]],
    *,
    seed: int,
    n_points: int = N_JOINT,
    projection: Projection = "PCA",
) -> Scatter | None:
    """Embeddings of several datasets in one plane, which is fitted on all of them.

    `embedded` has the embeddings (n, d) of each dataset with its points, all from one model. At most `n_points` of each
    domain are drawn at random, so that a large domain does not dominate the plane. None for fewer than three images in
    all. Raises `MissingExtraError` for a UMAP without the package.
    """
    points = [image for _, images in embedded for image in images]
    if len(points) < 3:
        return None
    rng = np.random.default_rng(seed)
    domains = np.array([domain for _, _, domain in points])
    drawn = [rng.permutation(np.flatnonzero(domains == name))[:n_points] for name in dict.fromkeys(domains.tolist())]
    embeddings = np.concatenate([rows for rows, _ in embedded])
    return _scatter(embeddings, points, np.sort(np.concatenate(drawn)), seed=seed, projection=projection)


def _scatter(
    embeddings: Embeddings, points: Sequence[Point], chosen: NDArray[np.int64], *, seed: int, projection: Projection
) -> Scatter | None:
    if len(chosen) < 3:
        return None
    explained = None
    if projection == "UMAP":
        plane = _umap(embeddings[chosen], seed)
    else:
        plane, explained = _principal(embeddings[chosen], seed)
    shown = []
    for (x, y), i in zip(plane, chosen, strict=True):
        label, predicted, domain = points[i]
        shown.append(
            ScatterPoint(x=round(float(x), 4), y=round(float(y), 4), label=label, predicted=predicted, domain=domain)
        )
    return Scatter(projection=projection, explained=explained, n_total=len(embeddings), points=tuple(shown))


def _principal(embeddings: Embeddings, seed: int) -> tuple[Embeddings, tuple[float, float]]:
    """Their first two principal components (n, 2), and the shares of the variance of these."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, random_state=seed)
    # identical embeddings have no variance
    with np.errstate(invalid="ignore"):
        plane = pca.fit_transform(embeddings)
    first, second = (float(v) for v in np.nan_to_num(pca.explained_variance_ratio_))
    return plane, (first, second)


def _umap(embeddings: Embeddings, seed: int) -> Embeddings:
    """A UMAP (n, 2) that starts from the principal components (McInnes et al. 2018, arXiv:1802.03426)."""
    require_extra("umap", "figures", "a UMAP")
    # the package warns of optional parts: TensorFlow, several threads, its own deprecated calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        n_neighbours = min(N_NEIGHBOURS, len(embeddings) - 1)
        umap = UMAP(n_components=2, n_neighbors=n_neighbours, init="pca", random_state=seed, n_jobs=1)
        plane: Embeddings = umap.fit_transform(embeddings)
    return plane
