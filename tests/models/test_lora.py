"""LoRA on SAM's queries and values: nothing at the start, only q and v later, the same numbers merged and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hemalens.errors import ConfigError, WeightsError
from hemalens.imaging.reading import Preprocessing
from hemalens.models.export import to_onnx
from hemalens.models.lora import (
    QueryValueLoRA,
    add_lora,
    count_parameters,
    load_trainable_state,
    merge_lora,
    trainable_state,
)
from hemalens.models.sam import SamArchitecture, SamConfig, SamSegmenter, build_sam

TINY = SamArchitecture(
    name="tiny",
    image_size_px=64,
    patch_px=8,
    width=32,
    n_layers=2,
    n_heads=2,
    window=3,
    global_layers=(1,),
    neck_width=32,
    decoder_heads=4,
    decoder_mlp=48,
    quality_width=24,
)
PARTS = ("query_down", "query_up", "value_down", "value_up")


def tiny(seed: int = 0) -> SamSegmenter:
    return build_sam(SamConfig(weights="none", seed=seed), architecture=TINY)


def adapted(rank: int = 4, seed: int = 0) -> SamSegmenter:
    """With updates that are not zero."""
    model = tiny()
    add_lora(model, rank, seed=seed)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_up"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_at_the_start_nothing_changes(pixels: Tensor) -> None:
    model = tiny()
    with torch.no_grad():
        before = model(pixels)
        add_lora(model)
        assert torch.equal(model(pixels), before)
    assert not model.training
    assert not model.vision_encoder.layers[0].attn.qkv.training


def test_the_update_is_ba_on_queries_and_values_alone() -> None:
    """Against the definition: (W + BA) x + b for q and v, W x + b for k."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 18)
    lora = QueryValueLoRA(linear, rank=2)
    for part in PARTS:
        nn.init.normal_(getattr(lora, part))
    assert lora.query_down.shape == lora.value_down.shape == (2, 6)
    assert lora.query_up.shape == lora.value_up.shape == (6, 2)
    tokens = torch.randn(3, 5, 6)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    expected = tokens.numpy() @ weight.T + bias
    for start, (up, down) in {0: (lora.query_up, lora.query_down), 12: (lora.value_up, lora.value_down)}.items():
        expected[..., start : start + 6] += tokens.numpy() @ (up.detach().numpy() @ down.detach().numpy()).T
    got = lora(tokens).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    plain = linear(tokens).detach().numpy()
    np.testing.assert_array_equal(got[..., 6:12], plain[..., 6:12])
    assert (np.abs(got - plain)[..., :6].max() > 0.1) & (np.abs(got - plain)[..., 12:].max() > 0.1)


def test_the_adapters_start_as_a_linear_layer_does_and_by_the_seed() -> None:
    a, b, c = tiny(), tiny(), tiny()
    state = torch.get_rng_state()
    for model, seed in ((a, 0), (b, 0), (c, 1)):
        add_lora(model, 4, seed=seed)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    bound = 1 / TINY.width**0.5
    downs = [getattr(layer.attn.qkv, part) for layer in a.vision_encoder.layers for part in ("query_down", "value_down")]
    assert len({tensor.sum().item() for tensor in downs}) == 4, "each has numbers of its own"
    values = torch.cat([tensor.flatten() for tensor in downs])
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    for layer_a, layer_b, layer_c in zip(*(m.vision_encoder.layers for m in (a, b, c)), strict=True):
        assert torch.equal(layer_a.attn.qkv.query_down, layer_b.attn.qkv.query_down)
        assert not torch.equal(layer_a.attn.qkv.query_down, layer_c.attn.qkv.query_down)
        assert not layer_a.attn.qkv.query_up.any()
        assert not layer_a.attn.qkv.value_up.any()


def test_merged_is_unmerged(pixels: Tensor) -> None:
    model = adapted()
    keys = model.vision_encoder.layers[1].attn.qkv.linear.weight[32:64].clone()
    with torch.no_grad():
        plain = tiny()(pixels)
        expected = model(pixels), model.feature_map(pixels)
        merge_lora(model)
        got = model(pixels), model.feature_map(pixels)
    assert (plain - expected[0]).abs().max() > 1e-3
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert torch.equal(model.vision_encoder.layers[1].attn.qkv.weight[32:64], keys)
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert not any(isinstance(part, QueryValueLoRA) for part in model.modules())
    assert not any(parameter.requires_grad for parameter in model.vision_encoder.parameters())


