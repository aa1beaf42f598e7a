"""Class shares by expectation maximisation, the standardised embedding, and both in a graph."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from hemalens.adaptation.unlabelled_config import (
    PIECES,
    UNTAUGHT,
    UnlabelledConfig,
    balanced_weights,
    estimate_prior,
    log_usual_shares,
    pseudo_labels,
    standardisation,
    training_prior,
    with_prior,
    with_standardisation,
)
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import Manifest, Unlabelled, class_entries
from hemalens.classifiers.calibration import temperature_of_certainty
from hemalens.errors import ConfigError
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing

# ------------------------------------------------------------------------------------------------------------ the prior


def _calibrated(prior: np.ndarray, shares: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Probabilities (n, k) of a model that is right about two-dimensional normal classes under `prior`, of images drawn
    by `shares`.
    """
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 0], [2, 0], [0, 2], [2.5, 2.5]])[: len(prior)]
    x = centres[rng.choice(len(prior), n, p=shares)] + rng.normal(size=(n, 2))
    density = np.exp(-((x[:, None] - centres) ** 2).sum(axis=2) / 2) * prior
    return np.asarray(density / density.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("prior", [[0.25, 0.25, 0.25, 0.25], [0.1, 0.5, 0.3, 0.1]])
def test_the_mix_of_a_calibrated_model_s_images_is_recovered(prior: list[float]) -> None:
    shares = np.array([0.7, 0.05, 0.2, 0.05])
    probabilities = _calibrated(np.array(prior), shares, 20_000, seed=0)
    found = estimate_prior(probabilities, np.array(prior))
    np.testing.assert_allclose(found, shares, atol=0.02)
    assert np.abs(probabilities.mean(axis=0) - shares).max() > 0.05, "which the mean probability is not"


def test_it_is_the_maximum_of_the_likelihood() -> None:
    prior = np.array([0.5, 0.3, 0.2])
    probabilities = _calibrated(prior, np.array([0.2, 0.2, 0.6]), 300, seed=1)
    found = estimate_prior(probabilities, prior)

    def likelihood(shares: np.ndarray) -> float:
        return float(np.log((probabilities / prior) @ shares).sum())

    rng = np.random.default_rng(2)
    for other in rng.dirichlet(np.ones(3), 200):
        assert likelihood(found) >= likelihood(other)
        assert likelihood(found) >= likelihood(0.99 * found + 0.01 * other) - 1e-9


@hypothesis.given(seed=st.integers(0, 10_000), n=st.integers(1, 30), k=st.integers(2, 6), sharpness=st.floats(0.1, 200))
def test_the_estimate_is_a_distribution_and_a_fixed_point(seed: int, n: int, k: int, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharpness
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    prior = rng.dirichlet(np.full(k, 5.0))
    found = estimate_prior(probabilities, prior, n_steps=5000)
    assert found.shape == (k,)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    joint = probabilities / prior * found
    np.testing.assert_allclose((joint / joint.sum(axis=1, keepdims=True)).mean(axis=0), found, atol=1e-4)
    # the order of images and classes does not matter
    order = rng.permutation(k)
    again = estimate_prior(probabilities[::-1][:, order], prior[order], n_steps=5000)
    np.testing.assert_allclose(again, found[order], atol=1e-6)


def test_answers_without_doubt_are_counted_and_even_ones_say_nothing() -> None:
    sure = np.eye(3)[[0, 0, 0, 1]]
    np.testing.assert_allclose(estimate_prior(sure, np.full(3, 1 / 3)), [0.75, 0.25, 0], atol=1e-12)
    prior = np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(estimate_prior(np.tile(prior, (5, 1)), prior), prior)


def _manifest(config: dict[str, Any], **more: Any) -> Manifest:
    kept = {"name": "lab", "fingerprint": "f", "licence": "l", "citation": "c", "synthetic": False}
    return Manifest(
        created="now",
        method="m",
        config=config,
        label_map="five_class",
        classes=class_entries(("neutrophil", "monocyte")),
        preprocessing=Preprocessing(),
        embedding_size=2,
        frozen_backbone=True,
        temperature=1.0,
        data=(
            DataEntry(role="train", class_counts={"monocyte": 1, "neutrophil": 3}, **kept),
            DataEntry(role="validation", class_counts={"monocyte": 50}, **kept),
        ),
        parity=0.0,
        versions={},
        **more,
    )


def test_the_training_shares_are_those_of_the_sampling() -> None:
    np.testing.assert_allclose(training_prior(_manifest({})), [0.75, 0.25])
    np.testing.assert_allclose(training_prior(_manifest({"sampling": "none", "class_weights": "none"})), [0.75, 0.25])
    np.testing.assert_allclose(training_prior(_manifest({"sampling": "balanced"})), [0.5, 0.5])
    np.testing.assert_allclose(training_prior(_manifest({"class_weights": "balanced"})), [0.5, 0.5])
    before = Unlabelled(settings={}, base_model_sha256="0", n_images=9, n_unreadable=0, fingerprint="f", prior=(0.9, 0.1))
    assert training_prior(_manifest({}, unlabelled=before)).tolist() == [0.9, 0.1]
    taught = before.model_copy(update={"prior": None, "taught": {"neutrophil": 4, "monocyte": 3}})
    assert training_prior(_manifest({}, unlabelled=taught)).tolist() == [0.5, 0.5]


# ---------------------------------------------------------------------------------------------------- its own answers


@hypothesis.given(seed=st.integers(0, 10_000), n=st.integers(1, 30), k=st.integers(2, 6))
def test_images_are_drawn_by_what_each_class_shares_out(seed: int, n: int, k: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n)
    expected = []
    for row in probabilities:
        total = 0.0
        for c in range(k):
            mass = float(sum(other[c] for other in probabilities))
            total += row[c] / (mass if mass > 3 else 3.0)
        expected.append(total)
    found = balanced_weights(probabilities.astype(np.float32))
    np.testing.assert_allclose(found, np.array(expected) / sum(expected), rtol=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_sure_answers_make_classes_as_frequent_but_those_of_fewer_than_three_images() -> None:
    answers = np.repeat([0, 1, 2], [40, 8, 1])
    weights = balanced_weights(np.eye(3)[answers])
    np.testing.assert_allclose(np.bincount(answers, weights), np.array([3, 3, 1]) / 7)


def _most_certain(logits: np.ndarray) -> list[int]:
    """The rule in plain words: of each class the half that is most probable, three at least, none of fewer than three."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    certainty = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    taught = [UNTAUGHT] * len(logits)
    for c in range(logits.shape[1]):
        ranked = sorted((i for i in range(len(logits)) if logits[i].argmax() == c), key=lambda i: -certainty[i])
        if len(ranked) >= 3:
            for i in ranked[: max(3, (len(ranked) + 1) // 2)]:
                taught[i] = c
    return taught


@hypothesis.given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(2, 5))
def test_the_most_certain_half_of_each_class_teaches(seed: int, n: int, k: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(n, k)) * 2
    assert pseudo_labels(logits).tolist() == _most_certain(logits)


def test_certainty_is_bundle_and_images_where_probabilities_round_to_one_and_the_first_counts_where_it_is_not() -> None:
    margins = np.array([50.0, 90, 60, 80, 40, 70, 85])
    logits = np.stack([margins, np.zeros(7)], axis=1)
    assert (1 / (1 + np.exp(-margins)) == 1).all()
    assert np.flatnonzero(pseudo_labels(logits) == 0).tolist() == [1, 3, 5, 6]
    assert np.flatnonzero(pseudo_labels(np.tile([1.0, 0.0], (7, 1))) == 0).tolist() == [0, 1, 2, 3]
    assert (pseudo_labels(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])) == UNTAUGHT).all()


def test_the_temperature_gives_answers_the_certainty_asked_for() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 6
    for certainty in (0.4, 0.7, 0.95):
        powers = np.exp(logits / temperature_of_certainty(logits, certainty))
        assert (powers.max(axis=1) / powers.sum(axis=1)).mean() == pytest.approx(certainty, abs=1e-6)
    assert temperature_of_certainty(logits, 1.0) == 0.01
    assert temperature_of_certainty(logits, 0.1) == 100


# ------------------------------------------------------------------------------------------------------------ the graph


def test_standardised_features_have_the_source_s_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(3, 2, (500, 4)), rng.normal([0, 1, 9, 5], [1, 2, 3, 4], (300, 4))
    told, seen = (np.stack([x.mean(axis=0), x.std(axis=0)]) for x in (source, target))
    scale, shift = standardisation(told, seen, 1.0)
    moved = target * scale + shift
    np.testing.assert_allclose([moved.mean(axis=0), moved.std(axis=0)], told, rtol=1e-4)
    scale, shift = standardisation(told, seen, 0.5)
    np.testing.assert_allclose(scale, told[1] / ((told[1] + seen[1]) / 2), rtol=1e-5)
    np.testing.assert_allclose(shift, told[0] - scale * (told[0] + seen[0]) / 2, rtol=1e-4, atol=1e-5)


def test_a_feature_that_does_not_vary_is_not_blown_up() -> None:
    source = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
    target = np.array([[5.0, 5.0, 4.0], [0.0, 0.01, 3.0]])
    scale, shift = standardisation(source, target, 1.0)
    np.testing.assert_allclose(scale, [10, 10, 1], rtol=1e-6)
    np.testing.assert_allclose(shift, [1 - 50, 1 - 50, -4], rtol=1e-6)


def test_both_stand_in_the_graph_before_and_behind_the_head_and_may_come_twice() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 3)).astype(np.float32)
    encoder = graphs.make_model(
        [helper.make_node("Mul", ["image", "one"], ["embedding"])],
        [graphs.float_value("image", ["n", 3])],
        [graphs.float_value("embedding", ["n", 3])],
        [numpy_helper.from_array(np.array([1], np.float32), "one")],
    )
    head = graphs.make_model(
        [helper.make_node("Gemm", ["embedding", "weight"], ["raw_logits"], transB=1)],
        [graphs.float_value("embedding", ["n", 3])],
        [graphs.float_value("raw_logits", ["n", 2])],
        [numpy_helper.from_array(weight, "weight")],
    )
    graph = graphs.join(encoder, head, graphs.temperature_graph(2, 2.0), keep=("embedding",))
    before = graphs.digest(graph)
    scale, shift, ratio = (rng.normal(size=n).astype(np.float32) for n in (3, 3, 2))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    embedding, added = x, np.zeros(2)
    for made in range(1, 3):
        graph = with_prior(with_standardisation(graph, scale, shift), ratio)
        embedding, added = embedding * scale + shift, added + ratio
        names = [value.name for value in graph.graph.output]
        assert sorted(names) == ["embedding", "logits", "probabilities"], made
        found = dict(zip(names, session_of(graph.SerializeToString()).run(names, {"image": x}), strict=True))
        logits = embedding @ weight.T / 2 + added
        np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
        powers = np.exp(logits)
        np.testing.assert_allclose(found["probabilities"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)
    assert graphs.digest(graph) != before


# ----------------------------------------------------------------------------------------------------------- the config

BAD = {
    "batch_norm=false size=false class_bias=false": "nothing follows the images: set one of batch_norm, "
    "standardise, pseudo_labels, prior, size, class_bias, neighbours to true",
    "class_balance=maybe": "key 'class_balance'",
    "strength=0": "key 'strength'",
    "strength=1.5": "key 'strength'",
    "batch_size=2": "key 'batch_size'",
    "batchnorm=true": "unknown key 'batchnorm'. did you mean 'batch_norm'",
    "prior=yes": "key 'prior'",
    "size=2": "key 'size'",
    "prior=true": "prior and class_bias both move the classes: set one of them to false",
    "batch_norm=false class_balance=true": "class_balance goes with batch_norm=true only",
    "batch_norm=false strength=0.5": "strength goes with batch_norm or standardise only",
    "batch_norm=false class_bias=false prior=true strength=1": "strength goes with batch_norm or standardise only",
    "scarce=0": "key 'scarce'",
    "scarce=2": "key 'scarce'",
    "class_bias=false scarce=0.5": "scarce goes with class_bias only",
}


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_setting_is_told(setting: str) -> None:
    with pytest.raises(ConfigError, match=BAD[setting]):
        UnlabelledConfig.load(None, setting.split())


def test_the_defaults_are_batch_norm_by_half_size_and_a_class_bias() -> None:
    assert UnlabelledConfig().pieces == ("batch_norm", "size", "class_bias")
    assert UnlabelledConfig().strength == 0.5


def test_the_pieces_are_those_in_use_in_the_order_in_which_they_are_done() -> None:
    for settings, pieces in {
        "prior=true standardise=true class_bias=false": ("batch_norm", "standardise", "prior", "size"),
        "batch_norm=false pseudo_labels=true size=false": ("pseudo_labels", "class_bias"),
        "batch_norm=false class_bias=false": ("size",),
        "batch_norm=false standardise=true strength=0.3": ("standardise", "size", "class_bias"),
    }.items():
        assert UnlabelledConfig.load(None, settings.split()).pieces == pieces


def test_basophils_alone_are_taken_to_be_scarce() -> None:
    """Whatever they are called; a label that names no cell type is as frequent as any."""
    labels = ["neutrophil", "basophil", "BASO", "Basophils", "unlike any", "blast"]
    np.testing.assert_allclose(log_usual_shares(labels, 0.25), [0, *[-np.log(4)] * 3, 0, 0])
    np.testing.assert_array_equal(log_usual_shares(labels, 1), np.zeros(6))


@pytest.mark.parametrize("piece", PIECES)
def test_the_answers_are_looked_at_for_some_pieces_only(piece: str) -> None:
    """Batch norm and the standardised embedding do without; class balance looks at answers of its own."""
    alone = dict.fromkeys(PIECES, False) | {piece: True} | ({"batch_norm": True} if piece == "class_balance" else {})
    assert UnlabelledConfig.from_mapping(alone).answers is (
        piece in ("pseudo_labels", "prior", "size", "class_bias", "neighbours")
    )
