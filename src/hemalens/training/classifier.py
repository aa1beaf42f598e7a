"""The Lightning module of a classifier: normalised pixels in, cross-entropy, AdamW with warm-up and cosine."""

from __future__ import annotations

import math
from typing import Any

import hemalens._torchvision  # noqa: F401

import lightning
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hemalens.config import StrictConfig
from hemalens.evaluation import metrics
from hemalens.images import Preprocessing


class OptimiserConfig(StrictConfig):
    """AdamW; the learning rate rises linearly over `warmup_epochs` and falls to zero along a cosine."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, le=1)


class CellClassifier(lightning.LightningModule):
    """Trains a timm network on uint8 batches (n, 3, size, size)."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, *, optimiser: OptimiserConfig, epochs: int, seed: int
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = optimiser
        self.epochs = epochs
        self.seed = seed
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self._validation: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> logits (n, k)."""
        pixels = (images.float() - self.mean) / self.std
        logits: Tensor = self.network(pixels.to(memory_format=torch.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        """Dropout draws depend on the epoch alone, and what is frozen stays in evaluation mode."""
        torch.manual_seed(self.seed + self.current_epoch)
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Cross-entropy with label smoothing."""
        images, targets = batch
        loss = nn.functional.cross_entropy(self(images), targets, label_smoothing=self.optimiser.label_smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep the logits for the epoch's scores."""
        images, targets = batch
        self._validation.append((self(images).float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Balanced accuracy and NLL of the validation part."""
        logits = torch.cat([logits for logits, _ in self._validation]).numpy()
        targets = torch.cat([targets for _, targets in self._validation]).numpy()
        self._validation.clear()
        counts = metrics.confusion(targets, logits.argmax(axis=1), logits.shape[1])
        probabilities = np.exp(metrics.log_softmax(logits))
        self.log("val_balanced_accuracy", metrics.balanced_accuracy(counts), prog_bar=True)
        self.log("val_nll", metrics.negative_log_likelihood(probabilities, targets), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW over the open parameters, no decay on biases and norms; a factor on the rate at every step."""
        open_parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in open_parameters if p.ndim > 1], "weight_decay": self.optimiser.weight_decay},
            {"params": [p for p in open_parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=self.optimiser.learning_rate)
        n_steps = int(self.trainer.estimated_stepping_batches)
        n_warmup = max(1, round(n_steps * self.optimiser.warmup_epochs / self.epochs))
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: warmup_cosine(step, n_warmup, n_steps))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, n_warmup: int, n_steps: int) -> float:
    """Factor on the learning rate, in [0, 1]: linear up to step `n_warmup`, then half a cosine down to 0 at `n_steps`."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
