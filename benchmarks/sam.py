"""SAM ViT-B's features at 224 px beside the package segment-anything at 224 px and at its native 1024, in rounds.

All sides hold random weights of the same sizes: speed does not depend on them. Images a second of the image encoder alone,
in one process, the sides in turn within each round. bfloat16 runs where the hardware multiplies it; elsewhere the program
says so. On a GPU where torch sees one, else on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from torch import Tensor, nn

from hemalens.models.sam import ARCHITECTURES, SamConfig, build_sam
from rows import Row

NATIVE_PX = 1024
REFERENCE = "segment-anything 224 px"
Side = tuple[Callable[[Tensor], Any], int, torch.dtype]
"""What answers a batch, the size of its images in pixels, its precision."""


def bfloat16_in_hardware(device: torch.device) -> bool:
    """Whether this device multiplies in bfloat16 instead of imitating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def reference_encoder(image_size_px: int) -> nn.Module:
    """segment-anything's image encoder of ViT-B for images of this size."""
    from segment_anything.modeling import ImageEncoderViT

    sizes = ARCHITECTURES["vit_b"]
    encoder: nn.Module = ImageEncoderViT(
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
    return encoder.eval()


def sides_on(device: torch.device) -> dict[str, Side]:
    """All that is measured here, by name."""
    ours = build_sam(SamConfig(weights="none")).to(device)
    size = ours.image_size_px
    sides: dict[str, Side] = {
        f"hemalens {size} px": (ours.feature_map, size, torch.float32),
        REFERENCE: (reference_encoder(size).to(device), size, torch.float32),
        f"segment-anything {NATIVE_PX} px": (reference_encoder(NATIVE_PX).to(device), NATIVE_PX, torch.float32),
    }
    if bfloat16_in_hardware(device):
        sides[f"hemalens {size} px bfloat16"] = (ours.feature_map, size, torch.bfloat16)
    return sides


def images_per_second(side: Side, n_images: int, batch_size: int, device: torch.device) -> float:
    """Images a second over `n_images` in batches, after one batch that does not count."""
    answer, size, precision = side
    batch = torch.randn(min(batch_size, n_images), 3, size, size, device=device)
    n_batches = max(1, n_images // len(batch))
    half = precision == torch.bfloat16
    precise = torch.autocast(device.type, dtype=torch.bfloat16) if half else contextlib.nullcontext()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with torch.inference_mode(), precise:
        answer(batch)
        wait()
        begun = time.perf_counter()
        for _ in range(n_batches):
            answer(batch)
        wait()
        return n_batches * len(batch) / (time.perf_counter() - begun)


def measure(*, quick: bool = False) -> list[Row]:
    """Images a second at 224 px beside the package; its native size is left out, a minute an image."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sides = {name: side for name, side in sides_on(device).items() if side[1] != NATIVE_PX}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(2 if quick else 3):
        for name, side in sides.items():
            rates[name].append(images_per_second(side, 4 if quick else 16, 4 if quick else 8, device))
    ours = [name for name in sides if name != REFERENCE]
    return [Row.of(f"SAM ViT-B, {name}", "images/s", rates[name], rates[REFERENCE], REFERENCE) for name in ours]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16, help="images of 224 px a side takes in a round")
    parser.add_argument("--native-images", type=int, default=1, help=f"images of {NATIVE_PX} px in a round, one by one")
    parser.add_argument("--batch", type=int, default=8, help="images of 224 px in a batch")
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {place}")
    if not bfloat16_in_hardware(device):
        print("bfloat16: not in this hardware, left out")
    sides = sides_on(device)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(chosen.rounds):
        for name, side in sides.items():
            native = side[1] == NATIVE_PX
            n_images, batch_size = (chosen.native_images, 1) if native else (chosen.images, chosen.batch)
            speeds[name].append(images_per_second(side, n_images, batch_size, device))
            print(f"round {number}  {name:<30} {speeds[name][-1]:>9.2f} images/s", flush=True)
    print(f"{'median':<38} {'images/s':>10} {'ratio to ' + REFERENCE:>34}")
    for name, measured in speeds.items():
        ratio = statistics.median(own / other for own, other in zip(measured, speeds[REFERENCE], strict=True))
        print(f"{name:<38} {statistics.median(measured):>10.2f} {ratio:>34.2f}")


if __name__ == "__main__":
    main()
