"""Progress on the terminal: a bar for whatever takes more than two seconds, on standard error, none when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Say = Callable[[str], None]
"""How a verb reports one line to its caller."""
DELAY_S = 2.0

_quiet = False


class Advance(Protocol):
    """How work says that it gets on."""

    def __call__(self, n: int, what: str | None = None) -> None:
        """`n` more things are done; `what`, when given, becomes the bar's text."""


def set_quiet(quiet: bool) -> None:
    """Switch all bars off or on, for this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether bars are off: asked for, or nobody watches standard error."""
    return _quiet or not sys.stderr.isatty()


@contextmanager
def track(what: str, total: int | None) -> Iterator[Advance]:
    """A callable to say what was just done; its bar appears after two seconds."""
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
