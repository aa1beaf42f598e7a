"""An exponential moving average of a network's weights, kept beside the network that learns."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, *, step: int, decay: float) -> None:
    """Move `average` towards `network` after its `step`-th step: a += (w - a) (1 - decay) / (1 - decay^step).

    Steps count from 1. That is the average with its start taken out (Kingma and Ba, Adam, 2015, section 3): after the
    first step it is the network, early on the plain mean of all steps, and the weights before training never count. The
    averages of batch norms are averaged too, whole numbers copied.
    """
    share = (1 - decay) / (1 - decay**step)
    own = average.state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            own[name].lerp_(tensor, share)
        else:
            own[name].copy_(tensor)
