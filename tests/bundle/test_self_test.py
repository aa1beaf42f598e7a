"""A bundle's own test: drawn the same everywhere, sensitive to the weights, and checked before the graph is used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import trained
from hemalens.bundle.bundle import MODEL, Bundle, open_bundle
from hemalens.bundle.default_model import FOLDER
from hemalens.bundle.self_test import INT8_TOLERANCE, TOLERANCE, drawn_cell, measured, summary
from hemalens.errors import BundleError
from hemalens.graphs.runtime import GraphRunner


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("self test") / "bundle"
    return trained.colour_bundle(folder, trained.laboratory(tmp_path_factory))


def test_the_drawn_cell_is_the_same_everywhere() -> None:
    image = drawn_cell(0, 64)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "8e1cb60ec15260ec"
    assert image[32, 32].mean() < image[0, 0].mean(), "a dark nucleus"
    assert not np.array_equal(image, drawn_cell(1, 64))


def test_the_expected_probabilities_are_those_of_the_graph(bundle: Bundle) -> None:
    test = bundle.manifest.self_test
    assert test is not None
    found = GraphRunner(bundle.graph_bytes, ["probabilities"]).run(drawn_cell(test.seed, test.side_px))
    np.testing.assert_allclose(test.outputs["probabilities"], found["probabilities"], atol=6e-5)
    assert test.tolerance == TOLERANCE


def test_an_unsure_cell_is_chosen(bundle: Bundle) -> None:
    runner = GraphRunner(bundle.graph_bytes, ["probabilities"])
    top = [float(runner.run(drawn_cell(seed, 64))["probabilities"].max()) for seed in range(8)]
    test = bundle.manifest.self_test
    assert test is not None
    unsure = [seed for seed, value in enumerate(top) if value < 0.9]
    assert test.seed == (unsure[0] if unsure else int(np.argmin(top)))


def test_graphs_in_8_bits_get_a_wider_tolerance(bundle: Bundle) -> None:
    assert measured(bundle.graph_bytes, bundle.manifest, int8=True).tolerance == INT8_TOLERANCE


def test_the_summary_of_a_map_is_sixteen_means() -> None:
    values = np.arange(64.0).reshape(8, 8)
    assert summary(values) == tuple(values.ravel().reshape(16, 4).mean(axis=1))
    assert summary(np.array([0.25, 0.75])) == (0.25, 0.75)


def test_a_graph_of_nan_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    graph = bundle.graph.SerializeToString()
    model = onnx.load_model_from_string(graph)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("centres"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    with pytest.raises(BundleError, match="does not give what its manifest names; got NaN or infinity in probabilities"):
        bundle.derive(tmp_path / "b", bundle.manifest, model.SerializeToString())
    assert not (tmp_path / "b").exists()


def test_the_test_runs_for_each_set_of_outputs(bundle: Bundle) -> None:
    for outputs in (["probabilities"], ["embedding"], ["probabilities", "embedding"]):
        assert bundle.runner(outputs, n_workers=1).outputs == tuple(outputs)


@pytest.mark.parametrize("change", [0.002, -0.3])
def test_another_answer_is_refused(bundle: Bundle, change: float) -> None:
    test = bundle.manifest.self_test
    assert test is not None
    first, *others = test.outputs["probabilities"]
    moved = test.model_copy(update={"outputs": {"probabilities": (first + change, *others)}})
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"self_test": moved}))
    with pytest.raises(BundleError, match=r"fails its own test; got probabilities .* for its test image, not"):
        other.runner(["probabilities"])
    with pytest.raises(BundleError, match="fails its own test"):
        _ = other.tested_graph


def test_the_default_model_passes() -> None:
    assert open_bundle(FOLDER).runner(["probabilities", "embedding"], n_workers=1)
    assert (FOLDER / MODEL).is_file()
