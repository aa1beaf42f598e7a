"""What the command line owes the system: open streams that print every name, signals that clean up, errors of one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

import typer

from hemalens.errors import OutputError, near_matches
from hemalens.files import default_cache_dir

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of the errors of typer for wrong options and arguments."""
SIGNALS = ("SIGTERM", "SIGHUP")
"""Signals that end the command as Ctrl-C does: what is half-written is removed."""

LONGEST = 400
"""Characters of an error of usage, which may quote what the user gave."""


class Stopped(SystemExit):
    """A signal has asked the process to end; the exit code is 128 and the signal's number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
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
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # streams of notebooks and tests may have another type
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Printed:
    """Standard output of a command, over the stream `stream`.

    Where its reader is gone, as of `| head`, the rest is dropped and the command goes on. Raises `OutputError` where the
    stream takes nothing more, as of a full disk.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; its number of characters."""
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            silence(self._stream)
        except OSError as error:
            raise OutputError(
                "cannot print the result",
                got=error.strerror or str(error),
                remedy="What the command has written to files is complete.",
            ) from error


def keep_caches_together() -> None:
    """Let libraries keep their caches in ours, not in the user's home.

    A folder that the user names is used. Where our cache cannot be written, the libraries use a temporary folder, silently.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for variable, library in (("MPLCONFIGDIR", "matplotlib"), ("NUMBA_CACHE_DIR", "numba")):
        os.environ.setdefault(variable, str(default_cache_dir() / library))


def silence(stream: TextIO) -> None:
    """Send what is left in a broken stream, and all that follows, to the null device."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def usage_line(error: Exception) -> str:
    """An error of typer as one line, with the command whose help shows the usage."""
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if not message:
        # the help was the answer, and is printed
        return ""
    unknown = getattr(error, "option_name", None)
    if context is not None and unknown and not getattr(error, "possibilities", None):
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        hint = near_matches(unknown, known) if unknown not in known else ""
        message += f". {hint}" if hint.startswith("did") else ""
    message = f"error: {message[:1].lower()}{message[1:LONGEST]}"
    if context is None:
        return message
    return f"{message}{'' if message.endswith(('?', ')')) else '.'} See `{context.command_path} --help`."
