"""Distances of embeddings to the training cells of each class."""

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hemalens.models.class_distance import N_COMPONENTS, ClassDistance


def _cells(seed: int, n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = np.concatenate([np.arange(k), rng.integers(k, size=n - k)])
    mixed = rng.normal(size=(n, d)) @ (np.eye(d) + 0.2 * np.random.default_rng(0).normal(size=(d, d)) / d**0.5)
    return (5 * rng.normal(size=(k, d))[classes] + mixed).astype(np.float32), classes


def _measured(distance: ClassDistance, embeddings: np.ndarray) -> np.ndarray:
    return distance(torch.from_numpy(embeddings)).numpy()


@given(seed=st.integers(0, 2**31 - 1), d=st.integers(2, 12), k=st.integers(1, 4))
def test_of_few_dimensions_it_is_the_mahalanobis_distance(seed: int, d: int, k: int) -> None:
    """All components but one are kept, and the last one is the rest: the covariance within classes, exactly."""
    x, y = _cells(seed, 60, d, k)
    held, held_y = _cells(seed + 1, 21, d, k)
    means = np.stack([x[y == c].astype(float).mean(axis=0) for c in range(k)])
    spread = x - means[y]
    precision = np.linalg.inv(spread.T @ spread / (60 - k))

    def expected(found: np.ndarray) -> np.ndarray:
        apart = found[:, None] - means
        return np.sqrt(np.einsum("nkd,de,nke->nk", apart, precision, apart))

    unit = np.median(expected(held)[np.arange(21), held_y])
    np.testing.assert_allclose(_measured(ClassDistance.of(x, y, held, held_y), held), expected(held) / unit, rtol=1e-3)


def test_directions_that_no_training_cell_takes_count_most() -> None:
    rng = np.random.default_rng(0)
    flat = np.zeros((400, 300), np.float32)
    flat[:, :5] = rng.normal(size=(400, 5))
    flat[:, 5:] = 0.01 * rng.normal(size=(400, 295))
    y = np.arange(400) % 2
    distance = ClassDistance.of(flat[:300], y[:300], flat[300:], y[300:])
    assert distance.components.shape == (300, N_COMPONENTS)
    beside, within = np.zeros((1, 300), np.float32), np.zeros((1, 300), np.float32)
    within[0, 0] = beside[0, 250] = 1
    assert _measured(distance, beside).min() > 5 * _measured(distance, within).max()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_few_training_images_give_finite_distances(n: int) -> None:
    x, y = _cells(0, n, 8, 2)
    found = _measured(ClassDistance.of(x, y, x, y), x)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
