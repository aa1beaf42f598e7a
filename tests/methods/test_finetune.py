"""Fine-tuning: what learns and what stays, what an epoch draws, and a killed run that ends as an unbroken one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import trained
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import SEEN_UNLABELLED, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.bundle.stages import CellImageStage
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import ConfigError, InputError, OutputError, SplitError
from hemalens.evaluation.evaluate import evaluate
from hemalens.files import sha256_file
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.methods.finetune import METHOD, PRETRAINING, FinetuneConfig, starting_network
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.models.freezing import open_last_stages, start_head_near_zero
from hemalens.runs.evaluate import evaluate as evaluate_job
from hemalens.training import checkpoints as checkpoints_module
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.checkpoints import SafetensorsCheckpointIO
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.fit import set_batch_norm_momentum
from hemalens.training.module import OptimiserConfig, warmup_cosine
from hemalens.training.pretraining import pretrained
from trained import Fitted


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Three epochs without an interruption."""
    return trained.fitted(tmp_path_factory, "finetune")


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def _fit(unbroken: Fitted, run_dir: Path, first: CellDataset | None = None, **changes: Any) -> Any:
    """Fine-tuned on the same cells with changed settings, pretrained on `first` where that is given."""
    config = METHOD.config.from_mapping({**trained.FINETUNE, **changes})
    more = {} if first is None else {PRETRAINING: first}
    rng, held = np.random.default_rng(1), unbroken.validation
    return METHOD.fit(unbroken.train, validation=held, auxiliary=more, config=config, rng=rng, run_dir=run_dir)


