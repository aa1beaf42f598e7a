"""Segment Anything (Kirillov et al. 2023) on single-cell images: transformers' network at any input size, two masks.

BC-SAM's form: SAM's image encoder at 224 px instead of 1024, no prompts, and a mask decoder with one token for the
background and one for the cell. No package contains SAM's weights: the user names their file.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import hemalens.models._torchvision  # noqa: F401

import torch
from torch import Tensor, nn

from hemalens.config import Seed, StrictConfig
from hemalens.errors import ConfigError, WeightsError, one_line, require_extra
from hemalens.models.checkpoint_files import read_state_dict

CHANNELS = ("background", "cell")
"""The two mask channels, in their order."""


@dataclass(frozen=True)
class SamArchitecture:
    """The sizes of a SAM network; the defaults are the published ViT-B, except for the input size.

    `image_size_px`: the default input size, BC-SAM's 224 instead of 1024.
    """

    name: str = "vit_b"
    image_size_px: int = 224
    patch_px: int = 16
    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    neck_width: int = 256
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    quality_width: int = 256
    mask_channels: int = 16


# for training from scratch: the same grid of 14x14 from a quarter of the pixels
SMALL = SamArchitecture(
    name="small",
    image_size_px=112,
    patch_px=8,
    width=96,
    n_layers=4,
    n_heads=3,
    window=7,
    global_layers=(1, 3),
    neck_width=64,
    decoder_heads=4,
    decoder_mlp=128,
    quality_width=64,
)
ARCHITECTURES: Mapping[str, SamArchitecture] = {"vit_b": SamArchitecture(), "small": SMALL}

PUBLISHED = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
"""Width and number of layers of the published image encoders; for messages."""

REINITIALISED = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
)
"""Parts of SAM's decoder that belong to its 3+1 masks; they are initialised again for two channels."""


# the numbered steps of the official file's plain sequences
_SEQUENCES = {
    r"\.neck": (".neck", {0: "conv1", 1: "layer_norm1", 2: "conv2", 3: "layer_norm2"}),
    r"\.mask_downscaling": (".mask_embed", {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}),
    r"\.output_upscaling": ("", {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}),
    r"(_mlps\.\d+|\.iou_prediction_head)\.layers": (r"\1", {0: "proj_in", 1: "layers.0", 2: "proj_out"}),
}
OFFICIAL_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    *((rf"{old}\.{i}\.", f"{new}.{name}.") for old, (new, names) in _SEQUENCES.items() for i, name in names.items()),
)
"""From the official file's names to transformers', one rule after the other."""

# transformers keeps the frequencies of the position code under two names, and may write either or both
FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"
SHARED_FREQUENCIES = "shared_image_embedding.positional_embedding"


class SamConfig(StrictConfig):
    """Which SAM network, with which weights, at which input size.

    `weights`: the path of the official file (`sam_vit_b_01ec64.pth`) or of transformers' (`facebook/sam-vit-base`: its
    model.safetensors or pytorch_model.bin, or the folder that holds one), or "none" for random weights by `seed`. The
    parts in `REINITIALISED` are random by `seed` in any case. `image_size_px`: None is the architecture's own size.
    """

    architecture: Literal["vit_b", "small"] = "vit_b"
    image_size_px: int | None = None
    weights: str
    seed: Seed = 0


