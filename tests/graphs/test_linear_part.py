"""The linear outputs behind logits, in small hand-made graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.build import float_value, make_model
from hemalens.graphs.linear_part import Pool, between, find_linear_part, with_open_classifiers

C, M = 4, 3
WEIGHT = np.random.default_rng(0).normal(size=(M, C)).astype(np.float32)
BIAS = np.array([0.3, -0.2, 0.1], np.float32)
CONSTANTS = {
    "weight": WEIGHT,
    "weight_t": WEIGHT.T.copy(),
    "bias": BIAS,
    "two": np.array([2.0], np.float32),
    "axes": np.array([2, 3], np.int64),
    "last": np.array([-1], np.int64),
    "tiny": np.array([1e-12], np.float32),
    "square": np.random.default_rng(1).normal(size=(C, C)).astype(np.float32),
}


def graph(*nodes: tuple[Any, ...], to_logits: bool = True) -> onnx.ModelProto:
    """`feature_map` (n, C, h, w) and what follows; a node is (operator, inputs, outputs, attributes)."""
    made = [helper.make_node(kind, given.split(), out.split(), **dict(*more)) for kind, given, out, *more in nodes]
    used = {name for node in made for name in node.input}
    constants = [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items() if name in used]
    made.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    made.insert(0, helper.make_node("Cast", ["image"], ["float_image"], to=TensorProto.FLOAT))
    made.insert(1, helper.make_node("Transpose", ["float_image"], ["feature_map"], perm=[0, 3, 1, 2]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", C])
    outputs = [float_value("probabilities", ["n", M]), float_value("logits", ["n", M])]
    return make_model(made, [image], outputs, constants)


POOL = ("GlobalAveragePool", "feature_map", "pooled")
FLAT = ("Flatten", "pooled", "flat")
GEMM = ("Gemm", "flat weight bias", "z", {"transB": 1})
TO_LOGITS = ("Div", "z two", "logits")


def test_a_linear_head_over_a_temperature_is_linear_up_to_the_logits() -> None:
    found = find_linear_part(graph(POOL, FLAT, GEMM, TO_LOGITS))
    assert found.pools == (Pool("feature_map", "pooled", (2, 3)),)
    assert (found.outputs, found.beside, found.lengths) == (("logits",), (), ())
    assert found.tail_graph() is None


@pytest.mark.parametrize(
    "nodes",
    [
        (("ReduceMean", "feature_map axes", "flat", {"keepdims": 0}), GEMM),
        (POOL, FLAT, ("MatMul", "flat weight_t", "product"), ("Add", "product bias", "z")),
        (POOL, FLAT, ("Mul", "two flat", "twice"), ("Gemm", "twice weight bias", "z", {"transB": 1})),
        (POOL, ("Squeeze", "pooled axes", "flat"), GEMM),
    ],
)
def test_other_ways_to_write_it(nodes: tuple[Any, ...]) -> None:
    assert find_linear_part(graph(*nodes, TO_LOGITS)).outputs == ("logits",)


def test_logarithms_of_probabilities_follow_from_the_outputs() -> None:
    found = find_linear_part(
        graph(POOL, FLAT, GEMM, ("LogSoftmax", "z", "logs", {"axis": 1}), ("Div", "logs two", "logits"))
    )
    assert (found.outputs, found.beside) == (("z",), ())
    z = np.random.default_rng(3).normal(size=(2, M)).astype(np.float32)
    (logits,) = _run(found.tail_graph(), ["logits"], {"z": z})
    np.testing.assert_allclose(logits, (z - np.log(np.exp(z).sum(axis=1, keepdims=True))) / 2, rtol=1e-5)


def test_a_distance_of_the_embedding_is_beside_the_outputs() -> None:
    found = find_linear_part(
        graph(
            POOL,
            FLAT,
            GEMM,
            ("Mul", "flat flat", "squares"),
            ("ReduceSum", "squares last", "distance"),
            ("Sub", "z distance", "logits"),
        )
    )
    assert found.outputs == ("z",)
    assert found.beside == ("distance",)


def test_a_vector_of_unit_length_is_linear_for_its_length() -> None:
    found = find_linear_part(
        graph(
            POOL,
            FLAT,
            ("ReduceL2", "flat last", "length"),
            ("Max", "length tiny", "safe"),
            ("Div", "flat safe", "unit"),
            ("Gemm", "unit weight bias", "logits", {"transB": 1}),
        )
    )
    assert (found.outputs, found.lengths) == (("logits",), ("safe",))


@pytest.mark.parametrize(
    "nodes",
    [
        # a hidden layer
        (
            POOL,
            FLAT,
            ("MatMul", "flat square", "h"),
            ("Relu", "h", "r"),
            ("Gemm", "r weight bias", "logits", {"transB": 1}),
        ),
        # a nonlinear step behind the pool
        (POOL, FLAT, ("Relu", "flat", "r"), ("Gemm", "r weight bias", "logits", {"transB": 1})),
        # no pool
        (("ReduceMax", "feature_map axes", "flat", {"keepdims": 0}), GEMM, TO_LOGITS),
        # a factor that depends on the image
        (POOL, FLAT, GEMM, ("ReduceMax", "flat last", "most"), ("Exp", "most", "factor"), ("Mul", "z factor", "logits")),
        # distances to prototypes
        (POOL, FLAT, ("Mul", "flat flat", "squares"), ("MatMul", "squares weight_t", "logits")),
    ],
)
def test_other_heads_are_refused_in_one_line_that_names_occlusion(nodes: tuple[Any, ...]) -> None:
    with pytest.raises(BundleError, match=r"no exact map of its evidence; expected .*pooled.*--explain occlusion"):
        find_linear_part(graph(*nodes))


@pytest.mark.parametrize(("post", "link"), [("SOFTMAX", "softmax"), ("LOGISTIC", "logistic"), ("NONE", "none")])
def test_a_linear_classifier_is_opened_and_gives_the_same(post: str, link: str) -> None:
    node = helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", classlabels_ints=list(range(M)),
                            coefficients=WEIGHT.ravel().tolist(), intercepts=BIAS.tolist(), post_transform=post,
                            multi_class=1)  # fmt: skip
    model = make_model([node], [float_value("x", ["n", C])], [float_value("p", ["n", M])], [])
    x = np.random.default_rng(5).normal(size=(6, C)).astype(np.float32)
    (expected,), (found,) = (_run(each, ["p"], {"x": x}) for each in (model, with_open_classifiers(model)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    scores = x @ WEIGHT.T + BIAS
    by_hand = {"softmax": np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), "logistic": 1 / (1 + np.exp(-scores))}
    np.testing.assert_allclose(found, by_hand.get(link, scores), atol=1e-6)


def test_a_part_of_a_graph_computes_what_the_whole_does() -> None:
    whole = graph(POOL, FLAT, GEMM, TO_LOGITS)
    pooled = np.random.default_rng(6).normal(size=(3, C, 1, 1)).astype(np.float32)
    (z,) = _run(between(whole, ["pooled"], ["z"]), ["z"], {"pooled": pooled})
    np.testing.assert_allclose(z, pooled[:, :, 0, 0] @ WEIGHT.T + BIAS, atol=1e-6)


def _run(model: onnx.ModelProto | None, outputs: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
    assert model is not None
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(outputs, given)]
