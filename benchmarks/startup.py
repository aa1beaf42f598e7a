"""What starting up spends: processor seconds of a command line in a process of its own, and of each stage of a prediction.

python benchmarks/startup.py

Processor seconds count, not seconds: they hardly change on a busy machine. Every round runs each command once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from commands import MAIN, spent
from rows import Row, table

ROUNDS, QUICK_ROUNDS = 7, 3
LIBRARIES = "import numpy, onnxruntime, PIL.Image, pydantic, scipy.ndimage, typer"
"""What no prediction from the command line can do without, with one library for each task."""
STAGES = """
import json, sys, time
laps, last = [("interpreter", time.process_time())], time.process_time()
def lap(name):
    global last
    laps.append((name, time.process_time() - last))
    last = time.process_time()
import hemalens.cli.main as cli; lap("import the command line")
cli._command(); lap("build the commands")
import numpy, onnx, onnxruntime, scipy.ndimage; lap("import NumPy, SciPy's images, ONNX and its runtime")
import hemalens.inference.predict as prediction; lap("import the rest of a prediction")
from hemalens.bundle.bundle import open_bundle
from hemalens.bundle.default_model import default_model_path
bundle = open_bundle(default_model_path()); lap("open the bundle: manifest, digests, graph against manifest")
monitor = bundle.monitor(); lap("read the reference statistics")
predictor = prediction.Predictor(bundle, monitor=monitor); lap("start the network, and its own test")
one = list(predictor.predict(sys.argv[1])); lap("the first image, and the start of the detector")
two = list(predictor.predict(sys.argv[1])); lap("the second image")
print(json.dumps(laps))
"""


def write_image(folder: Path) -> Path:
    """One drawn cell, as a JPEG of 360x363 px."""
    import numpy as np
    from PIL import Image

    from hemalens.datasets.synthetic import LABORATORIES, draw_cell

    drawn, _ = draw_cell("neutrophil", LABORATORIES["lab_a"], np.random.default_rng(0))
    file = folder / "cell.jpg"
    Image.fromarray(drawn).resize((360, 363)).save(file)
    return file


def stages(image: Path) -> list[tuple[str, float]]:
    """(stage, processor seconds) of a prediction of one image."""
    done = subprocess.run([sys.executable, "-c", STAGES, str(image)], check=True, capture_output=True, text=True)
    return [(str(name), float(seconds)) for name, seconds in json.loads(done.stdout)]


def measure(*, quick: bool = False) -> list[Row]:
    """Processor seconds of `--help` and of one image, beside an empty Python and beside importing the libraries alone."""
    seconds: dict[str, list[float]] = {name: [] for name in ("empty", "libraries", "import", "help", "predict")}
    with tempfile.TemporaryDirectory() as temporary:
        image = write_image(Path(temporary))
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            seconds["empty"].append(spent([], code="pass").processor_s)
            seconds["libraries"].append(spent([], code=LIBRARIES).processor_s)
            seconds["import"].append(spent([], code="import hemalens").processor_s)
            seconds["help"].append(spent(["--help"], code=MAIN).processor_s)
            arguments = ["predict", str(image), "--out", f"{temporary}/out.csv", "--overwrite", "--quiet"]
            seconds["predict"].append(spent(arguments).processor_s)
    return [
        Row.of("import hemalens", "cpu s", seconds["import"], seconds["empty"], "an empty Python"),
        Row.of("hemalens --help", "cpu s", seconds["help"], seconds["empty"], "an empty Python"),
        Row.of("hemalens predict, one image", "cpu s", seconds["predict"], seconds["libraries"], "importing its libraries"),
    ]


def main() -> None:
    """Print the commands and the stages."""
    print(table(measure()))
    with tempfile.TemporaryDirectory() as temporary:
        image = write_image(Path(temporary))
        rounds = [stages(image) for _ in range(ROUNDS)]
    print(f"\n{'stage of hemalens predict IMAGE':<62} {'cpu ms':>7}")
    total = 0.0
    for each in zip(*rounds, strict=True):
        seconds = statistics.median(value for _, value in each)
        total += seconds
        print(f"{each[0][0]:<62} {1000 * seconds:>7.0f}")
    print(f"{'all':<62} {1000 * total:>7.0f}")


if __name__ == "__main__":
    main()
