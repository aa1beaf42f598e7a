"""Counts of networks against published figures, and running them on a number of images."""

from __future__ import annotations

from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import pytest
import timm
import torch
from safetensors.torch import save_file

from hemalens.errors import ConfigError
from hemalens.models.backbone import BackboneConfig
from hemalens.models.cost import count, count_backbone, random_network, runner, weights_bytes


def _config(name: str, input_px: int | None = None) -> BackboneConfig:
    return BackboneConfig(backbone=name, weights="none", image_size_px=input_px)


@pytest.mark.parametrize(
    ("name", "input_px", "parameters_m", "gflops"),
    [
        ("mobilenetv2_100", 224, 2.224, 0.599),
        ("mobilenetv3_large_100", 224, 4.202, 0.431),
        ("resnet50", 224, 23.508, 8.17),
        ("densenet121", 224, 6.954, 5.67),
        ("mobilevit_xs", 256, 1.933, 1.82),
        ("mobilevit_plain_xs", 256, 1.999, 1.754),
    ],
)
def test_published_networks(name: str, input_px: int, parameters_m: float, gflops: float) -> None:
    """Published figures come from counters that look at layers, so that they leave out what happens inside attention."""
    counted = count_backbone(_config(name, input_px), n_classes=8)
    assert counted.parameters_without_head / 1e6 == pytest.approx(parameters_m, rel=0.01)
    assert counted.layer_flops / 1e9 == pytest.approx(gflops, rel=0.01)
    assert (counted.attention_flops > 0) is name.startswith("mobilevit_")
    assert counted.input_px == input_px


@pytest.mark.parametrize(
    ("name", "input_px", "gflops", "parameters_m"),
    [
        ("resnet50", 224, 8.219, 23.524),
        ("densenet121", 224, 5.729, 6.962),
        ("mobilenetv2_100", 224, 0.626, 2.234),
        ("mobilenetv3_large_100", 224, 0.448, 4.212),
        ("mobilevit_plain_xs", 256, 1.799, 1.998),
    ],
)
def test_the_counts_that_thop_gives(name: str, input_px: int, gflops: float, parameters_m: float) -> None:
    """Of thop 0.0.31 on these networks with eight classes, to three digits; its poolings are below a thousandth."""
    counted = count_backbone(_config(name, input_px), n_classes=8)
    assert round(counted.thop_flops / 1e9, 3) == gflops
    assert round(counted.thop_parameters / 1e6, 3) == parameters_m


def test_norms_are_counted_by_what_they_write() -> None:
    network = timm.create_model("test_resnet", num_classes=8).eval()
    written: list[int] = []
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda module, given, result: written.append(given[0].numel()))
    counted = count(network, 48)
    assert counted.batch_norm_outputs == sum(written) > 0
    assert counted.thop_flops == counted.layer_flops + 2 * 2 * sum(written)
    assert counted.thop_parameters == counted.parameters
    vit = timm.create_model("test_vit", num_classes=8)
    n_norms = sum(isinstance(module, torch.nn.LayerNorm) for module in vit.modules())
    counted = count_backbone(_config("test_vit"), n_classes=8)
    assert counted.parameters - counted.thop_parameters == n_norms * 2 * vit.embed_dim


def test_a_residual_network_layer_by_layer() -> None:
    """Every convolution and linear layer by the shapes that go through it."""
    network = timm.create_model("test_resnet", num_classes=8).eval()
    macs: list[int] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
        per_number = module.weight[0].numel()  # type: ignore[index,union-attr,operator]
        macs.append(result.numel() * per_number)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(note)
    counted = count(network, 48)
    assert counted.macs == sum(macs)
    assert counted.flops == counted.layer_flops == 2 * sum(macs)
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    assert counted.parameters - counted.parameters_without_head == network.num_features * 8 + 8


def test_attention_counts_both_of_its_products() -> None:
    network = timm.create_model("test_vit", num_classes=8)
    n_tokens, depth = (160 // 16) ** 2 + 1, len(network.blocks)
    counted = count_backbone(_config("test_vit"), n_classes=8)
    # queries times keys, and weights times values: tokens^2 * width each
    assert counted.attention_flops == depth * 2 * 2 * n_tokens**2 * network.embed_dim


def test_the_head_is_as_wide_as_asked_for() -> None:
    narrow, wide = (count_backbone(_config("test_resnet", 32), n_classes=n) for n in (2, 12))
    assert narrow.parameters_without_head == wide.parameters_without_head
    width = timm.create_model("test_resnet").num_features
    assert wide.parameters - narrow.parameters == 10 * (width + 1)
    assert wide.flops - narrow.flops == 2 * 10 * width


def test_bad_names_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown backbone 'resnet5000'"):
        count_backbone(_config("resnet5000"), n_classes=8)
    with pytest.raises(ConfigError, match="'test_vit' takes images of one size only"):
        count_backbone(_config("test_vit", 96), n_classes=8)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_are_as_large_as_their_file(name: str, tmp_path: Path) -> None:
    network = random_network(_config(name), n_classes=8)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    assert weights_bytes(network) == (tmp_path / "weights.safetensors").stat().st_size


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_runner_runs_a_copy_on_as_many_images_as_asked(precision: str) -> None:
    network = random_network(_config("test_resnet", 32), n_classes=8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
        seen.append((tuple(given[0].shape), result.dtype))

    network.register_forward_hook(note)
    run = runner(network, 32, precision=precision)  # type: ignore[arg-type]
    run(1)
    run(5)
    run(1)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    assert seen == [((n, 3, 32, 32), kind) for n in (1, 5, 1)]
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.is_contiguous() for parameter in network.parameters())
