"""Freeze parts of a timm network, and initialise a new head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hemalens.errors import ConfigError


def start_head_near_zero(network: nn.Module, seed: int) -> None:
    """Initialise the head with small weights; timm's initial logits of a narrow head are several units."""
    timm_network: Any = network
    head = timm_network.get_classifier()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(std=0.01, generator=generator)
        if head.bias is not None:
            head.bias.zero_()


def open_last_stages(network: nn.Module, n_stages: int | None) -> None:
    """Train only the last `n_stages` of timm's coarse layer groups, and the head; None opens all.

    A stage of a ResNet-18 is two residual blocks. Raises `ConfigError` when the network has fewer stages.
    """
    if n_stages is None:
        return
    group_of, head = _groups(network, coarse=True)
    # timm counts a head of its own as a group
    stages = sorted({group_of[name] for name, p in network.named_parameters() if id(p) not in head and name in group_of})
    if n_stages > len(stages):
        raise ConfigError("open_stages is out of range", expected=f"at most {len(stages)}", got=str(n_stages))
    learning = set(stages[len(stages) - n_stages :])
    for name, parameter in network.named_parameters():
        parameter.requires_grad = id(parameter) in head or group_of.get(name) in learning


def freeze_first_blocks(network: nn.Module, n_blocks: int) -> None:
    """Freeze the first `n_blocks` of timm's fine layer groups, and the stem; 0 freezes nothing.

    A block of a ResNet-18 is one residual block, its stem the first convolution with its norm. Raises `ConfigError` when
    nothing but the head would learn.
    """
    if n_blocks == 0:
        return
    group_of, head = _groups(network, coarse=False)
    groups = sorted({group_of[name] for name, p in network.named_parameters() if id(p) not in head and name in group_of})
    if n_blocks > len(groups) - 2:
        raise ConfigError("frozen_blocks is out of range", expected=f"at most {len(groups) - 2}", got=str(n_blocks))
    kept = set(groups[: n_blocks + 1])  # the stem is the first group
    for name, parameter in network.named_parameters():
        if id(parameter) not in head and group_of.get(name) in kept:
            parameter.requires_grad = False


def freeze(network: nn.Module) -> nn.Module:
    """Freeze all of a network; training then keeps it in evaluation mode, batch-norm statistics included."""
    for parameter in network.parameters():
        parameter.requires_grad = False
    return network.eval()


def _groups(network: nn.Module, *, coarse: bool) -> tuple[dict[str, int], set[int]]:
    """Layer group of each parameter by name, and the ids of the head's parameters."""
    from timm.models import group_parameters

    timm_network: Any = network
    group_of = group_parameters(network, timm_network.group_matcher(coarse=coarse), reverse=True)
    head = {id(parameter) for parameter in timm_network.get_classifier().parameters()}
    return group_of, head
