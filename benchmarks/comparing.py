"""How the comparison of an audit grows: near-duplicates and turned copies among made-up looks of images, without any file.

python benchmarks/comparing.py --sizes 1000 10000 100000

A look is the blend of two drawn cells, with a hash of its own. Each size runs in a process of its own. Processor seconds
and peak memory include making the looks.
"""

from __future__ import annotations

import argparse
import sys

from commands import spent

SIZES = (1_000, 3_000, 10_000)


def compare(n: int) -> None:
    """Make the looks of `n` images, and compare them as the audit does."""
    import numpy as np
    from PIL import Image

    from hemalens.datasets.near_copies import Thumbnail, join_near_copies, thumbnail
    from hemalens.datasets.relatives import Relatives
    from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
    from hemalens.datasets.turned_copies import View, join_turned_copies, view

    rng = np.random.default_rng(0)
    kinds = [CELL_TYPES[i % len(CELL_TYPES)] for i in range(200)]
    cells = [Image.fromarray(draw_cell(kind, LABORATORIES["lab_a"], rng)[0]) for kind in kinds]
    known = [(thumbnail(cell), seen) for cell in cells if (seen := view(cell)) is not None]
    looks, views = [], []
    for i, j, share in zip(*rng.integers(len(known), size=(2, n)), rng.uniform(0.35, 0.65, n), strict=True):
        (first, a), (second, b) = known[i], known[j]
        flips = np.packbits(rng.random((8, 64)) < 0.15, axis=1).view("<u8")[:, 0].astype(np.uint64)
        gray = share * first.gray + (1 - share) * second.gray
        looks.append(Thumbnail(first.hashes ^ flips, gray.astype(np.uint8)))
        mixed = (share * a.gray + (1 - share) * b.gray).astype(np.uint8)
        spectrum = (share * a.spectrum + (1 - share) * b.spectrum).astype(np.complex64)
        views.append(View(mixed, a.centre, spectrum))
    relatives = Relatives(n)
    join_near_copies(looks, relatives)
    join_turned_copies(views, relatives)


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    chosen = parser.parse_args()
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); from comparing import compare; compare(int(sys.argv[1]))"
    print(f"{'images':>8} {'processor s':>12} {'ms an image':>12} {'peak MB':>8}")
    for n in chosen.sizes:
        found = spent([str(n)], code=code)
        print(f"{n:>8} {found.processor_s:>12.1f} {1000 * found.processor_s / n:>12.2f} {found.peak_mb:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
