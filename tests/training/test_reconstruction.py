"""Training of the pixel autoencoder: kept in the cache by what shapes it, its losses from their definitions, tiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trained
from hemalens.cache import damage_notes, forget_damage
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, DatasetError
from hemalens.files import default_cache_dir
from hemalens.imaging.reading import Preprocessing
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.models.reconstruction import PixelAutoencoder
from hemalens.training import reconstruction as module
from hemalens.training.losses import structural_similarity
from hemalens.training.reconstruction import (
    ReconstructionConfig,
    ReconstructionModule,
    reconstruction_encoder,
    reconstruction_weights,
)

SIZE = Preprocessing(size_px=32, mean=(120.0, 110.0, 140.0), std=(60.0, 50.0, 70.0))
TINY = ReconstructionConfig(latent_size=8, width=2, tile_px=48, epochs=2, batch_size=8, precision="fp32")


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """12 regions of 96 px."""
    return trained.tissue(tmp_path_factory, "prcc")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reconstructions"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    """The images that each training is shown."""
    shown: list[NDArray[np.uint8]] = []
    honest = module.train

    def spied(learner: Any, loader: Any, validation: Any, **more: Any) -> None:
        shown.append(np.asarray(loader.dataset.pixels))
        honest(learner, loader, validation, **more)

    monkeypatch.setattr(module, "train", spied)
    return shown


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_defaults_are_the_published_latent_and_loss_and_adam() -> None:
    config = ReconstructionConfig()
    assert (config.encoder, config.latent_size, config.loss, config.tile_px) == ("convolutions", 512, "mse", None)
    assert (config.optimiser.learning_rate, config.optimiser.weight_decay, config.optimiser.schedule) == (
        1e-3,
        0,
        "constant",
    )
    changed = ReconstructionConfig.load(None, ["optimiser.learning_rate=0.01", "loss=ssim", "tile_px=64"])
    assert (changed.optimiser.learning_rate, changed.optimiser.weight_decay) == (0.01, 0)
    assert (changed.loss, changed.tile_px) == ("ssim", 64)


@pytest.mark.parametrize("values", [{"loss": "mae"}, {"latent_size": 0}, {"batch_size": 1}, {"tile_px": 31}])
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ReconstructionConfig.from_mapping(values)


# ------------------------------------------------------------------------------------------------------------ the loss


def _step(loss: str) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The loss of one batch, what was drawn, and the batch in [0, 1]."""
    torch.manual_seed(0)
    network = PixelAutoencoder(32, latent_size=4, width=2)
    learner = ReconstructionModule(network, SIZE, TINY.model_copy(update={"loss": loss}))
    learner.log = lambda *given, **more: None  # type: ignore[method-assign, assignment]
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    found = learner.training_step((images, torch.zeros(5)), 0)
    assert found.requires_grad
    mean, std = (torch.tensor(values)[:, None, None] for values in (SIZE.mean, SIZE.std))
    with torch.no_grad():
        drawn = network((images - mean) / std)
    return found.item(), drawn, images / 255


def test_the_loss_is_the_mean_squared_error_of_images_in_0_to_1() -> None:
    loss, drawn, images = _step("mse")
    assert loss == pytest.approx(np.mean((drawn.numpy() - images.numpy()) ** 2), rel=1e-5)


def test_the_loss_may_be_the_dissimilarity() -> None:
    loss, drawn, images = _step("ssim")
    assert loss == pytest.approx(1 - structural_similarity(drawn, images).item(), abs=1e-5)


def test_the_loss_falls(regions: CellDataset, empty_cache: Path) -> None:
    network = reconstruction_encoder(regions, SIZE, TINY.model_copy(update={"epochs": 8, "width": 4}))
    (history,) = empty_cache.glob("*/history.jsonl")
    losses = [json.loads(line)["train_loss"] for line in history.read_text().splitlines()]
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]
    assert not network.training


# ----------------------------------------------------------------------------------------------------------- the cache


def test_it_is_trained_once_and_kept_without_its_scratch(
    regions: CellDataset, empty_cache: Path, trainings: list[NDArray[np.uint8]]
) -> None:
    first, second = (reconstruction_encoder(regions, SIZE, TINY) for _ in range(2))
    assert len(trainings) == 1
    assert _same(first, second)
    assert not first.training
    assert not second.training
    (folder,) = empty_cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "history.jsonl"}


def test_what_shapes_it_is_part_of_its_name(regions: CellDataset, empty_cache: Path) -> None:
    one_epoch = TINY.model_copy(update={"epochs": 1})
    first = reconstruction_encoder(regions, SIZE, one_epoch)
    others = [
        reconstruction_encoder(regions, SIZE, one_epoch.model_copy(update={"seed": 1})),
        reconstruction_encoder(regions, SIZE.model_copy(update={"std": (60.0, 60.0, 60.0)}), one_epoch),
        reconstruction_encoder(regions.subset(range(6)), SIZE, one_epoch),
        reconstruction_encoder(regions, SIZE, one_epoch.model_copy(update={"loss": "ssim"})),
    ]
    assert len(list(empty_cache.iterdir())) == 5
    assert not any(_same(first, other) for other in others)


