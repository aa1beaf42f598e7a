"""The class bias as the least of its loss, and what stands behind a head in one laboratory: by formula and in a graph."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hemalens.adaptation.class_bias import LogitAdjustment, class_bias
from hemalens.bundle.bundle import FINE
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.graphs import build as graphs
from hemalens.graphs.additions import without_additions
from hemalens.graphs.runtime import run_rows, session_of

SIZES = tuple(NucleusSize(centre=c, scale=s) for c, s in ((-0.3, 0.05), (0.0, 0.1), (0.1, 0.2), (0.4, 0.08)))
BIAS = np.array([0.5, -1.0, 0.2, 0.3])
PLAIN = LogitAdjustment(0.4, BIAS)
SIZED = LogitAdjustment(0.4, BIAS, SIZES, extent=1.6, typical=math.log(40), widening=1.5)
EVIDENCE = {"a bias": PLAIN, "sizes": replace(SIZED, bias=np.zeros(4)), "both": SIZED}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# ------------------------------------------------------------------------------------------------------- the class bias


def _entropy(p: np.ndarray) -> np.ndarray:
    """Of each row, or of one distribution; a probability of nothing adds nothing."""
    return np.asarray(-np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1))


def _loss(logits: np.ndarray, bias: np.ndarray) -> float:
    """Mean entropy of the answers - 0.6 x entropy of the mean answer + 0.02 x sum of squares."""
    answers = _softmax(logits + bias)
    return float(_entropy(answers).mean() - 0.6 * _entropy(answers.mean(axis=0)) + 0.02 * (bias**2).sum())


def _overlapping(n: int, seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (3 n, 3) of classes that overlap a little, the first said more often by `offset`; and the classes."""
    truth = np.repeat(np.arange(3), n)
    logits = 4 * np.eye(3)[truth] + np.random.default_rng(seed).normal(size=(3 * n, 3))
    return logits + np.array([offset, 0, 0]), truth


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(2, 6), sharpness=st.floats(0.1, 10))
def test_the_bias_is_a_minimum_of_its_loss(seed: int, n: int, k: int, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharpness
    bias = class_bias(logits)
    assert bias.shape == (k,)
    assert _loss(logits, bias) <= _loss(logits, np.zeros(k)) + 1e-12
    slopes = [(_loss(logits, bias + step) - _loss(logits, bias - step)) / 2e-5 for step in 1e-5 * np.eye(k)]
    np.testing.assert_allclose(slopes, 0, atol=2e-4)
    for step in rng.normal(size=(20, k)):
        assert _loss(logits, bias + 0.02 * step) >= _loss(logits, bias) - 1e-6
    # a constant for all classes changes no answer, so that the squares leave none
    assert bias.sum() == pytest.approx(0, abs=1e-3)


def test_answers_that_are_certain_and_balanced_need_none() -> None:
    np.testing.assert_allclose(class_bias(30 * np.tile(np.eye(4), (5, 1))), 0, atol=1e-4)
    np.testing.assert_allclose(class_bias(np.zeros((9, 3))), 0, atol=1e-4)


def test_a_head_that_says_one_class_too_often_is_brought_back() -> None:
    logits, truth = _overlapping(60, seed=0, offset=3.5)
    right = (logits.argmax(axis=1) == truth).mean()
    bias = class_bias(logits)
    assert bias[0] < min(bias[1:])
    assert right < 0.75
    assert ((logits + bias).argmax(axis=1) == truth).mean() > 0.95


def test_a_class_that_is_rare_stays_rare() -> None:
    logits, truth = _overlapping(60, seed=1)
    kept = np.r_[0:60, 60:63, 120:123]
    answers = (logits[kept] + class_bias(logits[kept])).argmax(axis=1)
    assert (answers == truth[kept]).mean() > 0.95
    assert np.bincount(answers, minlength=3)[1:].max() <= 6


@given(seed=st.integers(0, 10_000), n=st.integers(2, 40), k=st.integers(2, 6), constant=st.floats(-50, 50))
def test_neither_the_order_of_classes_and_images_nor_a_constant_counts(seed: int, n: int, k: int, constant: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 3
    bias, order = class_bias(logits), rng.permutation(k)
    np.testing.assert_allclose(class_bias(logits[:, order]), bias[order], atol=2e-3)
    np.testing.assert_allclose(class_bias(rng.permutation(logits) + constant), bias, atol=2e-3)


@pytest.mark.parametrize(
    "logits",
    [
        1e4 * np.eye(3),
        1e4 * np.tile([1.0, -1.0, 0.0], (20, 1)),
        np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]),
        np.random.default_rng(0).normal(size=(50, 4)) * 1e3,
        np.array([[300.0, -300.0]]),
        np.zeros((1, 2)),
    ],
)
def test_the_bias_is_finite_for_extreme_logits(logits: np.ndarray) -> None:
    bias = class_bias(logits.astype(np.float32))
    assert np.isfinite(bias).all()
    assert np.abs(bias).max() < 10
    assert _loss(logits, bias) <= _loss(logits, np.zeros_like(bias)) + 1e-9


