"""SAM: the numbers of the package segment-anything from the same weights, at their size and at another; files that lie."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
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
from hemalens.models import sam as module
from hemalens.models.export import to_onnx
from hemalens.models.sam import (
    ARCHITECTURES,
    REINITIALISED,
    SamArchitecture,
    SamConfig,
    SamSegmenter,
    build_original,
    build_sam,
    decode_masks,
    image_size_of,
    position_code,
    read_sam_weights,
)

official = pytest.importorskip("segment_anything.modeling")

TINY = SamArchitecture(
    name="tiny",
    image_size_px=64,
    patch_px=8,
    width=32,
    n_layers=4,
    n_heads=2,
    window=3,  # divides no grid here: windows are padded
    global_layers=(1, 3),
    neck_width=32,
    decoder_heads=4,
    decoder_mlp=48,
    quality_width=24,
)
WEIGHTS_PX = 128
CLOSE = {"atol": 1e-4, "rtol": 0.0}


class Official(nn.Module):
    """SAM of segment-anything's own parts, with the names of the official file."""

    def __init__(self, sizes: SamArchitecture, image_size_px: int, *, n_masks: int = 4) -> None:
        super().__init__()
        grid = image_size_px // sizes.patch_px
        self.image_encoder = official.ImageEncoderViT(
            img_size=image_size_px,
            patch_size=sizes.patch_px,
            embed_dim=sizes.width,
            depth=sizes.n_layers,
            num_heads=sizes.n_heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=sizes.global_layers,
            window_size=sizes.window,
            out_chans=sizes.neck_width,
        )
        self.prompt_encoder = official.PromptEncoder(
            embed_dim=sizes.neck_width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size_px, image_size_px),
            mask_in_chans=sizes.mask_channels,
        )
        self.mask_decoder = official.MaskDecoder(
            num_multimask_outputs=n_masks - 1,
            transformer=official.TwoWayTransformer(
                depth=sizes.decoder_layers,
                embedding_dim=sizes.neck_width,
                mlp_dim=sizes.decoder_mlp,
                num_heads=sizes.decoder_heads,
            ),
            transformer_dim=sizes.neck_width,
            iou_head_hidden_dim=sizes.quality_width,
        )
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                # what starts at 0 or 1 must differ too, lest an exchange go unseen
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        self.eval()

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of each image: the last block's output, the embedding, all masks and their qualities; no prompts."""
        blocks: list[Tensor] = []
        handle = self.image_encoder.blocks[-1].register_forward_hook(lambda *args: blocks.append(args[-1]))
        embedding = self.image_encoder(pixels)
        handle.remove()
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        # an image at a time, as the package does
        decoded = [
            self.mask_decoder.predict_masks(
                image_embeddings=one[None],
                image_pe=self.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            for one in embedding
        ]
        masks, qualities = (torch.cat(parts) for parts in zip(*decoded, strict=True))
        return {
            "features": blocks[0].permute(0, 3, 1, 2),
            "embedding": embedding,
            "masks": masks,
            "qualities": qualities,
        }


def interpolation(n_from: int, n_to: int) -> Tensor:
    """The matrix (n_to, n_from) of linear interpolation between cell centres, the ends held."""
    at = np.clip((np.arange(n_to) + 0.5) * n_from / n_to - 0.5, 0, n_from - 1)
    matrix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n_from)[None]))
    return torch.from_numpy(matrix).float()


