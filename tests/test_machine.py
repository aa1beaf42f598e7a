"""Nothing leaves the machine, and nothing is written but the cache, the output and temporary files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hemalens
import trained

MAIN = "from hemalens.cli.main import main; main()"
REFUSED = """
import socket, sys

def refuse(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        sys.stderr.write(f"\\nNETWORK {event} {given}\\n")
        raise RuntimeError(f"the network is asked for: {event}")

sys.addaudithook(refuse)
"""
"""A `sitecustomize` that refuses Python's sockets, where no tracer sees those of compiled code."""


@pytest.fixture
def ground(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, a bundle, and empty folders for the user, the cache, the output and temporary files."""
    for name in ("home", "config", "cache", "out", "temporary", "site"):
        (tmp_path / name).mkdir()
    shutil.copytree(trained.cells(tmp_path_factory), tmp_path / "cells")
    trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory))
    (tmp_path / "site" / "sitecustomize.py").write_text(REFUSED)
    return tmp_path


def _environment(ground: Path) -> dict[str, str]:
    """No switch of the tests' own environment is passed on: the package must set them."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS") if name in os.environ}
    sources = str(Path(hemalens.__file__).parents[1])
    return {
        **kept,
        "HOME": str(ground / "home"),
        **{f"XDG_{name}_HOME": str(ground / "home" / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")},
        "HEMALENS_CACHE": str(ground / "cache"),
        "TMPDIR": str(ground / "temporary"),
        "PYTHONPATH": os.pathsep.join([str(ground / "site"), sources]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _traced(command: list[str], trace: Path) -> list[str]:
    """The command under strace, which sees compiled code too; as it is where there is none, or where it may not trace."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-qq", "-o", os.devnull, "true"], check=False).returncode:
        return command
    return [strace, "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg", "-o", str(trace), *command]


PROBE = [word for setting in trained.settings(trained.PROBE) for word in ("--set", setting)]
VERBS = {
    "predict": ["predict", "bundle", "cells/lab_b/images", "--out", "out/predictions.csv"],
    "train": ["train", "linear_probe", "--train", "synthetic:cells/lab_a", *PROBE, "--out", "out/run"],
    "adapt": ["adapt", "bundle", "--support", "synthetic:cells/lab_b", "--out", "out/adapted"],
}


@pytest.mark.parametrize("verb", ["predict", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("train", "adapt"))])
def test_nothing_leaves_the_machine_and_nothing_is_written_elsewhere(ground: Path, verb: str) -> None:
    before = _files(ground)
    command = _traced([sys.executable, "-c", MAIN, *VERBS[verb]], ground / "trace")
    done = subprocess.run(command, cwd=ground, env=_environment(ground), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    trace = (ground / "trace").read_text() if (ground / "trace").exists() else ""
    assert not re.findall(r".*AF_INET.*", trace), "a socket of the internet, for a connection or a name"
    new = _files(ground) - before - {"trace"}
    assert any(name.startswith("out/") for name in new)
    assert {name for name in new if not name.startswith(("out/", "cache/", "temporary/"))} == set()
    assert not list((ground / "temporary").glob("*hemalens*")), "temporary files are left"


NAMES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED")


def test_the_switches_reach_a_process_that_this_one_starts() -> None:
    ask = f"import os; print(*(os.environ.get(name) for name in {NAMES!r}))"
    code = f"import subprocess, sys, hemalens; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1", "0"]


def test_the_hub_s_client_has_its_telemetry_off() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY
