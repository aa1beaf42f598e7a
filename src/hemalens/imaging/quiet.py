"""Warnings of the decoders: caught in each thread, never on the terminal, and kept as notes on an image."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from PIL import Image

MODULES = r"(PIL|tifffile|imagecodecs|hemalens\.imaging)\b"
"""Where the warnings of decoders come from."""

_here = threading.local()
_lock = threading.Lock()
_active: list[warnings.catch_warnings[None]] = []
_n_readers = 0


@contextmanager
def decoder_warnings(notes: list[str] | None = None) -> Iterator[None]:
    """Catch what decoders warn of inside the block, in this thread, and append it to `notes`.

    Filters of warnings belong to the process. The first of several threads sets them, and the last one restores them.
    """
    global _n_readers
    _silence_libtiff()
    _watch_tifffile()
    outer = getattr(_here, "notes", None)
    _here.notes = [] if notes is None else notes
    with _lock:
        _n_readers += 1
        if _n_readers == 1:
            _active.append(_catch())
    try:
        yield
    finally:
        with _lock:
            _n_readers -= 1
            if _n_readers == 0:
                _active.pop().__exit__(None, None, None)
        _here.notes = outer


def _catch() -> warnings.catch_warnings[None]:
    caught = warnings.catch_warnings()
    caught.__enter__()
    before = warnings.showwarning

    def keep(message: Warning | str, *further: Any, **named: Any) -> None:
        if not _kept(str(message)):
            before(message, *further, **named)

    warnings.showwarning = keep
    warnings.filterwarnings("always", module=MODULES)
    # the size is checked against a limit of our own
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return caught


def _kept(text: str) -> bool:
    """Keep a note of the thread that reads an image; False in any other thread."""
    notes: list[str] | None = getattr(_here, "notes", None)
    if notes is None:
        return False
    notes.append(" ".join(text.split()))
    return True


class _Log(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _kept(record.getMessage())


@cache
def _watch_tifffile() -> None:
    logging.getLogger("tifffile").addFilter(_Log("tifffile"))


@cache
def _silence_libtiff() -> None:
    """Pillow's libtiff prints damage on standard error, beside the error that Pillow raises."""
    # where libtiff is linked statically, it has no such name
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
