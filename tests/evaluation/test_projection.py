"""Embeddings on a plane: the plane that the components span, no more points than asked for, seeds that count."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemalens.errors import MissingExtraError
from hemalens.evaluation.projection import Point, joint_scatter, scatter
from hemalens.evaluation.results import Scatter

needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="needs the package umap-learn")


def _cells(n: int, domain: str, *, shift: float = 0.0, seed: int = 0) -> tuple[NDArray[np.float64], list[Point]]:
    """Embeddings (n, 5) of two types that are 8 apart."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(0, 1, (n, 5)) + shift
    embeddings[:, 0] += 8.0 * (np.arange(n) % 2)
    return embeddings, [("ab"[i % 2], "a", domain) for i in range(n)]


def _xy(found: Scatter | None) -> NDArray[np.float64]:
    assert found is not None
    return np.array([(point.x, point.y) for point in found.points])


def test_plane_is_that_of_the_first_two_components() -> None:
    embeddings, points = _cells(60, "lab_a")
    found = scatter(embeddings, points, seed=0)
    assert found is not None
    centred = embeddings - embeddings.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.abs(_xy(found)) - np.abs(centred @ axes[:2].T)).max() < 1e-4
    assert found.explained == pytest.approx(tuple(values[:2] ** 2 / (values**2).sum()))
    assert (found.projection, found.n_total) == ("PCA", 60)
    assert [(p.label, p.predicted, p.domain) for p in found.points] == points


def test_points_are_drawn_by_the_seed() -> None:
    embeddings, points = _cells(60, "lab_a")
    one, again, other = (scatter(embeddings, points, seed=seed, n_points=20) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(_xy(one)) == 20


def test_points_are_those_of_bloodshot_s_figure() -> None:
    """Its code draws indices without replacement, by a generator of the seed."""
    embeddings, points = _cells(60, "lab_a")
    named = [(str(i), *rest) for i, (_, *rest) in enumerate(points)]
    found = scatter(embeddings, named, seed=42, n_points=20)
    assert found is not None
    expected = np.random.default_rng(42).choice(60, 20, replace=False)
    assert {int(point.label) for point in found.points} == set(expected.tolist())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_images_have_no_plane(n: int) -> None:
    embeddings, points = _cells(n, "lab_a")
    assert scatter(embeddings, points, seed=0) is None
    assert joint_scatter([(embeddings[:1], points[:1]), (embeddings[1:], points[1:])], seed=0) is None


def test_no_domain_of_a_joint_plane_has_more_points_than_asked_for() -> None:
    embedded = [_cells(200, "lab_a"), _cells(30, "lab_b", shift=3, seed=1), _cells(8, "lab_c", shift=-3, seed=2)]
    found = joint_scatter(embedded, seed=0, n_points=25)
    assert found is not None
    domains = [point.domain for point in found.points]
    assert {name: domains.count(name) for name in domains} == {"lab_a": 25, "lab_b": 25, "lab_c": 8}
    assert found.n_total == 238
    assert found == joint_scatter(embedded, seed=0, n_points=25)
    assert found != joint_scatter(embedded, seed=1, n_points=25)


def test_joint_plane_is_fitted_on_all_datasets() -> None:
    embedded = [_cells(40, "lab_a"), _cells(40, "lab_b", shift=30.0, seed=1)]
    apart = _xy(joint_scatter(embedded, seed=0))[:, 0]
    # lab_b is 30 * sqrt(5) from lab_a, which decides on the first component
    assert abs(abs(apart[:40].mean() - apart[40:].mean()) - 30 * np.sqrt(5)) < 4
    both = np.concatenate([rows for rows, _ in embedded])
    assert np.array_equal(_xy(joint_scatter(embedded, seed=0)), _xy(scatter(both, embedded[0][1] + embedded[1][1], seed=0)))


def test_embeddings_that_are_all_alike_are_on_one_spot() -> None:
    found = scatter(np.ones((5, 4)), [("a", "a", "d")] * 5, seed=0)
    assert found is not None
    assert found.explained == (0.0, 0.0)
    assert not _xy(found).any()


@pytest.mark.slow  # the package compiles itself
@needs_umap
def test_umap_keeps_what_is_alike_together_and_follows_its_seed() -> None:
    embedded = [_cells(30, "lab_a"), _cells(30, "lab_b", seed=1)]
    found = joint_scatter(embedded, seed=0, projection="UMAP")
    assert found is not None
    assert (found.projection, found.explained) == ("UMAP", None)
    plane = _xy(found)
    labels = np.array([point.label for point in found.points])
    centres = {name: plane[labels == name].mean(axis=0) for name in "ab"}
    nearer = [min("ab", key=lambda name: float(np.linalg.norm(xy - centres[name]))) for xy in plane]
    assert (np.array(nearer) == labels).mean() > 0.95
    assert found == joint_scatter(embedded, seed=0, projection="UMAP")
    few, points = _cells(3, "lab_a")
    assert np.isfinite(_xy(scatter(few, points, seed=0, projection="UMAP"))).all()


def test_umap_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "umap" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    embeddings, points = _cells(10, "lab_a")
    with pytest.raises(MissingExtraError, match=r"a UMAP needs the package 'umap'.*hemalens\[figures\]"):
        scatter(embeddings, points, seed=0, projection="UMAP")
