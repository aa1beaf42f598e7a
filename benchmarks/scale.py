"""How time and peak memory of `predict`, `data audit` and `evaluate` grow with the number of images, one process each.

python benchmarks/scale.py                                       # 250, 1,000 and 4,000 images, the model of the package
python benchmarks/scale.py --sizes 1000 10000 100000 --commands audit --side 64
python benchmarks/scale.py --json scale.json --figure scale.svg

Images are blends of drawn cells, every one another file, in folders of five classes. The last table has the processor
seconds of each command at its start and for an image, the exponent by which they grow between the last three sizes (1 is
linear, 2 is quadratic; sizes by one factor), and the memory at the start and for 1,000 further images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from commands import Spent, spent
from rows import Row

CLASSES = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
COMMANDS = {
    "predict": ["predict", "{bundle}", "{images}", "--out", "{out}.csv"],
    "audit": ["data", "audit", "folder:{images}"],
    "evaluate": ["evaluate", "{bundle}", "--data", "folder:{images}", "--out", "{out}"],
}
QUICK, USUAL = (100, 300, 900), (250, 1_000, 4_000)


@dataclass(frozen=True)
class Slope:
    """How the processor seconds and the peak memory of a command grow with the number of images."""

    start_s: float
    s_per_image: float
    exponent: float
    start_mb: float
    mb_per_thousand: float


def write_images(folder: Path, n_images: int, side: int) -> None:
    """JPEGs, each a blend of three of 200 drawn cells, flipped and turned by a right angle: distinct, and quick to make."""
    import numpy as np
    from PIL import Image

    from hemalens.datasets.synthetic import LABORATORIES, draw_cell

    rng = np.random.default_rng(0)
    cells = {}
    for label in CLASSES:
        drawn = [draw_cell(label, LABORATORIES["lab_a"], rng)[0] for _ in range(40)]
        cells[label] = np.stack([np.asarray(Image.fromarray(cell).resize((side, side))) for cell in drawn]).astype(
            np.float32
        )
        (folder / label).mkdir(parents=True)
    for i in range(n_images):
        label = CLASSES[i % len(CLASSES)]
        chosen, shares = rng.integers(len(cells[label]), size=3), rng.dirichlet((4, 1, 1))
        turned = [np.rot90(cells[label][k], rng.integers(4))[:, :: rng.choice((-1, 1))] for k in chosen]
        blend = sum(cell * share for cell, share in zip(turned, shares, strict=True))
        image = np.clip(blend * rng.uniform(0.9, 1.08, 3), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / label / f"{i:07d}.jpg", quality=90)


def linked(images: Path, folder: Path, n_images: int) -> Path:
    """The first `n_images` of a folder of classes, as hard links in a folder of their own."""
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for file in (images / label).iterdir():
            if int(file.stem) < n_images:
                os.link(file, folder / label / file.name)
    return folder


def run_command(name: str, bundle: Path, images: Path, top: Path) -> Spent:
    """Run one of `COMMANDS` with an empty cache; raises `SystemExit` where it fails."""
    with tempfile.TemporaryDirectory(dir=top) as scratch:
        words = [w.format(bundle=bundle, images=images, out=Path(scratch) / "out") for w in COMMANDS[name]]
        found = spent([*words, "--quiet"], environment={"HEMALENS_CACHE": f"{scratch}/cache"})
    if found.exit_code:
        raise SystemExit(f"{name} ends with exit code {found.exit_code}")
    return found


def slope(points: Sequence[tuple[int, Spent]]) -> Slope:
    """Lines through processor seconds and megabytes, and the exponent by the last three sizes; 1 where there are two."""
    start_s, s_per_image = _line([(n, each.processor_s) for n, each in points])
    start_mb, mb_per_image = _line([(n, each.peak_mb) for n, each in points])
    exponent = 1.0
    if len(points) > 2:
        (n1, t1), (n2, t2), (n3, t3) = [(n, each.processor_s) for n, each in points[-3:]]
        exponent = math.log(max(t3 - t2, 1e-9) / max(t2 - t1, 1e-9)) / math.log((n3 - n2) / (n2 - n1))
    return Slope(start_s, s_per_image, exponent, start_mb, 1000 * mb_per_image)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept and slope of a line by least squares, weighted by 1/n: noise grows with the time."""
    weights = [1 / n for n, _ in points]
    total = sum(weights)
    x, y = (sum(w * point[k] for w, point in zip(weights, points, strict=True)) / total for k in (0, 1))
    across = sum(w * (n - x) ** 2 for w, (n, _) in zip(weights, points, strict=True))
    along = sum(w * (n - x) * (value - y) for w, (n, value) in zip(weights, points, strict=True))
    b = along / across if across else 0.0
    return y - b * x, b


