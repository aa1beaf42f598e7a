"""Batch norm estimated anew in a graph: held against torch's own in training mode, and against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from hemalens.graphs.batch_norm import OP_TYPE, Statistics, estimate, has_batch_norm, pixels_of, with_statistics
from hemalens.graphs.build import (
    cut,
    digest,
    float_value,
    join,
    make_model,
    normalise_graph,
    resize_graph,
    side_by_side,
    temperature_graph,
    with_beside,
)
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from hemalens.models.export import to_onnx

SIZE, N_CLASSES = 16, 3
PREPROCESSING = Preprocessing(size_px=SIZE)
Layers = list[nn.modules.batchnorm._BatchNorm]


class _Network(nn.Module):
    """Two convolutions that share what their batch norms begin with, and a batch norm of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, stride=2),
            nn.BatchNorm2d(6, eps=1e-3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(6),
        )
        self.head = nn.Linear(6, N_CLASSES)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.body(pixels)
        return embedding, self.head(embedding)


def _layers(network: nn.Module) -> Layers:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.fixture(scope="module")
def network() -> _Network:
    torch.manual_seed(0)
    made = _Network()
    with torch.no_grad():
        for layer in _layers(made)[1:]:
            layer.weight.uniform_(0.5, 2)
            layer.bias.normal_()
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.fixture(scope="module")
def graph(network: _Network) -> onnx.ModelProto:
    body = to_onnx(network, PREPROCESSING, ["embedding", "raw_logits"])
    whole = join(resize_graph(PREPROCESSING), normalise_graph(PREPROCESSING), body)
    return join(whole, temperature_graph(N_CLASSES, 1.5))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(0.7, 2.0, (24, 3, SIZE, SIZE)) * rng.uniform(0.5, 3, (1, 3, 1, 1))).astype(np.float32)


def _in_order(graph: onnx.ModelProto, statistics: Statistics) -> list[tuple[np.ndarray, np.ndarray]]:
    return [statistics[node.output[0]] for node in graph.graph.node if node.op_type == OP_TYPE]


def _run(graph: onnx.ModelProto, pixels: np.ndarray, output: str = "embedding") -> np.ndarray:
    part = cut(graph, ["pixels"], [output])
    return np.asarray(session_of(part.SerializeToString()).run([output], {"pixels": pixels})[0])


def test_the_exporter_keeps_batch_norm_apart_and_the_runtime_joins_it(
    network: _Network, graph: onnx.ModelProto, pixels: np.ndarray, tmp_path: Path
) -> None:
    assert [node.op_type for node in graph.graph.node].count(OP_TYPE) == 3
    assert not any(n.op_type == "Identity" for n in graph.graph.node)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(_run(graph, pixels), expected, rtol=1e-4, atol=1e-5)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "joined.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    joined = onnx.load(options.optimized_model_filepath)
    # that of vectors follows no convolution
    assert [node.op_type for node in joined.graph.node].count(OP_TYPE) == 1


def test_a_network_without_batch_norm_is_exported_as_ever() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = to_onnx(plain, PREPROCESSING, ["embedding"])
    assert not has_batch_norm(made)
    assert pixels_of(made) == []


