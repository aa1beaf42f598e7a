"""Finding the nucleus of a single cell: the detector against the classical rule, in one run.

Without images: the time from an image in memory to the window's pixels, on one thread. With `--zheng FOLDER`, the folder of
the two sets of Zheng et al. (2018): centre and extent against the masks, in each condition of the stress suite.
`--detector FOLDER` measures another detector, `--sheet FILE` writes a contact sheet of the conditions.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hemalens.bundle.detector import default_detector, open_detector
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.evaluation.stress_suite import CONDITIONS, findings, recoloured
from hemalens.imaging.centred_crop import centred_crop
from hemalens.imaging.nucleus import find_nucleus, spread
from hemalens.imaging.reading import read_image

ROUNDS = 40
SETS = {"JTSC": "Dataset 1", "CellaVision-100": "Dataset 2"}


def classical(image: Any) -> Any:
    """The spread of the nucleus by the classical rule; None without one."""
    mask = find_nucleus(image)
    return spread(mask) if mask.any() else None


def measure_speed(finders: dict[str, Callable[[Any], Any]]) -> None:
    """Milliseconds from an image to the pixels of its window, in alternating rounds over ten drawn cells."""
    rng = np.random.default_rng(0)
    print(f"\nspeed, one thread, {platform.processor() or platform.machine()}: ms a window, median (least)")
    for side in (120, 360, 575):
        drawn = [draw_cell(CELL_TYPES[i % len(CELL_TYPES)], LABORATORIES["lab_a"], rng)[0] for i in range(10)]
        images = [np.asarray(Image.fromarray(image).resize((side, side))) for image in drawn]
        times: dict[str, list[float]] = {name: [] for name in finders}
        for i in range(ROUNDS):
            for name, find in finders.items():
                image = images[i % len(images)]
                begun = time.perf_counter()
                centred_crop(image, find(image))
                times[name].append(1000 * (time.perf_counter() - begun))
        shown = "   ".join(f"{name} {statistics.median(taken):5.2f} ({min(taken):.2f})" for name, taken in times.items())
        print(f"  {side} px   {shown}")


def cells_of(folder: Path, every: int) -> Iterator[tuple[Any, Any]]:
    """Images with masks of 0 outside, 1 cytoplasm, 2 nucleus."""
    for file in sorted(folder.glob("*.bmp"))[::every]:
        mask = np.asarray(Image.open(file.with_suffix(".png")).convert("L"))
        yield read_image(file), np.digitize(mask, (64, 192)).astype(np.uint8)


def measure_sets(zheng: Path, finders: dict[str, Callable[[Any], Any]], every: int) -> None:
    """A line for each set and condition: share of centres inside, and of extents within 15 %."""
    for name, folder in SETS.items():
        cells = list(cells_of(zheng / folder, every))
        nuclei = [masks == 2 for _, masks in cells]
        print(f"\n{name}, {len(cells)} cells: centre inside / extent within 15 % / median ratio of extents")
        for title, condition in CONDITIONS.items():
            images = [recoloured(image, masks, condition, seed=i) for i, (image, masks) in enumerate(cells)]
            parts = []
            for finder, find in finders.items():
                got = findings([find(image) for image in images], nuclei)
                parts.append(f"{finder} {got.centre_inside:.3f} / {got.extent_right:.3f} / {got.median_ratio:.2f}")
            print(f"  {title:20s} {'   '.join(parts)}", flush=True)


def contact_sheet(zheng: Path, file: Path) -> None:
    """Six cells of both sets, a row for each condition."""
    rows = []
    cells = [cell for folder in SETS.values() for cell in list(cells_of(zheng / folder, 1))[3:90:30]]
    for condition in CONDITIONS.values():
        shown = [recoloured(image, masks, condition) for image, masks in cells]
        rows.append(np.concatenate([np.asarray(Image.fromarray(image).resize((140, 140))) for image in shown], axis=1))
    Image.fromarray(np.concatenate(rows)).save(file)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zheng", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--every", type=int, default=1, help="every n-th cell of a set")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    finder = (open_detector(given.detector) if given.detector else default_detector()).finder
    finders = {"detector": lambda image: finder.nucleus_of(image).spread, "classical": classical}
    if given.sheet:
        contact_sheet(given.zheng, given.sheet)
        return
    measure_speed(finders)
    if given.zheng:
        measure_sets(given.zheng, finders, given.every)


if __name__ == "__main__":
    main()