def at_another_size(source: Official, sizes: SamArchitecture, image_size_px: int) -> Official:
    """The same weights at another input size: positions interpolated here, relative ones left to the package."""
    target = Official(sizes, image_size_px)
    state = source.state_dict()
    positions = state["image_encoder.pos_embed"]
    matrix = interpolation(positions.shape[1], image_size_px // sizes.patch_px)
    state["image_encoder.pos_embed"] = torch.einsum("ay,bx,nyxc->nabc", matrix, matrix, positions)
    for layer in sizes.global_layers:
        attention = target.image_encoder.blocks[layer].attn
        attention.rel_pos_h = nn.Parameter(torch.empty_like(state[f"image_encoder.blocks.{layer}.attn.rel_pos_h"]))
        attention.rel_pos_w = nn.Parameter(torch.empty_like(state[f"image_encoder.blocks.{layer}.attn.rel_pos_w"]))
    target.load_state_dict(state, strict=True)
    return target


def pixels_of(size: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def tiny_config(weights: object = "none", **more: Any) -> SamConfig:
    return SamConfig.from_mapping({"weights": str(weights), **more})


@pytest.fixture(scope="module")
def source() -> Official:
    return Official(TINY, WEIGHTS_PX)


@pytest.fixture(scope="module")
def file(source: Official, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "tiny.pth"
    torch.save(source.state_dict(), path)
    return path


def compare(sizes: SamArchitecture, file: Path, expected: Official, image_size_px: int, n: int = 2) -> None:
    """Both of our forms on the file against the package on its own weights."""
    pixels = pixels_of(image_size_px, n)
    config = tiny_config(file, image_size_px=image_size_px)
    wanted = expected.outputs(pixels)
    ours = build_sam(config, architecture=sizes)
    original = build_original(config, architecture=sizes)
    with torch.no_grad():
        features = ours.feature_map(pixels)
        got = {
            "features": features,
            "embedding": ours.vision_encoder.neck(features.permute(0, 2, 3, 1)),
        }
        three = original(pixel_values=pixels, multimask_output=True)
        one = original(pixel_values=pixels, multimask_output=False)
    # (n, prompts, masks, h, w)
    got["masks"] = torch.cat([one.pred_masks[:, 0], three.pred_masks[:, 0]], dim=1)
    got["qualities"] = torch.cat([one.iou_scores[:, 0], three.iou_scores[:, 0]], dim=1)
    for name, tensor in got.items():
        assert wanted[name].std() > 1e-3, "a comparison of nothing"
        torch.testing.assert_close(tensor, wanted[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


# --------------------------------------------------------------------------------------------- the same numbers


def test_at_the_size_of_the_weights_the_numbers_are_segment_anythings(source: Official, file: Path) -> None:
    compare(TINY, file, source, WEIGHTS_PX)


@pytest.mark.parametrize("image_size_px", [64, 72, 192])
def test_at_another_size_the_numbers_are_segment_anythings(source: Official, file: Path, image_size_px: int) -> None:
    compare(TINY, file, at_another_size(source, TINY, image_size_px), image_size_px)


def test_both_mask_tokens_come_out(file: Path) -> None:
    """Against the package's decoder of two tokens, on the segmenter's own weights."""
    expected = Official(TINY, 64, n_masks=2)
    torch.save(expected.state_dict(), file.parent / "two.pth")
    model = build_sam(tiny_config(), architecture=TINY)
    model.load_state_dict(read_sam_weights(file.parent / "two.pth", TINY, 64), strict=True)
    pixels = pixels_of(64)
    with torch.no_grad():
        masks = model(pixels)
        assert torch.equal(masks, model.masks_from(model.feature_map(pixels)))
    assert masks.shape == (2, 2, 32, 32)
    torch.testing.assert_close(masks, expected.outputs(pixels)["masks"], **CLOSE)


def test_the_decoder_of_four_tokens_keeps_none_back(source: Official, file: Path) -> None:
    original = build_original(tiny_config(file, image_size_px=WEIGHTS_PX), architecture=TINY)
    pixels = pixels_of(WEIGHTS_PX)
    frequencies = original.shared_image_embedding.positional_embedding
    with torch.no_grad():
        embedding = original.vision_encoder(pixels).last_hidden_state + original.prompt_encoder(None, None, None, None)[1]
        masks = decode_masks(original.mask_decoder, embedding, position_code(frequencies, 16))
    torch.testing.assert_close(masks, source.outputs(pixels)["masks"], **CLOSE)


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> tuple[Official, Path]:
    source = Official(ARCHITECTURES["vit_b"], 1024)
    with torch.no_grad():
        for parameter in source.image_encoder.parameters():
            # the noise that 768 inputs add up to would drown the tolerance
            parameter.mul_(0.3)
    path = tmp_path_factory.mktemp("vit_b") / "sam_vit_b.pth"
    torch.save(source.state_dict(), path)
    return source, path


@pytest.mark.slow
@pytest.mark.parametrize("image_size_px", [1024, 224])
def test_vit_b_is_segment_anythings(vit_b: tuple[Official, Path], image_size_px: int) -> None:
    source, path = vit_b
    expected = source if image_size_px == 1024 else at_another_size(source, ARCHITECTURES["vit_b"], image_size_px)
    compare(ARCHITECTURES["vit_b"], path, expected, image_size_px, n=1)


def test_vit_b_is_the_published_one() -> None:
    """Its sizes are those that the package builds ViT-B with."""
    from segment_anything import build_sam_vit_b

    with torch.device("meta"):
        published = build_sam_vit_b().state_dict()
        ours = Official(ARCHITECTURES["vit_b"], 1024).state_dict()
        network = build_sam(SamConfig(weights="none"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in published.items()}
    assert network.image_size_px == 224
    assert network.grid == 14
    attention = [layer.attn.rel_pos_h.shape[0] for layer in network.vision_encoder.layers]
    assert attention == [27] * 12, "a window and the grid are of one size here"
    assert [layer.window_size for layer in network.vision_encoder.layers] == [14, 14, 0] * 4


# ---------------------------------------------------------------------------------------------------------- weights


def test_both_layouts_give_the_same_model(file: Path, tmp_path: Path) -> None:
    expected = build_sam(tiny_config(file), architecture=TINY).state_dict()
    original = build_original(tiny_config(file, image_size_px=WEIGHTS_PX), architecture=TINY)
    original.save_pretrained(tmp_path / "saved")
    both = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    other_name = {name: tensor for name, tensor in both.items() if name != module.SHARED_FREQUENCIES}
    (tmp_path / "bin").mkdir()
    torch.save(both, tmp_path / "bin" / "pytorch_model.bin")
    save_file(other_name, tmp_path / "one.safetensors")
    places = [tmp_path / "saved", tmp_path / "saved" / "model.safetensors", tmp_path / "bin", tmp_path / "one.safetensors"]
    for place in places:
        got = build_sam(tiny_config(place), architecture=TINY).state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], tensor) for name, tensor in expected.items()), place


def test_weights_in_half_precision_are_taken_in_single(source: Official, file: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in source.state_dict().items()}
    torch.save(half, file.parent / "half.pth")
    torch.save({name: tensor.float() for name, tensor in half.items()}, file.parent / "single.pth")
    got, expected = (read_sam_weights(file.parent / f"{name}.pth", TINY, 64) for name in ("half", "single"))
    assert {tensor.dtype for tensor in got.values()} == {torch.float32}
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items()), "not interpolated in half precision"


def test_only_what_belongs_to_the_masks_starts_anew(source: Official, file: Path) -> None:
    a, b, c = (build_sam(tiny_config(file, seed=seed), architecture=TINY).state_dict() for seed in (0, 0, 1))
    stored = read_sam_weights(file, TINY, 64)
    assert stored.keys() - a.keys() == {
        name for name in stored if re.match(r"mask_decoder\.output_hypernetworks_mlps\.[23]\.", name)
    }
    anew = {name for name in a if name.startswith(REINITIALISED)}
    assert len(anew) == 1 + 2 * 6 + 6
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name])
        assert torch.equal(tensor, stored[name]) == (name not in anew), name
        assert torch.equal(tensor, c[name]) == (name not in anew), name
    assert a["mask_decoder.mask_tokens.weight"].shape == (2, 32)