def test_the_same_seed_trains_the_same_network_and_leaves_the_generator(
    regions: CellDataset, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reconstruction_encoder(regions, SIZE, TINY)
    torch.manual_seed(99)
    monkeypatch.setenv("HEMALENS_CACHE", str(empty_cache.parent.parent / "other"))
    again = reconstruction_encoder(regions, SIZE, TINY)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def _exchange_two_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1], content[-5] = content[-5] ^ 1, content[-1]
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(b"damaged"), _exchange_two_bytes])
def test_a_damaged_one_is_trained_anew(regions: CellDataset, empty_cache: Path, harm: Callable[[Path], object]) -> None:
    first = reconstruction_encoder(regions, SIZE, TINY.model_copy(update={"epochs": 1}))
    (file,) = empty_cache.glob("*/weights.safetensors")
    forget_damage()
    harm(file)
    again = reconstruction_encoder(regions, SIZE, TINY.model_copy(update={"epochs": 1}))
    assert damage_notes() == [f"damaged weights in the cache were made anew: '{file}'"]
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_stopped_training_goes_on(regions: CellDataset, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        """Stands for a kill: nothing catches it."""

    begin, epochs = ReconstructionModule.on_train_epoch_start, []

    def watched(self: ReconstructionModule) -> None:
        if self.current_epoch == 1 and not epochs.count(1):
            epochs.append(1)
            raise KilledError
        epochs.append(self.current_epoch)
        begin(self)

    monkeypatch.setattr(ReconstructionModule, "on_train_epoch_start", watched)
    with pytest.raises(KilledError):
        reconstruction_encoder(regions, SIZE, TINY)
    assert not list(empty_cache.glob("*/weights.safetensors"))
    reconstruction_encoder(regions, SIZE, TINY)
    assert epochs == [0, 1, 1], "the first epoch is not run again"


# ------------------------------------------------------------------------------------------------------ what it is shown


def test_regions_are_shown_in_tiles_or_whole(
    regions: CellDataset, empty_cache: Path, trainings: list[NDArray[np.uint8]]
) -> None:
    one_epoch = TINY.model_copy(update={"epochs": 1})
    few = regions.subset([0, 1, 2])
    reconstruction_encoder(few, SIZE, one_epoch)
    reconstruction_encoder(few, SIZE, one_epoch.model_copy(update={"tile_px": None}))
    tiles, whole = trainings
    assert tiles.shape == (3 * 4, 3, 32, 32)
    assert whole.shape == (3, 3, 32, 32)
    first = few.records[0].read()
    for i, (y, x) in enumerate([(0, 0), (0, 48), (48, 0), (48, 48)]):
        difference = tiles[i].mean(axis=(1, 2)) - first[y : y + 48, x : x + 48].mean(axis=(0, 1))
        assert np.abs(difference).max() < 2
    assert np.abs(whole[0].mean(axis=(1, 2)) - first.mean(axis=(0, 1))).max() < 2


def test_one_image_and_sides_that_cannot_be_halved_are_refused(regions: CellDataset, empty_cache: Path) -> None:
    one = regions.subset([0])
    with pytest.raises(DatasetError) as error:
        reconstruction_encoder(one, SIZE, TINY.model_copy(update={"tile_px": None}))
    assert str(error.value) == "prcc has too few images for an autoencoder; expected at least 2; got 1"
    with pytest.raises(ConfigError, match="expected a multiple of 32 px; got 48 px"):
        reconstruction_encoder(regions, SIZE.model_copy(update={"size_px": 48}), TINY)
    assert not empty_cache.exists()
    assert default_cache_dir() == empty_cache.parent


# ---------------------------------------------------------------------------------------------- weights for a backbone


def test_the_weights_of_a_backbone_are_a_file_that_a_training_may_start_from(
    regions: CellDataset, empty_cache: Path, trainings: list[NDArray[np.uint8]]
) -> None:
    config = TINY.model_copy(update={"encoder": "backbone", "epochs": 1, "tile_px": None})
    file = reconstruction_weights(regions, SIZE, config, backbone="test_resnet")
    network = reconstruction_encoder(regions, SIZE, config, backbone="test_resnet")
    assert reconstruction_weights(regions, SIZE, config, backbone="test_resnet") == file
    assert len(trainings) == 1
    started = create_backbone(BackboneConfig(backbone="test_resnet", weights=str(file)), n_classes=3)
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(started.state_dict()[name], tensor)
    random = create_backbone(BackboneConfig(backbone="test_resnet", weights="none", seed=config.seed))
    assert not _same(random, network.encoder), "the encoder has learned"


def test_an_encoder_of_convolutions_gives_no_weights_for_a_backbone(regions: CellDataset, empty_cache: Path) -> None:
    with pytest.raises(ConfigError, match="has no weights for test_resnet; expected encoder=backbone; got convolutions"):
        reconstruction_weights(regions, SIZE, TINY, backbone="test_resnet")
    assert not empty_cache.exists()
