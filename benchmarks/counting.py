"""Fields a second and memory of a count: each step by itself, on two threads, with the model that classifies.

python benchmarks/counting.py                          # drawn discs
python benchmarks/counting.py FOLDER [N] [BUNDLE]      # the first N photographs of a folder
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fields import drawn_fields

T = TypeVar("T")
N_WORKERS = 2


def main() -> None:
    """Measure and print."""
    from hemalens import default_model_path

    n = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    bundle = Path(sys.argv[3]) if len(sys.argv) > 3 else default_model_path()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "slide"
        source.mkdir()
        if len(sys.argv) > 1:
            for path in sorted(Path(sys.argv[1]).iterdir())[:n]:
                (source / path.name).write_bytes(path.read_bytes())
        else:
            for i, pixels in enumerate(drawn_fields(n)):
                Image.fromarray(pixels).save(source / f"{i}.jpg")
        measure(bundle, source, Path(scratch) / "out")


def measure(bundle: Path, source: Path, out: Path) -> None:
    """The steps of a count of one slide, as `runs.count` takes them."""
    from hemalens.bundle.bundle import open_bundle
    from hemalens.bundle.detector import default_detector
    from hemalens.graphs.runtime import in_order
    from hemalens.inference.predictor import Predictor
    from hemalens.runs.counting.copies import count_once
    from hemalens.runs.counting.find import FieldWorker, observed, slide_scales
    from hemalens.runs.counting.options import CountOptions
    from hemalens.runs.counting.pictures import Painter
    from hemalens.runs.counting.slides import open_slides

    opened, finder = open_bundle(bundle), default_detector().finder
    monitor, labels = opened.monitor(), opened.manifest.labels
    (slide,) = open_slides(source, CountOptions(), say=print)
    predictor = Predictor(opened, embeddings=monitor.needs_embeddings, n_workers=1)
    FieldWorker(finder, predictor)(slide.fields[0])  # sessions are built once
    n = len(slide.fields)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    worker = FieldWorker(finder, predictor, timed("the scale of the slide", n, lambda: slide_scales(finder, slide.fields)))
    fields = timed(
        "find and classify",
        n,
        lambda: [observed(found, monitor, labels) for _, found in in_order(worker, slide.fields, N_WORKERS)],
    )
    print(f"{'kept of a field':<28} {(tracemalloc.get_traced_memory()[0] - before) / 1000 / n:>7.0f} kB")
    tracemalloc.stop()
    timed("copies and overlaps", n, lambda: count_once(fields))
    painter = Painter.of(out, slide, labels, crops=True, overlays=True)
    timed("crops and overlays", n, lambda: [None for _ in in_order(painter, fields, N_WORKERS)])


def timed(what: str, n: int, work: Callable[[], T]) -> T:
    """Do the work, and print its speed by CPU time and the time that passed."""
    cpu, wall = time.process_time(), time.perf_counter()
    made = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what:<28} {1000 * cpu / n:>7.1f} ms of CPU a field ({1000 * wall / n:.1f} ms passed, {n / wall:.1f} fields/s)")
    return made


if __name__ == "__main__":
    main()