# ---------------------------------------------------------------------------------------------------------- the formula


def _log_density(x: float, size: NucleusSize, widening: float) -> float:
    """Student's with 4 degrees of freedom, written out."""
    scale = size.scale * widening
    z = (x - size.centre) / scale
    return math.log(math.gamma(2.5) / (math.gamma(2) * math.sqrt(4 * math.pi)) / scale) - 2.5 * math.log(1 + z**2 / 4)


def _by_hand(evidence: LogitAdjustment, logits: np.ndarray, log_diameters: np.ndarray) -> np.ndarray:
    rows = []
    for row, log_diameter in zip(logits, log_diameters, strict=True):
        of_size = [_log_density(log_diameter - evidence.typical, s, evidence.widening) for s in evidence.sizes] or [0] * 4
        rows.append([row[c] * evidence.softening + of_size[c] + evidence.bias[c] for c in range(4)])
    return np.array(rows)


@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
def test_logits_are_softened_and_have_what_sizes_say_and_the_bias_added(evidence: LogitAdjustment) -> None:
    rng = np.random.default_rng(0)
    logits, diameters = rng.normal(size=(6, 4)) * 5, np.log(rng.uniform(20, 90, 6))
    before = logits.copy()
    np.testing.assert_allclose(evidence.logits(logits, diameters), _by_hand(evidence, logits, diameters), atol=1e-9)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(EVIDENCE["a bias"].logits(logits, diameters), PLAIN.logits(logits, None))


# ------------------------------------------------------------------------------------------------------------ the graph

WEIGHT = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32) * 9
FINER = np.random.default_rng(8).normal(size=(5, 3)).astype(np.float32)
TEMPERATURE = 0.7


