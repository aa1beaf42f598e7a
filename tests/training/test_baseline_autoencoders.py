"""AE-CFE and DoRL in training: published settings, losses from their formulas, resuming, embeddings and kept networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch

from hemalens.errors import ConfigError, WeightsError
from hemalens.models.ae_cfe import scaled_map
from hemalens.training.autoencoder import CellPairs
from hemalens.training.baseline_autoencoders import (
    AECFEConfig,
    BaselineConfig,
    DoRLConfig,
    drawings,
    embeddings,
    fit_baseline,
    mean_discrepancy,
    moment_discrepancy,
    read_baseline,
)
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.losses import structural_similarity
from hemalens.training.trainer import Learner

TINY: dict[str, BaselineConfig] = {
    "AE-CFE": AECFEConfig.load(None, ["epochs=3", "batch_size=8", "width=0.05", "optimiser.learning_rate=0.005"]),
    "DoRL": DoRLConfig.load(
        None,
        [
            *("epochs=3", "batch_size=8", "encoder_layers=1", "decoder_layers=1", "n_heads=2", "decoder_width=0.05"),
            *("optimiser.warmup_steps=1", "optimiser.learning_rate=0.002"),
        ],
    ),
}


def _pairs(domains: tuple[str, ...] = ("a", "b"), n: int = 24) -> CellPairs:
    rng = np.random.default_rng(0)
    told = rng.uniform(0, 1, (n, 1, 1, 1))
    maps = told * rng.normal(size=(1, 8, 1, 1)) + rng.normal(0, 0.1, (n, 8, 5, 5))
    cells = np.broadcast_to(255 * told, (n, 32, 32, 3)).round().astype(np.uint8)
    return CellPairs.whole(maps.astype(np.float16), cells, [domains[i % len(domains)] for i in range(n)])


def _latents() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    domains = torch.tensor([1] * 5 + [0] * 4 + [2] * 6)
    return torch.randn(15, 7, generator=generator) + domains[:, None], domains


def test_the_published_settings_are_the_defaults() -> None:
    ae, dorl = AECFEConfig(), DoRLConfig()
    assert (ae.epochs, ae.batch_size, ae.discrepancy_weight, ae.width) == (150, 500, 5.0, 1.0)
    assert (ae.optimiser.learning_rate, ae.optimiser.weight_decay, ae.optimiser.schedule) == (1e-3, 0.0, "constant")
    assert (dorl.epochs, dorl.batch_size, dorl.loss_weight, dorl.mask_ratio, dorl.seed) == (300, 64, 2.0, 0.75, 1234)
    assert (dorl.encoder_layers, dorl.decoder_layers, dorl.n_heads) == (12, 4, 12)
    assert (dorl.optimiser.learning_rate, dorl.optimiser.weight_decay, dorl.optimiser.warmup_steps) == (1e-4, 0.05, 500)
    assert (dorl.optimiser.decay_all, dorl.optimiser.cosine_length) == (True, "whole")
    assert ae.optimiser.gradient_clip is None
    assert dorl.optimiser.gradient_clip is None
    assert ae.precision == dorl.precision == "fp32"


def test_discrepancies_follow_their_formulas() -> None:
    latents, domains = _latents()
    values, ids = latents.double().numpy(), domains.numpy()
    parts = {i: values[ids == i] for i in range(3)}
    means = sum(np.mean((parts[1].mean(0) - parts[i].mean(0)) ** 2) for i in (0, 2))
    assert float(mean_discrepancy(latents, domains, 1)) == pytest.approx(means, rel=1e-5)

    def softmaxed(i: int) -> np.ndarray:
        powers = np.exp(np.cov(parts[i].T))
        return powers / powers.sum(axis=0)

    divergence = 0.0
    for i in (0, 2):
        p, q = softmaxed(1), softmaxed(i)
        divergence += 0.5 * (np.mean(q * np.log(q / p)) + np.mean(p * np.log(p / q)))
    assert float(moment_discrepancy(latents, domains, 1)) == pytest.approx(means + divergence, rel=1e-5)


def test_a_domain_of_one_image_has_no_covariance() -> None:
    latents, _ = _latents()
    domains = torch.tensor([0] * 14 + [1])
    for reference in (0, 1):
        found = moment_discrepancy(latents, domains, reference)
        torch.testing.assert_close(found, mean_discrepancy(latents, domains, reference))
        assert found.isfinite()


def _batch(pairs: CellPairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    maps = torch.from_numpy(pairs.maps.astype(np.float32))
    cells = torch.from_numpy(pairs.cells).permute(0, 3, 1, 2).float() / 255
    return maps, cells, torch.from_numpy(pairs.domain_ids)


def test_the_loss_of_ae_cfe() -> None:
    config = TINY["AE-CFE"]
    pairs = _pairs()
    network = config.network((8, 5, 5), 32)
    maps, cells, domains = _batch(pairs)
    latent, features, drawn = network(maps)
    expected = 1 - structural_similarity(drawn, cells, padding="zeros") + (features - scaled_map(maps)).square().mean()
    expected = expected + 5 * moment_discrepancy(latent, domains, 0)
    torch.testing.assert_close(config.loss(network, (maps, cells, domains), 0), expected)


def test_the_loss_of_dorl() -> None:
    config = TINY["DoRL"]
    pairs = _pairs()
    network = config.network((8, 5, 5), 32)
    maps, cells, domains = _batch(pairs)
    torch.manual_seed(1)
    features, drawn, projected = network(maps)
    apart = mean_discrepancy(projected, domains, 0) + (features - maps).square().mean() / 2
    torch.manual_seed(1)
    found = config.loss(network, (maps, cells, domains), 0)
    torch.testing.assert_close(found, 1 - structural_similarity(drawn, cells, padding="zeros") + 2 * apart)


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("name", TINY)
def test_a_stopped_training_resumes_to_the_same_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pairs = TINY[name], _pairs()
    unbroken = fit_baseline(pairs, config, tmp_path / "unbroken")
    found = embeddings(unbroken, pairs.maps)
    assert found.shape == (24, 50 if name == "AE-CFE" else 8)
    images = drawings(unbroken, pairs.maps[:3])
    assert (images.shape, images.dtype) == ((3, 32, 32, 3), np.uint8)

    def killed(self: Any) -> None:
        if self.current_epoch == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_epoch_start", killed)
        with pytest.raises(KilledError):
            fit_baseline(pairs, config, tmp_path / "stopped")
    resumed = fit_baseline(pairs, config, tmp_path / "stopped")
    np.testing.assert_allclose(embeddings(resumed, pairs.maps), found, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_training_lowers_the_loss(name: str, tmp_path: Path) -> None:
    config, pairs = TINY[name].model_copy(update={"epochs": 12}), _pairs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = config.network((8, 5, 5), 32).eval()
    trained = fit_baseline(pairs, config, tmp_path)
    batch = _batch(pairs)
    losses = []
    for network in (fresh, trained):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(float(config.loss(network, batch, 0)))
    assert losses[1] < losses[0] - 0.05


@pytest.mark.parametrize("name", TINY)
def test_a_kept_network_embeds_as_before(name: str, tmp_path: Path) -> None:
    config, pairs = TINY[name], _pairs()
    network = config.network((8, 5, 5), 32).eval()
    file = tmp_path / "network.safetensors"
    file.write_bytes(tensor_bytes(network.state_dict()))
    again = read_baseline(file, (8, 5, 5), 32, config)
    np.testing.assert_array_equal(embeddings(again, pairs.maps), embeddings(network, pairs.maps))
    file.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"network\.safetensors.*Remove the file"):
        read_baseline(file, (8, 5, 5), 32, config)


def test_one_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AE-CFE needs images of two domains or more; got 'a'"):
        fit_baseline(_pairs(("a",)), TINY["AE-CFE"], tmp_path)
