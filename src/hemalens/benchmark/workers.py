"""Trials of a benchmark in several processes, where memory allows."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path

from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.trials import Trial, TrialCallback, TrialResult, cached_outcome
from hemalens.errors import HemalensError
from hemalens.graphs.runtime import n_cores
from hemalens.progress import Say

BYTES_PER_WORKER = 3_000_000_000
"""Free memory that a process needs: torch, the training of a network at 224 px, and the images."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def affordable(n_workers: int) -> int:
    """As many of `n_workers` as fit into the free memory, at least one; all of them where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return n_workers
    return max(1, min(n_workers, free // BYTES_PER_WORKER))


def run_in_workers(
    config: BenchmarkConfig,
    trials: Sequence[Trial],
    *,
    out: Path,
    n_workers: int,
    say: Say,
    on_trial: TrialCallback,
) -> list[TrialResult]:
    """Run the trials of each method and source in a process, several processes at once; the order is that of `trials`.

    Trials of one method and source share their models, so they stay in one process. The cores are divided among the
    processes. Raises `HemalensError` when a process dies; finished trials are kept.
    """
    results: dict[str, TrialResult] = {}
    groups: dict[tuple[str, Path], list[Trial]] = {}
    for trial in trials:
        outcome = cached_outcome(trial)
        if outcome is not None:
            results[trial.key] = TrialResult(trial, outcome)
            on_trial(trial, "cached", outcome)
        else:
            groups.setdefault((trial.entry.name, trial.fits), []).append(trial)
    n_fit = affordable(n_workers)
    if n_fit < n_workers:
        say(f"{n_fit} of {n_workers} workers: each needs {BYTES_PER_WORKER / 1e9:g} GB of free memory")
    n = max(1, min(n_fit, len(groups)))
    context = get_context("spawn")
    with (
        _threads(max(1, n_cores() // n)),
        ProcessPoolExecutor(n, context, initializer=_end_when_asked) as pool,
        _ended(pool),
    ):
        begun = {pool.submit(_work, config, out, [t.key for t in group]): group for group in groups.values()}
        for group in groups.values():
            on_trial(group[0], "running", None)
        try:
            for future in as_completed(begun):
                errors = future.result()
                for trial in begun[future]:
                    outcome, error = cached_outcome(trial), errors.get(trial.key, "")
                    results[trial.key] = TrialResult(trial, outcome, error)
                    on_trial(trial, "failed" if outcome is None else "done", outcome)
                    if outcome is None:
                        say(f"failed: {trial.entry.name}, {trial.source} -> {trial.target}: {error}")
        except BrokenProcessPool as broken:
            raise HemalensError(
                "a worker of the benchmark died, perhaps for lack of memory",
                remedy="Run the same command with fewer --workers; finished trials are kept.",
            ) from broken
    return [results[trial.key] for trial in trials]


@contextmanager
def _ended(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the processes of the pool when the block is left early; each removes its temporary files."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise


def _end_when_asked() -> None:
    """Let SIGTERM end a process as an exception does."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _work(config: BenchmarkConfig, out: Path, keys: list[str]) -> dict[str, str]:
    """Run the trials of these keys; the errors by key. Outcomes are passed on through the output folder."""
    from hemalens.benchmark.plan import plan_benchmark
    from hemalens.benchmark.trials import run_trials
    from hemalens.progress import set_quiet

    set_quiet(True)
    plan = plan_benchmark(config, out)
    mine = [trial for trial in plan.trials if trial.key in keys]
    results = run_trials(mine, auxiliary=plan.auxiliary_sets, say=lambda text: None, on_trial=lambda *event: None)
    return {each.trial.key: each.error for each in results if each.outcome is None}


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Processes that start inside the block compute with `n` threads each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(n)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
