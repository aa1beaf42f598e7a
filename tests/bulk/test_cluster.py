"""An address that does not answer is one line, soon; Ray's noise stays away from the terminal."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hemalens.bulk.cluster import check_answers, check_cluster, connected, silent
from hemalens.bulk.options import BulkOptions
from hemalens.errors import InputError, MissingExtraError


@contextmanager
def _server(answer: bytes | None) -> Iterator[str]:
    """A server of another program: it answers with these bytes, or not at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            line, _ = server.accept()
            held.append(line)
            line.recv(100)
            if answer is not None:
                line.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join(5)
            for line in held:
                line.close()


def test_a_server_that_says_nothing_is_no_cluster() -> None:
    begun = time.monotonic()
    with _server(None) as address, pytest.raises(InputError, match=r"no Ray cluster answers .* got no answer in 0\.3 s"):
        check_answers(address, timeout_s=0.3)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"x"])
def test_another_program_is_no_cluster(answer: bytes) -> None:
    with _server(answer) as address, pytest.raises(InputError, match="the answer of another program"):
        check_answers(address)


def test_a_server_of_the_protocol_passes() -> None:
    with _server(b"\0\0\x06\x04\0\0\0\0\0") as address:
        check_answers(address)


def test_a_closed_port_is_no_cluster() -> None:
    with pytest.raises(InputError, match="refused"):
        check_answers("127.0.0.1:1")


def test_without_ray_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs the package 'ray'.*hemalens\[ray\]"):
        check_cluster(BulkOptions())


def test_no_cluster_on_this_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**settings: object) -> None:
        assert settings["address"] == "local"
        assert settings["include_dashboard"] is False
        raise ValueError("The configured object store size exceeds /dev/shm\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(InputError, match=r"Ray cannot be started .* got The configured object store size exceeds /dev/shm$"),
        connected(BulkOptions()),
    ):
        pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_is_printed_inside_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    with silent():
        print("a node has died")  # noqa: T201
        os.write(2, b"core_worker.cc: E\n") if sys.stderr.fileno() == 2 else None
        print("our progress", file=sys.stderr)  # noqa: T201
    print("after", file=sys.stderr)  # noqa: T201
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == "our progress\nafter\n"