def test_random_weights_depend_on_the_seed_alone_and_let_the_image_through() -> None:
    small = SamConfig(architecture="small", weights="none")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a = build_sam(small)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left as it was"
    b, c = build_sam(small).state_dict(), build_sam(SamConfig(architecture="small", weights="none", seed=1)).state_dict()
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.state_dict().items())
    assert not torch.equal(a.vision_encoder.neck.conv1.weight, c["vision_encoder.neck.conv1.weight"])
    assert not a.training
    frequencies = a.prompt_encoder.shared_embedding.positional_embedding
    assert not frequencies.requires_grad
    assert frequencies.std().item() == pytest.approx(1.0, abs=0.4), "SAM's own; transformers draws them 48 times as wide"
    with torch.no_grad():
        features = a.feature_map(pixels_of(112))
        masks = a.masks_from(features)
    assert features.shape == (2, 96, 14, 14)
    assert masks.shape == (2, 2, 56, 56)
    assert features.std() > 0.1
    assert (masks[0] - masks[1]).abs().max() > 1e-2


def test_a_small_network_trains_from_scratch() -> None:
    """A bright square on dark ground: the cell channel finds it."""
    torch.manual_seed(0)
    model = build_sam(tiny_config(), architecture=TINY).train()
    pixels, target = torch.full((4, 3, 64, 64), -1.0), torch.zeros(4, 32, 32, dtype=torch.long)
    for i, (y, x) in enumerate(((4, 4), (4, 16), (16, 4), (16, 16))):
        pixels[i, :, 2 * y : 2 * y + 24, 2 * x : 2 * x + 24] = 1.0
        target[i, y : y + 12, x : x + 12] = 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(pixels), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (model(pixels).argmax(dim=1) == target).float().mean() > 0.95


