"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, *, step: int, decay: float) -> None:
    """Move `average` towards `network` after its `step`-th step: a += (w - a) (1 - decay) / (1 - decay^step).

    Steps count from 1. The denominator corrects the bias of the start (Kingma and Ba, Adam, 2015, section 3): after the
    first step the average is the network, early on the mean of all steps; weights before training do not count. Running
    statistics of batch norms are averaged too, integers copied.
    """
    share = (1 - decay) / (1 - decay**step)
    own = average.state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            own[name].lerp_(tensor, share)
        else:
            own[name].copy_(tensor)
