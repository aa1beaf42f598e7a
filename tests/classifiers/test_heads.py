"""Every head keeps the contract; the published settings; class weights and unknown names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from documentation import DOCS
from head_contract import CHECKS, Blobs, blobs, fitted
from hemalens.classifiers.heads import HEADS, Head, check_head, make_head
from hemalens.errors import ConfigError


@pytest.fixture(scope="module")
def data() -> Blobs:
    return blobs()


@pytest.fixture(scope="module")
def heads(data: Blobs) -> dict[str, Head]:
    """Every head, fitted."""
    return {name: fitted(name, data) for name in HEADS}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_the_contract(heads: dict[str, Head], data: Blobs, name: str, check: Any) -> None:
    check(heads[name], data)


@pytest.mark.parametrize("name", ["rf", "ann"])
def test_another_seed_gives_another_head(heads: dict[str, Head], data: Blobs, name: str) -> None:
    other = make_head(name, seed=4).fit(data[0], data[1])
    assert np.abs(np.asarray(other.predict_proba(data[2])) - heads[name].predict_proba(data[2])).max() > 1e-3


def test_settings_are_the_published_ones() -> None:
    """BC-SAM: a forest of 200 trees of depth 16, one hidden layer of 100, SVMs with RBF and polynomial kernels."""
    forest, network = (make_head(name, seed=0).estimator for name in ("rf", "ann"))
    assert (forest.n_estimators, forest.max_depth) == (200, 16)
    assert tuple(np.atleast_1d(network[-1].hidden_layer_sizes)) == (100,)
    for name, kernel in (("svm_rbf", "rbf"), ("svm_poly", "poly"), ("svm_linear", "linear")):
        assert make_head(name, seed=0).estimator[-1].kernel == kernel
    assert {name for name, kind in HEADS.items() if not kind.standardise} == {"rf", "xgboost"}


def test_standardised_heads_scale_each_feature(heads: dict[str, Head], data: Blobs) -> None:
    for name in ("lr", "svm_rbf", "ann"):
        scaled = heads[name].estimator[0].transform(data[0])
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-3)


def test_the_number_of_trees_grown_is_that_of_the_settings(heads: dict[str, Head]) -> None:
    trees = heads["rf"].estimator.estimators_
    assert len(trees) == 200
    assert max(tree.get_depth() for tree in trees) <= 16


def test_an_unknown_head_shows_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown head 'svm_rfb'.*'svm_rbf'"):
        make_head("svm_rfb", seed=0)
    with pytest.raises(ConfigError, match=rf"unknown head 'zzz'.*{', '.join(sorted(HEADS))}"):
        check_head("zzz")


def test_a_page_of_the_documentation_names_every_head() -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    assert any(all(f"`{name}`" in page for name in HEADS) for page in pages)
