"""The Lightning module that every training shares: optimiser, learning-rate schedule, reproducible draws."""

from __future__ import annotations

import math
from typing import Any, Literal

import hemalens.models._torchvision  # noqa: F401

import lightning
import torch
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.errors import ConfigError

MOST = 1_000_000
"""Largest number of epochs, steps or images of a batch: what a machine still counts, and more than any training needs."""

APART = 1_000_003
"""Distance of the seeds of two processes, more than any number of epochs."""


class OptimiserConfig(StrictConfig):
    """AdamW (without weight decay: Adam) and the learning-rate schedule.

    `decay_all`: biases and norms decay too, as torch's AdamW does by default. The rate rises linearly over
    `warmup_epochs`, or over `warmup_steps` batches where given; then it falls along a cosine, or stays constant.
    `schedule_epochs`: the epoch at which the schedule ends; None is the last. `cosine_length`: "rest", the cosine reaches
    zero there; "whole", it is as long as the schedule with its warm-up, and ends above zero. `gradient_clip`: largest norm
    of the gradient, None for no limit.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    decay_all: bool = False
    warmup_epochs: float = Field(default=1.0, ge=0)
    warmup_steps: int | None = Field(default=None, ge=0, le=MOST)
    schedule: Literal["cosine", "constant"] = "cosine"
    schedule_epochs: int | None = Field(default=None, ge=1, le=MOST)
    cosine_length: Literal["rest", "whole"] = "rest"
    label_smoothing: float = Field(default=0.1, ge=0, le=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)


ADAM = OptimiserConfig(
    learning_rate=1e-3, weight_decay=0.0, warmup_epochs=0.0, schedule="constant", label_smoothing=0.0, gradient_clip=None
)
"""Adam at one rate, with nothing else."""


class Learner(lightning.LightningModule):
    """A module that trains for `epochs` epochs under an `OptimiserConfig`, reproducibly for a seed.

    `score` names the validation score for early stopping, higher is better; None where nothing is validated.
    """

    score: str | None = None

    def __init__(self, *, optimiser: OptimiserConfig, epochs: int, seed: int) -> None:
        super().__init__()
        self.optimiser = optimiser
        self.epochs = epochs
        self.seed = seed

    def on_train_epoch_start(self) -> None:
        """Set training mode, and evaluation mode for frozen parts."""
        self.train()  # the trainer leaves modes unchanged, and backbones come in evaluation mode
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Seed the draws in the network and the loss by the epoch and the process."""
        if batch_index == 0:
            # loaders draw when the epoch begins, in a resumed run before that hook and otherwise after it
            torch.manual_seed(self.seed + self.current_epoch + APART * self.global_rank)

    def configure_optimizers(self) -> Any:
        """AdamW over the open parameters; a factor on the rate at every step."""
        open_parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in open_parameters if p.ndim > 1], "weight_decay": self.optimiser.weight_decay},
            {
                "params": [p for p in open_parameters if p.ndim <= 1],
                "weight_decay": self.optimiser.weight_decay if self.optimiser.decay_all else 0.0,
            },
        ]
        adamw = torch.optim.AdamW(groups, lr=self.optimiser.learning_rate)
        n_steps = int(self.trainer.estimated_stepping_batches)
        n_warmup = self._warmup_steps(n_steps)
        # the schedule may end after the last epoch
        n_schedule = round(n_steps * (self.optimiser.schedule_epochs or self.epochs) / self.epochs)
        first = max(1, n_warmup)
        length = n_schedule - first if self.optimiser.cosine_length == "rest" else n_schedule
        if self.optimiser.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: warmup_cosine(step, first, length))
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / first))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _warmup_steps(self, n_steps: int) -> int:
        if self.optimiser.warmup_steps is None:
            return round(n_steps * self.optimiser.warmup_epochs / self.epochs)
        if self.optimiser.warmup_steps >= n_steps:
            raise ConfigError(
                "the warm-up is longer than the training",
                expected=f"fewer than {n_steps} steps ({self.epochs} epochs)",
                got=f"optimiser.warmup_steps={self.optimiser.warmup_steps}",
                remedy="Set a shorter warm-up, more epochs or a smaller batch_size.",
            )
        return self.optimiser.warmup_steps


def warmup_cosine(step: int, n_warmup: int, n_cosine: int) -> float:
    """Factor on the learning rate, in [0, 1]: linear up to step `n_warmup`, then half a cosine of `n_cosine` steps."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_cosine)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
