"""Run the units of a bulk run, shards or slides, on actors of Ray Data.

Rows of the dataset are numbers of units. The actor that has computed a unit writes it, so what a lost node has finished is
not lost, and what it had begun is begun anew by another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hemalens.bulk.folder import version
from hemalens.errors import HemalensError, InputError, system_error

if TYPE_CHECKING:
    import pyarrow as pa

BEGUN = "begun"
"""Folder with a file a unit, a byte for each time that it was begun."""
MOST_STARTS = 5
"""A unit that was begun so often, and never finished, kills its workers."""


class Worker(Protocol):
    """Computes a unit and writes it; returns what it has done, in steps of the progress bar."""

    def run(self, number: int) -> int:
        """Compute a unit."""


def _shards(task: Mapping[str, Any]) -> Worker:
    from hemalens.bulk.shard import ShardPredictor

    return ShardPredictor(task)


def _slides(task: Mapping[str, Any]) -> Worker:
    from hemalens.bulk.slide import SlideCounter

    return SlideCounter(task)


WORKERS: dict[str, Callable[[Mapping[str, Any]], Worker]] = {"predict": _shards, "count": _slides}
"""What computes a unit, by the job; each is imported where it is used."""


class Actor:
    """An actor of the pool. What goes wrong is a value, since Ray would wrap an exception, and try again."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._begun = Path(task["folder"]) / BEGUN
        self._worker, self._failure = None, ""
        if task["version"] != version():
            self._failure = f"a machine of the cluster has hemalens {version()}; expected {task['version']}"
            return
        try:
            self._worker = WORKERS[task["job"]](task)
        except Exception as error:
            self._failure = _in_words(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Compute the units of a batch, and say what was done, or why not."""
        import pyarrow as pa

        rows = [self._result(number) for number in batch["unit"].to_pylist()]
        return pa.Table.from_pylist(rows, schema=pa.schema([("done", pa.int64()), ("failure", pa.string())]))

    def _result(self, number: int) -> dict[str, Any]:
        if self._worker is None:
            return {"done": 0, "failure": self._failure}
        try:
            if _starts(self._begun / str(number)) > MOST_STARTS:
                return {"done": 0, "failure": f"unit {number} has ended its worker {MOST_STARTS} times, as without memory"}
            done = self._worker.run(number)
            (self._begun / str(number)).unlink(missing_ok=True)
            return {"done": done, "failure": ""}
        except Exception as error:
            return {"done": 0, "failure": _in_words(error)}


def _starts(file: Path) -> int:
    """How often a unit was begun, this time included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab") as begun:
        begun.write(b".")
        begun.flush()
        return os.fstat(begun.fileno()).st_size


def _in_words(error: Exception) -> str:
    known = error if isinstance(error, HemalensError) else system_error(error)
    if known is None:
        raise error
    return str(known)


def run_units(
    ray: Any, task: Mapping[str, Any], units: Sequence[int], *, n_actors: int | None, advance: Callable[[int], None]
) -> None:
    """Compute `units` on the actors of a pool; `advance` is told of each as it ends. Raises `InputError` for a failure."""
    import pyarrow as pa

    if not units:
        return
    with suppress(FileNotFoundError):
        for file in (Path(task["folder"]) / BEGUN).iterdir():
            file.unlink()
    from ray.data import ActorPoolStrategy, DataContext, from_arrow

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    n = min(n_actors or int(ray.cluster_resources().get("CPU", 0)), len(units))
    if not n:
        raise InputError("the Ray cluster has no processor for actors", remedy="Add a node, or look at: ray status")
    # one block a unit, since the units of a block are computed one after the other
    data = from_arrow([pa.table({"unit": pa.array([number], pa.int64())}) for number in units])
    results = data.map_batches(
        Actor,
        fn_constructor_args=({**task, "version": version()},),
        batch_size=1,
        batch_format="pyarrow",
        # without a queue of its own, so that no actor is left with several units at the end; by Ray Data's defaults actors
        # spread over the nodes, restart, and begin again what a lost one had begun
        compute=ActorPoolStrategy(size=n, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
    )
    try:
        batches: Iterable[Any] = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in batches:
            for row in batch.to_pylist():
                if row["failure"]:
                    raise InputError(row["failure"])
                advance(row["done"])
    except ray.exceptions.RayError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> HemalensError:
    """What went wrong in Ray itself, in one line."""
    name = type(error).__name__
    if name in ("ObjectStoreFullError", "OutOfDiskError"):
        return InputError(
            "Ray has no room left in its object store, or on the disk behind it",
            remedy="Free memory or disk on the cluster, then run the same command again: finished shards are kept.",
        )
    words = [line for line in str(error).strip().splitlines() if line.strip()]
    return HemalensError(
        "the run on Ray has failed",
        got=f"{name}: {words[-1][:200] if words else 'no message'}",
        remedy="Run the same command again: finished shards are kept. Ray's logs lie in /tmp/ray/session_latest/logs.",
    )
