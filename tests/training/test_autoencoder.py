"""Training of the autoencoder: published settings, batches of every domain, resume, and latents that a graph repeats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemalens.errors import ConfigError, ParityError
from hemalens.models.autoencoder import CellAutoencoder
from hemalens.training import autoencoder as module
from hemalens.training.autoencoder import (
    AutoencoderConfig,
    AutoencoderModule,
    CellPairs,
    DomainBatches,
    check_domains,
    fit_autoencoder,
    latent_graph,
    latents,
    reconstruct,
)
from hemalens.training.losses import maximum_mean_discrepancy, structural_similarity
from hemalens.training.module import OptimiserConfig

SIDE = 32
FAST = OptimiserConfig(learning_rate=5e-3, warmup_steps=1, label_smoothing=0.0, gradient_clip=None)
TINY = AutoencoderConfig(
    side_px=SIDE, decoder_width=0.05, latent_size=8, epochs=3, batch_size=8, precision="fp32", optimiser=FAST
)


def _pairs(n: int = 24, *, seed: int = 0, domains: tuple[str, ...] = ("a", "b")) -> CellPairs:
    """Cells of one round shape and some size and colour, which their maps tell; the second domain's maps are shifted."""
    rng = np.random.default_rng(seed)
    told = rng.uniform(0, 1, (n, 4))
    weights = np.random.default_rng(9).normal(size=(4, 8))
    names = [domains[i % len(domains)] for i in range(n)]
    shift = np.array([domains.index(name) for name in names])[:, None]
    maps = (told @ weights + 0.5 * shift)[:, :, None, None] + rng.normal(0, 0.05, (n, 8, 5, 5))
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2
    radius = (6 + 8 * told[:, 0])[:, None, None]
    disk = 1 / (1 + np.exp(np.hypot(rows, columns) - radius))
    colours = 255 * (0.2 + 0.6 * told[:, 1:])
    cells = 128 + disk[..., None] * (colours[:, None, None] - 128)
    return CellPairs.whole(maps.astype(np.float16), cells.round().astype(np.uint8), names)


@pytest.fixture(scope="module")
def pairs() -> CellPairs:
    return _pairs()


@pytest.fixture(scope="module")
def unbroken(pairs: CellPairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[CellAutoencoder, Path]:
    """Three epochs without an interruption, and where they were run."""
    run_dir = tmp_path_factory.mktemp("autoencoder")
    return fit_autoencoder(pairs, TINY, run_dir), run_dir


def _history(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def _same(a: CellAutoencoder, b: CellAutoencoder) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


# --------------------------------------------------------------------------------------------- published settings


def test_the_defaults_are_the_published_settings() -> None:
    assert AutoencoderConfig().model_dump() == {
        "latent_size": 50,
        "mmd": "linear",
        "mmd_weight": 5.0,
        "ssim_padding": "zeros",
        "epochs": 10,
        "batch_size": 128,
        "side_px": 128,
        "decoder_width": 1.0,
        "seed": 1234,
        "precision": "fp32",
        "optimiser": {
            "learning_rate": 5e-4,
            "weight_decay": 0.05,
            "decay_all": True,
            "warmup_epochs": 1.0,  # of no account beside the steps
            "warmup_steps": 500,
            "schedule": "cosine",
            "schedule_epochs": None,
            "cosine_length": "whole",
            "label_smoothing": 0.0,
            "gradient_clip": None,
        },
    }


def test_one_setting_of_the_optimiser_leaves_the_others_as_published() -> None:
    config = AutoencoderConfig.load(overrides=["optimiser.warmup_steps=3", "mmd=none"])
    assert config.optimiser == AutoencoderConfig().optimiser.model_copy(update={"warmup_steps": 3})
    assert config.mmd == "none"


@pytest.mark.parametrize(
    "values", [{"mmd": "cubic"}, {"batch_size": 1}, {"side_px": 100}, {"decoder_width": 0.0}, {"mmd_weight": -1.0}]
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AutoencoderConfig.from_mapping(values)


# ---------------------------------------------------------------------------------------------------------- batches


@st.composite
def _domain_ids(draw: st.DrawFn) -> NDArray[np.int64]:
    sizes = draw(st.lists(st.integers(1, 150), min_size=1, max_size=4).filter(lambda found: sum(found) >= 2))
    numbers = draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes), unique=True))
    return np.random.default_rng(draw(st.integers(0, 999))).permutation(np.repeat(numbers, sizes)).astype(np.int64)


