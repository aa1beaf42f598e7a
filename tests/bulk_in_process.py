"""Units of a bulk run computed in this process, where a test is not about Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hemalens.bulk.pool import WORKERS


class InProcess:
    """Computes units in this process; `done` are those of all runs. `stop_after` units a run ends as if killed."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.stop_after: int | None = None

    def run_units(
        self,
        ray: object,
        task: Mapping[str, Any],
        units: Sequence[int],
        *,
        n_actors: int | None,
        advance: Callable[[int], None],
    ) -> None:
        worker = WORKERS[task["job"]](task)
        for place, number in enumerate(units):
            if place == self.stop_after:
                raise KeyboardInterrupt
            advance(worker.run(number))
            self.done.append(number)
