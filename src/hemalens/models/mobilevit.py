"""`mobilevit_plain_xs`: MobileViT-XS with the plain transformer of vit-pytorch, registered as a network of timm.

It has the channels, depths and expansion of timm's `mobilevit_xs` (Mehta and Rastegari 2022) and differs inside the
MobileViT blocks: four heads of 8 features each, no bias on queries, keys and values, feed-forward layers of 2, 4 and 4
times the width, batch norm after the 1x1 convolution, and no norm after the last layer. These facts are those of
`vit_pytorch/mobile_vit.py` (github.com/lucidrains/vit-pytorch).
"""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from timm.layers.conv_bn_act import ConvNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, register_block
from timm.models.mobilevit import MobileVitBlock
from torch import Tensor, nn

N_HEADS = 4
HEAD_WIDTH = 8
BLOCK = "plain_mobilevit"
"""timm's name of the block in a network's configuration."""


class PlainAttention(nn.Module):
    """Self-attention with heads of `HEAD_WIDTH` features, whatever the width: (n, tokens, width) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = N_HEADS * HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Softmax of queries times keys, over the root of the head's width, times values."""
        n, n_tokens, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(n, n_tokens, 3, N_HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)  # (n, heads, tokens, head width)
        attention = (queries @ keys.transpose(-2, -1) / HEAD_WIDTH**0.5).softmax(dim=-1)
        mixed: Tensor = self.proj((attention @ values).transpose(1, 2).reshape(n, n_tokens, -1))
        return mixed


class PlainTransformerLayer(nn.Module):
    """Attention and a feed-forward layer, each after a layer norm and added to its input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = PlainAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, tokens, width) -> the same shape."""
        attended: Tensor = tokens + self.attn(self.norm1(tokens))
        mixed: Tensor = attended + self.mlp(self.norm2(attended))
        return mixed


class PlainMobileVitBlock(MobileVitBlock):  # type: ignore[misc]
    """timm's MobileViT block, which unfolds, folds and fuses, with the plain transformer inside."""

    def __init__(
        self, in_chs: int, *, transformer_dim: int, transformer_depth: int, mlp_ratio: float, **others: Any
    ) -> None:
        super().__init__(in_chs, transformer_dim=transformer_dim, transformer_depth=0, **others)
        self.add_module("conv_1x1", ConvNormAct(in_chs, transformer_dim, kernel_size=1, act_layer=nn.SiLU))
        hidden = int(transformer_dim * mlp_ratio)
        layers = [PlainTransformerLayer(transformer_dim, hidden) for _ in range(transformer_depth)]
        self.transformer = nn.Sequential(*layers)
        self.norm = nn.Identity()


register_block(BLOCK, PlainMobileVitBlock)  # type: ignore[arg-type]  # timm declares an instance, and takes a class


def _mv2(n_blocks: int, channels: int, stride: int) -> ByoBlockCfg:
    """MobileNetV2 blocks: expansion 4 of the input's channels, depthwise 3x3, linear output."""
    inverted = {"bottle_in": True, "linear_out": True}
    return ByoBlockCfg(type="bottle", d=n_blocks, c=channels, s=stride, gs=1, br=4.0, block_kwargs=inverted)


def _with_transformer(channels: int, width: int, depth: int, mlp_ratio: float) -> tuple[ByoBlockCfg, ByoBlockCfg]:
    """A MobileNetV2 block that halves the map, and a MobileViT block with patches of 2x2."""
    settings = {"transformer_dim": width, "transformer_depth": depth, "mlp_ratio": mlp_ratio, "patch_size": 2}
    return _mv2(1, channels, 2), ByoBlockCfg(type=BLOCK, d=1, c=channels, s=1, block_kwargs=settings)


PLAIN_XS = ByoModelCfg(
    blocks=(
        _mv2(1, 32, 1),
        _mv2(3, 48, 2),
        _with_transformer(64, width=96, depth=2, mlp_ratio=2.0),
        _with_transformer(80, width=120, depth=4, mlp_ratio=4.0),
        _with_transformer(96, width=144, depth=3, mlp_ratio=4.0),
    ),
    stem_chs=16,
    stem_type="3x3",
    stem_pool="",
    downsample="",
    act_layer="silu",
    num_features=384,
)
default_cfgs = generate_default_cfgs(
    {
        "mobilevit_plain_xs": {
            "num_classes": 1000,
            "input_size": (3, 256, 256),
            "pool_size": (8, 8),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            "fixed_input_size": False,
        }
    }
)
"""timm's table of preprocessing by network; `register_model` reads it by this name. Scaling is as for `mobilevit_xs`."""


@register_model
def mobilevit_plain_xs(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
    """Create the network as timm creates its own; there are no pretrained weights."""
    network: torch.nn.Module = build_model_with_cfg(
        ByobNet,
        "mobilevit_plain_xs",
        pretrained,
        model_cfg=PLAIN_XS,
        feature_cfg={"flatten_sequential": True},
        **kwargs,
    )
    return network
