"""Connect to Ray: a cluster of this machine alone that ends with the run, or one that runs already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from hemalens.bulk.options import BulkOptions
from hemalens.errors import InputError, one_line, require_extra
from hemalens.graphs.runtime import n_cores

OBJECT_STORE_BYTES = 80_000_000
"""Ray's memory for values between processes. Its least: only numbers of shards pass through."""
TIMEOUT_S = 10
"""Seconds in which the head node must answer."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of HTTP/2, on which Ray's head node speaks, begins: a fixed text, and an empty frame of settings."""
_SETTINGS = 4
"""The kind of the frame with which such a server answers, in its fourth byte."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # numbers of shards need no fast memory, and /dev/shm is small in containers
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
}


def check_cluster(options: BulkOptions) -> None:
    """Raise `MissingExtraError` without Ray, and `InputError` where the address does not answer; before any work."""
    require_extra("ray", "ray", "--engine ray")
    if options.address not in (None, "auto"):
        check_answers(str(options.address))


@contextmanager
def connected(options: BulkOptions) -> Iterator[Any]:
    """The module `ray`, connected, inside the block; a connection that the program has already is used and stays.

    Raises `InputError` where Ray does not start, or its cluster cannot be used.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Ray does in its own modules
        import ray

        own = not ray.is_initialized()
        if own:
            _start(ray, options)
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            yield ray
        finally:
            if own:
                ray.shutdown()


def _start(ray: Any, options: BulkOptions) -> None:
    """Connect to the cluster of the options, or start one; the program's own handling of signals stays."""
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        if options.address is None:
            ray.init(
                address="local",
                num_cpus=options.n_actors or n_cores(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=options.address, **quiet)
    except Exception as error:
        # of Ray's own processes, the system, or another version of Ray or Python
        if options.address is None:
            raise InputError(
                "Ray cannot be started on this machine",
                expected="100 MB in /dev/shm or the temporary folder, and room for its processes",
                got=_first_line(error),
            ) from error
        raise no_answer(options.address, _first_line(error)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def no_answer(address: str, got: str) -> InputError:
    """The error of an address at which no cluster can be used."""
    return InputError(
        f"no Ray cluster answers at --address {one_line(address)}",
        expected="the head node's HOST:PORT, from one of its nodes, with the same versions of Ray and Python",
        got=got,
        remedy="Look with: ray status --address HOST:PORT. Or leave --address out to use this machine alone.",
    )


def check_answers(address: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Raise `InputError` unless a server of Ray's protocol answers at HOST:PORT; Ray itself would wait for long."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as line:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                line.settimeout(timeout_s)
                line.sendall(_HELLO)
                answer = line.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise no_answer(address, "the answer of another program")
    except TimeoutError as error:
        raise no_answer(address, f"no answer in {timeout_s:g} s") from error
    except OSError as error:
        raise no_answer(address, error.strerror or str(error)) from error


@contextmanager
def silent() -> Iterator[None]:
    """Keep what Ray prints away from the terminal; standard error stays open for progress and notes.

    Ray's own logs lie in its folder, by default /tmp/ray/session_latest/logs.
    """
    with ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(null))
        if _number(sys.stderr) == 2:
            # parts of Ray write to the number 2 itself
            stack.enter_context(redirect_stderr(_moved(stack, null.fileno())))
        yield


def _number(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _moved(stack: ExitStack, null: int) -> Any:
    """Standard error under another number, while the number 2 leads nowhere; `stack` undoes it."""
    sys.stderr.flush()
    kept = os.dup(2)
    stream = open(kept, "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors, buffering=1)  # noqa: SIM115

    def back() -> None:
        stream.flush()
        os.dup2(kept, 2)
        stream.close()

    os.dup2(null, 2)
    stack.callback(back)
    return stream
