"""The training loop: device, precision, progress, early stopping, and checkpoints to resume from."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hemalens.models._torchvision  # noqa: F401

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import disable_possible_user_warnings
from torch.utils.data import DataLoader

from hemalens.errors import ConfigError, InputError
from hemalens.files import parse_json, write_text
from hemalens.progress import Advance, track
from hemalens.training.checkpoints import SafetensorsCheckpointIO
from hemalens.training.module import Learner
from hemalens.training.processes import in_processes, n_ranks, rank

Precision = Literal["auto", "fp32", "bf16"]
KeptEpoch = Literal["best", "last"]
BEST: dict[str, Any] = {"mode": "max", "enable_version_counter": False}


def has_bf16() -> bool:
    """Whether the training device multiplies bfloat16 in hardware."""
    return _in_hardware("avx512_bf16", "amx_bf16", "bf16")


def gains_from_bf16() -> bool:
    """Whether training is faster in bfloat16 on the training device.

    With AVX-512 alone, without tile multiplication, depthwise convolutions are slower than in 32 bits.
    """
    return _in_hardware("amx_bf16", "bf16")


def uses_bf16(precision: Precision) -> bool:
    """Whether a training multiplies in bfloat16; raises `ConfigError` where it is asked to and the device cannot."""
    if precision == "auto":
        return gains_from_bf16()
    if precision == "bf16" and not has_bf16():
        raise ConfigError(
            "this device does not multiply in bfloat16",
            expected="a processor with AVX-512 BF16 or AMX, or a GPU with bfloat16",
            got="precision=bf16",
            remedy="Use --set precision=fp32, or auto.",
        )
    return precision == "bf16"


def _in_hardware(*flags: str) -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_flag(*flags)


def _cpu_flag(*names: str) -> bool:
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return any(name in words for name in names)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Early stopping, the epoch whose weights are kept, precision, gradient accumulation and devices of a training."""

    patience: int | None = None
    kept_epoch: KeptEpoch = "last"
    precision: Precision = "auto"
    accumulate: int = 1
    devices: int = 1


