"""Mask augmentation: what was published, its copies in the training, and a background removed for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

import trained
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.bundle.stages import CellImageEntry
from hemalens.datasets import CellDataset, Record
from hemalens.errors import ConfigError
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.imaging.segmentation import CellImageConfig, largest_component, segment_cell
from hemalens.inference.predictor import Predictor
from hemalens.methods.mask_augmentation import METHOD
from trained import Fitted

GRAY = 70
REMOVED = {"copies": 1, "background": "removed", "segmenter": "classical", "gray": GRAY}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, "mask_augmentation")


@pytest.fixture(scope="module")
def removed(shared: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _fit(shared, tmp_path_factory.mktemp("removed"), epochs=1, masks=REMOVED)


def _fit(shared: Fitted, run_dir: Path, auxiliary: dict[str, CellDataset] | None = None, **changes: Any) -> Bundle:
    config = METHOD.config.from_mapping({**trained.MASK_AUGMENTATION, **changes})
    more, rng = auxiliary or {}, np.random.default_rng(1)
    return METHOD.fit(shared.train, validation=shared.validation, auxiliary=more, config=config, rng=rng, run_dir=run_dir)


def test_the_defaults_are_what_was_published() -> None:
    config = METHOD.config()
    shown = config.model_dump()
    assert (shown["backbone"], shown["weights"], shown["image_size_px"]) == ("resnet18", "none", 224)
    assert (shown["open_stages"], shown["frozen_blocks"], shown["sampling"]) == (None, 0, "none")
    assert shown["masks"] == {
        "masked_inputs": False,
        "empty_masks": "whole",
        "copies": 5,
        "background": "mixed",
        "segmenter": "",
        "gray": 0,
    }
    changed = METHOD.config.load(None, ["masks.background=pasted"]).model_dump()
    assert changed["masks"] == {**shown["masks"], "background": "pasted"}, "the other settings of masks stay"


def test_the_copies_are_learned_from(shared: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenError(Exception):
        """Ends the training before it begins."""

    given: list[Any] = []

    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        given.extend([training, validation])
        raise SeenError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(SeenError):
        _fit(shared, tmp_path, masks={"copies": 5})
    training, validation = given
    n = len(shared.train)
    assert len(training.dataset) == len(training.sampler) == 6 * n
    np.testing.assert_array_equal(training.dataset.targets, [*shared.train.targets, *np.repeat(shared.train.targets, 5)])
    assert (training.dataset.pixels[:n] == 0).mean() < 0.01
    assert ((training.dataset.pixels[n:] == 0).mean(axis=(1, 2, 3)) > 0.2).all(), "plain black around each copy"
    assert len(validation.dataset) == len(shared.validation), "no copy is validated on"
    assert json.loads((tmp_path / "masks.json").read_text())["new images"] == 5 * n


def test_copies_are_no_images_of_the_data(shared: Fitted) -> None:
    manifest = shared.bundle.manifest
    assert manifest.method == "mask_augmentation"
    assert sum(manifest.data[0].class_counts.values()) == len(shared.train)
    assert manifest.before_graph == ()
    counts = json.loads((shared.run_dir / "masks.json").read_text())
    assert (counts["images"], counts["with a mask"], counts["new images"]) == (24, 24, 24)


def test_it_may_be_pretrained_on_tissue(shared: Fitted, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    tissue = trained.tissue(tmp_path_factory, "cam16")
    bundle = _fit(shared, tmp_path, {"pretraining": tissue}, epochs=1, masks={"copies": 0})
    assert bundle.manifest.method == "mask_augmentation"
    assert bundle.manifest.labels == shared.train.classes
    assert bundle.manifest.data[2] == DataEntry.of(tissue, "pretraining")
    assert bundle.seen >= set(tissue.contents)
    assert not (tmp_path / "masks.json").exists(), "no mask was used"


def test_it_may_start_from_an_encoder_of_unlabelled_tissue(
    shared: Fitted, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tissue = trained.tissue(tmp_path_factory, "prcc")
    changes = {
        "epochs": 1,
        "masks": {"copies": 0},
        "open_stages": 0,
        "reconstruction": {"encoder": "backbone", "epochs": 1},
    }
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    bundle = _fit(shared, tmp_path / "run", {"prcc": tissue}, **changes)
    assert bundle.seen_unlabelled == set(tissue.contents)
    assert not bundle.seen & set(tissue.contents)
    (file,) = (tmp_path / "cache").rglob("encoder.safetensors")
    learned, kept = load_file(file), load_file(bundle.path / "weights.safetensors")
    # all stages are frozen, so that they are still those of the encoder
    assert learned
    assert all(np.array_equal(kept[name], array) for name, array in learned.items())
    with pytest.raises(ConfigError, match="expected encoder=backbone"):
        _fit(shared, tmp_path / "other", {"prcc": tissue}, **{**changes, "reconstruction": {"epochs": 1}})


# ---------------------------------------------------------------------------------------------- a background removed


def _blanked(record: Record) -> NDArray[np.uint8]:
    """By the segmenter, NumPy and Pillow: the cell in its place on plain gray, at the size of the network's input."""
    image = np.asarray(Image.open(record.path).convert("RGB"))
    alone = np.where(largest_component(segment_cell(image).cell)[..., None], image, np.uint8(GRAY))
    return np.asarray(Image.fromarray(alone).resize((32, 32), Image.Resampling.BICUBIC))