def _history(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def _same_weights(a: Path, b: Path) -> None:
    first, second = (load_file(p / "bundle" / "weights.safetensors") for p in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


# ----------------------------------------------------------------------------------------------------------- resume


def test_history_has_a_line_an_epoch(unbroken: Fitted) -> None:
    rows = _history(unbroken.run_dir)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert {"train_loss", "val_balanced_accuracy", "val_nll"} <= row.keys()
        assert 0 <= row["val_balanced_accuracy"] <= 1
        assert row["train_loss"] > 0


def test_a_run_killed_after_an_epoch_ends_as_an_unbroken_one(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = CellClassifier.on_train_epoch_start

    def killed_in_the_third(self: CellClassifier) -> None:
        if self.current_epoch == 2:
            raise KilledError
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(CellClassifier, "on_train_epoch_start", killed_in_the_third)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path)
    assert [row["epoch"] for row in _history(tmp_path)] == [0, 1]
    assert not (tmp_path / "bundle").exists()
    epochs: list[int] = []

    def counted(self: CellClassifier) -> None:
        epochs.append(self.current_epoch)
        begin(self)

    monkeypatch.setattr(CellClassifier, "on_train_epoch_start", counted)
    _fit(unbroken, tmp_path)
    assert epochs == [2], "what was trained before the kill is not trained again"
    assert _history(tmp_path) == _history(unbroken.run_dir)
    _same_weights(tmp_path, unbroken.run_dir)


def test_a_run_killed_while_a_checkpoint_is_written_ends_as_an_unbroken_one(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = SafetensorsCheckpointIO.save_checkpoint

    def killed_in_the_second(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if Path(path).name == "last.ckpt" and checkpoint["epoch"] == 1:
            raise KilledError
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsCheckpointIO, "save_checkpoint", killed_in_the_second)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path)
    _fit(unbroken, tmp_path)
    assert _history(tmp_path) == _history(unbroken.run_dir)
    _same_weights(tmp_path, unbroken.run_dir)


def test_a_run_stopped_before_its_bundle_was_written_does_not_train_on(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stopping has ended the training: what comes after it is the export, also in the second call."""

    def full(*given: object, **more: object) -> None:
        raise OutputError("the disk is full")

    # a rate too small to change an answer: the score never rises again
    changes = {"epochs": 6, "patience": 1, "optimiser": {"learning_rate": 1e-12}}
    with monkeypatch.context() as patch:
        patch.setattr("hemalens.training.fit.export_bundle", full)
        with pytest.raises(OutputError):
            _fit(unbroken, tmp_path, **changes)
    stopped = _history(tmp_path)
    assert len(stopped) < 6, "early stopping has not ended the training"
    _fit(unbroken, tmp_path, **changes)
    assert _history(tmp_path) == stopped


def test_ctrl_c_in_training_is_an_interruption(unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def interrupt(self: CellClassifier) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(CellClassifier, "on_train_epoch_start", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            _fit(unbroken, tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_the_best_epoch_is_exported_not_the_last(unbroken: Fitted) -> None:
    rows = _history(unbroken.run_dir)
    best = max(rows, key=lambda row: row["val_balanced_accuracy"])  # the first of equals, as the checkpoint keeps it
    state = SafetensorsCheckpointIO().load_checkpoint(unbroken.run_dir / "checkpoints" / "best.ckpt")
    assert state["epoch"] == best["epoch"]
    exported = load_file(unbroken.bundle.path / "weights.safetensors")
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, state["state_dict"][f"network.{name}"].contiguous(), rtol=0, atol=0)


def test_the_loss_falls(unbroken: Fitted, tmp_path: Path) -> None:
    still = {"flip": False, "rotation_deg": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    optimiser = {"learning_rate": 0.01, "label_smoothing": 0.0}
    _fit(unbroken, tmp_path, epochs=6, optimiser=optimiser, augmentation=still)
    losses = [row["train_loss"] for row in _history(tmp_path)]
    assert losses[0] == pytest.approx(math.log(len(unbroken.train.classes)), abs=0.1), "it begins undecided"
    assert losses[-1] < losses[0] - 0.01


# ------------------------------------------------------------------------------------------------- what may learn


def test_frozen_stages_do_not_change_and_the_others_do(unbroken: Fitted, tmp_path: Path) -> None:
    network = create_backbone(BackboneConfig(backbone="test_resnet", weights="none"), n_classes=4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    open_last_stages(network, 1)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen_modules = {name.rpartition(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert learning
    assert frozen_modules
    _fit(unbroken, tmp_path, epochs=1, open_stages=1)
    after = load_file(tmp_path / "bundle" / "weights.safetensors")
    frozen = [name for name in before if name.rpartition(".")[0] in frozen_modules]
    assert any("running_mean" in name for name in frozen), "batch-norm statistics of frozen parts are checked too"
    for name in frozen:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, msg=name)
    changed = {name for name in learning if not torch.equal(after[name], before[name])}
    assert changed == learning


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
def test_more_open_stages_open_more_and_the_head_always_learns(backbone: str) -> None:
    opened: list[set[str]] = []
    for n in (0, 1, 2, None):
        network: Any = create_backbone(BackboneConfig(backbone=backbone, weights="none"), n_classes=4)
        open_last_stages(network, n)
        opened.append({name for name, p in network.named_parameters() if p.requires_grad})
        assert all(p.requires_grad for p in network.get_classifier().parameters())
    everything = {name for name, _ in network.named_parameters()}
    head, one, two, whole = opened
    assert head < everything
    assert len(head) == 2, "weight and bias of the head"
    assert head <= one < two < whole == everything


def test_more_stages_than_there_are_is_an_error() -> None:
    network = create_backbone(BackboneConfig(backbone="test_resnet", weights="none"), n_classes=4)
    with pytest.raises(ConfigError, match=r"open_stages is out of range; expected at most \d; got 99"):
        open_last_stages(network, 99)


def test_the_head_starts_undecided_and_the_averages_follow() -> None:
    network: Any = create_backbone(BackboneConfig(backbone="test_efficientnet", weights="none"), n_classes=4)
    start_head_near_zero(network, seed=3)
    set_batch_norm_momentum(network)
    head = network.get_classifier()
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert not head.bias.any()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {m.momentum for m in norms} == {0.1}
    other: Any = create_backbone(BackboneConfig(backbone="test_efficientnet", weights="none", seed=5), n_classes=4)
    start_head_near_zero(other, seed=3)
    torch.testing.assert_close(other.get_classifier().weight, head.weight, rtol=0, atol=0)


def test_first_blocks_stay_and_the_others_learn(unbroken: Fitted, tmp_path: Path) -> None:
    _fit(unbroken, tmp_path, epochs=1, frozen_blocks=2)
    after = load_file(tmp_path / "bundle" / "weights.safetensors")
    before = create_backbone(BackboneConfig(backbone="test_resnet", weights="none"), n_classes=4).state_dict()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) is name.startswith(("conv1.", "bn1.", "layer1.", "layer2.")), name


def test_one_of_the_two_ways_to_freeze(unbroken: Fitted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"open_stages and frozen_blocks both.*Set one of them"):
        _fit(unbroken, tmp_path, open_stages=1, frozen_blocks=1)
    with pytest.raises(ConfigError, match=r"frozen_blocks is out of range; expected at most 3; got 4"):
        _fit(unbroken, tmp_path, frozen_blocks=4)


# ------------------------------------------------------------------------------------------------------- pretraining


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.tissue(tmp_path_factory, "cam16")


@pytest.fixture(scope="module")
def after_tissue(unbroken: Fitted, tissue: CellDataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle whose network was trained on tissue first."""
    run_dir = tmp_path_factory.mktemp("after tissue")
    return _fit(unbroken, run_dir, tissue, epochs=1, pretraining=trained.PRETRAINING)


def _contents(*datasets: CellDataset) -> set[str]:
    return {sha256_file(record.path) for dataset in datasets for record in dataset.records}


def test_a_pretrained_bundle_says_what_it_learned_from_first(
    unbroken: Fitted, tissue: CellDataset, after_tissue: Any
) -> None:
    manifest = after_tissue.manifest
    assert manifest.method == "finetune"
    assert manifest.labels == unbroken.train.classes, "labels of the tissue are none of its own"
    assert set(tissue.classes).isdisjoint(manifest.labels)
    expected = ((unbroken.train, "train"), (unbroken.validation, "validation"), (tissue, "pretraining"))
    assert manifest.data == tuple(DataEntry.of(images, role) for images, role in expected)  # type: ignore[arg-type]
    assert after_tissue.seen == _contents(unbroken.train, unbroken.validation, tissue)
    assert after_tissue.seen_unlabelled == frozenset()
    with pytest.raises(SplitError, match=r"2 image\(s\) of cam16 were trained on"):
        refuse_leaks(after_tissue.seen, tissue.subset([3, 7]))


def test_the_network_begins_where_the_pretraining_ended(unbroken: Fitted, tissue: CellDataset, after_tissue: Any) -> None:
    config = FinetuneConfig.model_validate(after_tissue.manifest.config)
    learned = load_file(pretrained(tissue, config, config.pretraining).path / "weights.safetensors")
    network: Any = starting_network(config, tissue, n_classes=4, seed=11)
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, learned[name]), name
    assert network.fc.weight.shape[0] == 4
    assert float(network.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    untrained = starting_network(config, None, n_classes=4, seed=11).state_dict()
    assert torch.equal(untrained["fc.weight"], network.fc.weight), "the head begins alike"
    assert not torch.equal(untrained["layer1.0.conv1.weight"], learned["layer1.0.conv1.weight"])
    frozen: Any = starting_network(
        config.model_copy(update={"frozen_blocks": 1}), tissue, n_classes=4, seed=11
    ).named_parameters()
    assert {name.partition(".")[0] for name, p in frozen if not p.requires_grad} == {"conv1", "bn1", "layer1"}


def test_what_is_frozen_keeps_the_weights_of_the_pretraining(
    unbroken: Fitted, tissue: CellDataset, after_tissue: Any, tmp_path: Path
) -> None:
    config = FinetuneConfig.model_validate(after_tissue.manifest.config)
    learned = load_file(pretrained(tissue, config, config.pretraining).path / "weights.safetensors")
    bundle = _fit(unbroken, tmp_path, tissue, epochs=1, open_stages=1, pretraining=trained.PRETRAINING)
    for name, tensor in load_file(bundle.path / "weights.safetensors").items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, learned[name]) is not name.startswith("layer4."), name


def test_a_bundle_is_not_tested_on_cells_of_its_pretraining(
    unbroken: Fitted, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    other = trained.laboratory(tmp_path_factory, "lab_b")
    first, rest = other.subset(range(0, len(other), 2)), other.subset(range(1, len(other), 2))
    bundle = _fit(unbroken, tmp_path / "run", first, epochs=1, pretraining=trained.PRETRAINING)
    with pytest.raises(SplitError, match=r"16 image\(s\) of .* were trained on"):
        evaluate([bundle], [other], target=other, source_name="lab_a", seed=0)
    assert evaluate([bundle], [rest], target=rest, source_name="lab_a", seed=0).n_images == len(rest)
    lab = next(path for path in other.records[0].path.parents if path.name == "lab_b")
    with pytest.raises(SplitError, match=r"16 image\(s\) of .* were trained on"):
        evaluate_job(bundle.path, f"synthetic:{lab}", out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_images_behind_its_first_weights_were_seen_too(
    unbroken: Fitted, after_tissue: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """In a bundle of another set, begun with the weights of `after_tissue`, by its folder or by the file in it."""
    other = trained.laboratory(tmp_path_factory, "lab_b")
    train, held = other.subset(range(0, len(other), 2)), other.subset(range(1, len(other), 2))
    for i, weights in enumerate([after_tissue.path, after_tissue.path / "weights.safetensors"]):
        config = METHOD.config.from_mapping({**trained.FINETUNE, "epochs": 1, "weights": str(weights)})
        bundle = METHOD.fit(
            train, validation=held, auxiliary={}, config=config, rng=np.random.default_rng(0), run_dir=tmp_path / str(i)
        )
        assert bundle.seen == _contents(other) | after_tissue.seen
        assert [entry.role for entry in bundle.manifest.data] == ["train", "validation"]
        assert config.file_digests() == {"weights": sha256_file(after_tissue.path / "weights.safetensors")}


def test_images_seen_without_labels_behind_its_first_weights_count_as_well(
    unbroken: Fitted, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    unlabelled = _contents(trained.tissue(tmp_path_factory, "prcc"))
    source = shutil.copytree(unbroken.bundle.path, tmp_path / "bundle")
    files = {name: (source / name).read_bytes() for name in unbroken.bundle.manifest.files}
    write_bundle(source, unbroken.bundle.manifest, {**files, SEEN_UNLABELLED: seen_images(unlabelled)})
    bundle = _fit(unbroken, tmp_path / "run", epochs=1, weights=str(source))
    assert bundle.seen == _contents(unbroken.train, unbroken.validation) | unlabelled


def test_weights_from_elsewhere_bring_no_images_along(unbroken: Fitted, tmp_path: Path) -> None:
    file = shutil.copy(unbroken.bundle.path / "weights.safetensors", tmp_path / "mine.safetensors")
    bundle = _fit(unbroken, tmp_path / "run", epochs=1, weights=str(file))
    assert bundle.seen == _contents(unbroken.train, unbroken.validation)


def test_cells_to_begin_with_are_shown_as_those_that_follow_and_tissue_is_not(
    unbroken: Fitted, tissue: CellDataset, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[CellDataset] = []

    def seen(first: CellDataset, *given: Any) -> None:
        shown.append(first)
        raise KilledError

    monkeypatch.setattr("hemalens.methods.finetune.pretrained", seen)
    removed = {"background": "removed", "segmenter": "classical", "gray": 9}
    config = METHOD.config.from_mapping({**trained.FINETUNE, "masks": removed})
    for first in (trained.laboratory(tmp_path_factory, "lab_b"), tissue):
        with pytest.raises(KilledError):
            starting_network(config, first, n_classes=4, seed=0)  # type: ignore[arg-type]
    (stage,) = shown[0].stages
    assert isinstance(stage, CellImageStage)
    assert stage.config == CellImageConfig(size_px=32, margin_px=0, background=9, crop=False)
    assert shown[1].stages == ()


# --------------------------------------------------------------------------------------------------- what is drawn


def test_the_sampler_draws_each_image_once_an_epoch() -> None:
    sampler = EpochSampler(50, seed=4)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert all(sorted(i for i, _ in drawn) == list(range(50)) for drawn in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({seed for drawn in epochs for _, seed in drawn}) == 150, "no augmentation seed comes twice"


def test_the_sampler_depends_on_seed_and_epoch_alone() -> None:
    first, later = EpochSampler(20, seed=4), EpochSampler(20, seed=4)
    first.set_epoch(7)
    for epoch in range(8):
        later.set_epoch(epoch)
        drawn = list(later)
    assert list(first) == drawn
    other = EpochSampler(20, seed=5)
    other.set_epoch(7)
    assert list(other) != drawn


def test_without_reshuffling_each_epoch_has_the_first_order_and_draws_of_its_own() -> None:
    sampler = EpochSampler(20, seed=4, reshuffle=False)
    first = list(sampler)
    assert sorted(i for i, _ in first) == list(range(20))
    assert [i for i, _ in first] == [i for i, _ in EpochSampler(20, seed=4)]
    sampler.set_epoch(1)
    assert [i for i, _ in sampler] == [i for i, _ in first]
    assert [draw for _, draw in sampler] != [draw for _, draw in first]


def test_without_shuffling_the_order_stays() -> None:
    assert [i for i, _ in EpochSampler(9, seed=1, shuffle=False)] == list(range(9))


@given(n=st.integers(1, 40), n_draws=st.integers(1, 130), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_a_fixed_number_of_draws_goes_through_the_images_evenly(n: int, n_draws: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler(n, seed=seed, n_draws=n_draws)
    sampler.set_epoch(epoch)
    drawn = [i for i, _ in sampler]
    assert len(drawn) == len(sampler) == n_draws
    for start in range(0, n_draws, n):
        part = drawn[start : start + n]
        assert len(set(part)) == len(part), "none comes again before all have come"
    assert set(drawn) <= set(range(n))
    assert len(set(drawn)) == min(n, n_draws)


def test_a_fixed_number_of_weighted_draws_keeps_the_proportions() -> None:
    weights = np.array([0.5, 0.25, 0.25, 0.0])
    sampler = EpochSampler(4, seed=0, weights=weights, n_draws=4000)
    drawn = [i for i, _ in sampler]
    assert len(drawn) == len(sampler) == 4000
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, weights, atol=5 * math.sqrt(0.25 / 4000))
    assert len({s for _, s in sampler}) > 3990, "each draw is augmented in its own way"


@pytest.mark.parametrize(("images_per_epoch", "n_batches"), [(None, 3), (8, 1), (17, 2), (40, 5)])
def test_the_setting_decides_how_many_images_an_epoch_draws(
    unbroken: Fitted, tmp_path: Path, images_per_epoch: int | None, n_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of eight; one that holds a single image is left out."""

    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        assert len(training.sampler) == (images_per_epoch or len(unbroken.train))
        assert [len(images) for images, _ in training] == [8] * n_batches
        assert len(validation.sampler) == len(unbroken.validation)
        raise KilledError

    assert len(unbroken.train) == 24
    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(KilledError):
        _fit(unbroken, tmp_path, images_per_epoch=images_per_epoch)


def test_balanced_sampling_changes_the_class_mix() -> None:
    targets = np.array([0] * 900 + [1] * 90 + [2] * 10)
    drawn = [i for i, _ in EpochSampler(1000, seed=0, weights=balanced_weights(targets))]
    mix = np.bincount(targets[drawn], minlength=3) / 1000
    # each a third, within five standard deviations of a binomial share
    np.testing.assert_allclose(mix, 1 / 3, atol=5 * math.sqrt(2 / 9 / 1000))
    plain = [i for i, _ in EpochSampler(1000, seed=0)]
    np.testing.assert_array_equal(np.bincount(targets[plain]), [900, 90, 10])


@pytest.mark.parametrize(("sampling", "weighted"), [("balanced", True), ("none", False)])
def test_the_setting_decides_the_sampling(
    unbroken: Fitted, tmp_path: Path, sampling: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        assert (training.sampler.weights is not None) is weighted
        assert validation.sampler.weights is None
        assert not validation.sampler.shuffle
        assert validation.dataset.augment is None, "validation images are never augmented"
        raise KilledError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(KilledError):
        _fit(unbroken, tmp_path, sampling=sampling)


def _dataset(n: int = 12) -> PixelDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return PixelDataset(pixels, np.arange(n), Augmentation(AugmentationConfig()))


def test_an_augmentation_depends_on_its_seed_only() -> None:
    cells = _dataset()
    first, _ = cells[3, 100]
    torch.rand(7)  # another state of the global generator
    state = torch.get_rng_state()
    again, target = cells[3, 100]
    assert torch.equal(first, again)
    assert target == 3
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    assert not torch.equal(first, cells[3, 101][0])
    assert not torch.equal(first, torch.from_numpy(cells.pixels[3]))
    assert first.dtype == torch.uint8
    assert first.shape == (3, 32, 32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_the_worker_count_changes_no_batch() -> None:
    cells = _dataset()

    def batches(n_workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(DataLoader(cells, batch_size=5, sampler=EpochSampler(12, seed=2), num_workers=n_workers))

    for (a, s), (b, t) in zip(batches(0), batches(1), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(s, t)


def test_training_pixels_are_what_the_bundle_s_graph_resizes(unbroken: Fitted, tmp_path: Path) -> None:
    import onnxruntime

    from hemalens.graphs.build import cut

    resized = resized_images(unbroken.train, unbroken.bundle.manifest.preprocessing, tmp_path / "scratch.npy")
    resize = cut(unbroken.bundle.graph, ["image"], ["resized"]).SerializeToString()
    session = onnxruntime.InferenceSession(resize, providers=["CPUExecutionProvider"])
    for record, pixels in zip(unbroken.train.records[:6], resized[:6], strict=True):
        np.testing.assert_array_equal(session.run(["resized"], {"image": record.read()[None]})[0][0], pixels)


def test_many_images_lie_in_a_file_and_are_the_same(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = unbroken.bundle.manifest.preprocessing
    in_memory = resized_images(unbroken.validation, preprocessing, tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("hemalens.files.MAX_RAM_BYTES", 1000)
    in_file = resized_images(unbroken.validation, preprocessing, tmp_path / "b" / "b.npy")
    assert isinstance(in_file, np.memmap)
    np.testing.assert_array_equal(in_memory, in_file)


# ------------------------------------------------------------------------------------------------------ checkpoints


NESTED = {
    "epoch": 3,
    "nothing": None,
    "flag": True,
    "score": 0.1 + 0.2,
    "best": -math.inf,
    "text": 'a "quoted"\nline ä',
    "pair": (1, (2.5, None), []),
    "list": [1, [2, {"three": 3}]],
    7: {"integer": "key", (1, 2): "tuple as key"},
    "state": {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(4)},
}


def _assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_same(x, y)
    else:
        assert a == b


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    io = SafetensorsCheckpointIO()
    io.save_checkpoint(NESTED, tmp_path / "a.ckpt")
    _assert_same(io.load_checkpoint(tmp_path / "a.ckpt"), NESTED)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]
    io.remove_checkpoint(tmp_path / "a.ckpt")
    io.remove_checkpoint(tmp_path / "a.ckpt")  # gone already: no error
    assert not list(tmp_path.iterdir())


def test_a_nan_comes_back_and_shared_memory_is_no_matter(tmp_path: Path) -> None:
    weight = torch.ones(3, 4)
    SafetensorsCheckpointIO().save_checkpoint({"x": math.nan, "a": weight, "b": weight.T}, tmp_path / "a.ckpt")
    back = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    assert math.isnan(back["x"])
    assert torch.equal(back["a"], back["b"].T)


@pytest.mark.parametrize("harm", ["truncated", "empty", "foreign", "no tensors file", "missing"])
def test_a_damaged_checkpoint_is_an_input_error(tmp_path: Path, harm: str) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "a.ckpt"
    SafetensorsCheckpointIO().save_checkpoint(NESTED, file)
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    elif harm == "foreign":
        save_file({"w": torch.zeros(2)}, file)
    else:
        file.write_bytes({"truncated": content[:-4], "empty": b"", "no tensors file": b"\x80\x04pickle"}[harm])
    with pytest.raises(InputError, match=r"the checkpoint '.*a\.ckpt' is damaged; got .*--overwrite"):
        SafetensorsCheckpointIO().load_checkpoint(file)


def test_a_checkpoint_holds_plain_things_only(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a checkpoint cannot hold a set"):
        SafetensorsCheckpointIO().save_checkpoint({"a": {1}}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_keeps_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    io = SafetensorsCheckpointIO()
    io.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")

    def full(*given: object, **more: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints_module, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot write '.*last\.ckpt'; got .*No space left"):
        io.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt") == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


# --------------------------------------------------------------------------------------------------------- optimiser


def test_warm_up_and_cosine_by_their_definition() -> None:
    factors = [warmup_cosine(step, 10, 100) for step in range(111)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(factors[10:], [(1 + math.cos(math.pi * t / 100)) / 2 for t in range(101)], atol=1e-12)
    assert factors[-1] == pytest.approx(0)
    assert warmup_cosine(500, 10, 100) == pytest.approx(0), "beyond the end it stays at zero"
    assert warmup_cosine(5, 5, 0) == 1.0, "no room for a fall"


def test_norms_and_biases_do_not_decay(unbroken: Fitted) -> None:
    network = create_backbone(BackboneConfig(backbone="test_resnet", weights="none"), n_classes=4)
    open_last_stages(network, 1)
    preprocessing = unbroken.bundle.manifest.preprocessing
    module = CellClassifier(network, preprocessing, optimiser=OptimiserConfig(weight_decay=0.3), epochs=1, seed=0)

    class Trainer:
        estimated_stepping_batches = 10

    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    decayed, plain = module.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in plain["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) > 1
    given = {id(p) for group in (decayed, plain) for p in group["params"]}
    assert given == {id(p) for p in network.parameters() if p.requires_grad}


def test_the_module_normalises_as_the_graph_does(unbroken: Fitted) -> None:
    preprocessing = unbroken.bundle.manifest.preprocessing
    module = CellClassifier(torch.nn.Identity(), preprocessing, optimiser=OptimiserConfig(), epochs=1, seed=0)
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    pixels = module.pixels(image).numpy()
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        np.testing.assert_allclose(pixels[0, channel].ravel(), (np.arange(256) - mean) / std, rtol=1e-5, atol=1e-6)


def test_an_edited_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    SafetensorsCheckpointIO().save_checkpoint({"epoch": 3, "state": {"w": torch.ones(4)}}, file)
    content = file.read_bytes()
    for before, after in ((b'[\\"epoch\\", 3]', b'[\\"epoch\\", 9]'), (b"\x00\x00\x80\x3f", b"\x00\x00\x80\x40")):
        assert before in content
        file.write_bytes(content.replace(before, after))
        with pytest.raises(InputError, match=r"checkpoint '.*a\.ckpt' is damaged; got its digest does not fit its content"):
            SafetensorsCheckpointIO().load_checkpoint(file)
    file.write_bytes(content)
    assert SafetensorsCheckpointIO().load_checkpoint(file)["epoch"] == 3
