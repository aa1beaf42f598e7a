"""Weights read back from a bundle's graph: the network's own, whatever was done to the graph since."""

from __future__ import annotations

from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

import trained
from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import Bundle
from hemalens.errors import BundleError
from hemalens.graphs.build import cut, make_model
from hemalens.graphs.fp16 import with_half_weights
from hemalens.graphs.runtime import run_rows
from hemalens.graphs.weights import head_weights, network_weights

HEADS = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias", "head.fc.weight", "head.fc.bias")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "robust").bundle


def test_they_are_those_that_were_trained(bundle: Bundle) -> None:
    kept = load_file(bundle.path / WEIGHTS)
    found = network_weights(bundle.graph)
    named = {name for name in kept if not name.endswith("num_batches_tracked")} - set(HEADS)
    assert named
    assert named <= set(found)
    for name in named:
        np.testing.assert_array_equal(found[name], kept[name], err_msg=name)


def test_weights_in_16_bits_come_back_in_32(bundle: Bundle) -> None:
    whole, half = network_weights(bundle.graph), network_weights(with_half_weights(bundle.graph))
    assert whole.keys() == half.keys()
    assert {values.dtype for values in half.values()} == {np.dtype(np.float32)}
    for name, values in whole.items():
        np.testing.assert_allclose(half[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert any((half[name] != whole[name]).any() for name in whole)


def test_the_head_gives_the_logits(bundle: Bundle) -> None:
    embeddings = np.random.default_rng(0).normal(size=(5, bundle.manifest.embedding_size)).astype(np.float32)
    tail = cut(bundle.graph, ["embedding"], ["logits"]).SerializeToString()
    logits = run_rows(tail, {"embedding": embeddings}, ["logits"])["logits"]
    weight, bias = head_weights(bundle.graph)
    np.testing.assert_allclose((embeddings @ weight.T + bias) / bundle.manifest.temperature, logits, rtol=1e-4, atol=1e-4)


def test_a_head_that_lies_the_other_way_is_turned() -> None:
    weight, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, 2], np.float32)
    node = helper.make_node("Gemm", ["embedding", "w", "b"], ["raw_logits"])
    model = make_model(
        [node],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("raw_logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    found, offset = head_weights(model)
    np.testing.assert_array_equal(found, weight.T)
    np.testing.assert_array_equal(offset, bias)


def test_where_there_is_no_linear_head_it_is_said(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    cells = trained.laboratory(tmp_path_factory)
    nearest = trained.colour_bundle(tmp_path / "bundle", cells)
    with pytest.raises(BundleError, match="no linear head of its own"):
        head_weights(nearest.graph)
    assert network_weights(nearest.graph) == {}
