"""`hemalens predict` on a folder of JPEGs against a plain loop, in alternating rounds; and its memory as the folder grows.

Both sides run the same EfficientNet-Lite0 at 224 px with five classes. The plain loop is what one writes first: Pillow,
resize, torch eager, one image at a time, torch's own choice of threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_images(folder: Path, n_images: int) -> None:
    """JPEGs of 360x363 px, as Acevedo-20's, of synthetic cells."""
    import numpy as np
    from PIL import Image

    from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    drawn = [
        Image.fromarray(draw_cell(CELL_TYPES[i % len(CELL_TYPES)], LABORATORIES["lab_a"], rng)[0]).resize((360, 363))
        for i in range(64)
    ]
    for i in range(n_images):
        drawn[i % len(drawn)].save(folder / f"{i:05d}.jpg", quality=90)


def make_bundle(folder: Path) -> Path:
    """A linear probe on a few synthetic cells: what it answers does not matter here."""
    from hemalens.datasets.synthetic import synthesize
    from hemalens.runs.train import train

    synthesize(folder / "cells", n_per_class=8, laboratories=["lab_a"])
    train("linear_probe", f"synthetic:{folder / 'cells' / 'lab_a'}", out=folder / "run")
    return folder / "run" / "bundle"


def plain_loop(images: list[Path]) -> float:
    """Seconds for the images, the network built beforehand."""
    import numpy as np
    import torch
    from PIL import Image

    from hemalens.models.backbone import BackboneConfig, create_backbone

    network = create_backbone(BackboneConfig(), n_classes=5)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
        begun = time.perf_counter()
        for path in images:
            image = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
            pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] - 127) / 128
            network(pixels).softmax(dim=1)
    return time.perf_counter() - begun


def measured_prediction(bundle: Path, folder: Path, out: Path, runtime: str = "onnxruntime") -> tuple[float, float]:
    """(seconds, peak MB) of a prediction in a process of its own; the seconds include opening the bundle."""
    code = (
        "import sys, time, json; from pathlib import Path; from hemalens.inference.predict import predict\n"
        "begun = time.perf_counter()\n"
        "predict(Path(sys.argv[1]), sys.argv[2], out=Path(sys.argv[3]), overwrite=True, runtime=sys.argv[4])\n"
        # not getrusage: its maximum is inherited from the process that starts this one
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "peak = int(status['VmHWM'].split()[0]) / 1024\n"
        "print(json.dumps([time.perf_counter() - begun, peak]))"
    )
    command = [sys.executable, "-c", code, str(bundle), str(folder), str(out), runtime]
    seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="JPEGs in the folder")
    parser.add_argument("--plain-images", type=int, default=400, help="how many of them the plain loop takes in a round")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        write_images(top / "many", chosen.images)
        write_images(top / "few", max(1, chosen.images // 4))
        bundle = make_bundle(top)
        images = sorted((top / "many").iterdir())
        ratios = []
        print(f"{'round':>5} {'plain loop':>16} {'hemalens predict':>18} {'ratio':>6} {'peak memory':>12}")
        for number in range(chosen.rounds):
            plain = min(chosen.plain_images, len(images)) / plain_loop(images[: chosen.plain_images])
            seconds, peak = measured_prediction(bundle, top / "many", top / "many.csv")
            ratios.append(len(images) / seconds / plain)
            ours = len(images) / seconds
            print(f"{number:>5} {plain:>9.1f} im/s {ours:>11.1f} im/s {ratios[-1]:>6.2f} {peak:>9.0f} MB")
        _, few = measured_prediction(bundle, top / "few", top / "few.csv")
        print(f"median ratio: {statistics.median(ratios):.2f}")
        print(f"peak memory: {few:.0f} MB at {max(1, chosen.images // 4)} images, {peak:.0f} MB at {len(images)}")


if __name__ == "__main__":
    main()