def measured(
    sizes: Sequence[int], commands: Sequence[str], *, side: int, bundle: Path
) -> dict[str, list[tuple[int, Spent]]]:
    """What each command spends at each size, printed as it comes."""
    points: dict[str, list[tuple[int, Spent]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        write_images(top / "images", max(sizes), side)
        print(f"{'command':<10} {'images':>8} {'seconds':>9} {'processor s':>12} {'peak MB':>8}", file=sys.stderr)
        for n in sorted(sizes):
            images = linked(top / "images", top / f"first {n}", n)
            for name in commands:
                found = run_command(name, bundle, images, top)
                points[name].append((n, found))
                line = f"{name:<10} {n:>8} {found.seconds:>9.1f} {found.processor_s:>12.1f} {found.peak_mb:>8.0f}"
                print(line, file=sys.stderr, flush=True)
    return points


def measure(*, quick: bool = False) -> list[Row]:
    """The exponents beside 1, that of a linear growth."""
    from hemalens.bundle.default_model import default_model_path

    sizes = QUICK if quick else USUAL
    found = measured(sizes, tuple(COMMANDS), side=96, bundle=default_model_path())
    return [
        Row.of(f"{name}, {max(sizes)} images", "exponent", [slope(p).exponent], [1.0], "linear")
        for name, p in found.items()
    ]


def draw(points: dict[str, list[tuple[int, Spent]]], file: Path) -> None:
    """Seconds and megabytes over the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, each in points.items():
        sizes = [n for n, _ in each]
        axes[0].plot(sizes, [found.processor_s for _, found in each], marker="o", label=name)
        axes[1].plot(sizes, [found.peak_mb for _, found in each], marker="o", label=name)
    first, last = min(n for each in points.values() for n, _ in each), max(n for each in points.values() for n, _ in each)
    least = min(found.processor_s for each in points.values() for _, found in each)
    axes[0].plot([first, last], [least, least * last / first], color="gray", linestyle=":", label="linear")
    axes[0].set(xscale="log", yscale="log", xlabel="images", ylabel="processor seconds")
    axes[1].set(xscale="log", xlabel="images", ylabel="peak memory (MB)", ylim=(0, None))
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=USUAL, help="numbers of images, two at least")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--side", type=int, default=96, help="width and height of the images in pixels")
    parser.add_argument("--bundle", type=Path, help="a bundle; by default the package's")
    parser.add_argument("--json", type=Path, help="write the points and slopes here")
    parser.add_argument("--figure", type=Path, help="draw the points here")
    chosen = parser.parse_args()
    from hemalens.bundle.default_model import default_model_path

    points = measured(chosen.sizes, chosen.commands, side=chosen.side, bundle=chosen.bundle or default_model_path())
    slopes = {name: slope(each) for name, each in points.items()}
    print(f"{'command':<10} {'start s':>8} {'ms an image':>12} {'exponent':>9} {'start MB':>9} {'MB / 1,000':>11}")
    for name, s in slopes.items():
        print(
            f"{name:<10} {s.start_s:>8.1f} {1000 * s.s_per_image:>12.2f} {s.exponent:>9.2f}"
            f" {s.start_mb:>9.0f} {s.mb_per_thousand:>11.2f}"
        )
    if chosen.json:
        result = {
            name: {"points": [{"n": n, **asdict(found)} for n, found in each], "slope": asdict(slopes[name])}
            for name, each in points.items()
        }
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if chosen.figure:
        draw(points, chosen.figure)


if __name__ == "__main__":
    main()
