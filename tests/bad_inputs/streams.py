"""Standard streams that are closed or full, or that lack characters; names that no encoding has; signals."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout

import pytest
from bad_input_cases import Case, Place

Around = Callable[[], AbstractContextManager[object]]


def _through(encoding: str) -> Around:
    """Both streams in an encoding; what arrives is passed on as it would look on a terminal of that encoding."""

    @contextmanager
    def around() -> Iterator[None]:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err):
            yield
        for stream, to in ((out, sys.stdout), (err, sys.stderr)):
            stream.flush()
            to.write(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]

    return around


@contextmanager
def _full(name: str, *, buffered: bool = True) -> Iterator[None]:
    with open("/dev/full", "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(io.BufferedWriter(raw) if buffered else raw, write_through=not buffered)  # type: ignore[type-var]
        with (redirect_stdout if name == "stdout" else redirect_stderr)(stream):
            yield
        stream.detach().close()


@contextmanager
def _reader_gone() -> Iterator[None]:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream, redirect_stdout(stream):
        yield


@contextmanager
def _closed(*names: str) -> Iterator[None]:
    """Streams that are None, as Python leaves those that were closed by the shell."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(sys, name, None)
        yield


@contextmanager
def _signalled(name: str, where: str) -> Iterator[None]:
    """The signal arrives while the function `where` runs."""

    def stop(*given: object, **more: object) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, stop)
        yield


@contextmanager
def _failing(where: str, error: BaseException) -> Iterator[None]:
    def fail(*given: object, **more: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, fail)
        yield


WRITING = "hemalens.inference.rows.RowFormat.row"
"""Runs while the table of predictions is half-written."""
NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff")


def _predict(place: Place, name: str = "cells", *more: object, out: str = "out.csv") -> Sequence[object]:
    return ("predict", place.bundle(), place.cells(name), "--out", out, *more)


def _audit(place: Place, name: str) -> Sequence[object]:
    return ("data", "audit", f"folder:{name}")


def _printed(name: str, make: Callable[[Place], Sequence[object]], around: Around, *says: str) -> Case:
    """A prediction that must succeed, whatever becomes of its words."""
    return Case(name, make, says, code=0, writes=("out.csv", f"{NOT_UTF8}.csv"), around=around)


def _ended(name: str, code: int, around: Around, *says: str) -> Case:
    """A prediction that is ended: no file of it is left."""
    return Case(name, _predict, says, code=code, around=around)


FOREIGN = "細胞 é 😀"

CASES = (
    *(
        Case(
            f"a name that {encoding} does not have",
            lambda p: _audit(p, f"{FOREIGN}/x"),
            ("there is no folder", escaped),
            around=_through(encoding),
        )
        for encoding, escaped in (
            ("ascii", r"\u7d30\u80de \xe9 \U0001f600"),
            ("cp1252", r"\u7d30\u80de é \U0001f600"),
            ("cp932", r"細胞 \xe9 \U0001f600"),
            ("utf-8", FOREIGN),
        )
    ),
    *(
        _printed(
            f"predictions by way of {encoding}",
            lambda p: _predict(p, FOREIGN),
            _through(encoding),
            "12 rows in out.csv",
            "unreadable: 0",
        )
        for encoding in ("ascii", "cp1252", "cp932")
    ),
    Case("the studies in ASCII", lambda p: ("study", "list"), ("bc-sam", "published"), code=0, around=_through("ascii")),
    Case("the help in ASCII", lambda p: ("benchmark", "--help"), ("--protocol",), code=0, around=_through("ascii")),
    _printed("a folder whose name is no UTF-8", lambda p: _predict(p, NOT_UTF8), _through("utf-8"), "12 rows in out.csv"),
    _printed(
        "a folder whose name is no UTF-8, as JSON",
        lambda p: _predict(p, NOT_UTF8, "--json"),
        _through("utf-8"),
        '"n_rows": 12',
    ),
    _printed(
        "an output whose name is no UTF-8",
        lambda p: _predict(p, out=f"{NOT_UTF8}.csv"),
        _through("utf-8"),
        r"caf\udce9 \udcff.csv",
    ),
    Case(
        "suggestions whose names are no UTF-8",
        lambda p: ("suggest", p.bundle(), p.cells(NOT_UTF8), "--out", "s.csv"),
        (r"caf\udce9 \udcff/neutrophil", "s.csv"),
        code=0,
        writes=("s.csv",),
    ),
    Case(
        "a missing folder whose name is no UTF-8",
        lambda p: _audit(p, NOT_UTF8),
        (r"there is no folder 'caf\udce9 \udcff'",),
    ),
    Case(
        "a setting that is no UTF-8",
        lambda p: ("train", "stub", "--train", f"folder:{p.cells()}", "--out", "x", "--set", f"scale={NOT_UTF8}"),
        (r"got 'caf\udce9 \udcff'",),
        stub=True,
    ),
    _printed("standard output closed", _predict, lambda: _closed("stdout")),
    _printed("both streams closed", _predict, lambda: _closed("stdout", "stderr")),
    _printed("standard output whose reader is gone", _predict, _reader_gone),
    _printed("standard error on a full device", _predict, lambda: _full("stderr"), "12 rows in out.csv"),
    Case(
        "standard output on a full device",
        _predict,
        ("cannot print the result; got No space left", "files is complete"),
        writes=("out.csv",),
        around=lambda: _full("stdout"),
    ),
    Case(
        "standard output on a full device, unbuffered",
        _predict,
        ("cannot print the result",),
        writes=("out.csv",),
        around=lambda: _full("stdout", buffered=False),
    ),
    Case(
        "the help on a full device",
        lambda p: ("predict", "--help"),
        ("cannot print the result",),
        around=lambda: _full("stdout"),
    ),
    Case(
        "the version on a full device",
        lambda p: ("--version",),
        ("cannot print the result",),
        around=lambda: _full("stdout"),
    ),
    _ended("SIGTERM", 143, lambda: _signalled("SIGTERM", WRITING), "stopped by SIGTERM; run the same command again"),
    _ended("SIGHUP", 129, lambda: _signalled("SIGHUP", WRITING), "stopped by SIGHUP; run the same command again"),
    _ended("SIGINT", 130, lambda: _signalled("SIGINT", WRITING), "stopped; run the same command again"),
    _ended("no memory", 2, lambda: _failing(WRITING, MemoryError()), "not enough memory"),
    _ended(
        "no memory of a library",
        2,
        lambda: _failing(WRITING, RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        "not enough memory",
    ),
    _ended("endless recursion", 2, lambda: _failing(WRITING, RecursionError()), "nested too deeply, or refers to itself"),
    _ended(
        "a number beyond all bounds",
        2,
        lambda: _failing(WRITING, OverflowError("int too large")),
        "too large to compute with; got int",
    ),
    _ended(
        "an error of a device",
        2,
        lambda: _failing(WRITING, OSError(5, "Input/output error", "/dev/sdx")),
        "Input/output error",
    ),
)