# ----------------------------------------------------------------------------------------------------------- export


class WithFeatures(nn.Module):
    def __init__(self, model: SamSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        feature_map = self.model.feature_map(pixels)
        return feature_map, self.model.masks_from(feature_map)


def test_the_exported_network_is_the_network() -> None:
    # a window and the whole grid, each once: the exporter takes its time
    model = build_sam(tiny_config(), architecture=replace(TINY, n_layers=2))
    size = TINY.image_size_px
    graph = to_onnx(WithFeatures(model), Preprocessing(size_px=size), ["feature_map", "mask_logits"])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 3):
        pixels = pixels_of(size, n)
        with torch.no_grad():
            expected = WithFeatures(model)(pixels)
        got = session.run(["feature_map", "mask_logits"], {"pixels": pixels.numpy()})
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_the_position_code_is_not_rounded_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_sam(tiny_config(), architecture=TINY)
    seen = []
    decode = module.decode_masks

    def spy(decoder: Any, embedding: Tensor, positions: Tensor) -> Tensor:
        seen.append(positions)
        return decode(decoder, embedding, positions)

    monkeypatch.setattr(module, "decode_masks", spy)
    with torch.no_grad():
        model(pixels_of(64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(pixels_of(64))
    assert torch.equal(*seen)


# ------------------------------------------------------------------------------------------------------- bad input


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"key 'architecture'.*expected 'vit_b' or 'small'; got 'vit_h'"):
        SamConfig.from_mapping({"architecture": "vit_h", "weights": "none"})
    with pytest.raises(ConfigError, match="key 'weights'"):
        SamConfig.from_mapping({})
    for size in (100, 0, -16, 8):
        with pytest.raises(
            ConfigError, match=f"patches of 16 px; expected an image_size_px that is a multiple.*got {size}"
        ):
            build_sam(SamConfig(image_size_px=size, weights="none"))
    assert image_size_of(SamConfig(weights="none")) == 224
    assert image_size_of(SamConfig(architecture="small", weights="none")) == 112
    with pytest.raises(ConfigError, match="SAM's own masks need SAM's weights"):
        build_original(SamConfig(weights="none"))


def test_a_missing_file_says_what_is_wanted(tmp_path: Path) -> None:
    for place in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(
            WeightsError, match=r"there is no weights file '.*'; expected sam_vit_b_01ec64.pth, or a folder"
        ):
            build_sam(tiny_config(place), architecture=TINY)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(source: Official, tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"cannot read the weights in '.*'"):
        build_sam(tiny_config(path), architecture=TINY)


class Payload:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a weights file was run')",)


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"cannot read the weights in '.*evil.pth'"):
        build_sam(tiny_config(tmp_path / "evil.pth"), architecture=TINY)


