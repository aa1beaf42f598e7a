"""The course of the learning rate, recomputed: warm-up in epochs or in steps, a cosine that may outlast the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from hemalens.errors import ConfigError
from hemalens.training.module import Learner, OptimiserConfig, warmup_cosine
from hemalens.training.trainer import Schedule, train


class _Small(Learner):
    def __init__(self, optimiser: OptimiserConfig, epochs: int) -> None:
        super().__init__(optimiser=optimiser, epochs=epochs, seed=0)
        self.layer = torch.nn.Linear(3, 2)


def _optimisers(optimiser: OptimiserConfig, *, epochs: int, n_steps: int) -> Any:
    """What a learner gives to a trainer of so many steps."""
    module = _Small(optimiser, epochs)

    class Trainer:
        estimated_stepping_batches = n_steps

    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    return module.configure_optimizers()


def _rates(optimiser: OptimiserConfig, *, epochs: int, n_steps: int) -> list[float]:
    """The learning rate of each step, as torch's optimiser has it."""
    made = _optimisers(optimiser, epochs=epochs, n_steps=n_steps)
    adamw, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(n_steps):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()
    return rates


def _course(rate: float, n_warmup: int, n_schedule: int, n_steps: int) -> list[float]:
    """Linear to `rate` at the last step of the warm-up, then half a cosine to 0 at step `n_schedule`."""
    course = []
    for step in range(n_steps):
        if step < n_warmup:
            course.append(rate * (step + 1) / n_warmup)
        elif step >= n_schedule:
            course.append(0.0)
        else:
            course.append(rate * (1 + math.cos(math.pi * (step - n_warmup) / (n_schedule - n_warmup))) / 2)
    return course


def test_the_autoencoder_s_published_course() -> None:
    """500 iterations of warm-up to 5e-4, ten epochs of 274 batches of 128 images."""
    from hemalens.training.autoencoder import ADAMW

    rates = _rates(ADAMW, epochs=10, n_steps=2740)
    falling = [5e-4 * (1 + math.cos(math.pi * i / 2740)) / 2 for i in range(2240)]
    np.testing.assert_allclose(rates, [*(1e-6 * (i + 1) for i in range(500)), *falling], rtol=1e-9, atol=1e-15)
    assert rates[499] == rates[500] == pytest.approx(5e-4)
    assert rates[1870] == pytest.approx(2.5e-4)
    assert rates[-1] == pytest.approx(0.08 * 5e-4, rel=0.02), "it ends above zero"
    assert np.mean(rates) == pytest.approx(0.59 * 5e-4, rel=0.01)


def test_the_segmenter_s_published_course_stops_before_its_end() -> None:
    """85 of 150 epochs, the first ten of them warm-up, the cosine over all 150; six batches an epoch."""
    from hemalens.methods.bc_sam_segmenter import ADAMW

    rates = _rates(ADAMW, epochs=85, n_steps=85 * 6)
    falling = [5e-4 * (1 + math.cos(math.pi * (i - 60) / 900)) / 2 for i in range(60, 510)]
    np.testing.assert_allclose(rates, [*(5e-4 * (i + 1) / 60 for i in range(60)), *falling], rtol=1e-9, atol=1e-15)
    assert rates[59] == rates[60] == pytest.approx(5e-4)
    assert rates[-1] == pytest.approx(2.5e-4, rel=0.01), "half of the rate at epoch 85 of 150"


@given(
    n_steps=st.integers(1, 60),
    epochs=st.integers(1, 5),
    schedule_epochs=st.none() | st.integers(1, 12),
    warmup=st.integers(0, 80),
    in_steps=st.booleans(),
)
def test_any_course(n_steps: int, epochs: int, schedule_epochs: int | None, warmup: int, in_steps: bool) -> None:
    given_warmup: dict[str, Any] = {"warmup_steps": warmup} if in_steps else {"warmup_epochs": warmup / 8}
    optimiser = OptimiserConfig(learning_rate=0.01, schedule_epochs=schedule_epochs, **given_warmup)
    if in_steps and warmup >= n_steps:
        with pytest.raises(ConfigError, match="the warm-up is longer than the training"):
            _optimisers(optimiser, epochs=epochs, n_steps=n_steps)
        return
    rates = _rates(optimiser, epochs=epochs, n_steps=n_steps)
    n_warmup = max(1, warmup if in_steps else round(n_steps * (warmup / 8) / epochs))
    n_schedule = round(n_steps * (schedule_epochs or epochs) / epochs)
    course = _course(0.01, n_warmup, max(n_schedule, n_warmup + 1), n_steps)
    np.testing.assert_allclose(rates, course, rtol=1e-9, atol=1e-15)
    assert all(0 <= rate <= 0.01 for rate in rates)


