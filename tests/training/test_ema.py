"""The moving average of weights, recomputed by hand."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.training.ema import average_into


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_the_average_is_the_weighted_mean_of_all_steps(decay: float) -> None:
    """Weights (1 - d) d^(t - s) of step s, over their sum: nothing of the start."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    history: list[dict[str, np.ndarray]] = []
    for step in range(1, 8):
        for parameter in network.parameters():
            parameter.data.normal_()
        network.train()(torch.randn(5, 3, 4, 4))  # moves the averages of the norm
        history.append({name: tensor.double().numpy().copy() for name, tensor in network.state_dict().items()})
        average_into(average, network, step=step, decay=decay)
        weights = np.array([decay ** (step - s) for s in range(1, step + 1)])
        weights /= weights.sum()
        for name, tensor in average.state_dict().items():
            if "num_batches" in name:
                assert int(tensor) == step
            else:
                expected = sum(w * state[name] for w, state in zip(weights, history, strict=True))
                np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-5, err_msg=name)


def test_after_the_first_step_the_average_is_the_network_and_stays_apart_from_it() -> None:
    network, average = nn.Linear(3, 2), nn.Linear(3, 2)
    average_into(average, network, step=1, decay=0.999)
    assert torch.equal(average.weight, network.weight)
    network.weight.data.add_(1)
    assert not torch.equal(average.weight, network.weight)
    assert average.weight.grad_fn is None
