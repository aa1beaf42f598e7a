"""Pretraining: made once and kept by all that shapes it, gone on with after a kill, its head replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.stages import CellImageStage, ClassicalSegmenter
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, DatasetError, SplitError
from hemalens.files import sha256_file
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.models.backbone import create_backbone
from hemalens.training import pretraining as module
from hemalens.training.classifier import CellClassifier
from hemalens.training.fit import TrainingConfig, TrainingData
from hemalens.training.pretraining import PretrainingConfig, pretrained

NETWORK = TrainingConfig.from_mapping({**trained.PROBE, "image_size_px": 32})
TINY = {"epochs": 2, "batch_size": 4, "patience": None}


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Twelve drawn patches of two kinds, two of them with a mask."""
    return trained.tissue(tmp_path_factory, "cam16")


@pytest.fixture(scope="module")
def unbroken(tissue: CellDataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two epochs without an interruption, in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEMALENS_CACHE", str(tmp_path_factory.mktemp("unbroken")))
        return _pretrained(tissue)


@pytest.fixture(autouse=True)
def _cache_of_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache of the test"))


def _pretrained(dataset: CellDataset, network: TrainingConfig = NETWORK, **settings: Any) -> Bundle:
    return pretrained(dataset, network, PretrainingConfig.from_mapping({**TINY, **settings}))


def _weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return load_file(bundle.path / "weights.safetensors")


def _never(*given: object, **more: object) -> None:
    raise AssertionError("nothing was to be trained")


# --------------------------------------------------------------------------------------------------- what it gives


def test_it_is_a_classifier_of_its_own_set(unbroken: Bundle, tissue: CellDataset) -> None:
    manifest = unbroken.manifest
    assert manifest.method == "pretraining"
    assert manifest.labels == tissue.classes == ("normal", "tumor")
    assert [entry.role for entry in manifest.data] == ["train", "validation"]
    counts = [sum(entry.class_counts.values()) for entry in manifest.data]
    assert counts == [10, 2], "15 % of each class, one at least, choose the epoch"
    assert unbroken.seen == {sha256_file(record.path) for record in tissue.records}
    assert (manifest.config["epochs"], manifest.config["batch_size"]) == (2, 4)
    assert {path.name for path in unbroken.path.parent.iterdir()} == {"bundle", "history.jsonl"}


def test_a_new_head_takes_the_place_of_the_old_one(unbroken: Bundle) -> None:
    learned = _weights(unbroken)
    assert learned["fc.weight"].shape[0] == 2
    after = NETWORK.model_copy(update={"weights": str(unbroken.path)})
    state = create_backbone(after, n_classes=4).state_dict()
    body = [name for name in state if not name.startswith("fc.")]
    assert all(torch.equal(state[name], learned[name]) for name in body)
    assert state["fc.weight"].shape[0] == 4
    untrained = create_backbone(NETWORK).state_dict()
    assert not any(torch.equal(state[name], untrained[name]) for name in body if name.endswith("conv1.weight"))


def test_first_blocks_may_stay_as_they_were(tissue: CellDataset) -> None:
    learned = _weights(_pretrained(tissue, frozen_blocks=1))
    for name, tensor in create_backbone(NETWORK, n_classes=2).state_dict().items():
        assert torch.equal(learned[name], tensor) is name.startswith(("conv1.", "bn1.", "layer1.")), name


def test_tissue_with_masks_may_be_shown_alone(tissue: CellDataset) -> None:
    folder = _pretrained(tissue, masked_inputs=True).path.parent
    counts = json.loads((folder / "masks.json").read_text())
    n_masks = sum(record.mask_path is not None for record in tissue.records)
    assert n_masks == 2
    assert counts["images"] == 10
    assert counts["with a mask"] <= n_masks
    assert counts["new images"] == 0


# ------------------------------------------------------------------------------------------------------- what is kept


def test_a_second_call_trains_nothing(tissue: CellDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = _pretrained(tissue, epochs=1)
    assert first.path.is_relative_to(tmp_path / "cache of the test")
    for name in ("fit_network", "create_backbone"):
        monkeypatch.setattr(module, name, _never)
    again = _pretrained(tissue, epochs=1)
    assert again.path == first.path
    assert again.manifest == first.manifest
    # the same images by the same labels, in another order
    turned = tissue.subset(range(len(tissue) - 1, -1, -1))
    assert _pretrained(turned, epochs=1).path == first.path


def _folder_of(tissue: CellDataset, network: TrainingConfig = NETWORK, **settings: Any) -> Path:
    """Where it would be kept; nothing is trained."""
    asked: list[Path] = []

    def stopped(*given: Any, run_dir: Path, **more: Any) -> None:
        asked.append(run_dir)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit_network", stopped)
        with pytest.raises(KilledError):
            _pretrained(tissue, network, **settings)
    return asked[0]


def test_all_that_shapes_it_trains_anew(tissue: CellDataset, unbroken: Bundle, tmp_path: Path) -> None:
    stage = CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=32))
    relabelled = replace(
        tissue,
        records=tuple(replace(record, label="normal" if i % 2 else "tumor") for i, record in enumerate(tissue.records)),
    )
    asked: list[tuple[CellDataset, dict[str, Any]]] = [
        (tissue, {}),
        (tissue, {"seed": 1}),
        (tissue, {"epochs": 3}),
        (tissue, {"frozen_blocks": 1}),
        (tissue, {"images_per_epoch": 8}),
        (tissue, {"optimiser": {"learning_rate": 0.5}}),
        (tissue, {"augmentation": {"flip": False}}),
        (tissue, {"masked_inputs": True}),
        (tissue, {"network": NETWORK.model_copy(update={"image_size_px": 48})}),
        (tissue, {"network": NETWORK.model_copy(update={"weights": str(unbroken.path)})}),
        (tissue.subset(range(len(tissue) - 1)), {}),
        (relabelled, {}),
        (tissue.through((stage,)), {}),
    ]
    folders = [_folder_of(dataset, **settings) for dataset, settings in asked]
    assert len(set(folders)) == len(asked)
    assert [_folder_of(dataset, **settings) for dataset, settings in asked] == folders


