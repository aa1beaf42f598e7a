"""The combined network: what learns and what stays, what it has seen, both roads to the frozen encoder, its prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError
from hemalens.inference.predictor import Predictor
from hemalens.methods.combined_network import (
    CAM16,
    CAM16_HELD,
    METHOD,
    PRCC,
    CombinedModule,
    CombinedNetworkConfig,
    combined_network,
    frozen_encoder,
)
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.models.reconstruction import PixelEncoder
from hemalens.training.cluster_labels import clusters_of
from hemalens.training.data import resized_images
from hemalens.training.masks import MASKS_FILE
from hemalens.training.pretraining import pretrained
from trained import Fitted

SMALL_CLUSTERING = {"backbone": "test_resnet", "weights": "none", "image_size_px": 32, "tile_px": 64}


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A network of cells beside an autoencoder, both small."""
    return trained.fitted(tmp_path_factory, "combined_network")


def _config(**changes: Any) -> CombinedNetworkConfig:
    return CombinedNetworkConfig.from_mapping({**trained.SETTINGS["combined_network"], **changes})


def _fit(
    fit: Fitted, run_dir: Path, *, auxiliary: Mapping[str, CellDataset] | None = None, seed: int = 1, **changes: Any
) -> Bundle:
    given = fit.auxiliary if auxiliary is None else auxiliary
    rng = np.random.default_rng(seed)
    return METHOD.fit(
        fit.train, validation=fit.validation, auxiliary=given, config=_config(**changes), rng=rng, run_dir=run_dir
    )


def _start(fit: Fitted, config: CombinedNetworkConfig) -> Any:
    """The network as the training with generator 1 finds it."""
    seed = int(np.random.default_rng(1).integers(2**31))
    n_classes = len(fit.train.classes)
    return combined_network(config, fit.auxiliary, preprocessing_of(config), n_classes=n_classes, seed=seed)


def _moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# --------------------------------------------------------------------------------------------------- published settings


def test_the_defaults_are_the_published_settings() -> None:
    config = CombinedNetworkConfig()
    assert (config.backbone, config.weights, config.image_size_px) == ("resnet18", "hub:tv_in1k", 224)
    assert (config.open_stages, config.epochs, config.sampling, config.prcc) == (1, 30, "none", "autoencoder")
    assert (config.masks.masked_inputs, config.masks.copies) == (True, 0)
    assert (config.pretraining.frozen_blocks, config.pretraining.masked_inputs) == (1, True)
    assert (config.autoencoder.latent_size, config.autoencoder.loss) == (512, "mse")
    assert config.autoencoder.tile_px is config.clustering.tile_px is None, "whole regions"
    assert (config.clustering.backbone, config.clustering.n_components, config.clustering.n_clusters) == ("vgg16", 100, 2)
    assert {(role.name, role.labelled, role.required) for role in METHOD.roles} == {
        (CAM16, True, True),
        (CAM16_HELD, True, False),
        (PRCC, False, True),
    }


# ------------------------------------------------------------------------------------------------- what learns, what stays