@given(domain_ids=_domain_ids(), more=st.integers(0, 60), seed=st.integers(0, 999), epoch=st.integers(0, 20))
def test_every_batch_holds_every_domain_and_every_image_comes(
    domain_ids: NDArray[np.int64], more: int, seed: int, epoch: int
) -> None:
    n_domains = len(np.unique(domain_ids))
    batches = DomainBatches(domain_ids, 2 * n_domains + more, seed=seed)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    for batch in drawn:
        assert set(domain_ids[batch]) == set(domain_ids)
        assert len(batch) >= 2, "a batch of one has no batch statistics"
        assert len(set(batch)) == len(batch), "no image twice in a batch"
        assert len(batch) <= batches_limit(domain_ids, 2 * n_domains + more)
    counts = np.bincount(np.concatenate(drawn), minlength=len(domain_ids))
    assert counts.min() >= 1
    # only a domain of fewer images than batches is gone through again
    for domain in np.unique(domain_ids):
        here = domain_ids == domain
        assert counts[here].sum() == max(here.sum(), len(drawn))
        assert np.ptp(counts[here]) <= 1
    assert list(batches) == drawn, "the same epoch, the same batches"


def batches_limit(domain_ids: NDArray[np.int64], batch_size: int) -> int:
    """Each domain's share is rounded up, and a batch has one of a rare domain beside the others' share."""
    return batch_size + len(np.unique(domain_ids))


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    domain_ids = np.array([0] * 50 + [1] * 7)

    def drawn(seed: int, epoch: int) -> list[list[int]]:
        batches = DomainBatches(domain_ids, 10, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert drawn(3, 5) == drawn(3, 5)
    distinct = {json.dumps(drawn(seed, epoch)) for seed in (3, 4) for epoch in range(4)}
    assert len(distinct) == 8


def test_a_batch_has_each_domain_s_share_of_the_whole() -> None:
    domain_ids = np.array([0] * 300 + [1] * 100)
    for batch in DomainBatches(domain_ids, 40, seed=0):
        assert np.bincount(domain_ids[batch]).tolist() == [30, 10]


@pytest.mark.parametrize(("n_domains", "batch_size"), [(2, 3), (3, 5), (1, 1)])
def test_batches_too_small_for_every_domain_are_an_error(n_domains: int, batch_size: int) -> None:
    with pytest.raises(ConfigError) as error:
        DomainBatches(np.arange(30) % n_domains, batch_size, seed=0)
    assert str(error.value) == (
        "the batches are too small for every domain to be in each; "
        f"expected batch_size {2 * n_domains} or more; got {batch_size}"
    )


def test_pairs_keep_maps_cells_and_domains_together() -> None:
    whole = _pairs(9, domains=("b", "a", "c"))
    assert whole.domain_ids.tolist() == [1, 0, 2] * 3
    part = whole.part([7, 2, 3])
    assert part.domains == ("a", "c", "b")
    assert part.rows.tolist() == [7, 2, 3]
    assert part.maps is whole.maps
    again = part.part([2, 0])
    assert (again.rows.tolist(), again.domains) == ([3, 7], ("b", "a"))
    maps, cells, domains = module._Batches(again)[[1, 0]]
    np.testing.assert_array_equal(maps.numpy(), whole.maps[[7, 3]].astype(np.float32))
    np.testing.assert_allclose(cells.numpy(), whole.cells[[7, 3]].transpose(0, 3, 1, 2) / 255, atol=1e-6)
    assert domains.tolist() == [0, 1]


# --------------------------------------------------------------------------------------------------------- training


def test_history_has_a_line_an_epoch(unbroken: tuple[CellAutoencoder, Path]) -> None:
    rows = _history(unbroken[1])
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all({"epoch", "dissimilarity", "mmd"} == row.keys() for row in rows)
    assert not unbroken[0].training


def test_the_loss_falls(pairs: CellPairs, tmp_path: Path) -> None:
    fit_autoencoder(pairs, TINY.model_copy(update={"epochs": 9}), tmp_path)
    rows = _history(tmp_path)
    losses = [row["dissimilarity"] + 5 * row["mmd"] for row in rows]
    assert losses[-1] < 0.8 * losses[0]
    assert rows[-1]["dissimilarity"] < rows[0]["dissimilarity"] - 0.05


@pytest.mark.parametrize(("mmd", "padding"), [("linear", "zeros"), ("rbf", "none"), ("none", "zeros")])
def test_the_loss_is_dissimilarity_and_weighted_discrepancy(pairs: CellPairs, mmd: Any, padding: Any) -> None:
    """BC-SAM, equation 6."""
    config = TINY.model_copy(update={"mmd": mmd, "mmd_weight": 3.0, "ssim_padding": padding})
    torch.manual_seed(0)
    network = CellAutoencoder(8, latent_size=8, side_px=SIDE, decoder_width=0.05)
    learner = AutoencoderModule(network, config)
    logged: dict[str, float] = {}
    learner.log = lambda name, value, **more: logged.update({name: value.item()})  # type: ignore[method-assign, assignment]
    batch = module._Batches(pairs)[list(range(10))]
    loss = learner.training_step(batch, 0)
    maps, cells, domains = batch
    with torch.no_grad():
        latent, drawn = network(maps)
        expected = 1 - structural_similarity(drawn, cells, padding=padding)
        assert logged["dissimilarity"] == pytest.approx(expected.item(), abs=1e-4)
        if mmd != "none":
            apart = maximum_mean_discrepancy(latent, domains, kernel=mmd)
            assert logged["mmd"] == pytest.approx(apart.item(), abs=1e-4)
            expected = expected + 3 * apart
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert ("mmd" in logged) is (mmd != "none")


def test_the_same_settings_give_the_same_weights(
    pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path], tmp_path: Path
) -> None:
    torch.manual_seed(77)  # whatever was drawn before
    state = torch.get_rng_state()
    made = CellAutoencoder(8, latent_size=8, side_px=SIDE, decoder_width=0.05)
    torch.set_rng_state(state)
    again = fit_autoencoder(pairs, TINY, tmp_path)
    _same(unbroken[0], again)
    assert _history(tmp_path) == _history(unbroken[1])
    assert any(not torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def test_a_run_killed_after_an_epoch_ends_as_an_unbroken_one(
    pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = AutoencoderModule.on_train_epoch_start

    def killed_in_the_third(self: AutoencoderModule) -> None:
        if self.current_epoch == 2:
            raise KilledError
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderModule, "on_train_epoch_start", killed_in_the_third)
        with pytest.raises(KilledError):
            fit_autoencoder(pairs, TINY, tmp_path)
    assert [row["epoch"] for row in _history(tmp_path)] == [0, 1]
    epochs: list[int] = []

    def counted(self: AutoencoderModule) -> None:
        epochs.append(self.current_epoch)
        begin(self)

    monkeypatch.setattr(AutoencoderModule, "on_train_epoch_start", counted)
    resumed = fit_autoencoder(pairs, TINY, tmp_path)
    assert epochs == [2], "what was trained before the kill is not trained again"
    assert _history(tmp_path) == _history(unbroken[1])
    _same(unbroken[0], resumed)
    epochs.clear()
    _same(unbroken[0], fit_autoencoder(pairs, TINY, tmp_path))
    assert epochs == [], "what is finished is read"


def test_each_epoch_s_batches_reach_the_network(pairs: CellPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_out: list[list[int]] = []
    take = module._Batches.__getitem__

    def noted(self: Any, positions: Any) -> Any:
        given_out.append(list(positions))
        return take(self, positions)

    monkeypatch.setattr(module._Batches, "__getitem__", noted)
    fit_autoencoder(pairs, TINY.model_copy(update={"epochs": 2}), tmp_path)
    expected: list[list[int]] = []
    batches = DomainBatches(pairs.domain_ids, 8, seed=1234)
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        expected += list(batches)
    assert given_out == expected


def test_only_the_named_rows_are_learnt_from(pairs: CellPairs, tmp_path: Path) -> None:
    """What a part leaves out may be anything, also another domain."""
    chosen = list(range(12))
    config = TINY.model_copy(update={"epochs": 1})
    part = fit_autoencoder(pairs.part(chosen), config, tmp_path / "part")
    maps, cells = pairs.maps.copy(), pairs.cells.copy()
    maps[12:], cells[12:] = np.float16(np.nan), 0
    other = CellPairs(maps, cells, pairs.domains[:12], np.arange(12))
    _same(part, fit_autoencoder(other, config, tmp_path / "other"))


def test_one_domain_needs_the_discrepancy_off(tmp_path: Path) -> None:
    alone = _pairs(12, domains=("my lab",))
    for mmd in ("linear", "rbf"):
        config = TINY.model_copy(update={"mmd": mmd, "epochs": 1})
        with pytest.raises(ConfigError) as error:
            fit_autoencoder(alone, config, tmp_path)
        assert str(error.value) == (
            "the discrepancy between domains needs images of two domains or more; got one: 'my lab'. "
            "Name images of another laboratory with --aux unlabelled=SPEC, or switch it off with "
            "--set autoencoder.mmd=none."
        )
    assert not list(tmp_path.iterdir())
    fit_autoencoder(alone, TINY.model_copy(update={"mmd": "none", "epochs": 1}), tmp_path)
    (row,) = _history(tmp_path)
    assert row.keys() == {"epoch", "dissimilarity"}
    with pytest.raises(ConfigError, match="got none"):
        check_domains([], TINY)
    check_domains([], TINY.model_copy(update={"mmd": "none"}))


def test_the_published_warm_up_does_not_fit_a_short_training(pairs: CellPairs, tmp_path: Path) -> None:
    published = AutoencoderConfig().optimiser
    with pytest.raises(ConfigError) as error:
        fit_autoencoder(pairs, TINY.model_copy(update={"optimiser": published}), tmp_path)
    assert str(error.value) == (
        "the warm-up is longer than the training; expected fewer than 9 steps (3 epochs); "
        "got optimiser.warmup_steps=500. Set a shorter warm-up, more epochs or a smaller batch_size."
    )


WRONG: dict[str, tuple[Callable[[CellPairs], CellPairs], dict[str, Any], str]] = {
    "cells of another side": (
        lambda p: CellPairs(p.maps, p.cells[:, :16, :16], p.domains, p.rows),
        {},
        "the cell images do not fit the decoder; expected 32 px; got 16 px",
    ),
    "a decoder of another side": (lambda p: p, {"side_px": 64}, "expected 64 px; got 32 px"),
    "maps too small": (
        lambda p: CellPairs(p.maps[:, :, :2], p.cells, p.domains, p.rows),
        {},
        "the feature map is too small for the autoencoder; expected at least 3x3; got 2x5",
    ),
    "batches too small": (lambda p: p, {"batch_size": 3}, "expected batch_size 4 or more; got 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(pairs: CellPairs, tmp_path: Path, case: str) -> None:
    change, settings, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        fit_autoencoder(change(pairs), TINY.model_copy(update=settings), tmp_path)


# ---------------------------------------------------------------------------------------------------- graph, drawing


def test_the_graph_gives_the_encoder_s_latents(
    pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = unbroken[0]
    graph = latent_graph(network, pairs.maps.shape[1:])
    assert [value.name for value in graph.graph.input] == ["feature_map"]
    assert [value.name for value in graph.graph.output] == ["embedding"]
    with torch.no_grad():
        wanted = network.encoder(torch.from_numpy(pairs.maps.astype(np.float32))).numpy()
    found = latents(graph, pairs.maps)
    assert found.shape == (24, 8)
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    monkeypatch.setattr(module, "MAPS_AT_ONCE", 7)
    np.testing.assert_allclose(latents(graph, pairs.maps), found, atol=1e-6)


def test_the_encoder_keeps_its_mode_and_the_graph_the_statistics_of_evaluation(
    pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path]
) -> None:
    before = {name: tensor.clone() for name, tensor in unbroken[0].state_dict().items()}
    latent_graph(unbroken[0].train(), pairs.maps.shape[1:])
    unbroken[0].eval()
    for name, tensor in unbroken[0].state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_graph_of_other_latents_is_refused(
    pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path], error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = module.latents
    monkeypatch.setattr(module, "latents", lambda graph, maps: honest(graph, maps) + error)
    with pytest.raises(ParityError, match=r"does not reproduce the trained one; expected latents within 0.001; got a diff"):
        latent_graph(unbroken[0], pairs.maps.shape[1:])


def test_reconstructions_are_images(pairs: CellPairs, unbroken: tuple[CellAutoencoder, Path]) -> None:
    images = reconstruct(unbroken[0], pairs.maps[:3])
    assert images.shape == (3, SIDE, SIDE, 3)
    assert images.dtype == np.uint8
    with torch.no_grad():
        _, drawn = unbroken[0](torch.from_numpy(pairs.maps[:3].astype(np.float32)))
    np.testing.assert_allclose(images, 255 * drawn.numpy().transpose(0, 2, 3, 1), atol=0.51)
