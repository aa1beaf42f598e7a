"""A robust network taken up from its bundle answers as the bundle does, and learns from a few cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import pytest
from onnx import helper

import trained
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import MODEL, Bundle, open_bundle, write_bundle
from hemalens.bundle.default_model import default_model_path
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import BundleError, ConfigError
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import GraphRunner
from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, FineTuner, module_of
from hemalens.methods.robust import METHOD, RobustModule
from hemalens.runs.quantize import QuantizeOptions, quantize
from hemalens.training.laboratory_augmentation import LaboratoryConfig
from trained import Fitted, colour_cells

FEW = {"steps": 2, "batch_size": 4, "precision": "fp32"}
COLOURS = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
TYPES = ("band_neutrophil", "segmented_neutrophil")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, "robust")


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory, plain: Fitted) -> CellDataset:
    return trained.laboratory(tmp_path_factory, "lab_b").under(plain.bundle.manifest.labels)


def _way(base: Bundle, scratch: Path, **changes: Any) -> FineTuner:
    return FineTuner(base, FewShotFinetuneConfig.from_mapping({**FEW, **changes}), scratch)


def _fit(plain: Fitted, run_dir: Path, **changes: Any) -> Bundle:
    config = METHOD.config.from_mapping({**trained.ROBUST, "epochs": 1, **changes})
    records = tuple(
        replace(record, cell_type=TYPES[i % 2]) if record.label == "neutrophil" else record
        for i, record in enumerate(plain.train.records)
    )
    train = replace(plain.train, records=records)
    train.__dict__["contents"] = plain.train.contents
    rng = np.random.default_rng(1)
    return METHOD.fit(train, validation=plain.validation, auxiliary={}, config=config, rng=rng, run_dir=run_dir)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"min_fine_images": 2},
        {"white_balance": True},
        {"outline": True, "white_balance": True, "min_fine_images": 2},
    ],
)
def test_the_network_that_is_taken_up_answers_as_its_bundle(
    plain: Fitted, abroad: CellDataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = _fit(plain, tmp_path / "run", **changes)
    way = _way(base, tmp_path)
    way.check(abroad)
    logits = way.logits(module_of(base, way.config, seed=7).eval(), abroad)
    shifted = np.exp(logits / base.manifest.temperature)
    served = np.stack(
        [answer["probabilities"] for _, answer in GraphRunner(base.graph_bytes, ["probabilities"]).map(abroad.records)]
    )
    np.testing.assert_allclose(shifted / shifted.sum(axis=1, keepdims=True), served, atol=1e-3)
    learned = way.learn(abroad, seed=0)
    assert learned.finer == module_of(base, way.config, seed=0).finer
    assert bool(learned.finer) == ("min_fine_images" in changes)


def test_pieces_that_follow_a_laboratory_and_weights_in_16_bits_are_taken_up(
    plain: Fitted,
    abroad: CellDataset,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = trained.cells(tmp_path_factory) / "lab_b" / "images"
    # what the pieces add is not the network's, which is taken up without it
    monkeypatch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
    monkeypatch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
    followed = adapt(plain.bundle.path, out=tmp_path / "followed", unlabelled=str(images))
    assert followed.manifest.unlabelled is not None
    assert "class_means" in followed.manifest.unlabelled.pieces
    _way(followed, tmp_path).check(abroad)
    half = quantize(
        plain.bundle.path, f"folder:{images}", out=tmp_path / "half", precision="fp16", options=QuantizeOptions(n_images=4)
    )
    _way(half, tmp_path).check(abroad)


def test_the_default_model_s_network_is_built_from_its_manifest() -> None:
    default = open_bundle(default_model_path())
    module = module_of(default, FewShotFinetuneConfig(), seed=0)
    assert (module.white_balance, module.outline_views, module.labels.classes) == (True, 4, default.manifest.labels)


def test_a_manifest_without_white_balance_is_of_a_network_without_it(plain: Fitted) -> None:
    config = {key: value for key, value in plain.bundle.manifest.config.items() if key != "white_balance"}
    old = replace(plain.bundle, manifest=plain.bundle.manifest.model_copy(update={"config": config}))
    assert not module_of(old, FewShotFinetuneConfig(), seed=0).white_balance


def test_nothing_is_left_of_a_training_but_its_images(plain: Fitted, abroad: CellDataset, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    _way(plain.bundle, tmp_path / "scratch").learn(abroad, seed=3)
    assert not [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_what_is_more_than_the_network_is_refused(
    plain: Fitted, abroad: CellDataset, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = trained.cells(tmp_path_factory) / "lab_b" / "images"
    graph = onnx.ModelProto()
    graph.CopyFrom(plain.bundle.graph)
    halved = helper.make_node("Mul", ["logits_before", "half"], ["logits"])
    graphs.insert_behind(graph, "logits", [halved], {"half": np.array([0.5], np.float32)}, then="logits")
    files = {MODEL: graph.SerializeToString(), WEIGHTS: (plain.bundle.path / WEIGHTS).read_bytes()}
    moved = write_bundle(tmp_path / "moved", plain.bundle.manifest, files)
    with pytest.raises(BundleError, match="holds more than its network"):
        _way(moved, tmp_path).check(abroad)
    for name, options in {"alone": AdaptOptions(), "beside": AdaptOptions(beside=[plain.bundle.path])}.items():
        few = adapt(plain.bundle.path, out=tmp_path / name, support=f"folder:{images}", options=options)
        with pytest.raises(BundleError, match="no linear head of its own"):
            _way(few, tmp_path).check(abroad)
    other = trained.fitted(tmp_path_factory, "finetune").bundle
    with pytest.raises(BundleError, match="expected a bundle of robust; got finetune"):
        _way(other, tmp_path).check(abroad)


def test_it_learns_the_same_again_and_with_another_seed_something_else(
    plain: Fitted, abroad: CellDataset, tmp_path: Path
) -> None:
    def answers(folder: str, seed: int) -> Any:
        (tmp_path / folder).mkdir()
        way = _way(plain.bundle, tmp_path / folder)
        return way.logits(way.learn(abroad, seed=seed), abroad)

    first = answers("a", 1)
    np.testing.assert_allclose(answers("b", 1), first, rtol=1e-4, atol=1e-5)
    assert not np.allclose(answers("c", 2), first, atol=1e-4)


def test_it_learns_the_cells_that_it_is_shown(plain: Fitted, tmp_path: Path) -> None:
    folder = colour_cells(tmp_path / "cells", COLOURS, 6, seed=0)
    cells = open_dataset(f"folder:{folder}").under(plain.bundle.manifest.labels)
    still = {"laboratory": dict.fromkeys(LaboratoryConfig.model_fields, 0) | {"jpeg_quality_min": 90}}
    fast: dict[str, Any] = {"optimiser": {"learning_rate": 0.01}, "weight_average": 0.9}
    way = _way(plain.bundle, tmp_path, steps=150, batch_size=8, **fast, **still)
    before = way.logits(module_of(plain.bundle, way.config, seed=0).eval(), cells)
    after = way.logits(way.learn(cells, seed=0), cells)

    def right(logits: Any) -> float:
        return float((logits.argmax(axis=1) == cells.targets).mean())

    assert right(before) < 0.7
    assert right(after) > 0.9


def test_every_class_is_drawn_equally_often(
    plain: Fitted, abroad: CellDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def seen(module: RobustModule, training: Any, validation: Any, **more: Any) -> None:
        drawn.extend(int(target) for _, targets in training for target in targets)

    monkeypatch.setattr("hemalens.methods.few_shot_finetune.train", seen)
    kept = np.concatenate([np.flatnonzero(abroad.targets == i)[: 6 if i else 1] for i in range(len(abroad.classes))])
    _way(plain.bundle, tmp_path, steps=100, batch_size=8).learn(abroad.subset(kept), seed=0)
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(shares[shares > 0], 1 / (shares > 0).sum(), atol=0.06)


@pytest.mark.parametrize(("key", "value"), [("folds", 1), ("folds", -1), ("steps", 0), ("weight_average", 1.0)])
def test_a_setting_out_of_range_is_an_error(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key.rstrip("s")):
        FewShotFinetuneConfig.from_mapping({key: value})