@pytest.mark.parametrize("open_stages", [0, 1, None])
def test_after_the_training_only_what_is_open_has_moved(combined: Fitted, tmp_path: Path, open_stages: int | None) -> None:
    config = _config(open_stages=open_stages)
    bundle = combined.bundle if open_stages == 1 else _fit(combined, tmp_path, open_stages=open_stages)
    start = _start(combined, config)
    moved = _moved(start.state_dict(), load_file(bundle.path / "weights.safetensors"))
    # nothing of the frozen encoder, the averages of its batch norms included
    assert any(name.endswith("running_mean") for name in start.frozen.state_dict())
    assert not any(name.startswith("frozen.") for name in moved)
    of_network = {name.removeprefix("network.") for name in moved if name.startswith("network.")}
    assert moved - {f"network.{name}" for name in of_network} == {"head.weight", "head.bias"}
    stages = {0: (), 1: ("layer4.",), None: ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")}[open_stages]
    # of an open stage everything, of a frozen one nothing, and the averages of batch norms are no exception
    assert (
        of_network == {name for name in start.network.state_dict() if name.startswith(stages)} if stages else not of_network
    )


def test_the_network_begins_with_the_weights_of_the_classifier_of_tissue(combined: Fitted) -> None:
    config = _config()
    bundle = pretrained(combined.auxiliary[CAM16], config, config.pretraining)
    tissue = load_file(bundle.path / "weights.safetensors")
    begins = _start(combined, config).network.state_dict()
    assert all(torch.equal(tissue[name], tensor) for name, tensor in begins.items())
    # of that classifier the stem and the first residual block stayed as they were; first weights depend on the head's width
    first = create_backbone(config, n_classes=len(bundle.manifest.labels)).state_dict()
    assert _moved(first, tissue) == {name for name in first if not name.startswith(("conv1.", "bn1.", "layer1.0."))}


# -------------------------------------------------------------------------------------------------------- what it has seen


def test_the_bundle_says_what_was_seen_with_labels_and_without(combined: Fitted) -> None:
    labelled = {*combined.train.contents, *combined.validation.contents, *combined.auxiliary[CAM16].contents}
    assert combined.bundle.seen == labelled
    assert combined.bundle.seen_unlabelled == set(combined.auxiliary[PRCC].contents)
    assert not combined.bundle.seen & combined.bundle.seen_unlabelled
    roles = [entry.role for entry in combined.bundle.manifest.data]
    assert roles == ["train", "validation", "pretraining", "auxiliary"]
    assert combined.bundle.manifest.method == "combined_network"


def test_cells_with_a_mask_are_shown_alone(combined: Fitted, tmp_path: Path) -> None:
    n_masks = sum(record.mask_path is not None for record in combined.train.records)
    assert n_masks == len(combined.train)
    counts = json.loads((_fit(combined, tmp_path, masks={"masked_inputs": True}).path.parent / MASKS_FILE).read_text())
    assert (counts["with a mask"], counts["new images"]) == (n_masks, 0)


@pytest.mark.parametrize("missing", [CAM16, PRCC])
def test_without_one_of_the_sets_it_does_not_begin(combined: Fitted, tmp_path: Path, missing: str) -> None:
    given = {role: dataset for role, dataset in combined.auxiliary.items() if role != missing}
    with pytest.raises(ConfigError) as error:
        _fit(combined, tmp_path / "run", auxiliary=given)
    assert str(error.value) == f"combined_network needs two further sets; expected cam16 and prcc; got no {missing}"
    assert not (tmp_path / "run").exists()


def test_a_set_of_another_role_is_refused(combined: Fitted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the role 'tissue'; expected the roles cam16, cam16_held, prcc"):
        _fit(combined, tmp_path, auxiliary={**combined.auxiliary, "tissue": combined.train})


# ------------------------------------------------------------------------------------------------------ trained only once


def test_a_second_training_trains_no_encoder_again(
    combined: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **more: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("hemalens.training.pretraining.fit_network", never)
    monkeypatch.setattr("hemalens.training.reconstruction.train", never)
    few = combined.train.subset(range(0, len(combined.train), 2))
    rng = np.random.default_rng(5)
    again = METHOD.fit(
        few,
        validation=combined.validation,
        auxiliary=combined.auxiliary,
        config=_config(epochs=1),
        rng=rng,
        run_dir=tmp_path,
    )
    assert again.seen >= set(combined.auxiliary[CAM16].contents)
    first, second = (load_file(bundle.path / "weights.safetensors") for bundle in (combined.bundle, again))
    assert not any(name.startswith("frozen.") for name in _moved(first, second))


# ------------------------------------------------------------------------------------------------------------ prediction


def _by_torch(bundle: Bundle, network: Any, config: CombinedNetworkConfig, cells: CellDataset, scratch: Path) -> np.ndarray:
    """Calibrated probabilities (n, k) of the network with the weights that the bundle keeps."""
    network.load_state_dict(load_file(bundle.path / "weights.safetensors"), strict=True)
    module = CombinedModule(network, preprocessing_of(config), optimiser=config.optimiser, epochs=1, seed=0).eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(resized_images(cells, preprocessing_of(config), scratch)))
    return torch.softmax(logits.double() / bundle.manifest.temperature, dim=1).numpy()


def _served(bundle: Bundle, cells: CellDataset) -> np.ndarray:
    return np.stack([p.probabilities for p in Predictor(bundle).predict(cells.records) if p.probabilities is not None])


def test_the_bundle_serves_what_torch_says(combined: Fitted, tmp_path: Path) -> None:
    config = _config()
    expected = _by_torch(combined.bundle, _start(combined, config), config, combined.validation, tmp_path / "pixels.npy")
    served = _served(combined.bundle, combined.validation)
    np.testing.assert_allclose(served, expected, atol=1e-4)
    np.testing.assert_allclose(served.sum(axis=1), 1, atol=1e-5)
    assert 0 <= combined.bundle.manifest.parity < 1e-3
    latent = config.autoencoder.latent_size
    assert combined.bundle.manifest.embedding_size == latent + create_backbone(config).num_features
    assert combined.bundle.manifest.labels == combined.train.classes


# ---------------------------------------------------------------------------------------------------------- by clusters


def test_by_clusters_the_frozen_encoder_is_a_classifier_of_pseudo_labels(combined: Fitted, tmp_path: Path) -> None:
    changes = {"prcc": "clusters", "clustering": SMALL_CLUSTERING, "epochs": 1}
    config = _config(**changes)
    bundle = _fit(combined, tmp_path / "run", **changes)
    weights = load_file(bundle.path / "weights.safetensors")
    clusters = clusters_of(combined.auxiliary[PRCC], config.clustering)
    classifier = pretrained(clusters.dataset, config, config.pretraining)
    assert classifier.manifest.labels == ("cluster_1", "cluster_2")
    learned = load_file(classifier.path / "weights.safetensors")
    frozen = {name.removeprefix("frozen."): tensor for name, tensor in weights.items() if name.startswith("frozen.")}
    assert frozen.keys() == create_backbone(config).state_dict().keys()
    assert all(torch.equal(learned[name], tensor) for name, tensor in frozen.items())
    assert bundle.manifest.embedding_size == 2 * create_backbone(config).num_features
    assert bundle.seen_unlabelled == set(combined.auxiliary[PRCC].contents)
    expected = _by_torch(bundle, _start(combined, config), config, combined.validation, tmp_path / "pixels.npy")
    np.testing.assert_allclose(_served(bundle, combined.validation), expected, atol=1e-4)


def test_the_frozen_encoder_gives_as_many_numbers_as_it_says(combined: Fitted) -> None:
    for config in (_config(), _config(prcc="clusters", clustering=SMALL_CLUSTERING)):
        encoder, size = frozen_encoder(config, combined.auxiliary[PRCC], preprocessing_of(config))
        assert isinstance(encoder, PixelEncoder) == (config.prcc == "autoencoder")
        with torch.no_grad():
            assert encoder.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, size)
