"""`hemalens predict` in one process against `--engine ray`: one node of two workers, and two nodes of one; a table.

Each run is a process of its own. Peak memory is the sum of the resident memory of the process and all that it has started,
where pages that processes share count once for each of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from prediction import make_bundle, write_images
from rows import Row

LOCAL = """
import sys
from hemalens.inference.predict import predict
predict(sys.argv[1], sys.argv[2], out=sys.argv[3] + ".parquet")
"""
ONE_NODE = """
import sys
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.predict import predict_on_ray
predict_on_ray(sys.argv[1], sys.argv[2], out=sys.argv[3], options=BulkOptions(n_actors=2))
"""
TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
from hemalens.bulk.cluster import silent
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.predict import predict_on_ray
node = {"num_cpus": 1, "object_store_memory": 80_000_000}
with silent():
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    predict_on_ray(sys.argv[1], sys.argv[2], out=sys.argv[3], options=BulkOptions(cluster.address, n_actors=2))
    cluster.shutdown()
"""
RUNS = {"one process": LOCAL, "Ray, one node of two": ONE_NODE, "Ray, two nodes of one": TWO_NODES}


def resident_mb(top: int) -> float:
    """Resident memory of a process and all below it, in MB."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], sizes[int(entry.name)] = int(fields[1]), int(fields[21])

    def below(number: int) -> bool:
        while number > 1 and number != top:
            number = parents.get(number, 0)
        return number == top

    return sum(sizes[number] for number in sizes if below(number)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(code: str, *arguments: object) -> tuple[float, float]:
    """(seconds, peak MB) of a run, the start of Ray included."""
    begun, peak = time.perf_counter(), 0.0
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)]) as run:
        ended = threading.Event()
        threading.Thread(target=lambda: (run.wait(), ended.set()), daemon=True).start()
        while not ended.wait(0.2):
            peak = max(peak, resident_mb(run.pid))
    if run.returncode:
        raise SystemExit(f"a run has failed with {run.returncode}")
    return time.perf_counter() - begun, peak


def measure(*, quick: bool = False) -> list[Row]:
    """Images a second on Ray, its start included, and of one process."""
    n, n_rounds = (250, 1) if quick else (2000, 2)
    rates: dict[str, list[float]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        bundle = make_bundle(top)
        write_images(top / "images", n)
        for number in range(n_rounds):
            for name, code in RUNS.items():
                rates[name].append(n / measured(code, bundle, top / "images", top / f"{name} {number}")[0])
    local, *on_ray = RUNS
    return [Row.of(f"predict, {n} JPEGs, {name}", "images/s", rates[name], rates[local], local) for name in on_ray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[250, 1000], help="JPEGs in the folder; several give a slope"
    )
    parser.add_argument("--bundle", type=Path, help="by default a linear probe on EfficientNet-Lite0")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        bundle = chosen.bundle or make_bundle(top)
        print(f"{'images':>8} {'run':<24} {'seconds':>8} {'images/s':>9} {'peak MB':>8} {'ms an image more':>17}")
        before: dict[str, tuple[int, float]] = {}
        for n in sorted(chosen.images):
            write_images(top / str(n), n)
            for name, code in RUNS.items():
                seconds, peak = measured(code, bundle, top / str(n), top / f"{name} {n}")
                slope = "" if name not in before else f"{1000 * (seconds - before[name][1]) / (n - before[name][0]):.1f}"
                before[name] = n, seconds
                print(f"{n:>8} {name:<24} {seconds:>8.1f} {n / seconds:>9.1f} {peak:>8.0f} {slope:>17}", flush=True)


if __name__ == "__main__":
    main()
