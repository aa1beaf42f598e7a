"""Low-rank adapters (Hu et al. 2022) on the queries and values of SAM's image encoder, as BC-SAM trains it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hemalens.errors import ConfigError, WeightsError
from hemalens.models.sam import SamSegmenter

TRAINED_PARTS = ("prompt_encoder.", "mask_decoder.")
"""Parts that are trained besides the adapters."""


class QueryValueLoRA(nn.Module):
    """A fused linear layer of queries, keys and values with q += B_q A_q x and v += B_v A_v x; no scaling.

    `query_down`, `value_down` are the A (rank, d), uniform as a linear layer's weights; `query_up`, `value_up` the
    B (d, rank), zero: at first nothing changes.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        like = linear.weight
        width = linear.in_features
        self.query_down = nn.Parameter(like.new_empty(rank, width))
        self.query_up = nn.Parameter(like.new_zeros(width, rank))
        self.value_down = nn.Parameter(like.new_empty(rank, width))
        self.value_up = nn.Parameter(like.new_zeros(width, rank))
        for down in (self.query_down, self.value_down):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., d) -> queries, keys and values side by side (..., 3d)."""
        query = nn.functional.linear(nn.functional.linear(tokens, self.query_down), self.query_up)
        value = nn.functional.linear(nn.functional.linear(tokens, self.value_down), self.value_up)
        fused: Tensor = self.linear(tokens)
        return fused + torch.cat([query, torch.zeros_like(query), value], dim=-1)

    def merged(self) -> nn.Linear:
        """The linear layer itself, with W replaced by W + BA."""
        width = self.linear.in_features
        with torch.no_grad():
            self.linear.weight[:width] += self.query_up @ self.query_down
            self.linear.weight[2 * width :] += self.value_up @ self.value_down
        return self.linear


def add_lora(model: SamSegmenter, rank: int = 4, *, seed: int = 0) -> None:
    """Add adapters to every block of the image encoder, and freeze the rest of the encoder, its neck included.

    Prompt encoder and mask decoder stay open to training, except for the fixed frequencies of the position code; without
    prompts only the "no mask" embedding of the prompt encoder has a gradient. Raises `ConfigError` for a rank
    outside 1 .. width and for a model that has adapters.
    """
    if _adapters(model):
        raise ConfigError("this model has adapters already", remedy="Merge them first.")
    if not 1 <= rank <= model.architecture.width:
        raise ConfigError("the rank is out of range", expected=f"1 to {model.architecture.width}", got=str(rank))
    encoder: Any = model.vision_encoder
    encoder.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in encoder.layers:
            layer.attn.qkv = QueryValueLoRA(layer.attn.qkv, rank).train(layer.training)


def merge_lora(model: SamSegmenter) -> None:
    """Replace W by W + BA and remove the adapters; the encoder stays frozen.

    Raises `ConfigError` for a model without adapters.
    """
    _require_adapters(model)
    encoder: Any = model.vision_encoder
    for layer in encoder.layers:
        layer.attn.qkv = layer.attn.qkv.merged()


def trainable_state(model: SamSegmenter) -> dict[str, Tensor]:
    """Copies, on the CPU, of the adapters and all of the prompt encoder and the mask decoder, by their names.

    With the weights and the seed the model was built from, this is the whole model. Raises `ConfigError` for a model
    without adapters.
    """
    _require_adapters(model)
    state = model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in _trained_names(model)}


def load_trainable_state(model: SamSegmenter, state: Mapping[str, Tensor]) -> None:
    """Load the result of `trainable_state` into a model with adapters of the same rank.

    Raises `ConfigError` for a model without adapters, `WeightsError` when a tensor is missing, unknown or of another
    shape; the model is then unchanged.
    """
    _require_adapters(model)
    own = model.state_dict()
    names = _trained_names(model)
    wrong = [name for name in names if name not in state or state[name].shape != own[name].shape]
    unknown = sorted(set(state) - set(names))
    if wrong or unknown:
        raise WeightsError(
            "the trained tensors do not fit this model",
            expected=f"{len(names)} tensors: adapters of the same rank, prompt encoder, mask decoder",
            got=f"{len(wrong)} missing or of another shape, {len(unknown)} unknown, first: {(wrong + unknown)[0]}",
        )
    model.load_state_dict({**own, **state}, strict=True)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) numbers of parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def _adapters(model: nn.Module) -> dict[str, QueryValueLoRA]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QueryValueLoRA)}


def _require_adapters(model: nn.Module) -> None:
    if not _adapters(model):
        raise ConfigError("this model has no adapters", remedy="Add them with add_lora.")


def _trained_names(model: SamSegmenter) -> list[str]:
    """Names of the adapters' own tensors and of everything in `TRAINED_PARTS`."""
    adapters = _adapters(model)
    own = {f"{name}.{key}" for name, adapter in adapters.items() for key, _ in adapter.named_parameters(recurse=False)}
    return [name for name in model.state_dict() if name in own or name.startswith(TRAINED_PARTS)]