def test_images_held_out_choose_the_epoch(tissue: CellDataset, unbroken: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[TrainingData] = []
    honest = module.fit_network

    def spied(classifier: Any, data: TrainingData, **more: Any) -> Bundle:
        parts.append(data)
        return honest(classifier, data, **more)

    monkeypatch.setattr(module, "fit_network", spied)
    learn, held = tissue.subset(range(0, 12, 2)), tissue.subset(range(1, 12, 2))
    config = PretrainingConfig.from_mapping(TINY)
    bundle = pretrained(learn, NETWORK, config, held=held)
    ((found,),) = [parts]
    assert (found.train.fingerprint, found.validation.fingerprint) == (learn.fingerprint, held.fingerprint)
    assert pretrained(learn, NETWORK, config).path != bundle.path
    with pytest.raises(SplitError, match=r"image\(s\) of cam16"):
        pretrained(tissue, NETWORK, config, held=held)


def test_the_seed_of_the_training_that_follows_is_no_matter(tissue: CellDataset) -> None:
    """The pretraining has a seed of its own."""
    assert _folder_of(tissue) == _folder_of(tissue, NETWORK.model_copy(update={"seed": 5}))


def test_other_masks_train_anew_where_they_are_used(tissue: CellDataset, tmp_path: Path) -> None:
    def with_masks(value: int) -> CellDataset:
        mask = np.zeros((64, 64), np.uint8)
        mask[10:40, 10 + value : 40] = 255
        Image.fromarray(mask).save(tmp_path / f"{value}.png")
        return replace(tissue, records=tuple(replace(r, mask_path=tmp_path / f"{value}.png") for r in tissue.records))

    bare = replace(tissue, records=tuple(replace(record, mask_path=None) for record in tissue.records))
    sets = [tissue, bare, with_masks(0), with_masks(5)]
    assert len({_folder_of(dataset, masked_inputs=True) for dataset in sets}) == 4
    assert len({_folder_of(dataset) for dataset in sets}) == 1


def test_a_killed_pretraining_goes_on(tissue: CellDataset, unbroken: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = CellClassifier.on_train_epoch_start
    epochs: list[int] = []

    def counted(self: CellClassifier) -> None:
        epochs.append(self.current_epoch)
        if len(epochs) == 2:
            raise KilledError
        begin(self)

    monkeypatch.setattr(CellClassifier, "on_train_epoch_start", counted)
    with pytest.raises(KilledError):
        _pretrained(tissue)
    bundle = _pretrained(tissue)
    assert epochs == [0, 1, 1], "what was trained before the kill is not trained again"
    assert bundle.path.name == unbroken.path.name
    assert bundle.path.parent.name == unbroken.path.parent.name
    expected = _weights(unbroken)
    for name, tensor in _weights(bundle).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_damaged_one_is_trained_anew(tissue: CellDataset) -> None:
    first = _pretrained(tissue, epochs=1)
    learned = _weights(first)
    (first.path / "model.onnx").write_bytes(first.graph_bytes[:1000])
    again = _pretrained(tissue, epochs=1)
    assert again.path == first.path
    for name, tensor in _weights(again).items():
        torch.testing.assert_close(tensor, learned[name], rtol=1e-5, atol=1e-6, msg=name)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_class_of_one_image_is_refused(tissue: CellDataset) -> None:
    normal = [i for i, record in enumerate(tissue.records) if record.label == "normal"]
    tumor = [i for i, record in enumerate(tissue.records) if record.label == "tumor"]
    with pytest.raises(SplitError) as error:
        _pretrained(tissue.subset([*normal, tumor[0]]))
    assert str(error.value).startswith(
        f"class 'tumor' of {tissue.name} is too small for pretraining; "
        "expected at least 2 independent images or groups; got 1"
    )
    with pytest.raises(DatasetError, match="at least two classes"):
        _pretrained(tissue.only_classes(["normal"]))


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"batch_size": 1}, {"images_per_epoch": 1}, {"frozen_blocks": -1}, {"weights": "none"}]
)
def test_the_configuration_is_bounded(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PretrainingConfig.from_mapping(values)


def test_its_settings_are_those_of_a_training() -> None:
    config = PretrainingConfig.from_mapping(
        {**TINY, "seed": 7, "masked_inputs": True, "sampling": "none", "images_per_epoch": 9}
    )
    training = config.training(NETWORK)
    for name in ("epochs", "batch_size", "images_per_epoch", "sampling", "patience", "seed", "optimiser", "augmentation"):
        assert getattr(training, name) == getattr(config, name), name
    assert (training.backbone, training.weights, training.image_size_px) == ("test_resnet", "none", 32)
    assert training.masks.masked_inputs
    assert training.masks.copies == 0