def _graph() -> onnx.ModelProto:
    """Mean colour of the image -> linear head of four classes, and five finer types."""
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image_float", "places"], ["colour"], keepdims=0),
        helper.make_node("Div", ["colour", "whole"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight"], ["raw_logits"], transB=1),
        helper.make_node("Gemm", ["embedding", "finer"], ["fine_logits"], transB=1),
        helper.make_node("Softmax", ["fine_logits"], [FINE], axis=1),
    ]
    constants = {"places": np.array([1, 2]), "whole": np.array([255], np.float32), "weight": WEIGHT, "finer": FINER}
    body = graphs.make_model(
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])],
        [graphs.float_value(name, ["n", size]) for name, size in (("embedding", 3), ("raw_logits", 4), (FINE, 5))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return graphs.join(body, graphs.temperature_graph(4, TEMPERATURE), keep=("embedding",))


GRAPH = _graph()
NAMES = ("embedding", "logits", "probabilities", FINE)


def _images(side: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (n, 1, 1, 3)).repeat(side, 1).repeat(side, 2).astype(np.uint8)


def _run(graph: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    found = session_of(graph.SerializeToString()).run(list(NAMES), {"image": images})
    return [np.asarray(values) for values in found]


@pytest.mark.parametrize("side", [16, 64, 121])
@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
def test_a_graph_says_the_same_as_the_formula(evidence: LogitAdjustment, side: int) -> None:
    images = _images(side)
    seen, logits, _, finer = _run(GRAPH, images)
    embedding, after, probabilities, kept = _run(evidence.into(GRAPH), images)
    diameters = np.full(3, math.log(side / evidence.extent))
    np.testing.assert_allclose(probabilities, _softmax(evidence.logits(logits, diameters)), atol=1e-5)
    np.testing.assert_allclose(probabilities, _softmax(after), atol=1e-6)
    np.testing.assert_array_equal(kept, finer)
    np.testing.assert_array_equal(embedding[:, :3], seen)
    if evidence.sizes:
        np.testing.assert_allclose(embedding[:, 3:], diameters[:, None] - evidence.typical, atol=1e-6)
    else:
        np.testing.assert_allclose(after, evidence.logits(logits, None), rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 8))
def test_logits_and_finer_types_follow_from_the_embedding_alone(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for evidence in EVIDENCE.values():
        features = rng.normal(size=(n, 3 + bool(evidence.sizes))).astype(np.float32)
        head = graphs.cut(evidence.into(GRAPH), ["embedding"], ["logits", FINE])
        found = run_rows(head.SerializeToString(), {"embedding": features}, ["logits", FINE])
        logits = features[:, :3] @ WEIGHT.T / TEMPERATURE
        expected = evidence.logits(logits, features[:, -1] + evidence.typical)
        np.testing.assert_allclose(_softmax(found["logits"]), _softmax(expected), atol=1e-5)
        np.testing.assert_allclose(found[FINE], _softmax(features[:, :3] @ FINER.T), atol=1e-5)


def test_a_graph_tells_what_it_gives_and_the_one_before_stays_as_it_is() -> None:
    before = GRAPH.SerializeToString(deterministic=True)
    for evidence in EVIDENCE.values():
        made = evidence.into(GRAPH)
        onnx.checker.check_model(made, full_check=True)
        assert {value.name for value in made.graph.output} == set(NAMES)
        assert [value.name for value in made.graph.input] == ["image"]
        assert graphs.kind_of(made, "embedding")[1] == (3 + bool(evidence.sizes),)
        for name in NAMES[1:]:
            assert graphs.kind_of(made, name) == graphs.kind_of(GRAPH, name)
    assert GRAPH.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("first", "second"), [(PLAIN, PLAIN), (SIZED, PLAIN), (PLAIN, SIZED)])
def test_a_graph_that_has_it_may_have_more(first: LogitAdjustment, second: LogitAdjustment) -> None:
    """A bundle that was adapted is adapted again."""
    once = first.into(GRAPH)
    before, after = (_run(graph, _images(40)) for graph in (once, second.into(once)))
    expected = _softmax(second.logits(before[1], np.full(3, math.log(40 / second.extent))))
    np.testing.assert_allclose(after[2], expected, atol=1e-5)
    np.testing.assert_array_equal(after[0][:, : before[0].shape[1]], before[0])
    np.testing.assert_array_equal(after[3], before[3])


@pytest.mark.parametrize("more", [None, PLAIN])
@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
def test_it_can_be_taken_out_again(evidence: LogitAdjustment, more: LogitAdjustment | None) -> None:
    """The network's embedding and finer types, and its logits, softened."""
    made = evidence.into(GRAPH)
    made = more.into(made) if more is not None else made
    seen, logits, _, finer = _run(GRAPH, _images(33))
    alone = without_additions(made)
    onnx.checker.check_model(alone, full_check=True)
    found = _run(alone, _images(33))
    np.testing.assert_array_equal(found[0], seen)
    np.testing.assert_allclose(found[1], logits * evidence.softening, rtol=1e-6)
    np.testing.assert_allclose(found[2], _softmax(logits * evidence.softening), atol=1e-6)
    np.testing.assert_array_equal(found[3], finer)
    assert without_additions(GRAPH) is GRAPH