class _Finite(Callback):
    """Stops a training whose weights are no numbers any more, before a checkpoint keeps them."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in pl_module.parameters()):
            raise InputError(
                f"the training diverged in epoch {trainer.current_epoch + 1}",
                expected="finite weights",
                got="NaN or infinity",
                remedy="Set a smaller optimiser.learning_rate or weight decay, and train with --overwrite.",
            )


class _History(Callback):
    """One JSON line an epoch in `history.jsonl`; a resumed run continues the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        row = {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        # an epoch whose checkpoint was not written is listed already
        kept = [line for line in lines if _epoch(line) < trainer.current_epoch]
        write_text(self.path, "\n".join([*kept, json.dumps({"epoch": trainer.current_epoch, **row})]) + "\n")


def _epoch(line: str) -> float:
    """The epoch of a line of the history; a damaged line belongs to none, and is left out."""
    try:
        return float(parse_json(line)["epoch"])
    except (ValueError, TypeError, KeyError):
        return math.inf


class _Bar(Callback):
    """One bar for the whole training, with the epoch and the last validation score."""

    def __init__(self, advance: Advance, score: str | None) -> None:
        self.advance = advance
        self.score = score

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.advance(trainer.current_epoch * trainer.num_training_batches)  # a resumed run begins where it stopped

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        score = trainer.callback_metrics.get(self.score) if self.score else None
        shown = "" if score is None else f", validation {float(score):.3f}"
        self.advance(1, f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}{shown}")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice on loggers, workers and steps."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ.setdefault("SLURM_JOB_NAME", "bash")  # never take an interactive allocation for a launcher
    with warnings.catch_warnings():
        disable_possible_user_warnings()
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(level)


def train(
    module: Learner,
    training: DataLoader[Any],
    validation: DataLoader[Any] | None,
    *,
    run_dir: Path,
    schedule: Schedule,
) -> None:
    """Train for all epochs, or until the score has not risen for `schedule.patience` epochs; keep the best or last epoch.

    Where nothing is validated the last weights are kept. Checkpoints lie in `run_dir`/checkpoints; an interrupted run
    resumes after its last whole epoch.
    """
    checkpoints = run_dir / "checkpoints"
    finished = checkpoints / "finished"
    # a run that failed after early stopping is not trained further
    if not finished.is_file():
        if schedule.devices > 1:
            in_processes(schedule.devices, _fit_share, module, training, validation, run_dir, schedule)
        else:
            _fit(module, training, validation, run_dir=run_dir, schedule=schedule)
        write_text(finished, "")
    kept = "last" if module.score is None else schedule.kept_epoch
    state = SafetensorsCheckpointIO().load_checkpoint(checkpoints / f"{kept}.ckpt")
    module.load_state_dict(state["state_dict"])
    module.cpu().eval()


def _fit_share(
    module: Learner, training: DataLoader[Any], validation: DataLoader[Any] | None, run_dir: Path, schedule: Schedule
) -> None:
    """`_fit` in one of several processes, on its share of every batch."""
    held = None if validation is None else _share(validation)
    # torch passes tensors to a process in shared memory
    _fit(copy.deepcopy(module), _share(training), held, run_dir=run_dir, schedule=schedule)


def _share(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of this process's share of each batch of `loader`, whose sampler is an `EpochSampler`."""
    sampler: Any = loader.sampler
    n, batch_size = n_ranks(), loader.batch_size or 1
    sampler.take_share(rank(), n, batch_size)
    return DataLoader(loader.dataset, -(-batch_size // n), sampler=sampler, num_workers=loader.num_workers)


def _strategy(schedule: Schedule) -> Any:
    if schedule.devices == 1:
        return "auto"
    return DDPStrategy(cluster_environment=LightningEnvironment())


def _fit(
    module: Learner,
    training: DataLoader[Any],
    validation: DataLoader[Any] | None,
    *,
    run_dir: Path,
    schedule: Schedule,
) -> None:
    checkpoints, score = run_dir / "checkpoints", module.score
    checkpoints.mkdir(parents=True, exist_ok=True)
    best = [] if score is None else [ModelCheckpoint(checkpoints, filename="best", monitor=score, **BEST)]
    last = ModelCheckpoint(checkpoints, filename="last", save_top_k=1, enable_version_counter=False, every_n_epochs=1)
    stopping = [EarlyStopping(score, mode="max", patience=schedule.patience)] if schedule.patience and score else []
    history = _History(run_dir / "history.jsonl")
    with _quiet_lightning(), track("training", module.epochs * len(training)) as advance:
        trainer = lightning.Trainer(
            max_epochs=module.epochs,
            accelerator="auto",
            devices=schedule.devices,
            strategy=_strategy(schedule),
            use_distributed_sampler=False,
            precision="bf16-mixed" if uses_bf16(schedule.precision) else "32-true",
            callbacks=[_Finite(), *best, *stopping, history, _Bar(advance, score), last],
            plugins=[SafetensorsCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            accumulate_grad_batches=schedule.accumulate,
            gradient_clip_val=module.optimiser.gradient_clip,
            default_root_dir=run_dir,
        )
        resume = checkpoints / "last.ckpt"
        if resume.is_file():
            # workers begin to load before the trainer sets the sampler's epoch
            sampler: Any = training.sampler
            sampler.set_epoch(SafetensorsCheckpointIO().load_checkpoint(resume)["epoch"] + 1)
        try:
            trainer.fit(module, training, validation, ckpt_path=resume if resume.is_file() else None)
        except SystemExit as ending:
            # the trainer turns Ctrl-C into an exit of its own; other signals have their own codes
            if trainer.interrupted and ending.code == 1:
                raise KeyboardInterrupt from None
            raise
