"""Norms: none left where groups take over, its arithmetic, and averages that do not move where they are frozen."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hemalens.errors import ConfigError
from hemalens.models.norms import group_size, set_norm

NETWORKS = ["test_resnet", "test_efficientnet"]


def _network(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=3)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.uniform_(-1, 1)
    return network


def test_a_group_is_the_largest_divisor_up_to_16() -> None:
    for n in range(1, 400):
        expected = max(d for d in range(1, 17) if n % d == 0)
        assert group_size(n) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_group_norms_take_the_place_of_all_batch_norms(name: str) -> None:
    network = _network(name)
    before = {n: (m.weight.clone(), m.bias.clone()) for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    frozen = next(iter(before))
    network.get_submodule(frozen).weight.requires_grad = False
    activations = sum(isinstance(module, (nn.ReLU, nn.SiLU)) for module in network.modules())
    set_norm(network, "group")
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert sum(isinstance(module, (nn.ReLU, nn.SiLU)) for module in network.modules()) == activations
    for place, (weight, bias) in before.items():
        norm = network.get_submodule(place)
        assert norm.num_channels // norm.num_groups <= 16
        assert torch.equal(norm.weight, weight)
        assert torch.equal(norm.bias, bias)
        assert norm.weight.requires_grad is (place != frozen), "what was frozen stays frozen"
    assert not any("running" in key for key in network.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_with_group_norms_an_image_has_its_answer_whatever_lies_beside_it(name: str) -> None:
    network = _network(name)
    set_norm(network, "group")
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(network.train()(images)[:1], network.eval()(images[:1]), rtol=1e-4, atol=1e-5)


def test_a_group_norm_by_its_formula_and_then_the_activation() -> None:
    network = _network("test_efficientnet")
    set_norm(network, "group")
    norm = network.bn1
    n = norm.num_channels
    x = torch.randn(2, n, 5, 5)
    groups = x.double().numpy().reshape(2, n // group_size(n), -1)
    unit = (groups - groups.mean(axis=2, keepdims=True)) / np.sqrt(groups.var(axis=2, keepdims=True) + norm.eps)
    weight, bias = (p.detach().double().numpy()[:, None, None] for p in (norm.weight, norm.bias))
    expected = norm.act(torch.from_numpy(unit.reshape(x.shape) * weight + bias))
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_batch_changes_nothing_and_frozen_closes_the_norms_alone() -> None:
    network = _network("test_resnet")
    set_norm(network, "batch")
    assert all(parameter.requires_grad for parameter in network.parameters())
    set_norm(network, "frozen")
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            assert parameter.requires_grad is not isinstance(module, nn.BatchNorm2d)


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_a_network_without_batch_norm_is_an_error(norm: Any) -> None:
    with pytest.raises(ConfigError, match=f"no batch norm for norm={norm}. Set norm=batch"):
        set_norm(timm.create_model("test_vit", num_classes=3), norm)


def test_batch_norms_outside_timm_give_way_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU())
    set_norm(network, "group")
    assert type(network[1]) is nn.GroupNorm
    assert network[1].num_groups == 2