def test_one_batch_gives_the_statistics_that_torch_takes_in_training(
    network: _Network, graph: onnx.ModelProto, pixels: np.ndarray
) -> None:
    before = digest(graph)
    found = _in_order(graph, estimate(graph, [{"pixels": pixels}]))
    assert digest(graph) == before, "the graph that is measured stays as it is"
    twin = _Network()
    twin.load_state_dict(network.state_dict())
    for layer in _layers(twin):
        layer.momentum = 1.0
    with torch.no_grad():
        seen = twin.train()(torch.from_numpy(pixels))[0].numpy()
    for layer, (mean, variance) in zip(_layers(twin), found, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        np.testing.assert_allclose(mean, layer.running_mean.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, layer.running_var.numpy(), rtol=1e-4, atol=1e-5)
    # the adapted graph is torch's network with these averages, in evaluation mode
    adapted = with_statistics(graph, estimate(graph, [{"pixels": pixels}]))
    assert digest(graph) == before
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(_run(adapted, pixels), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(seen - expected).max() < 0.2, "but for n - 1 the same as in training"


def test_batches_of_several_sizes_are_averaged_by_the_law_of_total_variance(
    network: _Network, graph: onnx.ModelProto, pixels: np.ndarray
) -> None:
    parts = [pixels[:5], pixels[5:16], pixels[16:]]
    found = _in_order(graph, estimate(graph, [{"pixels": part} for part in parts]))
    # of the first layer, all batches together: what comes before it does not depend on them
    with torch.no_grad():
        first = network.body[0](torch.from_numpy(pixels)).numpy().astype(np.float64)
    np.testing.assert_allclose(found[0][0], first.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0][1], first.var(axis=(0, 2, 3), ddof=1), rtol=1e-4)
    # of the second: each batch normalised by itself before it
    layer = _layers(network)[0]
    values = []
    for part in parts:
        with torch.no_grad():
            x = network.body[0](torch.from_numpy(part))
            x = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
            values.append(network.body[3](torch.relu(x)).numpy().astype(np.float64))
    second = np.concatenate(values)
    np.testing.assert_allclose(found[1][0], second.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[1][1], second.var(axis=(0, 2, 3), ddof=1), rtol=1e-3)


def test_the_order_of_batches_does_not_matter(graph: onnx.ModelProto, pixels: np.ndarray) -> None:
    parts = [{"pixels": part} for part in (pixels[:8], pixels[8:])]
    for one, other in zip(*(_in_order(graph, estimate(graph, p)) for p in (parts, parts[::-1])), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_strength_mixes_the_new_statistics_with_the_old_in_the_pass_too(
    network: _Network, graph: onnx.ModelProto, pixels: np.ndarray
) -> None:
    found = _in_order(graph, estimate(graph, [{"pixels": pixels}], strength=0.25))
    x, layers = torch.from_numpy(pixels), _layers(network)
    with torch.no_grad():
        for i, (convolution, layer) in enumerate(((0, layers[0]), (3, layers[1]))):
            x = network.body[convolution](x)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            values = x.numpy().astype(np.float64)
            for part, own, new in (
                (0, layer.running_mean, values.mean(axis=(0, 2, 3))),
                (1, layer.running_var, values.var(axis=(0, 2, 3), ddof=1)),
            ):
                np.testing.assert_allclose(found[i][part], 0.75 * own.numpy() + 0.25 * new, rtol=1e-3, atol=1e-4)
            mixed = [torch.from_numpy(np.asarray(v)) for v in found[i]]
            x = torch.relu(nn.functional.batch_norm(x, *mixed, layer.weight, layer.bias, eps=layer.eps))
    weak = _in_order(graph, estimate(graph, [{"pixels": pixels}], strength=1e-7))
    for layer, (mean, variance) in zip(layers, weak, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        np.testing.assert_allclose(mean, layer.running_mean.numpy(), atol=1e-4)
        np.testing.assert_allclose(variance, layer.running_var.numpy(), atol=1e-4)


def test_layers_that_shared_their_statistics_get_each_its_own() -> None:
    """Equal weights are kept once in a graph."""
    rng = np.random.default_rng(0)
    kept = {"ones": np.ones(3), "zeros": np.zeros(3)}
    nodes = [
        helper.make_node(OP_TYPE, ["pixels", "ones", "zeros", "zeros", "ones"], ["first"]),
        helper.make_node("Relu", ["first"], ["positive"]),
        helper.make_node(OP_TYPE, ["positive", "ones", "zeros", "zeros", "ones"], ["second"]),
        helper.make_node("GlobalAveragePool", ["second"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Softmax", ["embedding"], ["probabilities"], axis=1),
    ]
    model = make_model(
        nodes,
        [float_value("pixels", ["n", 3, 4, 4])],
        [float_value("embedding", ["n", 3]), float_value("probabilities", ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in kept.items()],
    )
    # what takes pixels takes them from a graph before
    source = make_model(
        [helper.make_node("Mul", ["resized", "two"], ["pixels"])],
        [float_value("resized", ["n", 3, 4, 4])],
        [float_value("pixels", ["n", 3, 4, 4])],
        [numpy_helper.from_array(np.array([2], np.float32), "two")],
    )
    whole = join(source, model)
    x = rng.normal(1, 2, (9, 3, 4, 4)).astype(np.float32)
    adapted = with_statistics(whole, estimate(whole, [{"pixels": x}]))
    onnx.checker.check_model(adapted)
    values = x.astype(np.float64)
    for _ in range(2):
        # both layers, of the adapted graph: statistics of the batch with n - 1, but the first hands on those with n
        mean, n = values.mean(axis=(0, 2, 3), keepdims=True), values[:, 0].size
        variance = values.var(axis=(0, 2, 3), keepdims=True)
        expected = (values - mean) / np.sqrt(variance * n / (n - 1) + 1e-5)
        values = np.maximum((values - mean) / np.sqrt(variance + 1e-5), 0)
    found = session_of(adapted.SerializeToString()).run(["embedding"], {"resized": x / 2})[0]
    np.testing.assert_allclose(found, expected.mean(axis=(2, 3)), atol=0.02)
    names = {tensor.name for tensor in adapted.graph.initializer}
    assert len(names) == len(adapted.graph.initializer) == 7


@pytest.mark.parametrize("inserted", [False, True])
def test_encoders_side_by_side_are_measured_together(graph: onnx.ModelProto, pixels: np.ndarray, inserted: bool) -> None:
    encoder = cut(graph, ["image"], ["embedding"])
    both = with_beside(encoder, encoder) if inserted else side_by_side([encoder, encoder])
    head = make_model(
        [helper.make_node("Softmax", ["embedding"], ["probabilities"], axis=1)],
        [float_value("embedding", ["n", 12])],
        [float_value("probabilities", ["n", 12])],
        [],
    )
    whole = join(both, head, keep=("embedding",))
    first, second = pixels_of(whole)
    other = pixels[::-1] * 0.5 + 1
    found = _in_order(whole, estimate(whole, [{first: pixels, second: other}]))
    for place, given in ((0, pixels), (3, other)):
        alone = _in_order(graph, estimate(graph, [{"pixels": given}]))
        for one, expected in zip(found[place : place + 3], alone, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5)
