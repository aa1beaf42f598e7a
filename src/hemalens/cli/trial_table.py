"""Progress of a benchmark on standard error: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hemalens.cli.options import Talk
from hemalens.progress import is_quiet, set_quiet

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from hemalens.benchmark.protocols.base import Outcome
    from hemalens.benchmark.trials import Status, Trial, TrialCallback

N_SHOWN = 10
"""Trials in the table: those that run, and those that ended last."""
ALL: tuple[Status, ...] = ("waiting", "running", "cached", "done", "failed")


@contextmanager
def trial_progress(talk: Talk) -> Iterator[TrialCallback]:
    """A callback that shows every trial; quiet runs show nothing."""
    if talk.quiet:
        yield lambda trial, status, outcome: None
    elif is_quiet():
        yield TrialLines(talk).update
    else:
        from rich.console import Console
        from rich.live import Live

        table = TrialTable()
        # progress bars would break the live table
        set_quiet(True)
        try:
            with Live(table.render(), console=Console(stderr=True), refresh_per_second=2) as live:
                table.live = live
                yield table.update
        finally:
            set_quiet(talk.quiet)


def short_score(outcome: Outcome | None) -> str:
    """The balanced accuracy of an outcome in a few characters, with the k or the fraction that it belongs to."""
    from hemalens.evaluation.left_out import left_out_scores

    if outcome is None:
        return ""
    for test in outcome.left_out:
        form = left_out_scores([test], seed=0)[0].forms[0]
        return f"{_shown(form.mean.value)}, {form.form}"
    for evaluation in outcome.evaluations:
        return _shown(evaluation.scores.balanced_accuracy.value)
    for result in outcome.k_shot:
        return f"{_shown(result.shots[-1].balanced_accuracy.value)}, k = {result.shots[-1].k}"
    for curve in outcome.fractions:
        return f"{_shown(curve.fractions[0].balanced_accuracy.value)}, all labels"
    return ""


def _word(status: Status) -> str:
    return "FAILED" if status == "failed" else status


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


class TrialLines:
    """A line for each trial that ends."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.n_ended = 0
        self.n_all = 0

    def update(self, trial: Trial, status: Status, outcome: Outcome | None) -> None:
        """Print a line when a trial ends."""
        if status == "waiting":
            self.n_all += 1
        elif status != "running":
            self.n_ended += 1
            where = f"{trial.entry.name}, {trial.source} -> {trial.target}, {trial.task.protocol}"
            score = short_score(outcome)
            self.talk.say(f"[{self.n_ended}/{self.n_all}] {where}: {_word(status)}{', ' + score if score else ''}")


class TrialTable:
    """The running trials and those that ended last, with a count of all."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self.status: dict[str, Status] = {}
        self.begun: dict[str, float] = {}
        self.rows: dict[str, tuple[str, ...]] = {}
        self.order: list[str] = []

    def update(self, trial: Trial, status: Status, outcome: Outcome | None) -> None:
        """Update a trial's row, and render the table."""
        key = trial.key
        self.status[key] = status
        if status == "running":
            self.begun[key] = time.monotonic()
        if status != "waiting":
            if key in self.order:
                self.order.remove(key)
            self.order.append(key)
            took = f"{time.monotonic() - self.begun[key]:.0f} s" if status in ("done", "failed") else ""
            name = f"{trial.source} -> {trial.target}"
            self.rows[key] = (trial.entry.name, trial.task.protocol, name, _word(status), short_score(outcome), took)
        if self.live is not None and status != "waiting":
            self.live.update(self.render())

    def render(self) -> Table:
        """The table, 80 columns wide."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        counts = Counter(self.status.values())
        title = ", ".join(f"{counts[status]} {status}" for status in ALL if counts[status])
        table = Table(title=title or "benchmark", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("method", "protocol", "trained on -> tested on", "", "balanced\naccuracy", "time"):
            table.add_column(
                column, overflow="fold", justify="right" if column in ("time", "balanced\naccuracy") else "left"
            )
        for key in self.order[-N_SHOWN:]:
            table.add_row(*map(Text, self.rows[key]))
        return table
