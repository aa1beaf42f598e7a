"""Trials of a benchmark in several processes, where memory allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.trials import Ended, Trial, Watch, known
from hemalens.errors import HemalensError
from hemalens.graphs.runtime import n_cores

BYTES_PER_WORKER = 3_000_000_000
"""Memory that a process must find free: torch, a network at 224 px in training, and the images."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def affordable(n_workers: int) -> int:
    """As many of `n_workers` as the free memory holds, and at least one; all of them where it cannot be told."""
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
    say: Callable[[str], None],
    watch: Watch,
) -> list[Ended]:
    """Run the trials of each method and source in a process, several processes at once; the order is that of `trials`.

    Trials of one method and source share their models, so they stay together. The cores are shared out. Raises
    `HemalensError` when a process dies: what it had finished is kept.
    """
    ended: dict[str, Ended] = {}
    groups: dict[tuple[str, Path], list[Trial]] = {}
    for trial in trials:
        found = known(trial)
        if found is not None:
            ended[trial.key] = Ended(trial, found)
            watch(trial, "known", found.outcome)
        else:
            groups.setdefault((trial.entry.name, trial.fits), []).append(trial)
    n_fit = affordable(n_workers)
    if n_fit < n_workers:
        say(f"{n_fit} of {n_workers} workers: each needs {BYTES_PER_WORKER / 1e9:g} GB of free memory")
    n = max(1, min(n_fit, len(groups)))
    with _threads(max(1, n_cores() // n)), ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        begun = {pool.submit(_work, config, out, [t.key for t in group]): group for group in groups.values()}
        for group in groups.values():
            watch(group[0], "running", None)
        try:
            for future in as_completed(begun):
                errors = future.result()
                for trial in begun[future]:
                    found = known(trial)
                    ended[trial.key] = Ended(trial, found, errors.get(trial.key, ""))
                    watch(trial, "done" if found else "failed", found.outcome if found else None)
                    if found is None:
                        say(f"failed: {trial.entry.name}, {trial.source} -> {trial.target}: {errors.get(trial.key, '')}")
        except BrokenProcessPool as error:
            raise HemalensError(
                "a worker of the benchmark died, out of memory perhaps",
                remedy="Say the same command with fewer --workers: what is finished is kept.",
            ) from error
    return [ended[trial.key] for trial in trials]


def _work(config: BenchmarkConfig, out: Path, keys: list[str]) -> dict[str, str]:
    """Run the trials of these keys; the errors by key. Results go through the folder."""
    from hemalens.benchmark.plan import open_benchmark
    from hemalens.benchmark.trials import run_trials
    from hemalens.progress import set_quiet

    set_quiet(True)
    opened = open_benchmark(config, out)
    mine = [trial for trial in opened.trials if trial.key in keys]
    sets = {role: each.dataset for role, each in opened.auxiliary.items()}
    ended = run_trials(mine, auxiliary=sets, seed=config.seed, say=lambda text: None, watch=lambda *told: None)
    return {each.trial.key: each.error for each in ended if each.tested is None}


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Processes that begin inside the block compute with `n` threads each."""
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
