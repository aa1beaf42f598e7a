"""A graph in 8 bits: what changes in it, what does not, and how far its answers move."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import trained
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import BundleError, ConfigError, ImageError
from hemalens.graphs.build import cut, float_value, side_by_side
from hemalens.graphs.checks import is_quantised
from hemalens.graphs.int8 import QuantisationConfig, quantise
from hemalens.graphs.runtime import Outputs, session_of
from networks import conv_encoder, with_head

COLOURS = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
DEFAULT = QuantisationConfig()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return open_dataset(
        f"folder:{trained.colour_cells(tmp_path_factory.mktemp('cells') / 'c', COLOURS, 6, seed=0, noise=25)}"
    )


@pytest.fixture(scope="module")
def plain(cells: CellDataset) -> onnx.ModelProto:
    return with_head(conv_encoder(), cells)


@pytest.fixture(scope="module")
def small(plain: onnx.ModelProto, cells: CellDataset) -> onnx.ModelProto:
    return quantise(plain, cells.records, DEFAULT)


def _answers(graph: onnx.ModelProto, cells: CellDataset, *outputs: str) -> list[Outputs]:
    session = session_of(graph.SerializeToString())
    rows = [session.run(list(outputs), {"image": record.read()[None]}) for record in cells.records]
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def _weights(graph: onnx.ModelProto, kind: int) -> list[np.ndarray]:
    return [numpy_helper.to_array(t) for t in graph.graph.initializer if t.data_type == kind and len(t.dims) == 4]


def _convolved(graph: onnx.ModelProto) -> list[str]:
    """For each convolution "int8", or "fp32" where its weights are floats."""
    made = {name: node for node in graph.graph.node for name in node.output}
    found = [made.get(node.input[1]) for node in graph.graph.node if node.op_type == "Conv"]
    return ["int8" if node is not None and node.op_type == "DequantizeLinear" else "fp32" for node in found]


def test_weights_are_int8_with_a_scale_for_each_channel_and_the_graph_is_smaller(
    plain: onnx.ModelProto, small: onnx.ModelProto
) -> None:
    filters = _weights(small, TensorProto.INT8)
    assert [len(w) for w in filters] == [32, 32]
    for whole in (w for w in _weights(plain, TensorProto.FLOAT) if w.shape in [f.shape for f in filters]):
        (found,) = (f for f in filters if f.shape == whole.shape)
        scale = np.abs(whole).max(axis=(1, 2, 3), keepdims=True) / 127
        assert np.abs(found.astype(np.float32) * scale - whole).max() <= scale.max(), "each channel by its own largest"
    activations = {
        t.data_type
        for node in small.graph.node
        if node.op_type == "QuantizeLinear"
        for t in small.graph.initializer
        if t.name == node.input[2]
    }
    assert activations == {TensorProto.UINT8}
    assert len(small.SerializeToString()) < 0.6 * len(plain.SerializeToString())
    assert is_quantised(small)
    assert not is_quantised(plain)


def test_only_the_backbone_behind_its_first_layers_changes(
    plain: onnx.ModelProto, small: onnx.ModelProto, cells: CellDataset
) -> None:
    assert _convolved(plain) == ["fp32"] * 4
    assert _convolved(small) == ["fp32", "fp32", "int8", "int8"]
    assert _convolved(quantise(plain, cells.records[:2], QuantisationConfig(fp32_layers=1))) == ["fp32"] + ["int8"] * 3
    (head,) = (node for node in small.graph.node if node.op_type == "Gemm")
    assert any(t.name == head.input[1] and t.data_type == TensorProto.FLOAT for t in small.graph.initializer)
    assert [v.name for v in small.graph.output] == [v.name for v in plain.graph.output]
    counts = [Counter(n.op_type for n in g.graph.node) for g in (plain, small)]
    for kind in ("Resize", "Round", "Sub", "GlobalAveragePool", "Softmax"):
        assert [found[kind] for found in counts] == [1, 1]


def test_the_preprocessing_computes_the_same_for_images_of_any_size(
    plain: onnx.ModelProto, small: onnx.ModelProto, cells: CellDataset
) -> None:
    rng = np.random.default_rng(1)
    for shape in ((8, 8), (20, 57), (131, 40)):
        image = rng.integers(0, 256, (1, *shape, 3)).astype(np.uint8)
        found = []
        for graph in (plain, small):
            shown = onnx.ModelProto()
            shown.CopyFrom(graph)
            shown.graph.output.append(float_value("pixels", ["n", 3, 32, 32]))
            found.append(session_of(shown.SerializeToString()).run(["pixels", "probabilities"], {"image": image}))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        assert found[1][1].shape == (1, 3)
    batch = rng.integers(0, 256, (4, 20, 20, 3)).astype(np.uint8)
    assert session_of(small.SerializeToString()).run(["embedding"], {"image": batch})[0].shape == (4, 32)


def test_predictions_stay_close(plain: onnx.ModelProto, small: onnx.ModelProto, cells: CellDataset) -> None:
    whole, eighth = (_answers(g, cells, "probabilities", "embedding") for g in (plain, small))
    apart = max(float(np.abs(a["probabilities"] - b["probabilities"]).max()) for a, b in zip(whole, eighth, strict=True))
    assert 0 < apart < 0.1
    for a, b in zip(whole, eighth, strict=True):
        assert a["probabilities"].argmax() == b["probabilities"].argmax()
        cosine = (a["embedding"] * b["embedding"]).sum() / np.linalg.norm(a["embedding"]) / np.linalg.norm(b["embedding"])
        assert cosine > 0.99


def test_ranges_are_those_of_the_images(plain: onnx.ModelProto, cells: CellDataset) -> None:
    """The scale of the first quantised tensor is its largest value over 255: recomputed from the 32-bit graph."""
    shown = onnx.ModelProto()
    shown.CopyFrom(plain)
    name = next(n.output[0] for n in plain.graph.node if n.op_type == "Relu" and n.output[0].endswith("map_1"))
    shown.graph.output.append(float_value(name, ["n", 16, 16, 16]))
    largest = max(float(row[name].max()) for row in _answers(shown, cells, name))
    graph = quantise(plain, cells.records, DEFAULT)
    first = next(node for node in graph.graph.node if node.op_type == "QuantizeLinear")
    scale = next(numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == first.input[1])
    assert float(scale) == pytest.approx(largest / 255, rel=1e-4)


def test_one_image_is_read_at_a_time_and_one_is_enough(plain: onnx.ModelProto, cells: CellDataset) -> None:
    done: list[int] = []
    graph = quantise(plain, cells.records[:1], DEFAULT, progress=done.append)
    assert is_quantised(graph)
    assert done == [1]


def test_reduced_weights_have_seven_bits(plain: onnx.ModelProto, cells: CellDataset) -> None:
    graph = quantise(plain, cells.records[:2], QuantisationConfig(reduce_range=True))
    assert max(np.abs(w.astype(int)).max() for w in _weights(graph, TensorProto.INT8)) <= 64


def test_encoders_side_by_side_are_quantised_both(cells: CellDataset) -> None:
    encoder = side_by_side([conv_encoder(seed=1), conv_encoder(seed=2)])
    whole = with_head(encoder, cells)
    graph = quantise(whole, cells.records, DEFAULT)
    assert Counter(_convolved(graph)) == {"fp32": 4, "int8": 4}
    for a, b in zip(_answers(whole, cells, "probabilities"), _answers(graph, cells, "probabilities"), strict=True):
        np.testing.assert_allclose(a["probabilities"], b["probabilities"], atol=0.1)


TWICE = """
import sys, hashlib
from hemalens.datasets import open_dataset
from hemalens.graphs.int8 import QuantisationConfig, quantise
import onnx
made = quantise(onnx.load(sys.argv[1]), open_dataset("folder:" + sys.argv[2]).records, QuantisationConfig())
print(hashlib.sha256(made.SerializeToString()).hexdigest(), "torch" in sys.modules)
"""


def test_the_same_images_give_the_same_bytes_in_any_process_and_without_torch(
    plain: onnx.ModelProto, cells: CellDataset, tmp_path: Path
) -> None:
    onnx.save(plain, tmp_path / "plain.onnx")
    folder = cells.records[0].path.parent.parent
    said = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-W", "error", "-c", TWICE, str(tmp_path / "plain.onnx"), str(folder)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        said.add(done.stdout)
    (line,) = said
    assert line.endswith(" False\n")


def test_nothing_is_printed_or_left_behind(
    plain: onnx.ModelProto,
    cells: CellDataset,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers, off = list(logging.root.handlers), logging.root.manager.disable
    quantise(plain, cells.records[:2], DEFAULT)
    assert list(tmp_path.iterdir()) == []
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, off)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_has_nothing_to_quantise_is_refused(
    plain: onnx.ModelProto, small: onnx.ModelProto, cells: CellDataset
) -> None:
    with pytest.raises(BundleError, match="is int8 already"):
        quantise(small, cells.records, DEFAULT)
    with pytest.raises(
        BundleError, match=r"nothing to quantise; expected more than 4 layers of Conv.*got 4\. Use --set fp32"
    ):
        quantise(plain, cells.records, QuantisationConfig(fp32_layers=4))
    with pytest.raises(BundleError, match="nothing to quantise; expected a network between pixels and embedding"):
        quantise(with_head(_colours(), cells), cells.records, DEFAULT)


def _colours() -> onnx.ModelProto:
    """An encoder without pixels: the mean colour."""
    return cut(trained._colour_graph(np.zeros((3, 3)), 1.0), ["image"], ["embedding"])


def test_an_unreadable_image_is_named(plain: onnx.ModelProto, cells: CellDataset, tmp_path: Path) -> None:
    folder = trained.colour_cells(tmp_path / "broken", COLOURS, 1, seed=3)
    whole = (folder / "monocyte" / "monocyte 0.png").read_bytes()
    (folder / "monocyte" / "monocyte 0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"monocyte 0\.png"):
        quantise(plain, open_dataset(f"folder:{folder}").records, DEFAULT)


BAD_SETTINGS = {
    "method=entropy": "unknown key 'method'",
    "fp32_layers=0": "key 'fp32_layers'; expected greater than or equal to 1",
    "fp32_layer=3": "unknown key 'fp32_layer'. did you mean 'fp32_layers'",
    "reduce_range=1": "key 'reduce_range'",
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_bad_setting_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=BAD_SETTINGS[setting].replace("(", r"\(")):
        QuantisationConfig.load(None, [setting])
