"""Class means of a Gaussian mixture: the density by its formula, the pull of the source, rotations and copies of images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.adaptation.class_means import ITERATIONS, ClassMeans, SourceCells
from hemalens.trust.reference import Geometry, ReferenceStatistics


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _cells(seed: int, n: int, d: int = 6, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), logits (n, k) that are right for most, and classes (n,)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    embeddings = 2 * np.eye(k, d)[truth] + rng.normal(size=(n, d)) * 0.5 + 3
    return embeddings, 1.5 * np.eye(k)[truth] + rng.normal(size=(n, k)), truth


def _by_hand(embeddings: np.ndarray, logits: np.ndarray, counts: np.ndarray, source: SourceCells | None) -> np.ndarray:
    """The logits after the mixture, by its definition: quadratic distances to each mean, in every dimension."""
    points = _unit(embeddings - np.average(embeddings, axis=0, weights=counts))
    k, n_axes = logits.shape[1], points.shape[1]
    members, found = _softmax(logits) * counts[:, None], logits
    for _ in range(ITERATIONS):
        n = members.sum(axis=0)
        means = np.stack([np.average(points, axis=0, weights=members[:, c]) for c in range(k)])
        if source is not None:
            known = np.stack([source.points[source.targets == c].mean(axis=0) for c in range(k)])
            share = n / (n + 10)
            shift = sum(share[c] * (means[c] - known[c]) for c in range(k)) / share.sum()
            means = np.stack([(n[c] * means[c] + 60 * (known[c] + shift)) / (n[c] + 60) for c in range(k)])
        covariance = (
            sum(
                members[i, c] * np.outer(points[i] - means[c], points[i] - means[c])
                for i in range(len(points))
                for c in range(k)
            )
            / counts.sum()
        )
        covariance = covariance + 0.3 * np.trace(covariance) / n_axes * np.eye(n_axes)
        inverse = np.linalg.inv(covariance)
        squares = np.stack([((points - m) @ inverse * (points - m)).sum(axis=1) for m in means], axis=1)
        found = logits - 0.1 * squares
        members = _softmax(found) * counts[:, None]
    return _softmax(found)


@given(seed=st.integers(0, 10_000), n=st.integers(20, 50), weighted=st.booleans(), known=st.booleans())
@settings(max_examples=25, deadline=None)
def test_logits_gain_the_weighted_log_density(seed: int, n: int, weighted: bool, known: bool) -> None:
    embeddings, logits, _ = _cells(seed, n)
    counts = np.random.default_rng(seed).uniform(0.2, 1, n) if weighted else np.ones(n)
    home, _, truth = _cells(seed + 1, 40)
    source = SourceCells(_unit(home - home.mean(axis=0)), np.r_[truth[:-3], 0, 1, 2]) if known else None
    found = ClassMeans.fit(embeddings, logits, counts, source)
    expected = _by_hand(embeddings, logits, counts, source)
    np.testing.assert_allclose(_softmax(found.logits(embeddings, logits)), expected, atol=1e-6)
    np.testing.assert_allclose(found.cells, (expected * counts[:, None]).sum(axis=0), atol=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_neither_place_scale_nor_rotation_of_the_embedding_matters(seed: int) -> None:
    embeddings, logits, _ = _cells(seed, 30)
    rng, ones = np.random.default_rng(seed), np.ones(30)
    turned = 3 * embeddings @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + rng.normal(size=6)
    first, second = (ClassMeans.fit(x, logits, ones, None).logits(x, logits) for x in (embeddings, turned))
    np.testing.assert_allclose(_softmax(first), _softmax(second), atol=1e-6)


def test_doubtful_cells_follow_their_class_and_images_that_do_not_count_change_nothing() -> None:
    embeddings, logits, truth = _cells(3, 120)
    logits[:12] = 0.0
    found = ClassMeans.fit(embeddings, logits, np.ones(120), None)
    assert (found.logits(embeddings[:12], logits[:12]).argmax(axis=1) == truth[:12]).mean() > 0.9
    away = np.vstack([embeddings, np.full((50, 6), 90.0)])
    counts = np.r_[np.ones(120), np.full(50, 1e-12)]
    same = ClassMeans.fit(away, np.vstack([logits, np.zeros((50, 3))]), counts, None)
    np.testing.assert_allclose(same.logits(embeddings, logits), found.logits(embeddings, logits), atol=1e-4)


def test_images_that_are_all_alike_change_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3))
    found = ClassMeans.fit(np.ones((20, 4)), logits, np.ones(20), None)
    np.testing.assert_allclose(_softmax(found.logits(np.ones((20, 4)), logits)), _softmax(logits), atol=1e-6)


@pytest.mark.parametrize("d", [6, 60])
def test_held_out_cells_of_the_source_are_rebuilt_from_the_reference_statistics(d: int) -> None:
    embeddings, logits, truth = _cells(5, 300, d=d)
    geometry = Geometry.fit(embeddings, truth, 3)
    assert geometry is not None
    reference = ReferenceStatistics(_softmax(logits), truth, geometry, geometry.project(embeddings))
    cells = SourceCells.of(reference, (0, 2))
    assert cells is not None
    kept = truth != 1
    np.testing.assert_array_equal(cells.targets, np.where(truth[kept] == 0, 0, 1))
    expected = _unit(embeddings[kept] - embeddings[kept].mean(axis=0))
    means = [np.stack([points[cells.targets == c].mean(axis=0) for c in (0, 1)]) for points in (cells.points, expected)]
    cosine = (_unit(means[0]) * _unit(means[1])).sum(axis=1)
    assert cosine.min() > 0.95
    assert SourceCells.of(None, (0, 2)) is None
    assert SourceCells.of(ReferenceStatistics(_softmax(logits), truth), (0, 2)) is None