@given(n_warmup=st.integers(0, 20), n_steps=st.integers(1, 60))
def test_the_factor_rises_then_falls_and_stays_within_0_and_1(n_warmup: int, n_steps: int) -> None:
    factors = [warmup_cosine(step, n_warmup, n_steps - n_warmup) for step in range(100)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert (np.diff(factors[: n_warmup + 1]) >= 0).all()
    assert (np.diff(factors[n_warmup:]) <= 0).all()
    assert factors[max(n_steps, n_warmup + 1)] == pytest.approx(0, abs=1e-12)


def test_a_cosine_as_long_as_the_whole_schedule_ends_above_zero() -> None:
    optimiser = OptimiserConfig(learning_rate=0.01, warmup_epochs=1.0, schedule_epochs=4, cosine_length="whole")
    rates = _rates(optimiser, epochs=2, n_steps=10)
    after = [0.01 * 0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(5)]
    np.testing.assert_allclose(rates, [*[0.01 * (step + 1) / 5 for step in range(5)], *after])


def test_a_constant_rate_after_a_warm_up_in_steps() -> None:
    optimiser = OptimiserConfig(learning_rate=0.01, warmup_steps=4, schedule="constant")
    rates = _rates(optimiser, epochs=2, n_steps=10)
    np.testing.assert_allclose(rates, [0.0025, 0.005, 0.0075, *[0.01] * 7])


def test_no_warm_up_begins_at_the_full_rate() -> None:
    for chosen in (OptimiserConfig(warmup_steps=0), OptimiserConfig(warmup_epochs=0.0)):
        assert _rates(chosen, epochs=2, n_steps=10)[0] == 1e-3


@pytest.mark.parametrize("warmup", [20, 500])
def test_a_warm_up_longer_than_the_training_is_an_error_with_the_way_out(warmup: int) -> None:
    with pytest.raises(ConfigError) as error:
        _optimisers(OptimiserConfig(warmup_steps=warmup), epochs=2, n_steps=20)
    assert str(error.value) == (
        "the warm-up is longer than the training; expected fewer than 20 steps (2 epochs); "
        f"got optimiser.warmup_steps={warmup}. Set a shorter warm-up, more epochs or a smaller batch_size."
    )
    _optimisers(OptimiserConfig(warmup_steps=19), epochs=2, n_steps=20)


@pytest.mark.parametrize("decay_all", [False, True])
def test_biases_and_norms_decay_only_where_all_parameters_do(decay_all: bool) -> None:
    optimiser = OptimiserConfig(weight_decay=0.3, decay_all=decay_all)
    groups = _optimisers(optimiser, epochs=1, n_steps=5)["optimizer"].param_groups
    decay = {parameter.ndim: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay == {2: 0.3, 1: 0.3 if decay_all else 0.0}


@pytest.mark.parametrize("values", [{"warmup_steps": -1}, {"schedule_epochs": 0}, {"warmup_steps": 1.5}, {"warmup": 3}])
def test_settings_are_bounded(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        OptimiserConfig.from_mapping(values)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (4, 2), (2, 4)])
def test_small_batches_added_up_are_one_large_batch(batch_size: int, accumulate: int, tmp_path: Path) -> None:
    """Without batch statistics the weights after an epoch are those of plain descent on batches of eight, by hand."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(24, 3)), dtype=torch.float32)
    y = torch.tensor(rng.normal(size=(24, 2)), dtype=torch.float32)

    class Descent(_Small):
        def training_step(self, batch: Any, i: int) -> torch.Tensor:
            return ((self.layer(batch[0]) - batch[1]) ** 2).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    module = Descent(OptimiserConfig(gradient_clip=None), 1)
    weight, bias = (p.detach().clone() for p in module.layer.parameters())
    for start in range(0, 24, 8):
        part, wanted = x[start : start + 8], y[start : start + 8]
        off = 2 * (part @ weight.T + bias - wanted) / wanted.numel()
        weight, bias = weight - 0.1 * off.T @ part, bias - 0.1 * off.sum(dim=0)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    train(module, loader, None, run_dir=tmp_path, schedule=Schedule(patience=None, precision="fp32", accumulate=accumulate))
    np.testing.assert_allclose(module.layer.weight.detach(), weight, atol=1e-6)
    np.testing.assert_allclose(module.layer.bias.detach(), bias, atol=1e-6)
