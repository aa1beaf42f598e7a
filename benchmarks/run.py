"""Run the benchmarks, print ours beside each peer, and keep and draw the history.

python benchmarks/run.py                         # all, as `make benchmarks`
python benchmarks/run.py --quick                 # fewer images and rounds
python benchmarks/run.py --only startup heads

Each benchmark runs in a process of its own, one after the other. To add one, write a module with
`measure(*, quick: bool) -> list[Row]` and a line in `BENCHMARKS`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import Row, dumped, loaded, table

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = {
    "startup": "processor seconds of --help and of one image",
    "throughput": "predict beside a plain torch loop and timm's inference script",
    "training": "an epoch of a training beside a plain timm loop",
    "report": "maps of the evidence beside occlusion, and reports beside their limits",
    "bulk": "predict on Ray beside one process",
    "int8": "predict in 8 bits beside 32",
    "heads": "learning from few cells beside scikit-learn on the same embeddings",
    "k_shot": "the k-shot evaluation beside a plain loop",
    "sam": "SAM's features beside the package segment-anything",
    "scale": "how the time of predict, audit and evaluate grows",
}
"""Name of the module -> what it measures."""
MARK = "rows: "


def run_one(name: str, *, quick: bool) -> list[Row]:
    """The rows of a benchmark, measured in a process of its own; raises `RuntimeError` with its last words."""
    command = [sys.executable, str(FOLDER / "run.py"), "--only", name, "--inside", *(["--quick"] if quick else [])]
    # every side chooses its own number of threads
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=free)
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not last.startswith(MARK):
        words = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise RuntimeError(f"exit code {done.returncode}: {words[-1]}")
    return loaded(last.removeprefix(MARK))


def inside(name: str, *, quick: bool) -> None:
    """Measure here, and print the rows on the last line."""
    from importlib import import_module

    print(f"{MARK}{dumped(import_module(name).measure(quick=quick))}")


def machine() -> dict[str, str]:
    """The machine and the versions that a record of the history names."""
    from hemalens.report.compose import environment

    return {"node": platform.node(), **environment()}


def commit() -> str:
    """The commit of the checkout, with a + where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def keep(history: Path, found: Mapping[str, Sequence[Row]], *, quick: bool) -> None:
    """Append a record of this run: date, commit, machine, versions, rows."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = {name: [row.to_dict() for row in each] for name, each in found.items()}
    record = {"date": now, "commit": commit(), "quick": quick, "machine": machine(), "rows": rows}
    with open(history, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_history(history: Path) -> list[dict[str, Any]]:
    """All records, the oldest first."""
    return [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines() if line.strip()]


def draw(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The ratio of each row over the runs, one panel a row; bars span the rounds, hollow points are quick runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points: dict[str, list[tuple[int, dict[str, Any], bool]]] = defaultdict(list)
    for number, record in enumerate(records):
        for row in (row for rows in record["rows"].values() for row in rows):
            points[f"{row['name']}\nbeside {row['peer_name']}"].append((number, row, record["quick"]))
    n_columns = 4
    n_rows = -(-len(points) // n_columns)
    figure, axes = pyplot.subplots(
        n_rows, n_columns, figsize=(12, 2.1 * n_rows), squeeze=False, layout="constrained", sharex=True
    )
    for axis in axes.ravel()[len(points) :]:
        axis.set_visible(False)
    for axis, (name, each) in zip(axes.ravel(), points.items(), strict=False):
        at, ratios = [number for number, _, _ in each], [row["ratio"] for _, row, _ in each]
        worst, best = ([extreme(row["ratios"]) for _, row, _ in each] for extreme in (min, max))
        axis.vlines(at, worst, best, color="#bbb")
        axis.plot(at, ratios, color="#5e35b1", linewidth=1)
        axis.scatter(at, ratios, s=16, edgecolor="#5e35b1", color=["white" if quick else "#5e35b1" for _, _, quick in each])
        axis.axhline(1, color="gray", linestyle=":", linewidth=0.8)
        axis.set_title(name, fontsize=8)
        axis.set_ylim(0, 1.15 * max(1, *best))
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.set_xticks(range(len(records)), [record["commit"] for record in records], rotation=60)
    figure.supylabel("times as good as the peer", fontsize=9)
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    """Run, print, keep and draw; exit code 1 where a benchmark fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds: a few minutes in all")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--history", type=Path, default=FOLDER / "history.jsonl", help="a line is added to this file")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        inside(chosen.only[0], quick=chosen.quick)
        return
    found: dict[str, list[Row]] = {}
    failed = []
    for name in chosen.only:
        print(f"{name}: {BENCHMARKS[name]} ...", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        try:
            found[name] = run_one(name, quick=chosen.quick)
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        except RuntimeError as error:
            failed.append(f"{name}: {error}")
    if found:
        print(table([row for each in found.values() for row in each]))
        keep(chosen.history, found, quick=chosen.quick)
        draw(read_history(chosen.history), chosen.history.with_suffix(".svg"))
        print(f"\nhistory: {chosen.history} and {chosen.history.with_suffix('.svg').name}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
