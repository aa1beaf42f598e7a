"""Adding a method, as CONTRIBUTING describes it: one file, here `focal_loss.py`, and a line in `METHODS`."""

from __future__ import annotations

from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file

import trained
from hemalens.bundle.bundle import open_bundle
from hemalens.errors import InputError
from hemalens.inference.predictor import Predictor
from hemalens.methods import METHODS, find_method
from hemalens.models.backbone import preprocessing_of
from hemalens.runs.train import train
from recipes.focal_loss import FocalLossConfig, FocalLossModule

SETTINGS = {**trained.FINETUNE, "focus": 1.0}


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(METHODS, "focal_loss", "recipes.focal_loss")  # type: ignore[arg-type]
    return "focal_loss"


def test_a_method_of_one_line_is_found_by_name(added: str) -> None:
    assert find_method(added).config is FocalLossConfig
    with pytest.raises(InputError, match=r"unknown method 'focal_los'.*'focal_loss'"):
        find_method("focal_los")


def test_a_method_of_one_line_trains_and_predicts(
    added: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = trained.cells(tmp_path_factory) / "lab_a"
    report = train(added, f"synthetic:{folder}", out=tmp_path / "run", settings=trained.settings(SETTINGS))
    assert report.evaluations
    bundle = open_bundle(tmp_path / "run" / "bundle")
    assert (bundle.manifest.method, bundle.manifest.config["focus"]) == ("focal_loss", 1.0)
    assert bundle.manifest.parity <= 1e-3
    cells = trained.laboratory(tmp_path_factory)
    predictions = list(Predictor(bundle).predict(cells.records))
    assert [prediction.label in bundle.manifest.labels for prediction in predictions] == [True] * len(cells)
    # the exported graph predicts as timm's own network with the exported weights
    network = timm.create_model("test_resnet", num_classes=len(cells.classes)).eval()
    network.load_state_dict(load_file(bundle.path / "weights.safetensors"))
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    image = cells.records[0].read()[None]
    embedding, logits = session.run(["embedding", "logits"], {"image": image})
    with torch.inference_mode():
        expected = network.get_classifier()(torch.from_numpy(embedding)).numpy()
    np.testing.assert_allclose(logits * bundle.manifest.temperature, expected, atol=1e-3)


def test_its_loss_with_focus_0_is_the_cross_entropy() -> None:
    config = FocalLossConfig.from_mapping({**trained.FINETUNE, "focus": 0.0})
    network = timm.create_model("test_resnet", num_classes=3)
    module = FocalLossModule(network, preprocessing_of(config), config=config, seed=0).eval()
    pixels, targets = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(module.classify(module.embed(pixels)), targets)
        torch.testing.assert_close(module.loss(pixels, targets), expected)
