"""Progress bars on standard error, for work of more than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

Say = Callable[[str], None]
"""A callback that takes one line of progress text."""
DELAY_S = 2.0

_quiet = False


_noted: set[str] = set()


def note(text: str) -> None:
    """Print a line on standard error, each text once, unless progress bars are switched off."""
    if not _quiet and text not in _noted:
        _noted.add(text)
        with suppress(OSError):
            print(f"note: {text}", file=sys.stderr)  # noqa: T201


class Advance(Protocol):
    """A callback that advances a progress bar."""

    def __call__(self, n: int, what: str | None = None) -> None:
        """Advance by `n` steps; `what` replaces the bar's text."""


def set_quiet(quiet: bool) -> None:
    """Switch all progress bars of this process off or on."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress bars are off, by `set_quiet` or because standard error is no terminal."""
    return _quiet or not sys.stderr.isatty()


@contextmanager
def track(what: str, total: int | None) -> Iterator[Advance]:
    """Yield a callback that advances a progress bar, which appears after two seconds."""
    if is_quiet():
        yield lambda n, what=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    begun = time.monotonic()
    shown = False

    def advance(n: int, what: str | None = None) -> None:
        nonlocal shown
        bar.update(task, advance=n, description=what)
        if not shown and time.monotonic() - begun > DELAY_S:
            shown = True
            bar.start()

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
