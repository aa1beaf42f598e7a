"""Two commands with one output, killed commands, and full disks: one result, whole, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import trained
from command import Command

CLASSES = ("neutrophil", "lymphocyte")
MAIN = "from hemalens.cli.main import main; main()"
HOLD = """
import sys, time
from pathlib import Path
from hemalens.outputs import LOCK, claim_output, locked
out = Path(sys.argv[2])
with locked(out, out / LOCK) if sys.argv[1] == "run" else claim_output(out, overwrite=True):
    print("there", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True)
class Place:
    """A bundle, labelled cells, and the folder of the outputs."""

    folder: Path
    bundle: Path
    cells: Path

    def command(self, verb: str) -> tuple[tuple[object, ...], Path]:
        """The arguments of a command, and its output."""
        spec, out = f"folder:{self.cells}", self.folder / "out"
        table = self.folder / "out.csv"
        return {
            "train": (("train", "stub", "--train", spec, "--out", out), out),
            "predict": (("predict", self.bundle, self.cells, "--out", table), table),
            "adapt": (("adapt", self.bundle, "--support", spec, "--few-shot", "rule=prototype", "--out", out), out),
            "evaluate": (("evaluate", self.bundle, "--data", spec, "--explain", "none", "--out", out), out),
            "quantize": (("quantize", self.bundle, "--calibrate", spec, "--out", out), out),
            "segment": (("segment", "classical", self.cells, "--out", out), out),
            "suggest": (("suggest", self.bundle, self.cells, "--n", 2, "--out", table), table),
            "synthesize": (("data", "synthesize", out, "--n-per-class", 1), out),
        }[verb]


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Fresh copies, and the stub in the place of every method."""
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    for kind in CLASSES:
        (tmp_path / "cells" / kind).mkdir(parents=True)
        for image in sorted((trained.cells(tmp_path_factory) / "lab_b" / "images" / kind).iterdir())[:6]:
            shutil.copy(image, tmp_path / "cells" / kind / image.name)
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory)).path
    return Place(tmp_path, bundle, tmp_path / "cells")


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process."""
    return Command(monkeypatch, capsys)


def _started(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has said that it is there."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def hold() -> Iterator[Callable[[str, Path], None]]:
    """Start a process that writes an output, and kill it at the end."""
    started: list[subprocess.Popen[str]] = []
    yield lambda kind, out: started.append(_started(HOLD, kind, out))
    for process in started:
        _kill(process)


VERBS = ("train", "predict", "adapt", "evaluate", "quantize", "segment", "suggest", "synthesize")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("verb", VERBS)
def test_the_second_is_told_at_once(verb: str, place: Place, hold: Callable[[str, Path], None], hemalens: Command) -> None:
    arguments, out = place.command(verb)
    hold("run" if verb == "train" else "output", out)
    before = set(os.listdir(place.folder))
    for flags in ((), ("--overwrite",)):
        ended = hemalens(*arguments, *flags)
        assert ended.code == 2
        assert f"'{out}' is being written by another process. Wait until that ends" in ended.error
    assert set(os.listdir(place.folder)) == before


def test_of_two_processes_one_writes_and_the_other_says_so(place: Place) -> None:
    """With --overwrite both may write, but one after the other."""
    arguments, out = place.command("predict")
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate()[1], process.returncode) for process in both]
    assert sorted(code for _, code in ended) == [0, 2]
    (error,) = (text for text, code in ended if code)
    assert "is being written by another process" in error or "exists already" in error
    assert len(out.read_text().splitlines()) == 13
    assert set(os.listdir(place.folder)) == {"bundle", "cells", "out.csv"}


SLOW_PREDICT = f"""
import time
from hemalens.inference import rows
row, n = rows.RowFormat.row, 0

def slow(self, prediction):
    global n
    n += 1
    if n == 5:
        print("there", flush=True)
        time.sleep(60)
    return row(self, prediction)

rows.RowFormat.row = slow
{MAIN}
"""


def test_a_killed_predict_leaves_nothing_for_the_next(place: Place, hemalens: Command) -> None:
    arguments, out = place.command("predict")
    own = {"bundle", "cells"}
    for _ in range(2):
        _kill(_started(SLOW_PREDICT, *arguments))
        assert len(set(os.listdir(place.folder)) - own) == 2, "a lock and a half table, also after the second kill"
    assert hemalens(*arguments).code == 0
    assert set(os.listdir(place.folder)) == {*own, "out.csv"}
    _kill(_started(SLOW_PREDICT, *arguments, "--overwrite"))
    assert len(out.read_text().splitlines()) == 13, "the old table stays whole"
    # another output in the same folder
    other = place.folder / "other.csv"
    assert hemalens(*arguments[:-1], other).code == 0
    assert {name for name in os.listdir(place.folder) if not name.endswith(".lock")} == {*own, "out.csv", "other.csv"}


SLOW_TRAIN = f"""
import sys, time
sys.path.insert(0, {str(Path(trained.__file__).parent)!r})
import trained, hemalens.runs.train as module

def hang(*given, **more):
    print("there", flush=True)
    time.sleep(60)

module.find_method = lambda name: trained.stub_method()
module.make_report = hang
{MAIN}
"""


@pytest.mark.usefixtures("undrawn")
def test_a_killed_training_goes_on_and_the_old_run_stays(place: Place, hemalens: Command) -> None:
    arguments, out = place.command("train")
    _kill(_started(SLOW_TRAIN, *arguments))
    assert sorted(os.listdir(out)) == [".lock", ".new"]
    ended = hemalens(*arguments)
    assert (ended.code, "resuming the stopped run" in ended.err) == (0, True)
    first = (out / "run.json").read_text()
    assert ".new" not in os.listdir(out)
    _kill(_started(SLOW_TRAIN, *arguments, "--seed", 1, "--overwrite"))
    assert (out / "run.json").read_text() == first
    assert (out / "bundle" / "manifest.json").is_file()
    ended = hemalens(*arguments, "--seed", 1, "--overwrite")
    assert (ended.code, "resuming the stopped run" in ended.err) == (0, True)
    assert sorted(os.listdir(out)) == ["bundle", "fit.json", "report.html", "report.json", "report.md", "run.json"]
    assert (out / "run.json").read_text() != first


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "quantize"])
def test_a_full_disk_leaves_nothing_half_written(
    verb: str, place: Place, hemalens: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, _ = place.command(verb)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hemalens.files.os.replace", full)
    ended = hemalens(*arguments)
    assert ended.code == 2
    assert "the disk is full while writing" in ended.error
    assert set(os.listdir(place.folder)) <= {"bundle", "cells"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything is writable to root")
def test_a_run_folder_in_a_read_only_folder_is_enough(place: Place, hemalens: Command) -> None:
    arguments, out = place.command("train")
    out.mkdir()
    place.folder.chmod(0o555)
    try:
        assert hemalens(*arguments).code == 0
    finally:
        place.folder.chmod(0o755)
