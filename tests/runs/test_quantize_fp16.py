"""Bundles whose weights have 16 bits: what they say of themselves, what they may still become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import trained
from command import Command
from hemalens import evaluate
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import FINE, MODEL, SEEN_UNLABELLED, Bundle, open_bundle
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, ConfigError
from hemalens.graphs.build import BATCH_NORM
from hemalens.inference.predictor import Predictor
from hemalens.runs.evaluate import EvaluateOptions
from hemalens.runs.quantize import QuantizeOptions, quantize


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "robust").bundle


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.cells(tmp_path_factory) / "lab_b"


@pytest.fixture(scope="module")
def half(base: Bundle, abroad: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("fp16") / "bundle"
    return quantize(base.path, f"synthetic:{abroad}", out=out, precision="fp16", options=QuantizeOptions(n_images=12))


def _probabilities(bundle: Bundle, folder: Path) -> np.ndarray:
    found = list(Predictor(bundle).predict(walk_files(folder / "images")))
    return np.stack([p.probabilities for p in found if p.probabilities is not None])


def _of_batch_norm(graph: onnx.ModelProto) -> set[int]:
    names = {name for node in graph.graph.node if node.op_type == BATCH_NORM for name in node.input}
    return {tensor.data_type for tensor in graph.graph.initializer if tensor.name in names}


def test_the_manifest_says_how_it_was_made_and_how_far_it_lies(base: Bundle, half: Bundle) -> None:
    how = half.manifest.quantisation
    assert how is not None
    assert (how.precision, how.method, how.settings, how.n_images) == ("fp16", "rounding", {}, 12)
    assert how.base_model_sha256 == base.manifest.files[MODEL].sha256
    assert 0 < how.largest_difference < 0.01
    assert how.mean_difference <= how.largest_difference
    assert how.agreement == 1
    assert half.manifest.parity == how.largest_difference
    assert how.size_ratio == pytest.approx(half.graph.ByteSize() / base.graph.ByteSize())
    assert how.size_ratio < 0.7
    assert WEIGHTS in base.manifest.files
    assert WEIGHTS not in half.manifest.files


def test_the_images_changed_nothing_and_count_as_unseen(base: Bundle, half: Bundle, abroad: Path, tmp_path: Path) -> None:
    assert half.manifest.data == base.manifest.data
    assert half.seen == base.seen
    assert SEEN_UNLABELLED not in half.manifest.files
    with trained.undrawn():
        found = evaluate(half.path, f"synthetic:{abroad}", out=tmp_path / "report", options=EvaluateOptions(explain="none"))
    assert not found.evaluations[0].transductive


def test_batch_norm_keeps_its_32_bits_and_the_bundle_follows_another_laboratory(
    half: Bundle, abroad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
    monkeypatch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
    assert _of_batch_norm(half.graph) == {TensorProto.FLOAT}
    settings = ["size=false"]
    made = adapt(
        half.path, out=tmp_path / "adapted", unlabelled=f"synthetic:{abroad}", options=AdaptOptions(settings=settings)
    )
    assert made.manifest.parity <= 1e-3
    assert np.abs(_probabilities(made, abroad) - _probabilities(half, abroad)).max() > 1e-3
    assert made.manifest.quantisation == half.manifest.quantisation


def test_a_few_cells_adapt_it(half: Bundle, abroad: Path, tmp_path: Path) -> None:
    made = adapt(half.path, out=tmp_path / "adapted", support=f"synthetic:{abroad}")
    assert made.manifest.parity <= 1e-3
    assert FINE not in [value.name for value in made.graph.graph.output]


def test_what_is_small_already_is_refused(half: Bundle, abroad: Path, tmp_path: Path) -> None:
    for precision in ("int8", "fp16"):
        with pytest.raises(BundleError, match=r"is fp16 already"):
            quantize(half.path, f"synthetic:{abroad}", out=tmp_path / "again", precision=precision)


def test_settings_of_the_8_bits_are_refused(base: Bundle, abroad: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no settings; got fp32_layers=1"):
        quantize(
            base.path,
            f"synthetic:{abroad}",
            out=tmp_path / "x",
            precision="fp16",
            options=QuantizeOptions(settings=["fp32_layers=1"]),
        )


def test_the_command(
    base: Bundle, abroad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hemalens = Command(monkeypatch, capsys)
    call = ("quantize", base.path, "--calibrate", f"synthetic:{abroad}", "--out", tmp_path / "out", "--images", 4)
    ended = hemalens(*call, "--precision", "fp16")
    assert ended.code == 0
    assert "comparing on 4 of 32 images" in ended.err
    assert ended.out.startswith("fp16, compared on 4 images: ")
    assert open_bundle(tmp_path / "out").manifest.quantisation is not None
    refused = hemalens(*call, "--overwrite", "--precision", "fp8")
    assert refused.code == 2
    assert "'fp8' is not one of 'int8'" in refused.err
