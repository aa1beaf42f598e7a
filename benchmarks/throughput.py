"""`hemalens predict` beside what others write for the same network: a plain torch loop, and timm's inference script.

python benchmarks/throughput.py

All run EfficientNet-Lite0 at 224 px with five classes over a folder of JPEGs, reading included. The plain loop is Pillow,
torch eager, one image at a time. timm's script is a DataLoader with batches, channels_last and its own transform.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from hemalens.bundle.default_model import FOLDER
from prediction import make_bundle, measured_prediction, plain_loop, write_images
from rows import Row, table

BATCH = 32
SIDES = (
    ("ours", None, "onnxruntime"),
    ("openvino", None, "openvino"),
    ("default", FOLDER, "onnxruntime"),
)
"""Rate, bundle, runtime; None is the bundle of the plain loop's network."""


def timm_script(images: list[Path], *, bf16: bool) -> float:
    """Seconds for the images in the shape of timm's inference.py, the network built beforehand."""
    import torch
    from timm.data import create_loader
    from torch.utils.data import Dataset

    from hemalens.graphs.runtime import n_cores
    from hemalens.models.backbone import BackboneConfig, create_backbone

    class Files(Dataset):  # type: ignore[type-arg]
        transform = None

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            from PIL import Image

            return self.transform(Image.open(images[i]).convert("RGB")), 0  # type: ignore[misc]

    network = create_backbone(BackboneConfig(), n_classes=5).eval().to(memory_format=torch.channels_last)
    loader = create_loader(
        Files(), (3, 224, 224), BATCH, use_prefetcher=False, num_workers=n_cores(), crop_pct=1.0, interpolation="bilinear"
    )
    begun = time.perf_counter()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        for pixels, _ in loader:
            network(pixels.contiguous(memory_format=torch.channels_last)).softmax(dim=1).topk(1)
    return time.perf_counter() - begun


def default_loop(images: list[Path]) -> float:
    """Seconds for the images with the default model's network in torch: the plain loop, and no window around the cell."""
    import numpy as np
    import torch
    from PIL import Image

    from hemalens.bundle.bundle import open_bundle
    from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, module_of

    bundle = open_bundle(FOLDER)
    module, side = module_of(bundle, FewShotFinetuneConfig(), seed=0).eval(), bundle.manifest.preprocessing.size_px
    with torch.inference_mode():
        module.classify(module.embed(module.pixels(torch.zeros(1, 3, side, side, dtype=torch.uint8))))
        begun = time.perf_counter()
        for path in images:
            image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            pixels = module.pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
            module.classify(module.embed(pixels)).softmax(dim=1)
    return time.perf_counter() - begun


def measure(*, quick: bool = False) -> list[Row]:
    """Images a second of each, in alternating rounds."""
    n_images, n_rounds = (200, 2) if quick else (1000, 3)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", "openvino", "loop", "timm", "bf16", "default", "same")}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        write_images(top / "images", n_images)
        bundle = make_bundle(top)
        images = sorted((top / "images").iterdir())
        for _ in range(n_rounds):
            rates["loop"].append(len(images[:200]) / plain_loop(images[:200]))
            rates["timm"].append(n_images / timm_script(images, bf16=False))
            rates["bf16"].append(n_images / timm_script(images, bf16=True))
            for name, model, runtime in SIDES:
                found = measured_prediction(model or bundle, top / "images", top / "out.csv", runtime)
                rates[name].append(n_images / found[0])
            rates["same"].append(len(images[:200]) / default_loop(images[:200]))
    peers = {"loop": "a plain torch loop", "timm": "timm's inference script", "bf16": "timm's inference script in bf16"}
    what = f"predict, {n_images} JPEGs, Lite0"
    rows = [Row.of(what, "images/s", rates["ours"], rates[key], name) for key, name in peers.items()]
    rows.append(Row.of(f"{what}, OpenVINO", "images/s", rates["openvino"], rates["loop"], peers["loop"]))
    what = f"predict, {n_images} JPEGs, default model"
    return [*rows, Row.of(what, "images/s", rates["default"], rates["same"], "a plain torch loop without windows")]


if __name__ == "__main__":
    print(table(measure()))
