"""What the command line owes the system: open streams that print every name, signals that clean up, errors of one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import typer

from hemalens.errors import OutputError

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of the errors of typer for wrong options and arguments."""
SIGNALS = ("SIGTERM", "SIGHUP")
"""Signals that end the command as Ctrl-C does: what is half-written is removed."""


class Stopped(SystemExit):
    """A signal has asked the process to end; the exit code is 128 and the signal's number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` inside the block at the first of `SIGNALS`, so that temporary files are removed; ignore the next.

    A signal that is ignored already, as SIGHUP under nohup, stays ignored.
    """
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_streams() -> None:
    """Give closed standard streams the null device, and let open ones print what their encoding does not have escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # the next file that is opened would take the number, and receive what is printed
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # streams of notebooks and tests may have another type
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Send what is left in a broken stream, and all that follows, to the null device."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def stdout_fails() -> bool:
    """Whether standard output takes nothing more: its disk is full, or its reader is gone."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def stdout_error(error: OSError) -> OutputError:
    """A failure of standard output in one line."""
    return OutputError(
        "cannot print the result",
        got=error.strerror or str(error),
        remedy="The files that the command writes are complete.",
    )


def usage_line(error: Exception) -> str:
    """An error of typer as one line, with the command whose help shows the usage."""
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if not message:
        # the help was the answer, and is printed
        return ""
    end = "" if message.endswith(("?", ")")) else "."
    hint = f"{end} See `{context.command_path} --help`." if context else end
    return f"error: {message[:1].lower()}{message[1:]}{hint}"
