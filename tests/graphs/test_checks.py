"""What a graph must take and give, in the graph and in what a run gave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import trained
from hemalens.errors import BundleError
from hemalens.graphs.checks import check_interface, check_outputs, is_quantised
from hemalens.graphs.runtime import check_probabilities, require_probabilities

OUTPUTS = {"cell_probability": (None, None), "full_map": (3, 16, 16)}


def test_a_graph_that_fits_passes() -> None:
    assert check_interface(trained.dark_graph(), OUTPUTS) is None
    assert not is_quantised(trained.dark_graph())


def _in(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    return model.graph.input[0]


def _constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="inner", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


MISFITS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "name": (lambda m: setattr(_in(m), "name", "x"), "the input x, not image alone"),
    "none": (lambda m: m.graph.ClearField("input"), "the input none, not image alone"),
    "two": (lambda m: m.graph.input.append(_in(m)), "the input image, image, not image alone"),
    "type": (lambda m: setattr(_in(m).type.tensor_type, "elem_type", 1), "an image of type FLOAT and shape"),
    "fixed": (
        lambda m: setattr(_in(m).type.tensor_type.shape.dim[1], "dim_value", 8),
        "an image of type UINT8 and shape (?, 8, ?, 3), not uint8 (n, h, w, 3)",
    ),
    "no shape": (lambda m: _in(m).type.tensor_type.ClearField("shape"), "shape unknown"),
    "output gone": (lambda m: m.graph.ClearField("output"), "no output cell_probability"),
    "output type": (
        lambda m: setattr(m.graph.output[1].type.tensor_type, "elem_type", 7),
        "an output cell_probability of type INT64",
    ),
    "output length": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 4),
        "an output full_map of type FLOAT and shape (?, 4, 16, 16), not FLOAT (?, 3, 16, 16)",
    ),
    "in a branch": (_constant_elsewhere, "weights in another file"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_graph_that_does_not_fit_says_why(name: str) -> None:
    model = trained.dark_graph()
    harm, message = MISFITS[name]
    harm(model)
    found = check_interface(model, OUTPUTS)
    assert found is not None
    assert message in found


def test_what_a_run_gave_is_checked() -> None:
    good = {"p": np.ones(3, np.float32)}
    assert check_outputs(good, {"p": (3,)}) is None
    assert check_outputs(good, {"p": (None,)}) is None
    assert check_outputs(good, {"p": (2,)}) == "p of shape (3,), not (2)"
    assert check_outputs(good, {"p": (3, None)}) == "p of shape (3,), not (3, ?)"
    assert check_outputs({"p": np.array([1, np.inf])}, {"p": (2,)}) == "NaN or infinity in p"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.2, 0.3, 0.5], None),
        ([0.2, 0.3, 0.5009], None),
        ([1.0, 0.0, 0.0], None),
        ([-0.0009, 0.5, 0.5], None),
        ([0.2, 0.3, 0.6], "sum to 1.1, not 1"),
        ([9.0, -4.0, -4.0], "from -4 to 9, outside 0 to 1"),
        ([np.nan, 0.5, 0.5], "NaN or infinity"),
        ([np.inf, 0.5, 0.5], "NaN or infinity"),
        ([0.5, 0.5], "float32 of shape (2,), not 3 probabilities"),
        ([[[0.2, 0.3, 0.5]]], "of shape (1, 1, 3)"),
        ([[0.2, 0.3, 0.5], [0.2, 0.3, 0.1]], "sum to 0.6, not 1"),
        ([[0.2, 0.3, 0.5], [0.3, 0.2, 0.5]], None),
    ],
)
def test_probabilities_are_checked(values: list[float], reason: str | None) -> None:
    array = np.array(values, np.float32)
    found = check_probabilities(array, 3)
    assert (found is None) == (reason is None)
    if reason is None:
        require_probabilities(array, 3, "it")
    else:
        assert reason in str(found)
        with pytest.raises(BundleError, match="the probabilities of it cannot be used"):
            require_probabilities(array, 3, "it")


def test_integers_are_no_probabilities_and_no_rows_are_fine() -> None:
    assert check_probabilities(np.array([1, 0]), 2) is not None
    assert check_probabilities(np.zeros((0, 4), np.float32), 4) is None


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=30))
def test_every_softmax_passes(logits: list[float]) -> None:
    values = np.exp(np.array(logits) - max(logits))
    assert check_probabilities((values / values.sum()).astype(np.float32), len(logits)) is None