def _by_hand(bundle: Bundle, images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Probabilities (n, k) of images that are put into the graph as they are."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["probabilities"], {"image": image[None]})[0] for image in images])


def _served(bundle: Bundle, cells: CellDataset) -> NDArray[np.float64]:
    return np.stack([p.probabilities for p in Predictor(bundle).predict(cells.records) if p.probabilities is not None])


def test_a_removed_background_is_removed_from_what_is_predicted(shared: Fitted, removed: Bundle) -> None:
    assert removed.manifest.before_graph == (
        CellImageEntry(segmenter="classical", config=CellImageConfig(size_px=32, margin_px=0, background=GRAY, crop=False)),
    )
    cells = shared.validation
    expected = _by_hand(removed, [_blanked(record) for record in cells.records])
    reopened = open_bundle(removed.path)
    np.testing.assert_allclose(_served(reopened, cells), expected, atol=1e-5)
    np.testing.assert_allclose(predict_dataset(reopened, cells).probabilities, expected, atol=1e-5)
    raw = _by_hand(removed, [record.read() for record in cells.records])
    assert np.abs(expected - raw).max() > 1e-3, "the stage is what makes the difference"


def test_what_surrounds_the_cell_does_not_change_a_prediction(shared: Fitted, removed: Bundle, tmp_path: Path) -> None:
    """Two pictures that differ far from the cell alone, where its outline stays the same."""
    record = shared.validation.records[0]
    image = np.asarray(Image.open(record.path).convert("RGB"))
    cell = largest_component(segment_cell(image).cell)
    changed = image.copy()
    changed[:3, :3] -= np.minimum(changed[:3, :3], 2)
    np.testing.assert_array_equal(largest_component(segment_cell(changed).cell), cell)
    assert not cell[:3, :3].any()
    Image.fromarray(changed).save(tmp_path / "changed.png")
    first, second = Predictor(removed).predict([record.path, tmp_path / "changed.png"])
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def test_training_and_validation_have_no_background_either(
    shared: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        """Ends the training before it begins."""

    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        for part, cells in ((training, shared.train), (validation, shared.validation)):
            expected = np.stack([_blanked(record).transpose(2, 0, 1) for record in cells.records])
            np.testing.assert_array_equal(part.dataset.pixels[: len(cells)], expected)
        assert len(training.dataset) == 2 * len(shared.train)
        assert len(validation.dataset) == len(shared.validation)
        raise SeenError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(SeenError):
        _fit(shared, tmp_path, masks=REMOVED)


def test_a_removal_that_cannot_be_repeated_is_refused_before_anything_is_learned(
    shared: Fitted, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object) -> None:
        raise AssertionError("this was to be found out before")

    monkeypatch.setattr("hemalens.methods.finetune.pretrained", never)
    for auxiliary in ({}, {"pretraining": trained.tissue(tmp_path_factory, "cam16")}):
        with pytest.raises(ConfigError, match=r"needs masks of all images.*expected masks.segmenter=classical"):
            _fit(shared, tmp_path, auxiliary, masks={"background": "removed", "copies": 1})
    assert not (tmp_path / "checkpoints").exists()