def test_gradients_go_where_they_should(pixels: Tensor) -> None:
    model = adapted().train()
    frozen = {n: t.clone() for n, t in model.state_dict().items() if n.startswith("vision") and not n.endswith(PARTS)}
    nn.functional.cross_entropy(model(pixels), torch.ones(2, 32, 32, dtype=torch.long)).backward()
    for name, parameter in model.named_parameters():
        if name.endswith(PARTS):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        elif name.startswith("vision_encoder."):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        elif name.endswith("positional_embedding"):
            assert not parameter.requires_grad, "fixed frequencies"
        else:
            assert parameter.requires_grad, name
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name in moved if name.startswith("prompt_encoder.")} == {"prompt_encoder.no_mask_embed.weight"}
    still = {name for name, _ in model.named_parameters() if name.startswith("mask_decoder.")} - moved
    assert {name.split(".")[1] for name in still} == {"iou_prediction_head"}, "nothing asks for the masks' quality"
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in frozen.items())


def test_the_trained_state_is_adapters_and_decoders(pixels: Tensor, tmp_path: Path) -> None:
    model = adapted()
    state = trainable_state(model)
    adapters = {f"vision_encoder.layers.{i}.attn.qkv.{part}" for i in range(2) for part in PARTS}
    own = {name for name in tiny().state_dict() if name.startswith(("prompt_encoder.", "mask_decoder."))}
    assert state.keys() == adapters | own
    with torch.no_grad():
        expected = model(pixels)
        for parameter in model.parameters():
            parameter.zero_()
    assert any(tensor.any() for tensor in state.values()), "copies, not views"
    save_file(state, tmp_path / "trained.safetensors")
    other = tiny()
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight.zero_()
    add_lora(other, 4, seed=9)
    load_trainable_state(other, load_file(tmp_path / "trained.safetensors"))
    with torch.no_grad():
        assert torch.equal(other(pixels), expected)


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = trainable_state(adapted())
    first = next(iter(state))
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({n: t for n, t in state.items() if n != first}, f"1 missing or of another shape, 0 unknown, first: {first}"),
        ({**state, "more": torch.zeros(1)}, "0 missing or of another shape, 1 unknown, first: more"),
        (trainable_state(adapted(rank=2)), "8 missing or of another shape, 0 unknown, first: vision_encoder"),
    ]
    for given, message in cases:
        model = adapted()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(WeightsError, match=message):
            load_trainable_state(model, given)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_misuse_is_an_error() -> None:
    model = adapted()
    with pytest.raises(ConfigError, match=r"has adapters already. Merge them first"):
        add_lora(model)
    for rank in (0, 33):
        with pytest.raises(ConfigError, match=f"the rank is out of range; expected 1 to 32; got {rank}"):
            add_lora(tiny(), rank)
    calls: list[Any] = [merge_lora, trainable_state, lambda plain: load_trainable_state(plain, {})]
    for call in calls:
        with pytest.raises(ConfigError, match=r"has no adapters. Add them with add_lora"):
            call(tiny())


def test_the_exported_network_is_the_network(pixels: Tensor) -> None:
    model = adapted()
    with torch.no_grad():
        expected = model(pixels)
    graph = to_onnx(model, Preprocessing(size_px=64), ["mask_logits"])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(["mask_logits"], {"pixels": pixels.numpy()})
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


def test_the_counts_of_vit_b_are_the_formulas() -> None:
    """Prompt encoder and decoder against the package's own modules; the adapters against 12 x 2 x 2 x rank x 768."""
    official = pytest.importorskip("segment_anything.modeling")
    with torch.device("meta"):
        model = build_sam(SamConfig(weights="none"))
        _, total = count_parameters(model)
        add_lora(model, 4)
        decoder = official.MaskDecoder(
            num_multimask_outputs=1,
            transformer=official.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
        )
        prompts = official.PromptEncoder(
            embed_dim=256, image_embedding_size=(14, 14), input_image_size=(224, 224), mask_in_chans=16
        )
    open_parts = sum(parameter.numel() for part in (decoder, prompts) for parameter in part.parameters())
    adapters = 12 * 2 * 2 * 4 * 768
    assert adapters == 147_456
    assert count_parameters(model) == (adapters + open_parts, total + adapters)