@pytest.mark.parametrize(
    ("name", "width", "n_layers"), [("vit_l", 1024, 24), ("vit_h", 1280, 32), ("another SAM", 192, 12)]
)
def test_another_architecture_is_named(tmp_path: Path, name: str, width: int, n_layers: int) -> None:
    state = {f"image_encoder.blocks.{i}.norm1.bias": torch.zeros(width) for i in range(n_layers)}
    state["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, width)
    state["image_encoder.patch_embed.proj.weight"] = torch.zeros(width, 3, 16, 16)
    torch.save(state, tmp_path / "other.pth")
    message = (
        "other.pth' are of another architecture; expected vit_b: width 768, 12 layers, patches of 16 px; "
        f"got {name}: width {width}, {n_layers} layers, patches of 16 px. SAM's ViT-B is sam_vit_b_01ec64.pth"
    )
    with pytest.raises(WeightsError, match=re.escape(message)):
        build_sam(SamConfig(weights=str(tmp_path / "other.pth")))


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, "got 0 tensors"),
        ({"conv1.weight": torch.zeros(1)}, "got 1 tensors, first: conv1.weight"),
        ({"model": {"image_encoder.pos_embed": torch.zeros(1)}, "epoch": 3}, "got 0 tensors"),
        ({"vision_encoder.pos_embed": torch.zeros(1, 197, 768)}, "first: vision_encoder.pos_embed"),
    ],
)
def test_what_is_not_sam_is_refused(tmp_path: Path, state: dict[str, Any], found: str) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=f"are not SAM's; expected positions named image_encoder.pos_embed.*{found}"):
        build_sam(SamConfig(weights=str(tmp_path / "other.pth")))


def test_a_missing_or_foreign_tensor_is_refused(source: Official, file: Path, tmp_path: Path) -> None:
    state = source.state_dict()
    neck, rel_pos, patch = "neck.2.weight", "blocks.1.attn.rel_pos_h", "patch_embed.proj.bias"
    cases = {
        "vision_encoder.neck.conv2.weight": {n: t for n, t in state.items() if n != f"image_encoder.{neck}"},
        "vision_encoder.layers.1.attn.rel_pos_h": {**state, f"image_encoder.{rel_pos}": torch.zeros(5, 16)},
        "vision_encoder.patch_embed.projection.bias": {**state, f"image_encoder.{patch}": torch.zeros(7)},
        "prompt_encoder.shared_embedding.positional_embedding": {
            n: t for n, t in state.items() if not n.startswith("prompt_encoder.pe_layer.")
        },
        "mask_decoder.extra": {**state, "mask_decoder.extra": torch.zeros(1)},
    }
    for named, given in cases.items():
        torch.save(given, tmp_path / "bad.pth")
        n_wrong, n_foreign = (0, 1) if named.endswith("extra") else (1, 0)
        message = f"do not fit SAM's tiny; .*{n_wrong} missing or of another shape, {n_foreign} unknown, first: {named}"
        with pytest.raises(WeightsError, match=message):
            build_sam(tiny_config(tmp_path / "bad.pth"), architecture=TINY)
    # transformers has the frequencies twice
    for named in ("prompt_encoder.shared_embedding.positional_embedding", "mask_decoder.extra"):
        torch.save(cases[named], tmp_path / "bad.pth")
        with pytest.raises(WeightsError, match=f"do not fit SAM's tiny; expected 202 tensors.*first: {named}"):
            build_original(tiny_config(tmp_path / "bad.pth"), architecture=TINY)
    # the original wants its masks' parts as well
    torch.save({n: t for n, t in state.items() if n != "mask_decoder.mask_tokens.weight"}, tmp_path / "bad.pth")
    build_sam(tiny_config(tmp_path / "bad.pth"), architecture=TINY)
    with pytest.raises(WeightsError, match=r"first: mask_decoder.mask_tokens.weight"):
        build_original(tiny_config(tmp_path / "bad.pth"), architecture=TINY)


def test_a_window_is_not_taken_for_the_whole_grid(source: Official, file: Path) -> None:
    """Layer 2 of the file sees windows of 3 patches; at 24 px the grid is as wide."""
    with pytest.raises(WeightsError, match=r"first: vision_encoder.layers.2.attn.rel_pos_h"):
        build_sam(tiny_config(file, image_size_px=24), architecture=replace(TINY, global_layers=(1, 2, 3)))


def test_a_saved_segmenter_is_its_state_dict(tmp_path: Path) -> None:
    """What is trained from scratch is kept whole, without SAM's loader."""
    model, other = (build_sam(tiny_config(seed=seed), architecture=TINY) for seed in (0, 1))
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    other.load_state_dict(load_file(tmp_path / "own.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(model(pixels_of(64)), other(pixels_of(64)))
