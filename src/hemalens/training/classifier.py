"""The Lightning module of a classifier: normalised pixels in, an embedding, logits, and a loss to minimise."""

from __future__ import annotations

import math
from typing import Any, Literal

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
    """AdamW (without weight decay: Adam), and how the learning rate runs.

    It rises linearly over `warmup_epochs`; then it falls to zero along a cosine, or stays. `gradient_clip` is the largest
    allowed norm of the gradient, None for no limit.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    label_smoothing: float = Field(default=0.1, ge=0, le=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)


class CellClassifier(lightning.LightningModule):
    """Trains a timm network with a head on uint8 batches (n, 3, size, size).

    A method with another head or loss overrides `embed`, `classify` or `loss`.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, *, optimiser: OptimiserConfig, epochs: int, seed: int
    ) -> None:
        super().__init__()
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = optimiser
        self.epochs = epochs
        self.seed = seed
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self._validation: list[tuple[Tensor, Tensor]] = []

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> normalised float, as in the bundle's graph."""
        return ((images.float() - self.mean) / self.std).to(memory_format=torch.channels_last)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> pooled embedding (n, d)."""
        embedding: Tensor = self.network.forward_head(self.network.forward_features(pixels), pre_logits=True)
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits (n, k)."""
        logits: Tensor = self.network.get_classifier()(embedding)
        return logits

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """What training minimises on one batch: cross-entropy with label smoothing."""
        logits = self.classify(self.embed(pixels))
        return nn.functional.cross_entropy(logits, targets, label_smoothing=self.optimiser.label_smoothing)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> logits (n, k)."""
        return self.classify(self.embed(self.pixels(images)))

    def on_train_epoch_start(self) -> None:
        """What learns is in training mode, what is frozen in evaluation mode."""
        self.train()  # the trainer leaves each part in the mode it finds it in, and backbones come in evaluation mode
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Random draws in the network and the loss depend on the epoch alone."""
        if batch_index == 0:
            # not when the epoch begins: loaders draw then, in a resumed run before that hook and otherwise after it
            torch.manual_seed(self.seed + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of one batch."""
        images, targets = batch
        loss = self.loss(self.pixels(images), targets)
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
        open_parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in open_parameters if p.ndim > 1], "weight_decay": self.optimiser.weight_decay},
            {"params": [p for p in open_parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=self.optimiser.learning_rate)
        n_steps = int(self.trainer.estimated_stepping_batches)
        n_warmup = round(n_steps * self.optimiser.warmup_epochs / self.epochs)
        if self.optimiser.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: warmup_cosine(step, max(1, n_warmup), n_steps))
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / max(1, n_warmup)))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, n_warmup: int, n_steps: int) -> float:
    """Factor on the learning rate, in [0, 1]: linear up to step `n_warmup`, then half a cosine down to 0 at `n_steps`."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
