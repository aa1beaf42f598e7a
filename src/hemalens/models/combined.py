"""A frozen encoder and a timm network with concatenated embeddings (Mo 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CombinedNetwork(nn.Module):
    """Normalised pixels (n, 3, size, size) -> embeddings of `frozen` and `network`, (n, a + b), and a head on them.

    `frozen` stays fixed, its batch-norm statistics included; the open parameters of `network` learn.
    """

    def __init__(self, frozen: nn.Module, frozen_size: int, network: nn.Module, *, n_classes: int, seed: int) -> None:
        super().__init__()
        self.frozen = frozen
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False
        self.network: Any = network
        size = frozen_size + int(network.num_features)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(size, n_classes)

    def train(self, mode: bool = True) -> CombinedNetwork:
        """Training mode for all but the frozen encoder."""
        super().train(mode)
        self.frozen.eval()
        return self

    def embed(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size) -> (n, a + b), the frozen encoder's embedding first."""
        with torch.no_grad():
            given = self.frozen(pixels)
        return torch.cat([given, self.network(pixels)], dim=1)
