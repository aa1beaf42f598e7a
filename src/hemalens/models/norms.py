"""What becomes of a network's batch norms: as they are, group norms in their place, or frozen."""

from __future__ import annotations

from typing import Literal

from torch import nn

from hemalens.errors import ConfigError

Norm = Literal["batch", "group", "frozen"]
LARGEST_GROUP = 16
"""Channels that are normalised together (Wu and He, Group Normalization, 2018)."""


def set_norm(network: nn.Module, norm: Norm) -> None:
    """Change the batch norms of a network in place.

    "group": each gives way to a group norm over groups of up to 16 channels, with its own weights; averages of training
    images then play no part in an answer, but pretrained weights fit less and need more training. "frozen": averages,
    scales and offsets stay as they came; a `Learner` keeps modules without open parameters in evaluation mode. "batch"
    changes nothing. Raises `ConfigError` for a network without batch norms.
    """
    if norm == "batch":
        return
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise ConfigError(f"this network has no batch norm for norm={norm}", remedy="Set norm=batch.")
    for name, module in found:
        if norm == "frozen":
            module.requires_grad_(False).eval()
        else:
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, _group_norm(module))


def group_size(n_channels: int) -> int:
    """The largest divisor of `n_channels` up to 16."""
    return next(size for size in range(min(LARGEST_GROUP, n_channels), 0, -1) if n_channels % size == 0)


def _group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    """A group norm with the parameters of a batch norm, and the activation that timm keeps inside it."""
    import hemalens.models._torchvision  # noqa: F401

    from timm.layers.norm_act import BatchNormAct2d, GroupNormAct

    n = norm.num_features
    if isinstance(norm, BatchNormAct2d):
        group: nn.GroupNorm = GroupNormAct(n, n // group_size(n), eps=norm.eps)
        group.drop, group.act = norm.drop, norm.act
    else:
        group = nn.GroupNorm(n // group_size(n), n, eps=norm.eps)
    # the very parameters: what was frozen of them stays so
    group.weight, group.bias = norm.weight, norm.bias
    return group.train(norm.training)
