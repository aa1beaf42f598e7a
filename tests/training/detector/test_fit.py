"""Training of the detector: resume, laboratories equally often, and the graph it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import pytest
import torch

import drawn_fields
from hemalens.detection.finder import CellFinder
from hemalens.detection.maps import network_input
from hemalens.errors import InputError, ParityError
from hemalens.imaging.reading import Preprocessing
from hemalens.methods.detector import DetectorConfig
from hemalens.models.detector import DetectorNetwork, create_detector
from hemalens.training.data import EpochSampler
from hemalens.training.detector import fit
from hemalens.training.detector.fit import DetectorTraining, WindowDataset, check_maps, detector_graph, fit_boxes
from hemalens.training.detector.sheets import read_sheets
from hemalens.training.module import OptimiserConfig

PREPROCESSING = Preprocessing(size_px=64)
SIDES = (64, 96, 176)


def config(**changes: Any) -> DetectorConfig:
    """A training of four windows, from random weights."""
    optimiser = OptimiserConfig(learning_rate=1e-3, warmup_epochs=0.0, label_smoothing=0.0)
    small = {"weights": "none", "epochs": 3, "windows_per_epoch": 4, "batch_size": 2, "side_px": 64, "precision": "fp32"}
    return DetectorConfig(**{"optimiser": optimiser, **small, **changes})  # type: ignore[arg-type]


def _how(chosen: DetectorConfig) -> DetectorTraining:
    return DetectorTraining(**{name: getattr(chosen, name) for name in DetectorTraining.model_fields})


def _trained(folder: Path, run: Path, chosen: DetectorConfig) -> DetectorNetwork:
    fields = drawn_fields.fields(folder, 3).fields
    network, _ = fit_boxes(create_detector(chosen), fields, PREPROCESSING, _how(chosen), run)
    return network


@pytest.fixture(scope="module")
def network() -> DetectorNetwork:
    return create_detector(config()).eval()


@pytest.fixture(scope="module")
def graph(network: DetectorNetwork) -> onnx.ModelProto:
    return detector_graph(network, PREPROCESSING)


def test_a_stopped_training_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config()
    whole = _trained(tmp_path, tmp_path / "whole", chosen).state_dict()
    drawn, original = [0], WindowDataset.__getitem__

    def stops(self: WindowDataset, key: tuple[int, int]) -> Any:
        drawn[0] += 1
        if drawn[0] == 7:  # in the second epoch
            raise KeyboardInterrupt
        return original(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(WindowDataset, "__getitem__", stops)
        # Lightning turns it into an end of the program
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            _trained(tmp_path, tmp_path / "stopped", chosen)
    again = _trained(tmp_path, tmp_path / "stopped", chosen).state_dict()
    assert drawn[0] == 7
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    untrained = create_detector(chosen).state_dict()
    assert not torch.equal(whole["stem.0.weight"], untrained["stem.0.weight"])


def test_a_diverging_training_is_told(tmp_path: Path) -> None:
    wild = OptimiserConfig(learning_rate=1e30, warmup_epochs=0.0, label_smoothing=0.0, gradient_clip=None)
    with pytest.raises(InputError, match="the training diverged in epoch 1"):
        _trained(tmp_path, tmp_path / "run", config(optimiser=wild))


def test_a_window_depends_on_its_key_alone(tmp_path: Path) -> None:
    sheets, _ = read_sheets(drawn_fields.fields(tmp_path, 2).fields, tmp_path / "scratch.npy")
    dataset = WindowDataset(sheets, _how(config()))
    torch.manual_seed(1)
    image, targets = dataset[(1, 5)]
    torch.manual_seed(2)
    (again, same), (other, _) = dataset.__getitems__([(1, 5), (1, 6)])
    assert torch.equal(image, again)
    assert all(torch.equal(targets[name], same[name]) for name in targets)
    assert not torch.equal(image, other)
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8


def test_laboratories_are_drawn_equally_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [*drawn_fields.fields(tmp_path, 3, domain="one").fields, drawn_fields.field(tmp_path, 9, domain="other")]
    seen = []

    def noted(n: int, **given: Any) -> EpochSampler:
        seen.append(given["weights"])
        return EpochSampler(n, **given)

    monkeypatch.setattr(fit, "EpochSampler", noted)
    chosen = config(epochs=1)
    fit_boxes(create_detector(chosen), fields, PREPROCESSING, _how(chosen), tmp_path / "run")
    assert seen[0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize("side", SIDES)
def test_the_graph_gives_the_network_s_maps_at_any_size(
    graph: onnx.ModelProto, network: DetectorNetwork, side: int
) -> None:
    image, _, _ = drawn_fields.drawn(1)
    given = network_input(image[:90], side)
    difference = check_maps(graph, network, PREPROCESSING, [given.pixels])
    assert 0 <= difference < 1e-3
    maps = CellFinder(graph.SerializeToString()).maps(given)
    pixels = torch.from_numpy((given.pixels.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = network(pixels)[0]
    assert maps.scores.shape == (given.pixels.shape[0] // 4, given.pixels.shape[1] // 4, 4)
    assert np.abs(maps.scores - wanted[:4].sigmoid().permute(1, 2, 0).numpy()).max() < 1e-3
    distances = wanted[4:].clamp(-6, 4).exp().permute(1, 2, 0).numpy() * 4
    assert np.abs(maps.distances / distances - 1).max() < 0.05


def test_another_network_is_no_parity(graph: onnx.ModelProto) -> None:
    image, _, _ = drawn_fields.drawn(1)
    other = create_detector(config())
    torch.nn.init.constant_(other.output[-1].bias, 1.0)
    with pytest.raises(ParityError, match=r"does not reproduce the trained one; expected scores within 0\.001"):
        check_maps(graph, other, PREPROCESSING, [network_input(image, 64).pixels])
    with torch.no_grad():
        other.output[-1].bias.fill_(float("nan"))
    with pytest.raises(ParityError, match="a difference of nan"):
        check_maps(graph, other, PREPROCESSING, [network_input(image, 64).pixels])
