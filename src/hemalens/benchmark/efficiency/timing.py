"""Latency and throughput in rounds in which networks take turns; peak memory of each in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hemalens.errors import BundleError, HemalensError
from hemalens.evaluation.results import Estimate
from hemalens.progress import track

Run = Callable[[int], None]
"""Runs a network on a batch of n images."""
Clock = Callable[[], float]
N_BATCH = 32
SHORTEST_S = 0.25
"""Calls are repeated for this long, so that the clock resolves short ones."""
N_SINGLE = 3
STATUS = Path("/proc/self/status")
_ALONE = "from hemalens.benchmark.efficiency.timing import run_alone; run_alone()"


def alternate(
    runs: Sequence[Run], n_rounds: int, *, shortest_s: float = SHORTEST_S, clock: Clock = time.perf_counter
) -> list[tuple[Estimate, Estimate]]:
    """(latency in ms of one image, images a second in batches of 32) of each, from rounds in which they take turns.

    A round takes the median of several calls. Values are medians of the rounds with their 2.5 and 97.5 percentiles; one
    round alone has no interval.
    """
    latencies: list[list[float]] = [[] for _ in runs]
    rates: list[list[float]] = [[] for _ in runs]
    with track("timing", n_rounds * len(runs)) as advance:
        for run in runs:
            run(1)
            run(N_BATCH)
        for _ in range(n_rounds):
            for i, run in enumerate(runs):
                # the network before has emptied the processor's caches
                run(1)
                latencies[i].append(1000 * _seconds(run, 1, N_SINGLE, shortest_s, clock))
                rates[i].append(N_BATCH / _seconds(run, N_BATCH, 1, shortest_s, clock))
                advance(1)
    return [(_of_rounds(a), _of_rounds(b)) for a, b in zip(latencies, rates, strict=True)]


def _seconds(run: Run, n_images: int, at_least: int, shortest_s: float, clock: Clock) -> float:
    """The median of `at_least` calls, or of as many as fill `shortest_s`."""
    found: list[float] = []
    while len(found) < at_least or sum(found) < shortest_s:
        begun = clock()
        run(n_images)
        found.append(clock() - begun)
    return statistics.median(found)


def _of_rounds(values: Sequence[float]) -> Estimate:
    if len(values) == 1:
        return Estimate(value=values[0])
    low, high = (float(v) for v in np.percentile(values, (2.5, 97.5)))
    return Estimate(value=statistics.median(values), low=low, high=high)


def graph_runner(graph: bytes, input_px: int, n_threads: int) -> Run:
    """A bundle's graph on ONNX Runtime, from images uint8 (n, input_px, input_px, 3) to probabilities.

    Raises `BundleError` for a graph that cannot be run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime has one error class for each kind of invalid graph
        raise BundleError("a graph cannot be run", got=str(error)[:120]) from error
    batches: dict[int, np.ndarray] = {}

    def run(n_images: int) -> None:
        if n_images not in batches:
            shape = (n_images, input_px, input_px, 3)
            batches[n_images] = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        session.run(["probabilities"], {"image": batches[n_images]})

    return run


def peak_memory_mb(what: Mapping[str, Any]) -> float | None:
    """Peak memory, 10^6 bytes, of a new process that runs one image, then a batch of 32; None where it is not reported.

    `what` is a graph (`graph`: its file) or a backbone (`backbone`, `n_classes`, `precision`), with `input_px` and
    `n_threads`. Raises `HemalensError` when the process fails.
    """
    if not STATUS.is_file():
        return None
    command = [sys.executable, "-c", _ALONE, json.dumps(dict(what))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise HemalensError(
            f"{what.get('backbone') or what['graph']} cannot be run in a process of its own", got=last[:200]
        )
    return float(json.loads(done.stdout.splitlines()[-1]))


def run_alone() -> None:
    """The process of `peak_memory_mb`: runs the network of its argument and prints its own peak."""
    what = json.loads(sys.argv[1])
    run = _backbone_runner(what) if "backbone" in what else _file_runner(what)
    run(1)
    run(N_BATCH)
    print(json.dumps(peak_mb()))  # noqa: T201


def peak_mb() -> float:
    """The peak of this process so far, 10^6 bytes."""
    # not getrusage: its maximum is inherited from the process that starts this one
    status = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def _file_runner(what: Mapping[str, Any]) -> Run:
    return graph_runner(Path(what["graph"]).read_bytes(), what["input_px"], what["n_threads"])


def _backbone_runner(what: Mapping[str, Any]) -> Run:
    from hemalens.models.backbone import BackboneConfig
    from hemalens.models.cost import random_network, runner, use_threads

    use_threads(what["n_threads"])
    config = BackboneConfig(backbone=what["backbone"], weights="none", image_size_px=what["input_px"])
    return runner(random_network(config, n_classes=what["n_classes"]), what["input_px"], precision=what["precision"])
