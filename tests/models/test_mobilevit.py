"""`mobilevit_plain_xs`: its parameters counted by hand, its attention by the formula, its graph's numbers."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnxruntime
import pytest
import timm
import torch

from hemalens.errors import WeightsError
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.export import to_onnx
from hemalens.models.mobilevit import HEAD_WIDTH, N_HEADS, PlainAttention, PlainMobileVitBlock

NAME = "mobilevit_plain_xs"


def _config(size_px: int = 256, weights: str = "none") -> BackboneConfig:
    return BackboneConfig(backbone=NAME, weights=weights, image_size_px=size_px)


def _mv2(n_in: int, n_out: int) -> int:
    """1x1 to four times the channels, depthwise 3x3, 1x1 back; each with a batch norm."""
    wide = 4 * n_in
    return n_in * wide + 2 * wide + 9 * wide + 2 * wide + wide * n_out + 2 * n_out


def _block(channels: int, width: int, depth: int, ratio: int) -> int:
    """3x3, 1x1 to the width, transformer layers, 1x1 back, 3x3 of both maps; convolutions with a batch norm."""
    inner = N_HEADS * HEAD_WIDTH
    attention = 3 * inner * width + inner * width + width
    feed_forward = 2 * ratio * width**2 + ratio * width + width
    around = (
        9 * channels**2 + 2 * channels + 2 * (channels * width) + 2 * width + 2 * channels + 18 * channels**2 + 2 * channels
    )
    return around + depth * (4 * width + attention + feed_forward)


def test_its_parameters_are_those_counted_by_hand() -> None:
    stem, last, head = 27 * 16 + 32, 96 * 384 + 2 * 384, 384 * 8 + 8
    mv2 = sum(_mv2(*pair) for pair in [(16, 32), (32, 48), (48, 48), (48, 48), (48, 64), (64, 80), (80, 96)])
    blocks = _block(64, 96, 2, 2) + _block(80, 120, 4, 4) + _block(96, 144, 3, 4)
    network = create_backbone(_config(), n_classes=8)
    assert sum(p.numel() for p in network.parameters()) == stem + mv2 + blocks + last + head == 2_002_024


def test_it_is_within_one_percent_of_the_published_size() -> None:
    n = sum(p.numel() for p in create_backbone(_config(), n_classes=8).parameters())
    assert n == pytest.approx(1.998e6, rel=0.01)
    of_timm = timm.create_model("mobilevit_xs", num_classes=8)
    assert sum(p.numel() for p in of_timm.parameters()) != pytest.approx(1.998e6, rel=0.01)


def test_the_first_block_sees_a_map_of_32_by_32() -> None:
    network: Any = create_backbone(_config(), n_classes=8)
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, PlainMobileVitBlock):
            module.register_forward_hook(lambda module, given, result: seen.append(tuple(given[0].shape[1:])))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 256, 256))
    assert seen == [(64, 32, 32), (80, 16, 16), (96, 8, 8)]


def test_attention_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, tokens = PlainAttention(24).double(), torch.randn(2, 5, 24, dtype=torch.float64)
    projected = (tokens @ layer.qkv.weight.T).detach().numpy()
    queries, keys, values = (
        part.reshape(2, 5, N_HEADS, HEAD_WIDTH).swapaxes(1, 2) for part in np.split(projected, 3, axis=2)
    )
    scores = np.einsum("nhqd,nhkd->nhqk", queries, keys) / np.sqrt(HEAD_WIDTH)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    mixed = np.einsum("nhqk,nhkd->nqhd", weights, values).reshape(2, 5, -1)
    wanted = mixed @ layer.proj.weight.detach().numpy().T + layer.proj.bias.detach().numpy()
    assert layer(tokens).detach().numpy() == pytest.approx(wanted)


@pytest.mark.parametrize("size_px", [64, 96])
def test_its_graph_computes_the_same(size_px: int) -> None:
    """A map of 3x3, at 96 px, is resized to whole patches."""
    config = _config(size_px)
    network = create_backbone(config)
    graph = to_onnx(network, preprocessing_of(config), ["embedding"])
    pixels = torch.rand(3, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    served = session.run(None, {"pixels": pixels.numpy()})[0]
    with torch.inference_mode():
        wanted = network(pixels).numpy()
    assert served.shape == (3, 384)
    assert np.abs(served - wanted).max() < 1e-4
    assert np.ptp(wanted, axis=0).max() > 1e-3


def test_timm_knows_it_and_has_no_weights_for_it() -> None:
    assert NAME in timm.list_models()
    assert preprocessing_of(BackboneConfig(backbone=NAME, weights="none")).size_px == 256
    with pytest.raises(WeightsError, match="cannot download weights"):
        create_backbone(_config(weights="hub"))