class SamSegmenter(nn.Module):
    """SAM without prompts: pixels (n, 3, s, s) -> mask logits (n, 2, 4g, 4g), g = s / patch.

    Its three parts are transformers', named as in transformers: `vision_encoder`, `prompt_encoder` (of which only the
    "no mask" embedding and the fixed frequencies of the position code are at work), `mask_decoder`. Weights are
    transformers' own initial ones, which do not train: `build_sam` makes a segmenter that does.
    """

    def __init__(self, architecture: SamArchitecture, image_size_px: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size_px = image_size_px
        sam = _sam_model(architecture, image_size_px, n_masks=len(CHANNELS))
        self.vision_encoder = sam.vision_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        # a buffer in SAM: random frequencies, never trained
        self.prompt_encoder.shared_embedding.positional_embedding.requires_grad_(False)

    @property
    def grid(self) -> int:
        """Patches along a side, g."""
        return self.image_size_px // self.architecture.patch_px

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last block's output before the neck, BC-SAM's feature: (n, 3, s, s) -> (n, width, g, g)."""
        encoder = self.vision_encoder
        tokens = encoder.patch_embed(pixels) + encoder.pos_embed  # (n, g, g, width)
        for layer in encoder.layers:
            tokens = layer(tokens)
        return torch.permute(tokens, (0, 3, 1, 2))

    def masks_from(self, feature_map: Tensor) -> Tensor:
        """Logits of background and cell from `feature_map`'s (n, width, g, g): (n, 2, 4g, 4g)."""
        embedding = self.vision_encoder.neck(feature_map.permute(0, 2, 3, 1))  # (n, c, g, g)
        _, no_mask = self.prompt_encoder(None, None, None, None)  # (1, c, g, g)
        # autocast would round the phases, several turns each, to 8 bits
        with torch.autocast(feature_map.device.type, enabled=False):
            positions = position_code(self.prompt_encoder.shared_embedding.positional_embedding, self.grid)
        return decode_masks(self.mask_decoder, embedding + no_mask, positions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, s, s) -> mask logits (n, 2, 4g, 4g)."""
        return self.masks_from(self.feature_map(pixels))


def position_code(frequencies: Tensor, grid: int) -> Tensor:
    """SAM's position code of the image embedding, (1, c, grid, grid), from its random `frequencies` (2, c / 2).

    Sine and cosine of 2 pi F^T (2 p - 1), p = (x, y) the centre of a patch in an image of side 1.
    """
    centres = (torch.arange(grid, device=frequencies.device, dtype=frequencies.dtype) + 0.5) / grid
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    phase = 2 * math.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ frequencies)  # (grid, grid, c / 2)
    return torch.cat([phase.sin(), phase.cos()], dim=-1).permute(2, 0, 1)[None]


def decode_masks(decoder: Any, embedding: Tensor, positions: Tensor) -> Tensor:
    """Logits (n, m, 4g, 4g) of all m mask tokens of a `SamMaskDecoder`, which itself returns one, or all but one.

    `embedding` (n, c, g, g) is the image's plus the prompts' dense one, `positions` (1, c, g, g); no sparse prompts.
    """
    n, c, g, _ = embedding.shape
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (1 + m, c)
    # transformers' second axis is for several prompts an image
    tokens, image = decoder.transformer(
        point_embeddings=tokens.expand(n, 1, -1, -1),
        image_embeddings=embedding,
        image_positional_embeddings=positions.expand(n, -1, -1, -1),
        attention_similarity=None,
    )  # (n, 1, 1 + m, c), (n, 1, g * g, c)
    image = image[:, 0].transpose(1, 2).reshape(n, c, g, g)
    image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
    image = decoder.activation(decoder.upscale_conv2(image))  # (n, c / 8, 4g, 4g)
    weights = [head(tokens[:, 0, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.stack(weights, dim=1) @ torch.flatten(image, 2)  # (n, m, c / 8) @ (n, c / 8, 16 g * g)
    return masks.reshape(n, -1, 4 * g, 4 * g)


def build_sam(config: SamConfig, *, architecture: SamArchitecture | None = None) -> SamSegmenter:
    """A segmenter in evaluation mode with `config.weights`; `architecture` overrides that of `config`.

    Raises `ConfigError` for a size that is no multiple of the patch, `WeightsError` when the weights cannot be read or
    are of another architecture.
    """
    architecture = architecture or ARCHITECTURES[config.architecture]
    size = image_size_of(config, architecture)
    state = None if config.weights == "none" else read_sam_weights(Path(config.weights), architecture, size)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = SamSegmenter(architecture, size)
        _initialise(model)
    if state is not None:
        load_sam_weights(model, state, source=config.weights)
    return model.eval()


def image_size_of(config: SamConfig, architecture: SamArchitecture | None = None) -> int:
    """Side of the input in pixels, a multiple of the patch; raises `ConfigError` for any other."""
    architecture = architecture or ARCHITECTURES[config.architecture]
    size = architecture.image_size_px if config.image_size_px is None else config.image_size_px
    if size < architecture.patch_px or size % architecture.patch_px:
        raise ConfigError(
            f"SAM's {architecture.name} cuts an image into patches of {architecture.patch_px} px",
            expected=f"an image_size_px that is a multiple of {architecture.patch_px}",
            got=str(size),
        )
    return size


def _sam_model(architecture: SamArchitecture, image_size_px: int, *, n_masks: int) -> Any:
    """transformers' SamModel of these sizes with `n_masks` mask tokens."""
    require_extra("transformers", "train", "SAM")
    library = import_module("transformers")
    sizes = {"image_size": image_size_px, "patch_size": architecture.patch_px}
    vision = {
        **sizes,
        "hidden_size": architecture.width,
        "num_hidden_layers": architecture.n_layers,
        "num_attention_heads": architecture.n_heads,
        "window_size": architecture.window,
        "global_attn_indexes": list(architecture.global_layers),
        "output_channels": architecture.neck_width,
        "num_pos_feats": architecture.neck_width // 2,
    }
    decoder = {
        "hidden_size": architecture.neck_width,
        "num_hidden_layers": architecture.decoder_layers,
        "num_attention_heads": architecture.decoder_heads,
        "mlp_dim": architecture.decoder_mlp,
        "iou_head_hidden_dim": architecture.quality_width,
        "num_multimask_outputs": n_masks - 1,
        # SAM's decoder normalises with torch's default; transformers' default is another
        "layer_norm_eps": 1e-5,
    }
    prompts = {**sizes, "hidden_size": architecture.neck_width, "mask_input_channels": architecture.mask_channels}
    parts = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    # eager: the arithmetic of SAM's own code, step by step
    return library.SamModel(library.SamConfig(**parts, attn_implementation="eager"))


def _initialise(model: SamSegmenter) -> None:
    """Random weights to train from: torch's own, since transformers' deviations (1e-10 in the encoder) are for loading."""
    for name, module in model.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif name.endswith("shared_embedding"):
            nn.init.normal_(module.positional_embedding)  # type: ignore[arg-type]
    nn.init.normal_(model.vision_encoder.pos_embed, std=0.02)


def load_sam_weights(model: SamSegmenter, state: Mapping[str, Tensor], *, source: object) -> None:
    """Load the result of `read_sam_weights` into a segmenter, except for the parts in `REINITIALISED`.

    Raises `WeightsError`, naming `source`, when a tensor is missing, unknown, or of another shape.
    """
    own = model.state_dict()
    taken = {name: tensor for name, tensor in state.items() if not name.startswith(REINITIALISED)}
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(REINITIALISED)}
    _check_fit(taken, wanted, source, model.architecture.name)
    model.load_state_dict({**own, **taken}, strict=True)


