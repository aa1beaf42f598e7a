"""Pseudo-labels: clusters of frozen features, largest first, and their agreement with labels from its definition."""

from __future__ import annotations

import csv
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import trained
from fakes import prcc
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import DatasetError
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.taxonomy import AS_LABELLED
from hemalens.training import cluster_labels as module
from hemalens.training.cluster_labels import (
    FEATURE_TABLE,
    LABEL_TABLE,
    UNLABELLED,
    ClusteringConfig,
    clusters_of,
    write_clusters,
)
from hemalens.training.data import resized_images

TINY = ClusteringConfig(backbone="test_resnet", weights="none", image_size_px=32, tile_px=48)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Six regions of each of two kinds of tissue, in one folder."""
    return trained.tissue(tmp_path_factory, "prcc")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Regions of the two kinds by type, of the second one fewer."""
    root = tmp_path_factory.mktemp("typed")
    prcc.write(root, n_per_class=4, side_px=96, typed=True)
    max((root / "type2").iterdir()).unlink()
    return open_dataset(f"prcc:{root}", labels=AS_LABELLED)


def _features(dataset: CellDataset, scratch: Path) -> NDArray[np.float64]:
    """The embeddings of whole images, by torch."""
    pixels = resized_images(dataset, preprocessing_of(TINY), scratch).astype(np.float32)
    preprocessing = preprocessing_of(TINY)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        found = create_backbone(TINY)(torch.from_numpy(((pixels - mean) / std).astype(np.float32)))
    return found.numpy().astype(float)


def test_the_defaults_are_the_published_settings() -> None:
    config = ClusteringConfig()
    assert (config.backbone, config.weights, config.image_size_px) == ("vgg16", "hub:tv_in1k", 224)
    assert (config.n_components, config.n_clusters) == (100, 2)
    assert config.tile_px is None
    assert UNLABELLED == "unlabelled"


def test_clusters_of_unlike_tissue_are_its_kinds(typed: CellDataset) -> None:
    clusters = clusters_of(typed, TINY)
    assert clusters.sizes == {"cluster_1": 4, "cluster_2": 3}, "the largest first"
    assert clusters.dataset.classes == ("cluster_1", "cluster_2")
    assert clusters.dataset.name == f"{typed.name}, clustered"
    kinds = {(record.source_label, record.label) for record in clusters.dataset.records}
    assert kinds == {("type1", "cluster_1"), ("type2", "cluster_2")}
    agreement = clusters.agreement
    assert agreement is not None
    assert (agreement.accuracy, agreement.adjusted_rand, agreement.majority_rate) == (1, 1, pytest.approx(4 / 7))


def test_the_tables_of_clusters_hold_every_region(typed: CellDataset, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"tile_px": None})
    clusters = clusters_of(typed, config)
    write_clusters(clusters, tmp_path / "tables")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"prcc_feature.csv", "prcc_cluster_label.csv"}
    with (tmp_path / "tables" / LABEL_TABLE).open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert [row["image"] for row in labels] == [record.path.name for record in typed.records]
    assert {(row["source_label"], row["cluster"]) for row in labels} == {("type1", "cluster_1"), ("type2", "cluster_2")}
    with (tmp_path / "tables" / FEATURE_TABLE).open(newline="") as file:
        head, *rows = csv.reader(file)
    expected = _features(typed, tmp_path / "scratch.npy")
    assert head == ["image", *(f"feature_{i + 1}" for i in range(expected.shape[1]))]
    assert [row[0] for row in rows] == [record.path.name for record in typed.records]
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, atol=2e-3)


def test_every_tile_has_the_label_of_its_region(unlabelled: CellDataset) -> None:
    clusters = clusters_of(unlabelled, TINY)
    assert len(clusters.dataset) == 4 * len(unlabelled)
    assert sum(clusters.sizes.values()) == len(unlabelled)
    labels: dict[Path, set[str | None]] = {}
    for record in clusters.dataset.records:
        assert record.box is not None
        assert record.group == record.path.name
        labels.setdefault(record.path, set()).add(record.label)
    assert set(labels) == {record.path for record in unlabelled.records}
    assert all(len(found) == 1 for found in labels.values())
    whole = clusters_of(unlabelled, TINY.model_copy(update={"tile_px": None}))
    assert [record.path for record in whole.dataset.records] == [record.path for record in unlabelled.records]
    assert all(record.box is None for record in whole.dataset.records)


def test_without_type_labels_the_agreement_is_not_told(unlabelled: CellDataset) -> None:
    assert clusters_of(unlabelled, TINY).agreement is None


def test_the_same_seed_gives_the_same_clusters(
    unlabelled: CellDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = clusters_of(unlabelled, TINY)
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path))
    again = clusters_of(unlabelled, TINY)
    assert again.dataset.records == first.dataset.records
    assert (again.sizes, again.n_components) == (first.sizes, first.n_components)
    assert again.explained == pytest.approx(first.explained, rel=1e-6)


