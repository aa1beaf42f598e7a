"""Exact maps: recomputed from the feature map and the weights of small hand-made graphs; views against torch's."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphs.test_linear_part import BIAS, FLAT, GEMM, POOL, TO_LOGITS, WEIGHT, C, M, graph
from hemalens.errors import BundleError
from hemalens.graphs.activation import ActivationMaps, symmetries_of, upright
from hemalens.graphs.build import float_value, make_model
from hemalens.models.test_time_augmentation import N_VIEWS, views_of


def _image(height: int = 5, width: int = 7, seed: int = 0) -> np.ndarray:
    """An image of C channels: it is the feature map itself."""
    return np.random.default_rng(seed).integers(0, 9, (height, width, C), dtype=np.uint8)


def test_the_maps_are_the_weighted_features_of_each_place() -> None:
    image = _image()
    found = ActivationMaps(graph(POOL, FLAT, GEMM, TO_LOGITS))(image)
    (part,) = found.parts
    np.testing.assert_allclose(part, np.einsum("mc,hwc->mhw", WEIGHT / 2, image.astype(float)), atol=1e-4)
    np.testing.assert_allclose(found.constant, BIAS / 2, atol=1e-6)
    z = (image.astype(float).mean(axis=(0, 1)) @ WEIGHT.T + BIAS) / 2
    np.testing.assert_allclose(found.outputs, z, atol=1e-5)
    np.testing.assert_allclose(part.mean(axis=(1, 2)) + found.constant, z, atol=1e-4)
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(found.probabilities, p, atol=1e-5)
    assert found.best == int(p.argmax())


@pytest.mark.parametrize("seed", range(4))
def test_the_slope_of_a_softmax_is_one_class_minus_the_shares_of_the_others(seed: int) -> None:
    found = ActivationMaps(graph(POOL, FLAT, GEMM, TO_LOGITS))(_image(seed=seed))
    others = found.probabilities.astype(float).copy()
    others[found.best] = 0
    expected = -others / others.sum()
    expected[found.best] = 1
    np.testing.assert_allclose(found.slope, expected, atol=1e-3)
    (evidence,) = found.evidence()
    odds = np.log(found.probabilities.max() / (1 - found.probabilities.max()))
    of_shares = -np.sum(others / others.sum() * np.log((others / others.sum()).clip(1e-300)))
    # log odds = own output minus the mean of the others' by their shares, minus the entropy of the shares
    assert evidence.mean() + expected @ found.constant == pytest.approx(odds + of_shares, abs=2e-2)


def test_what_is_beside_the_outputs_is_held_and_told() -> None:
    nodes = (POOL, FLAT, GEMM, ("Mul", "flat flat", "squares"), ("ReduceSum", "squares last", "distance"),
             ("Sub", "z distance", "logits"))  # fmt: skip
    maps = ActivationMaps(graph(*nodes))
    assert maps.more_than_places
    assert not ActivationMaps(graph(POOL, FLAT, GEMM, TO_LOGITS)).more_than_places
    # a distance that all classes share changes no log odds
    plain = ActivationMaps(graph(POOL, FLAT, GEMM, ("Identity", "z", "logits")))
    np.testing.assert_allclose(maps(_image()).slope, plain(_image()).slope, atol=1e-2)


def test_a_vector_of_unit_length_has_weights_of_its_own_for_each_image() -> None:
    nodes = (POOL, FLAT, ("ReduceL2", "flat last", "length"), ("Max", "length tiny", "safe"), ("Div", "flat safe", "unit"),
             ("Gemm", "unit weight bias", "logits", {"transB": 1}))  # fmt: skip
    maps = ActivationMaps(graph(*nodes))
    for seed in (0, 1):
        image = _image(seed=seed)
        mean = image.astype(float).mean(axis=(0, 1))
        found = maps(image)
        expected = np.einsum("mc,hwc->mhw", WEIGHT / np.linalg.norm(mean), image.astype(float))
        np.testing.assert_allclose(found.parts[0], expected, atol=1e-3)
        np.testing.assert_allclose(found.parts[0].mean(axis=(1, 2)) + BIAS, found.outputs, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- views


@given(st.sampled_from(N_VIEWS), st.integers(1, 6), st.integers(0, 99), st.randoms())
def test_upright_undoes_views_in_any_order(n_views: int, side: int, seed: int, order: Random) -> None:
    image = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 2, side, side)))
    views = views_of(image, n_views).numpy()  # type: ignore[arg-type]
    assert views.shape[0] == n_views
    others = list(views[1:])
    order.shuffle(others)
    views = np.stack([views[0], *others])
    for view in upright(views, symmetries_of(views)):
        np.testing.assert_array_equal(view, image[0].numpy())


def test_a_view_that_is_no_flip_or_turn_is_refused() -> None:
    views = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    with pytest.raises(BundleError, match="no flip or turn of the image"):
        symmetries_of(views)


def _viewed() -> onnx.ModelProto:
    """The image and its mirror image, each multiplied by a ramp from left to right, pooled; mean over both; a head."""
    ramp = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 1, 1, 6)
    constants = {
        "ramp": ramp, "weight": WEIGHT, "bias": BIAS, "start": np.array([-1], np.int64), "end": np.array([-99], np.int64),
        "axis": np.array([3], np.int64), "step": np.array([-1], np.int64), "zero": np.array([0], np.int64),
        "shape": np.array([2, -1, C], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["image"], ["float_image"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_image"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["pixels", "start", "end", "axis", "step"], ["mirrored"]),
        helper.make_node("Concat", ["pixels", "mirrored"], ["views"], axis=0),
        helper.make_node("Mul", ["views", "ramp"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["each"]),
        helper.make_node("ReduceMean", ["each", "zero"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", C])
    outputs = [float_value("probabilities", ["n", M]), float_value("logits", ["n", M])]
    return make_model(nodes, [image], outputs, [numpy_helper.from_array(v, name) for name, v in constants.items()])


def test_views_are_turned_back_and_averaged() -> None:
    image = _image(4, 6)
    ramp = np.linspace(0, 1, 6)
    seen = np.einsum("mc,hwc->mhw", WEIGHT, image.astype(float))
    (part,) = ActivationMaps(_viewed())(image).parts
    # the mirror image meets the ramp from the other side
    np.testing.assert_allclose(part, seen * (ramp + ramp[::-1]) / 2, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- pictures


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_a_map_keeps_its_mean_and_its_range_when_it_is_drawn_larger(h: int, w: int, times: int, seed: int) -> None:
    image = _image(h, w, seed)
    found = ActivationMaps(MODEL)(image)
    (evidence,) = found.evidence()
    drawn = found.map(h * times, w * times)
    assert drawn.shape == (h * times, w * times)
    assert drawn.mean() == pytest.approx(evidence.mean(), abs=1e-6)
    assert drawn.min() >= evidence.min() - 1e-9
    assert drawn.max() <= evidence.max() + 1e-9


MODEL = graph(POOL, FLAT, GEMM, TO_LOGITS)


def test_at_its_own_size_a_map_is_the_evidence_itself() -> None:
    found = ActivationMaps(MODEL)(_image())
    np.testing.assert_allclose(found.map(5, 7), found.evidence()[0], atol=1e-9)


def test_maps_that_do_not_add_up_are_refused() -> None:
    """Views with weights of their own: the mean over views is not what the graph computes."""
    model = _viewed()
    three = numpy_helper.from_array(np.array([[[3.0]], [[1.0]]], np.float32), "heavier")
    model.graph.initializer.append(three)
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "ReduceMean")
    model.graph.node.insert(place, helper.make_node("Mul", ["each", "heavier"], ["weighed"]))
    model.graph.node[place + 1].input[0] = "weighed"
    with pytest.raises(BundleError, match=r"the exact map of this model cannot be used; got a map that is off by"):
        ActivationMaps(model)(_image(4, 6))


def test_an_image_that_the_graph_refuses_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="the graph of the maps cannot be run"):
        ActivationMaps(MODEL)(np.zeros((3, 3, C + 1), np.uint8))
