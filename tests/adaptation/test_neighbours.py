"""Answers that lean on those of the nearest images: settled, no surer on average, the same in a graph, taken out again."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hemalens.adaptation.class_bias import LogitAdjustment
from hemalens.adaptation.neighbours import MAX_NEIGHBOURS, MIN_NEIGHBOURS, Neighbours, n_nearest_of
from hemalens.bundle.bundle import FINE
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.graphs import build as graphs
from hemalens.graphs.additions import without_additions
from hemalens.graphs.runtime import run_rows, session_of

WEIGHT = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32) * 3
SIZES = tuple(NucleusSize(centre=c, scale=0.1) for c in (-0.2, 0.0, 0.1, 0.3))
EVIDENCE = {
    "nothing": None,
    "a bias": LogitAdjustment(0.6, np.array([0.5, -1.0, 0.2, 0.3])),
    "sizes": LogitAdjustment(0.6, np.zeros(4), SIZES, extent=1.6, typical=math.log(20)),
}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _cosine(a: np.ndarray, b: np.ndarray, widths: tuple[int, ...]) -> float:
    """The mean over parts of their cosines."""
    ends = np.cumsum(widths)
    parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    return float(np.mean([a[p] @ b[p] / (np.linalg.norm(a[p]) * np.linalg.norm(b[p])) for p in parts]))


@given(seed=st.integers(0, 10_000), n=st.integers(8, 40), weight=st.floats(0.5, 5), widths=st.sampled_from([(6,), (4, 3)]))
def test_answers_have_settled_and_are_no_surer_on_average(
    seed: int, n: int, weight: float, widths: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    embeddings, logits = rng.normal(size=(n, sum(widths))) + 2, rng.normal(size=(n, 3)) * 2
    found = Neighbours.fit(embeddings, logits, widths, weight)
    centred = embeddings - embeddings.mean(axis=0)
    for i in range(n):
        cosines = [(-_cosine(centred[i], centred[j], widths), j) for j in range(n) if j != i]
        nearest = [j for _, j in sorted(cosines)[: n_nearest_of(n)]]
        leaned = logits[i] + weight * found.probabilities[nearest].mean(axis=0)
        np.testing.assert_allclose(found.probabilities[i], _softmax(leaned[None])[0], atol=1e-4)
    after = _softmax(found.logits(embeddings, logits))
    assert after.max(axis=1).mean() == pytest.approx(_softmax(logits).max(axis=1).mean(), abs=1e-3)
    np.testing.assert_array_equal(after.argmax(axis=1), found.probabilities.argmax(axis=1))


def test_how_many_are_the_nearest() -> None:
    assert [n_nearest_of(n) for n in (4, 8, 40, 200, 300, 1000)] == [3, MIN_NEIGHBOURS, 5, 8, 12, MAX_NEIGHBOURS]


def test_a_doubtful_image_is_answered_as_those_around_it_and_a_copy_is_no_neighbour() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 20)
    embeddings = np.array([[4.0, 0.0], [0.0, 4.0]])[truth] + rng.normal(size=(40, 2)) * 0.3
    logits = 3.0 * np.eye(2)[truth]
    logits[0] = [0.0, 1.0]
    assert logits[0].argmax() == 1
    found = Neighbours.fit(embeddings, logits, (2,), 3.0)
    assert found.probabilities[0].argmax() == 0
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), truth)
    # the image itself is among those kept: as one of its own neighbours it would vote for its own answer
    alone = found.logits(embeddings[[0]], logits[[0]])
    np.testing.assert_allclose(_softmax(alone * found.temperature), found.probabilities[[0]], atol=1e-3)


# ------------------------------------------------------------------------------------------------------------ the graph


def _encoder(operator: str, factor: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["image_float", "places"], ["colour"], keepdims=0),
        helper.make_node("Div", ["colour", "whole"], ["embedding"]),
    ]
    constants = {"places": np.array([1, 2]), "whole": np.array([factor], np.float32)}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    body = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return graphs.make_model(nodes, [image], [graphs.float_value("embedding", ["n", 3])], body)


def _bundle_graph() -> onnx.ModelProto:
    """Mean colour -> linear head of four classes, with finer types."""
    nodes = [
        helper.make_node("Gemm", ["embedding", "weight"], ["raw_logits"], transB=1),
        helper.make_node("Softmax", ["raw_logits"], [FINE], axis=1),
    ]
    outputs = [graphs.float_value(name, ["n", 4]) for name in ("raw_logits", FINE)]
    embedding = graphs.float_value("embedding", ["n", 3])
    head = graphs.make_model(nodes, [embedding], outputs, [numpy_helper.from_array(WEIGHT, "weight")])
    tail = graphs.temperature_graph(4, 0.6)
    return graphs.join(_encoder("ReduceMean", 255.0), head, tail, keep=("embedding",))


GRAPH = _bundle_graph()
OTHER = _encoder("ReduceMax", 100.0)
NAMES = ["embedding", "logits", "probabilities", FINE]


def _images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 40, 40, 3)).astype(np.uint8)


def _run(graph: onnx.ModelProto, images: np.ndarray, names: list[str] = NAMES) -> list[np.ndarray]:
    return [np.asarray(found) for found in session_of(graph.SerializeToString()).run(names, {"image": images})]


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
def test_the_graph_agrees_with_the_formula_and_the_addition_can_be_removed(
    evidence: LogitAdjustment | None, beside: bool
) -> None:
    graph = GRAPH if evidence is None else evidence.into(GRAPH)
    images, fresh = _images(40), _images(5, seed=1)
    wide, others = _run(graph, images)[0], _unit(_run(OTHER, images, ["embedding"])[0])
    points = np.hstack([wide[:, :3], others]) if beside else wide[:, :3]
    neighbours = Neighbours.fit(points, _run(graph, images)[1], (3, 3) if beside else (3,), 2.0)
    made = neighbours.into(graphs.with_beside(graph, OTHER) if beside else graph)
    onnx.checker.check_model(made, full_check=True)
    for asked in (fresh, images[:6]):
        before, after = _run(graph, asked), _run(made, asked)
        more = _unit(_run(OTHER, asked, ["embedding"])[0])
        np.testing.assert_allclose(after[0], np.hstack([before[0], more]) if beside else before[0], atol=1e-5)
        np.testing.assert_array_equal(after[3], before[3])
        own = np.hstack([before[0][:, :3], more]) if beside else before[0][:, :3]
        np.testing.assert_allclose(after[2], _softmax(neighbours.logits(own, before[1])), atol=1e-4)
    # logits follow from the embedding alone
    head = graphs.cut(made, ["embedding"], ["logits"]).SerializeToString()
    rows = {"embedding": _run(made, fresh)[0]}
    np.testing.assert_allclose(run_rows(head, rows, ["logits"])["logits"], _run(made, fresh)[1], atol=1e-4)
    alone = without_additions(made)
    onnx.checker.check_model(alone, full_check=True)
    found, first = _run(alone, fresh), _run(GRAPH, fresh)
    np.testing.assert_array_equal(found[0], first[0])
    np.testing.assert_allclose(found[1], first[1] * (evidence.softening if evidence else 1.0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[3], first[3])
