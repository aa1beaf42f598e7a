"""The mean of what a network and a classifier answer, and the classifier without the cell that it is asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trained
from hemalens.adaptation.encoders import open_embedders
from hemalens.adaptation.ensemble import RULE, EnsembleClassifier, mean_log_probabilities
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import open_dataset
from trained import colour_cells

HOME = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY = {"neutrophil": (190, 110, 90), "lymphocyte": (110, 60, 150), "monocyte": (90, 160, 60)}


@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), k=st.integers(2, 5))
def test_the_mean_answer_is_the_geometric_mean_of_the_probabilities(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    own, kept = rng.normal(size=(2, n, k)) * 5
    own[0] = -np.inf
    found = mean_log_probabilities(own, kept)
    assert np.isneginf(found[0]).all()
    for row, a, b in list(zip(found, own, kept, strict=True))[1:]:
        p, q = (np.exp(z) / np.exp(z).sum() for z in (a, b))
        np.testing.assert_allclose(np.exp(row), np.sqrt(p * q), rtol=1e-9)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    )


def test_each_cell_is_answered_by_a_classifier_that_has_not_seen_it(base: Bundle, tmp_path: Path) -> None:
    away = colour_cells(tmp_path / "away", AWAY, 4, seed=1, noise=40)
    cells = open_dataset(f"folder:{away}").under(base.manifest.labels)
    kept = EnsembleClassifier.on(open_embedders(base, [], RULE), cells)
    left_out = kept.left_out()
    rows = np.arange(len(cells))
    for i in (0, 5, 11):
        learned = kept.learn(np.delete(rows, i))
        np.testing.assert_allclose(left_out[i], kept.logits(learned)[i], atol=1e-6)
    assert not np.allclose(left_out, kept.logits(kept.learn()))
