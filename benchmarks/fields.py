"""Fields a second: the cells of 640x480 px fields found, with and without a given scale, on one core.

python benchmarks/fields.py                    # fields of flat discs
python benchmarks/fields.py FOLDER [N]         # the first N photographs of a folder
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def drawn_fields(n: int) -> list[NDArray[np.uint8]]:
    """Fields with one white cell among red ones, as flat discs: what is found does not matter here."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:480, :640]
    fields = []
    for _ in range(n):
        image = np.full((480, 640, 3), (235, 230, 225), np.uint8)
        for i in range(20):
            side, colour = (90, (110, 60, 160)) if i == 19 else (48, (215, 150, 150))
            image[np.hypot(x - rng.uniform(0, 640), y - rng.uniform(0, 480)) < side] = colour
        fields.append(image)
    return fields


def main() -> None:
    """Measure and print."""
    from hemalens.bundle.detector import default_detector
    from hemalens.datasets.base import is_image_file
    from hemalens.imaging.reading import read_image

    n = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    if len(sys.argv) > 1:
        paths = [path for path in sorted(Path(sys.argv[1]).iterdir()) if is_image_file(path)]
        fields = [read_image(path) for path in paths[:n]]
    else:
        fields = drawn_fields(n)
    finder = default_detector().finder
    scales = [scale for scale in map(finder.scale_of, fields) if scale]
    slide_scale = float(np.median(scales)) if scales else None
    print(f"{len(fields)} fields; CPU time of one thread")
    for name, scale in (("scale found in each field", None), ("scale of the slide given", slide_scale)):
        begun, wall = time.process_time(), time.perf_counter()
        n_cells = sum(len(finder.in_field(image, scale=scale)) for image in fields)
        cpu, wall = time.process_time() - begun, time.perf_counter() - wall
        print(
            f"{name:<28} {len(fields) / cpu:>7.1f} fields/s {1000 * cpu / len(fields):>6.1f} ms a field "
            f"({1000 * wall / len(fields):.1f} ms passed) {n_cells / len(fields):>6.1f} cells a field"
        )


if __name__ == "__main__":
    main()
