"""What every trained network keeps: modes in training and validation, the kept epoch, the optimiser's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.imaging.reading import Preprocessing
from hemalens.methods import find_method
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.training.checkpoints import SafetensorsCheckpointIO
from hemalens.training.classifier import CellClassifier
from hemalens.training.module import OptimiserConfig

BatchNorm = torch.nn.modules.batchnorm._BatchNorm
Fit = Callable[..., Bundle]
CASES = {"finetune": {}, "finetune, last stages": {"open_stages": 2}, "bloodshot": {}}


@pytest.fixture
def fit(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Fit:
    """A method on the shared tiny cells, into `tmp_path`."""

    def run(case: str, **changes: Any) -> Bundle:
        method = find_method(case.partition(",")[0])
        shared = trained.fitted(tmp_path_factory, method.name)
        config = method.config.from_mapping({**trained.SETTINGS[method.name], **CASES[case], **changes})
        rng = np.random.default_rng(1)
        return method.fit(
            shared.train, validation=shared.validation, auxiliary={}, config=config, rng=rng, run_dir=tmp_path
        )

    return run


def _learns(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


@pytest.mark.parametrize("case", CASES)
def test_networks_train_in_training_mode_and_are_checked_in_evaluation_mode(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The trainer keeps every part in the mode it finds it in, and backbones come in evaluation mode."""
    statistics: list[dict[str, torch.Tensor]] = []
    modes: list[tuple[str, bool]] = []
    learning: set[str] = set()
    train, check = CellClassifier.training_step, CellClassifier.validation_step

    def training_step(self: CellClassifier, *given: Any) -> torch.Tensor:
        modes.append(("train", self.training))
        assert self.trainer.gradient_clip_val == self.optimiser.gradient_clip
        norms = {name: part for name, part in self.named_modules() if isinstance(part, BatchNorm)}
        learning.update(name for name, part in norms.items() if _learns(part))
        for name, part in self.named_modules():
            if list(part.parameters(recurse=False)):
                assert part.training is _learns(part), name
        loss = train(self, *given)
        statistics.append({name: torch.cat([part.running_mean, part.running_var]) for name, part in norms.items()})
        return loss

    def validation_step(self: CellClassifier, *given: Any) -> None:
        modes.append(("check", self.training))
        assert not any(part.training for part in self.modules())
        check(self, *given)

    monkeypatch.setattr(CellClassifier, "training_step", training_step)
    monkeypatch.setattr(CellClassifier, "validation_step", validation_step)
    bundle = fit(case, epochs=2)
    assert set(modes) == {("train", True), ("check", False)}
    assert learning
    assert (set(statistics[0]) == learning) is ("last stages" not in case), "the other stages stay frozen"
    exported = load_file(bundle.path / "weights.safetensors")
    seed = bundle.manifest.config["seed"]
    untrained = create_backbone(BackboneConfig.from_mapping({**trained.PROBE, "seed": seed})).state_dict()
    for name, before in statistics[0].items():
        assert torch.equal(statistics[-1][name], before) is (name not in learning), name
        key = name.removeprefix("network.") + ".running_mean"
        assert torch.equal(exported[key], untrained[key]) is (name not in learning), key


@pytest.mark.parametrize(("case", "patience", "kept"), [("bloodshot", None, 2), ("finetune", 1, 0), ("finetune", None, 0)])
def test_the_best_or_the_last_epoch_is_kept_with_patience_or_without(
    fit: Fit, tmp_path: Path, case: str, patience: int | None, kept: int
) -> None:
    """The first epoch is the best, by a score that only falls."""

    def ever_worse(self: CellClassifier) -> None:
        self._validation.clear()
        self.log("val_balanced_accuracy", 1 / (1 + self.current_epoch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CellClassifier, "on_validation_epoch_end", ever_worse)
        bundle = fit(case, patience=patience)
    n_epochs = 3 if patience is None else 1 + patience
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == n_epochs
    states = {}
    for name in ("best", "last"):
        state = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "checkpoints" / f"{name}.ckpt")
        states[state["epoch"]] = state["state_dict"]
    assert set(states) == {0, n_epochs - 1}
    exported = load_file(bundle.path / "weights.safetensors")
    for epoch, weights in states.items():
        same = [torch.equal(t, weights[n if n in weights else f"network.{n}"]) for n, t in exported.items()]
        assert all(same) is (epoch == kept)


@pytest.mark.parametrize(("warmup_epochs", "n_warmup"), [(0.0, 0), (1.0, 10), (0.5, 5)])
def test_a_constant_rate_follows_its_warm_up(warmup_epochs: float, n_warmup: int) -> None:
    optimiser = OptimiserConfig(learning_rate=0.01, warmup_epochs=warmup_epochs, schedule="constant")
    module = CellClassifier(torch.nn.Linear(3, 2), Preprocessing(), optimiser=optimiser, epochs=2, seed=0)

    class Trainer:
        estimated_stepping_batches = 20

    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    expected = [(step + 1) / n_warmup if step < n_warmup else 1.0 for step in range(20)]
    np.testing.assert_allclose([factor(step) for step in range(20)], expected)


def test_the_defaults_of_the_optimiser_are_adamw_with_a_cosine() -> None:
    assert OptimiserConfig().model_dump() == {
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "decay_all": False,
        "warmup_epochs": 1.0,
        "warmup_steps": None,
        "schedule": "cosine",
        "schedule_epochs": None,
        "cosine_length": "rest",
        "label_smoothing": 0.1,
        "gradient_clip": 1.0,
    }
