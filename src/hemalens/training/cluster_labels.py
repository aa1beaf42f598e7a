"""Pseudo-labels of unlabelled images by clustering: frozen features, principal components, k-means."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hemalens.cache import FeatureCache
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.tiles import tiled
from hemalens.errors import DatasetError
from hemalens.files import atomic_path, default_cache_dir
from hemalens.graphs.features import extract
from hemalens.models.backbone import BackboneConfig, frozen_graph
from hemalens.progress import track

FEATURE_TABLE, LABEL_TABLE = "prcc_feature.csv", "prcc_cluster_label.csv"
"""Names of the published tables."""
UNLABELLED = "unlabelled"
"""Source label of an image without one."""


class ClusteringConfig(BackboneConfig):
    """The published settings: 4096 features of an ImageNet VGG16, 100 principal components, two clusters.

    `tile_px`: None resizes the whole region to the input size, as published; with tiles of that side, a region's features
    are the mean over them. The number of components is at most the number of images less one.
    """

    backbone: str = "vgg16"
    weights: str = "hub:tv_in1k"
    image_size_px: int | None = Field(default=224, ge=16, le=2048)
    n_components: int = Field(default=100, ge=1)
    n_clusters: int = Field(default=2, ge=2)
    tile_px: int | None = Field(default=None, ge=32)


class Agreement(StrictConfig):
    """Agreement of clusters with held-back labels: accuracy after the best matching, and adjusted Rand index.

    `majority_rate` is the accuracy of a single cluster.
    """

    accuracy: float
    adjusted_rand: float
    majority_rate: float


@dataclass(frozen=True, slots=True)
class Clusters:
    """Images, or tiles of regions, labelled by cluster; `sizes` counts the regions of each cluster.

    `features` (n, d) and `labels` (n) are those of the n `regions`.
    """

    dataset: CellDataset
    regions: CellDataset
    features: NDArray[np.float64]
    labels: tuple[str, ...]
    sizes: dict[str, int]
    n_components: int
    explained: float
    """Share of the features' variance that the components keep."""
    agreement: Agreement | None


def clusters_of(dataset: CellDataset, config: ClusteringConfig) -> Clusters:
    """Cluster the images of `dataset`, and measure the agreement with labels where there are some.

    Raises `DatasetError` for fewer images than clusters, `ImageError` for an unreadable one.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    if len(dataset) < 2 * config.n_clusters:
        raise DatasetError(
            f"{dataset.name} has too few images for {config.n_clusters} clusters",
            expected=f"at least {2 * config.n_clusters}",
            got=str(len(dataset)),
        )
    parts, region = _in_tiles(dataset, config.tile_px)
    features = _means(_features(parts, config), region)
    n_components = min(config.n_components, len(features) - 1, features.shape[1])
    components = PCA(n_components, random_state=config.seed).fit(features)
    found = KMeans(config.n_clusters, n_init=10, random_state=config.seed).fit_predict(components.transform(features))
    # the largest cluster is the first, whatever k-means calls it
    order = np.argsort(-np.bincount(found, minlength=config.n_clusters), kind="stable")
    number = np.argsort(order)[found]
    names = tuple(f"cluster_{i + 1}" for i in range(config.n_clusters))
    records = tuple(replace(r, label=names[number[i]], excluded=None) for r, i in zip(parts.records, region, strict=True))
    return Clusters(
        dataset=replace(parts, records=records, classes=names, name=f"{dataset.name}, clustered"),
        regions=dataset,
        features=features,
        labels=tuple(names[i] for i in number),
        sizes={name: int((number == i).sum()) for i, name in enumerate(names)},
        n_components=n_components,
        explained=float(components.explained_variance_ratio_.sum()),
        agreement=_agreement([record.source_label for record in dataset.records], number),
    )


def write_clusters(clusters: Clusters, folder: Path) -> None:
    """Write `FEATURE_TABLE`, the features of each region, and `LABEL_TABLE`, its cluster, as CSV files with a head."""
    records = clusters.regions.records
    columns = [f"feature_{i + 1}" for i in range(clusters.features.shape[1])]
    features = ([r.file_name, *(f"{v:.6g}" for v in row)] for r, row in zip(records, clusters.features, strict=True))
    _write_table(folder / FEATURE_TABLE, ["image", *columns], features)
    labels = ([r.file_name, r.source_label, label] for r, label in zip(records, clusters.labels, strict=True))
    _write_table(folder / LABEL_TABLE, ["image", "source_label", "cluster"], labels)


def _write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def _in_tiles(dataset: CellDataset, tile_px: int | None) -> tuple[CellDataset, NDArray[np.int64]]:
    """The images in tiles, and for each tile the position of its region, (n,)."""
    if tile_px is None:
        return dataset, np.arange(len(dataset))
    parts = [tiled(dataset.subset([i]), tile_px) for i in range(len(dataset))]
    records = tuple(record for part in parts for record in part.records)
    return replace(dataset, records=records), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _features(parts: CellDataset, config: ClusteringConfig) -> NDArray[np.float32]:
    graph = frozen_graph(config, default_cache_dir())
    with track("features", len(parts)) as progress:
        found = extract(parts.records, graph, cache=FeatureCache(default_cache_dir()), progress=progress)
    return found.complete()


def _means(features: NDArray[np.float32], region: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros((int(region.max()) + 1, features.shape[1]))
    np.add.at(total, region, features)
    means: NDArray[np.float64] = total / np.bincount(region)[:, None]
    return means


def _agreement(labels: Sequence[str], number: NDArray[np.int64]) -> Agreement | None:
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score

    known = np.array([label != UNLABELLED for label in labels])
    names, truth = np.unique(np.array(labels)[known], return_inverse=True)
    if len(names) < 2:
        return None
    counts = np.zeros((len(names), int(number.max()) + 1), int)
    np.add.at(counts, (truth, number[known]), 1)
    rows, columns = linear_sum_assignment(-counts)
    return Agreement(
        accuracy=float(counts[rows, columns].sum() / counts.sum()),
        adjusted_rand=float(adjusted_rand_score(truth, number[known])),
        majority_rate=float(counts.sum(axis=1).max() / counts.sum()),
    )
