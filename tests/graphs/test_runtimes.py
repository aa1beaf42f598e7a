"""Runtimes: each gives what ONNX Runtime gives, from any thread, or says what it lacks."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

import trained
from hemalens.errors import BundleError, ConfigError, MissingExtraError
from hemalens.graphs import runtimes
from hemalens.graphs.build import float_value, make_model, side_by_side
from hemalens.graphs.runtime import session_of
from hemalens.graphs.runtimes import RUNTIMES, runtime_named
from networks import conv_encoder

IMAGES = [np.random.default_rng(i).integers(0, 256, (1, 20 + 7 * i, 41, 3), dtype=np.uint8) for i in range(6)]


def _with_size() -> onnx.ModelProto:
    """An encoder whose embedding is scaled by the side of the image: not all of it follows from the resized one."""
    nodes = [
        onnx.helper.make_node("Shape", ["image"], ["sides"], start=1, end=2),
        onnx.helper.make_node("Cast", ["sides"], ["side"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["embedding", "side"], ["scaled"]),
    ]
    encoder = conv_encoder()
    image = encoder.graph.input[0]
    tail = make_model(nodes, [image, float_value("embedding", ["n", 32])], [float_value("scaled", ["n", 32])], [])
    both = onnx.compose.merge_models(encoder, onnx.compose.add_prefix(tail, "t_"), io_map=[("embedding", "t_embedding")])
    for node in both.graph.node:
        node.input[:] = ["image" if name == "t_image" else name for name in node.input]
    for value in [value for value in both.graph.input if value.name == "t_image"]:
        both.graph.input.remove(value)
    both.graph.output[0].name = "embedding_scaled"
    for node in both.graph.node:
        node.output[:] = ["embedding_scaled" if name == "t_scaled" else name for name in node.output]
    return both


GRAPHS = {
    "one size": conv_encoder(),
    "image and size": _with_size(),
    "joined": side_by_side([conv_encoder(), conv_encoder(seed=1)]),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_openvino_gives_what_onnx_runtime_gives(graph: str) -> None:
    pytest.importorskip("openvino")
    content = GRAPHS[graph].SerializeToString()
    (name,) = [value.name for value in GRAPHS[graph].graph.output]
    plain, other = session_of(content), RUNTIMES["openvino"].open(content, "fp32")
    for image in IMAGES:
        (expected,), (found,) = (session.run([name], {"image": image}) for session in (plain, other))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_threads_that_begin_together_get_their_own_results() -> None:
    pytest.importorskip("openvino")
    content = conv_encoder().SerializeToString()
    session, plain = RUNTIMES["openvino"].open(content, "fp32"), session_of(content)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: session.run(["embedding"], {"image": image})[0], IMAGES * 8))
    for image, own in zip(IMAGES * 8, found, strict=True):
        np.testing.assert_allclose(own, plain.run(["embedding"], {"image": image})[0], rtol=1e-3, atol=1e-4)


def test_the_network_is_cut_where_sizes_no_longer_depend_on_the_image() -> None:
    front, rest = runtimes._cut_at_pixels(GRAPHS["joined"])
    assert [value.name for value in front.graph.output] == [value.name for value in rest.graph.input]
    assert len(rest.graph.input) == 2
    assert [value.name for value in runtimes._cut_at_pixels(GRAPHS["image and size"])[1].graph.input] == ["pixels", "image"]


def test_a_network_without_pixels_of_one_size_is_refused() -> None:
    with pytest.raises(BundleError, match="no input of one size"):
        RUNTIMES["openvino"].open(trained.dark_graph().SerializeToString(), "fp32")


def test_a_processor_without_bf16_has_one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Core)
    assert RUNTIMES["openvino"].precisions() == ("fp32",)


def test_cuda_states_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "onnxruntime-gpu" in str(RUNTIMES["cuda"].lacking())
    monkeypatch.setattr(runtimes.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert RUNTIMES["cuda"].lacking() is None


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--runtime openvino needs the package 'openvino'.*hemalens\[openvino\]"):
        runtime_named("openvino").require()


def test_an_unknown_runtime_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown runtime 'openvin'.*did you mean 'openvino'"):
        runtime_named("openvin")


def test_the_table_is_read_without_the_packages() -> None:
    code = "import sys, hemalens.graphs.runtimes; assert 'openvino' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
