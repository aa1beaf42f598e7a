"""Several processes train as one does: the same batches, statistics, gradients and scores; an error ends all of them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from hemalens.errors import ConfigError, HemalensError, InputError
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.training.augmentation import Augmentation, AugmentationConfig
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler, PixelDataset
from hemalens.training.module import OptimiserConfig
from hemalens.training.processes import WholeBatchNorm, check_devices, gathered, in_processes, rank, share_of_loss
from hemalens.training.trainer import Schedule, train

N = 13
"""Images of a batch that two processes cannot share equally."""

RATE = 1e-4
"""Learning rate; AdamW turns a rounding error of a gradient near 0 into a step of up to this size."""


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 3, 6, 6, generator=generator), torch.randint(0, 2, (N,), generator=generator)


def _learned(out: Path) -> None:
    """One process: the gradient of its share, averaged, and the running statistics, saved by each."""
    network, (images, targets) = _network(), _batch()
    mine = np.array_split(np.arange(N), 2)[rank()] if torch.distributed.is_initialized() else np.arange(N)
    if torch.distributed.is_initialized():
        with WholeBatchNorm():
            loss = nn.functional.cross_entropy(network(images[mine]), targets[mine])
        share, n_images = share_of_loss(float(len(mine)), len(mine))
        assert n_images == N
        loss = loss * share
    else:
        loss = nn.functional.cross_entropy(network(images), targets)
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradients)
        gradients = gradients / 2
        assert gathered(torch.from_numpy(mine)).tolist() == list(range(N))
    running = torch.cat([network[1].running_mean, network[1].running_var])
    np.save(out / f"{rank()}.npy", torch.cat([gradients, running]).detach().numpy())


def test_two_processes_have_the_gradient_and_statistics_of_one(tmp_path: Path) -> None:
    """Shares of 7 and 6 images; within float rounding."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    _learned(tmp_path / "one")
    in_processes(2, _learned, tmp_path / "two")
    wanted = np.load(tmp_path / "one" / "0.npy")
    for number in range(2):
        found = np.load(tmp_path / "two" / f"{number}.npy")
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.fixture
def alone() -> Iterator[None]:
    """A training of one process that knows of it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shape", [(8, 4), (5, 4, 3, 3), (2, 4, 1, 7)])
@pytest.mark.usefixtures("alone")
def test_a_whole_batch_norm_is_torch_s(shape: tuple[int, ...]) -> None:
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    own, torch_s = kind(4), kind(4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 5 + 2
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with WholeBatchNorm():
        found = own(a)
    wanted = torch_s(b)
    torch.testing.assert_close(found, wanted)
    (found**3).sum().backward()
    (wanted**3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own.state_dict(), torch_s.state_dict())
    with WholeBatchNorm():
        torch.testing.assert_close(own.eval()(x), torch_s.eval()(x))


@given(n=st.integers(1, 60), draws=st.integers(1, 60), batch=st.integers(1, 6), ranks=st.integers(1, 4))
def test_shares_make_up_each_batch_in_order(n: int, draws: int, batch: int, ranks: int) -> None:
    size = batch * ranks
    whole = list(EpochSampler(n, seed=1, n_draws=draws))
    samplers = [EpochSampler(n, seed=1, n_draws=draws) for _ in range(ranks)]
    for number, sampler in enumerate(samplers):
        sampler.take_share(number, ranks, size)
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
    kept = draws - (draws % size if draws % size < ranks else 0)
    steps = {-(-len(share) // batch) for share in shares}
    assert steps == {-(-kept // size)}, "all take the same number of steps"
    for i in range(next(iter(steps))):
        together = [pair for share in shares for pair in share[i * batch : (i + 1) * batch]]
        assert together == whole[i * size : min(kept, (i + 1) * size)]


class _Stops(CellClassifier):
    """Stops in the third epoch while the file "stop" is in the folder `place`."""

    place = Path()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch, or stop."""
        if self.current_epoch == 2 and (self.place / "stop").exists():
            raise InputError("stopped")
        super().on_train_epoch_start()


def _trained(run_dir: Path, devices: int) -> dict[str, torch.Tensor]:
    """Three epochs of 21 images in batches of 8, validated on 7: no part is a multiple of two."""
    config = BackboneConfig(backbone="test_resnet", weights="none", image_size_px=32)
    torch.manual_seed(0)
    optimiser = OptimiserConfig(learning_rate=RATE)
    network = create_backbone(config, n_classes=2)
    module = _Stops(network, preprocessing_of(config), optimiser=optimiser, epochs=3, seed=5)
    module.place = run_dir
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for n in (21, 7)]
    learned = PixelDataset(images[0], np.arange(21) % 2, Augmentation(AugmentationConfig()))
    held = PixelDataset(images[1], np.arange(7) % 2, None)
    training = DataLoader(learned, 8, sampler=EpochSampler(21, seed=5))
    checking = DataLoader(held, 8, sampler=EpochSampler(7, seed=5, shuffle=False))
    train(module, training, checking, run_dir=run_dir, schedule=Schedule(9, precision="fp32", devices=devices))
    return module.state_dict()


def _history(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def test_a_training_of_two_processes_is_that_of_one_and_resumes(tmp_path: Path) -> None:
    """Scores within 0.001, weights within 0.1 % and one learning rate; the resumed training within rounding."""
    one = _trained(tmp_path / "one", 1)
    two = _trained(tmp_path / "two", 2)
    histories = [_history(tmp_path / name) for name in ("one", "two")]
    assert [row["epoch"] for row in histories[1]] == [0, 1, 2]
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, abs=1e-3)
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-3, atol=RATE, msg=lambda text, name=name: f"{name}: {text}")
    again = tmp_path / "again"
    again.mkdir()
    (again / "stop").touch()
    with pytest.raises(InputError, match=r"^stopped$"):
        _trained(again, 2)
    assert [row["epoch"] for row in _history(again)] == [0, 1]
    (again / "stop").unlink()
    resumed = _trained(again, 2)
    assert _history(again) == histories[1]
    for name, values in two.items():
        torch.testing.assert_close(resumed[name], values, rtol=1e-5, atol=1e-6)
    names = {path.name for path in again.rglob("*") if path.is_file()}
    assert names == {"history.jsonl", "finished", "best.ckpt", "last.ckpt"}


def _fails(kind: str) -> None:
    if rank() == 1:
        if kind == "input":
            raise InputError("the second process cannot go on", got="nothing")
        if kind == "bug":
            raise ZeroDivisionError("by nothing")
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()  # the others wait for it


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("input", InputError, "^the second process cannot go on; got nothing$"),
        ("bug", HemalensError, "one of the 2 processes of the training ended; got ZeroDivisionError: by nothing"),
        (
            "kill",
            HemalensError,
            "2 processes of the training ended; got signal 9, as where memory runs out",
        ),
    ],
)
def test_the_error_of_one_process_ends_all(kind: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        in_processes(2, _fails, kind)


@pytest.mark.parametrize(
    ("devices", "batch_size", "says"),
    [
        (1025, 2050, r"more devices than this machine has; expected devices of 1 to \d+, .* got devices=1025"),
        (
            2,
            15,
            "expected a batch_size that 2 divides; got batch_size=15. Use --set batch_size=16,",
        ),
    ],
)
def test_devices_that_cannot_share(devices: int, batch_size: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.training.processes.n_cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=says):
        check_devices(devices, batch_size)
    check_devices(1, 15)
