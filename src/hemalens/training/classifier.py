"""The Lightning module of a classifier: normalised pixels in, an embedding, logits, and a loss to minimise."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from hemalens.evaluation import metrics
from hemalens.imaging.reading import Preprocessing
from hemalens.training.module import Learner, OptimiserConfig
from hemalens.training.processes import WholeBatchNorm, gathered, n_ranks, share_of_loss

Embedded = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Embeddings (n, d) and classes (n,) of images."""


class CellClassifier(Learner):
    """Trains a timm network with a head on uint8 batches (n, 3, size, size).

    A method with another head or loss overrides `embed`, `classify` or `loss`; one that predicts with other weights than
    those it trains overrides `served`.
    """

    score = "val_balanced_accuracy"

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, *, optimiser: OptimiserConfig, epochs: int, seed: int
    ) -> None:
        super().__init__(optimiser=optimiser, epochs=epochs, seed=seed)
        self.preprocessing = preprocessing
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.class_weights: Tensor | None = None
        self._validation: list[tuple[Tensor, Tensor]] = []

    def weigh_classes(self, targets: NDArray[np.int64]) -> None:
        """Weight the loss of each class inversely to its number of `targets`; the mean weight of an image is 1."""
        counts = np.bincount(targets)
        self.class_weights = torch.tensor(len(targets) / (len(counts) * counts), dtype=torch.float32)

    @property
    def served(self) -> Any:
        """The network that predicts."""
        return self.network

    def weights(self) -> dict[str, Tensor]:
        """The weights that a bundle keeps, by the names of timm's network."""
        return {name.removeprefix("network."): tensor for name, tensor in self.state_dict().items()}

    def after_training(self) -> None:
        """Called after the last epoch, before calibration and export; does nothing here."""

    @property
    def holds_back(self) -> bool:
        """Whether `hold_back` has any use."""
        return False

    def hold_back(self, learned: Embedded, home: Embedded, elsewhere: Embedded) -> None:
        """Ask for more certainty, by training images, held-out ones and those of imitated laboratories; here for none."""

    def classes_of(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the class of each training target (n,); here the target itself."""
        return targets

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> normalised float, as in the bundle's graph."""
        return ((images.float() - self.mean) / self.std).to(memory_format=torch.channels_last)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> pooled embedding (n, d)."""
        network = self.served
        embedding: Tensor = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> logits (n, k)."""
        logits: Tensor = self.served.get_classifier()(embedding)
        return logits

    @property
    def finer(self) -> tuple[tuple[str, str], ...]:
        """(finer type, its class) of each column of `fine`; empty where the network predicts classes only."""
        return ()

    def fine(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> probability of each finer type given its class, (n, f); here (n, 0)."""
        return embedding.new_zeros(len(embedding), 0)

    def loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Loss of one batch: cross-entropy with label smoothing and, where configured, class weights."""
        logits = self.classify(self.embed(pixels))
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        smoothing = self.optimiser.label_smoothing
        return nn.functional.cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> logits (n, k)."""
        return self.classify(self.embed(self.pixels(images)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of one batch."""
        images, targets = batch
        with WholeBatchNorm() if n_ranks() > 1 else nullcontext():
            loss = self.loss(self.pixels(images), targets)
        share, n_images = share_of_loss(self._weight_of(targets), len(targets))
        loss = loss * share
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=n_images, sync_dist=True)
        return loss

    def _weight_of(self, targets: Tensor) -> float:
        """What images of these targets weigh together in the loss of their batch."""
        if self.class_weights is None:
            return float(len(targets))
        return float(self.class_weights[torch.from_numpy(self.classes_of(targets.cpu().numpy()))].sum())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep the logits for the epoch's scores."""
        images, targets = batch
        self._validation.append((self(images).float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Accuracy, balanced accuracy and NLL of the validation part."""
        logits = gathered(torch.cat([logits for logits, _ in self._validation])).numpy()
        targets = gathered(torch.cat([targets for _, targets in self._validation])).numpy()
        self._validation.clear()
        counts = metrics.confusion(targets, logits.argmax(axis=1), logits.shape[1])
        probabilities = softmax(logits.astype(np.float64), axis=1)
        self.log("val_accuracy", float(np.trace(counts) / counts.sum()))
        self.log("val_balanced_accuracy", metrics.balanced_accuracy(counts), prog_bar=True)
        self.log("val_nll", metrics.negative_log_likelihood(probabilities, targets), prog_bar=True)
