"""What a network costs to run: parameters, multiply-adds, weights on disk; counted, not timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of


@dataclass(frozen=True, slots=True)
class Counted:
    """A network's size. `flops` are twice the multiply-adds of convolutions and matrix products at `input_px`; norms and
    activations are not counted."""

    parameters: int
    parameters_without_head: int
    flops: int
    input_px: int

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.flops // 2


def count(network: nn.Module, input_px: int) -> Counted:
    """Count a timm network with a head, for one image of `input_px`, with torch's own counter."""
    timm_network: Any = network
    head = sum(parameter.numel() for parameter in timm_network.get_classifier().parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, input_px, input_px))
    return Counted(total, total - head, int(counter.get_total_flops()), input_px)


def count_backbone(config: BackboneConfig, *, n_classes: int) -> Counted:
    """Count a backbone by name, with a head of `n_classes`; its weights play no part.

    Raises `ConfigError` for an unknown name or an input size that it does not take.
    """
    network = create_backbone(config.model_copy(update={"weights": "none"}), n_classes=n_classes)
    return count(network, preprocessing_of(config).size_px)