def test_components_are_those_of_the_features(unlabelled: CellDataset, tmp_path: Path) -> None:
    whole = TINY.model_copy(update={"tile_px": None})
    features = _features(unlabelled, tmp_path / "pixels.npy")
    variances = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    for n_components, expected in ((1, 1), (3, 3), (11, 11), (12, 11), (100, 11)):
        clusters = clusters_of(unlabelled, whole.model_copy(update={"n_components": n_components}))
        assert clusters.n_components == expected, "no more than images less one"
        assert clusters.explained == pytest.approx(variances[:expected].sum() / variances.sum(), abs=1e-4)


def test_a_region_is_the_mean_of_its_tiles() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = module._means(features, np.array([0, 1, 1, 2, 2, 2]))
    np.testing.assert_allclose(found, [features[0], features[1:3].mean(axis=0), features[3:].mean(axis=0)], rtol=1e-6)


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_features_of_few_numbers_and_more_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_clusters: int
) -> None:
    """Points far apart on a plane, of which k-means finds the groups: 2, 5 and 3 of them."""
    centres = np.repeat([0, 1, 2], [2, 5, 3])
    points = 100 * np.array([[0, 0], [1, 0], [1, 1]])[centres] + np.random.default_rng(0).normal(size=(10, 2))
    monkeypatch.setattr(module, "_features", lambda parts, config: points.astype(np.float32))
    for i in range(10):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"{i}.png")
    dataset = open_dataset(f"prcc:{tmp_path}", labels=AS_LABELLED)
    clusters = clusters_of(dataset, TINY.model_copy(update={"n_clusters": n_clusters, "n_components": 9}))
    assert clusters.n_components == 2
    if n_clusters == 3:
        assert list(clusters.sizes.items()) == [("cluster_1", 5), ("cluster_2", 3), ("cluster_3", 2)]
        assert [r.label for r in clusters.dataset.records] == ["cluster_3"] * 2 + ["cluster_1"] * 5 + ["cluster_2"] * 3
    assert list(clusters.sizes.values()) == sorted(clusters.sizes.values(), reverse=True)


@pytest.mark.parametrize(("n_clusters", "n_images"), [(2, 3), (4, 7)])
def test_too_few_images_are_refused(unlabelled: CellDataset, n_clusters: int, n_images: int) -> None:
    with pytest.raises(DatasetError) as error:
        clusters_of(unlabelled.subset(range(n_images)), TINY.model_copy(update={"n_clusters": n_clusters}))
    assert str(error.value) == (
        f"prcc has too few images for {n_clusters} clusters; expected at least {2 * n_clusters}; got {n_images}"
    )


# -------------------------------------------------------------------------------------------------------- the agreement


def _best_matching(labels: list[str], numbers: list[int]) -> float:
    """Share of images that are right under the best one-to-one naming of clusters by labels, by trying them all."""
    names = sorted(set(labels))
    positions = range(max(len(names), max(numbers) + 1))
    padded = [*names, *([""] * (len(positions) - len(names)))]
    return max(
        np.mean([padded[order[n]] == label for label, n in zip(labels, numbers, strict=True)])
        for order in permutations(positions)
    )


def _adjusted_rand(labels: list[str], numbers: list[int]) -> float:
    """Hubert and Arabie 1985: agreement over pairs, less what chance gives."""
    pairs = list(combinations(range(len(labels)), 2))
    same_label = np.array([labels[i] == labels[j] for i, j in pairs])
    same_number = np.array([numbers[i] == numbers[j] for i, j in pairs])
    expected = same_label.sum() * same_number.sum() / len(pairs)
    highest = (same_label.sum() + same_number.sum()) / 2
    return float(((same_label & same_number).sum() - expected) / (highest - expected))


@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=3, max_size=14).filter(
        lambda found: len({label for label, _ in found}) > 1 and len({number for _, number in found}) > 1
    ),
    n_unknown=st.integers(0, 3),
)
def test_agreement_is_what_its_definitions_say(pairs: list[tuple[str, int]], n_unknown: int) -> None:
    labels, numbers = [label for label, _ in pairs], [number for _, number in pairs]
    # images without a label count for nothing, wherever they are
    given_labels = [UNLABELLED] * n_unknown + labels
    found = module._agreement(given_labels, np.array([0] * n_unknown + numbers))
    assert found is not None
    assert found.accuracy == pytest.approx(_best_matching(labels, numbers))
    assert found.majority_rate == pytest.approx(max(labels.count(name) for name in labels) / len(labels))
    if len(set(labels)) < len(labels) or len(set(numbers)) < len(numbers):
        assert found.adjusted_rand == pytest.approx(_adjusted_rand(labels, numbers), abs=1e-9)


@pytest.mark.parametrize("labels", [[UNLABELLED] * 4, ["type1"] * 4, [UNLABELLED, "type1", "type1", "type1"]])
def test_one_label_or_none_has_no_agreement(labels: list[str]) -> None:
    assert module._agreement(labels, np.array([0, 1, 0, 1])) is None