def read_sam_weights(path: Path, architecture: SamArchitecture, image_size_px: int) -> dict[str, Tensor]:
    """SAM's tensors by transformers' names, their positions interpolated to another input size.

    The absolute positions go bilinearly from the file's grid to this one's (64x64 -> 14x14 at 224 px), the relative ones
    of the global layers linearly (127 -> 27); windows keep their size and theirs. Raises `WeightsError` for a file that
    is missing, damaged, not SAM's, or of another architecture.
    """
    path = _weights_file(path)
    state = _renamed(read_state_dict(path), path)
    _check_architecture(state, path, architecture)
    grid = image_size_px // architecture.patch_px
    positions = state["vision_encoder.pos_embed"].permute(0, 3, 1, 2)  # (1, width, g, g)
    state["vision_encoder.pos_embed"] = _resized(positions, (grid, grid), "bilinear").permute(0, 2, 3, 1)
    for layer, side in itertools.product(architecture.global_layers, "hw"):
        name = f"vision_encoder.layers.{layer}.attn.rel_pos_{side}"
        relative = state.pop(name, torch.empty(0, 0)).t()[None]  # (1, head width, 2g - 1)
        # another length is a window's: leave it out, so that it is reported as missing
        if relative.shape[-1] == 2 * positions.shape[-1] - 1:
            state[name] = _resized(relative, (2 * grid - 1,), "linear")[0].t()
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _resized(tensor: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    same = tensor.shape[2:] == size
    return tensor if same else nn.functional.interpolate(tensor, size=size, mode=mode, align_corners=False)


def _weights_file(path: Path) -> Path:
    """The file itself, or the one in a folder of transformers."""
    candidates = [path / "model.safetensors", path / "pytorch_model.bin"] if path.is_dir() else [path]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if found:
        return found[0]
    raise WeightsError(
        f"there is no weights file {one_line(path)}",
        expected="sam_vit_b_01ec64.pth, or a folder with transformers' model.safetensors or pytorch_model.bin, or none",
    )


def _renamed(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """By transformers' names, in single precision, the frequencies under one name."""
    axes = [getattr(state.get(f"{part}.pos_embed"), "ndim", 0) for part in ("image_encoder", "vision_encoder")]
    if 4 not in axes:
        raise WeightsError(
            f"the weights in {one_line(path)} are not SAM's",
            expected="positions named image_encoder.pos_embed (official) or vision_encoder.pos_embed (transformers)",
            got=f"{len(state)} tensors{', first: ' + next(iter(state)) if state else ''}",
        )
    names = list(state)
    for pattern, replacement in OFFICIAL_NAMES if axes[0] == 4 else ():
        names = [re.sub(pattern, replacement, name) for name in names]
    renamed = {name: tensor.float() for name, tensor in zip(names, state.values(), strict=True)}
    if SHARED_FREQUENCIES in renamed:
        # where the two differ, this is the one that codes the image
        renamed[FREQUENCIES] = renamed.pop(SHARED_FREQUENCIES)
    return renamed


def _check_architecture(state: Mapping[str, Tensor], path: Path, architecture: SamArchitecture) -> None:
    """Raise `WeightsError` where the weights are of another width, depth or patch."""
    layers = {name.split(".")[2] for name in state if name.startswith("vision_encoder.layers.")}
    patches = state.get("vision_encoder.patch_embed.projection.weight", torch.empty(0))
    got = (state["vision_encoder.pos_embed"].shape[-1], len(layers), patches.shape[-1])
    expected = (architecture.width, architecture.n_layers, architecture.patch_px)
    if got != expected:
        described = "{}: width {}, {} layers, patches of {} px"
        raise WeightsError(
            f"the weights in {one_line(path)} are of another architecture",
            expected=described.format(architecture.name, *expected),
            got=described.format(PUBLISHED.get(got[:2], "another SAM"), *got),
            remedy="SAM's ViT-B is sam_vit_b_01ec64.pth, or transformers' facebook/sam-vit-base.",
        )


def _check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: object, network: str) -> None:
    wrong = [name for name, tensor in wanted.items() if name not in state or state[name].shape != tensor.shape]
    unknown = [name for name in state if name not in wanted]
    if wrong or unknown:
        raise WeightsError(
            f"the weights in {one_line(source)} do not fit SAM's {network}",
            expected=f"{len(wanted)} tensors of that network",
            got=f"{len(wrong)} missing or of another shape, {len(unknown)} unknown, first: {(wrong + unknown)[0]}",
        )
