"""A bundle in 32 bits beside the same in 8 bits, in alternating rounds on the same images; and what it costs in accuracy.

python benchmarks/int8.py                                                     # EfficientNet-Lite0, drawn cells: speed alone
python benchmarks/int8.py --bundle DIR --calibrate SPEC --data SPEC           # a bundle of one's own, on labelled cells

Both sides read the files and answer through `Predictor`, one image a thread. The bundle is quantised in this run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hemalens.bundle.bundle import MODEL, Bundle, open_bundle
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.walking import walk_files
from hemalens.evaluation import metrics
from hemalens.graphs.runtime import n_cores
from hemalens.inference.predictor import Predictor
from hemalens.progress import set_quiet
from hemalens.report.compose import environment
from hemalens.runs.inputs import open_inputs
from hemalens.runs.quantize import QuantizeOptions, quantize
from rows import Row


def images_per_second(predictor: Predictor, inputs: Sequence[Path | Record]) -> float:
    """Images a second, reading included."""
    begun = time.perf_counter()
    n_images = sum(1 for _ in predictor.predict(inputs))
    return n_images / (time.perf_counter() - begun)


def balanced_accuracy(bundle: Bundle, dataset: CellDataset) -> float:
    """On the readable images of a dataset under the bundle's classes."""
    labels = bundle.manifest.labels
    known = dataset.under(labels)
    answers = [labels.index(p.label) if p.label else -1 for p in Predictor(bundle).predict(known.records)]
    predicted = np.array(answers)
    counts = metrics.confusion(known.targets[predicted >= 0], predicted[predicted >= 0], len(labels))
    return float(metrics.balanced_accuracy(counts))


def drawn(folder: Path, n_images: int) -> tuple[Path, str, list[Path]]:
    """A bundle of drawn cells, what to calibrate it on, and JPEGs to classify."""
    from prediction import make_bundle, write_images

    write_images(folder / "jpegs", n_images)
    return make_bundle(folder), f"synthetic:{folder / 'cells' / 'lab_a'}", walk_files(folder / "jpegs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle in 32 bits")
    parser.add_argument("--data", help="labelled cells to classify, as in folder:my_cells")
    parser.add_argument("--calibrate", help="cells to calibrate on; those of --data unless named")
    parser.add_argument("--images", type=int, default=400, help="how many are classified in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the quantisation")
    chosen = parser.parse_args()
    if (chosen.bundle is None) != (chosen.data is None):
        parser.error("--bundle and --data go together")
    set_quiet(True)
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        inputs: Sequence[Path | Record]
        dataset = None
        if chosen.bundle is None:
            path, spec, inputs = drawn(top, chosen.images)
            spec = chosen.calibrate or spec
        else:
            path, spec = chosen.bundle, chosen.calibrate or chosen.data
            labels = open_bundle(path).manifest.label_map
            dataset = open_inputs(chosen.data, labels=labels, role="test", unreadable="keep").dataset
            inputs = dataset.records[: chosen.images]
        small = quantize(path, spec, out=top / "int8", options=QuantizeOptions(settings=chosen.set), say=print)
        compare(open_bundle(path), small, inputs, n_rounds=chosen.rounds)
        if dataset is not None:
            before, after = (balanced_accuracy(bundle, dataset) for bundle in (open_bundle(path), small))
            how = "the calibration images among them" if spec == chosen.data else f"calibrated on {spec}"
            n_tested = len(dataset.under(small.manifest.labels))
            print(f"balanced accuracy on {n_tested} images, {how}:")
            print(f"fp32 {before:.3f}, int8 {after:.3f}, {after - before:+.3f}")


def measure(*, quick: bool = False) -> list[Row]:
    """Images a second in 8 bits beside 32, on drawn cells."""
    set_quiet(True)
    with tempfile.TemporaryDirectory() as temporary:
        path, spec, inputs = drawn(Path(temporary), 100 if quick else 400)
        small = quantize(path, spec, out=Path(temporary) / "int8", say=lambda text: None)
        sides = {"fp32": Predictor(path), "int8": Predictor(small)}
        rates: dict[str, list[float]] = {name: [images_per_second(p, inputs[:8])] for name, p in sides.items()}
        for _ in range(2 if quick else 5):
            for name, predictor in sides.items():
                rates[name].append(images_per_second(predictor, inputs))
    return [Row.of("predict in 8 bits, Lite0", "images/s", rates["int8"][1:], rates["fp32"][1:], "the same in 32 bits")]


def compare(before: Bundle, after: Bundle, inputs: Sequence[Path | Record], *, n_rounds: int) -> None:
    """Speed in alternating rounds, after a warm-up that does not count; size; agreement on the calibration images."""
    print(f"{len(inputs)} images a round, {n_cores()} threads, {environment()['processor']}")
    sides = {"fp32": Predictor(before), "int8": Predictor(after)}
    for predictor in sides.values():
        images_per_second(predictor, inputs[:8])
    ratios = []
    print(f"{'round':>5} {'fp32':>14} {'int8':>14} {'ratio':>6}")
    for number in range(n_rounds):
        # whoever comes second finds the files in memory: they take turns
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        speed = {name: images_per_second(sides[name], inputs) for name in order}
        ratios.append(speed["int8"] / speed["fp32"])
        print(f"{number:>5} {speed['fp32']:>9.1f} im/s {speed['int8']:>9.1f} im/s {ratios[-1]:>6.2f}", flush=True)
    print(f"median ratio: {statistics.median(ratios):.2f}")
    sizes = [bundle.manifest.files[MODEL].n_bytes / 1e6 for bundle in (before, after)]
    print(f"{MODEL}: fp32 {sizes[0]:.2f} MB, int8 {sizes[1]:.2f} MB")
    if (how := after.manifest.quantisation) is not None:
        print(
            f"on the {how.n_images} calibration images: same answer {how.agreement:.1%}, a probability differs by "
            f"{how.mean_difference:.2g} on average, {how.largest_difference:.2g} at most"
        )


if __name__ == "__main__":
    main()
