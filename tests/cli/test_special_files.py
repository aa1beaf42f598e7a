"""A named pipe, a socket or a link to a device among the images: no verb waits for it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trained
from command import Command

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here"),
    pytest.mark.usefixtures("undrawn"),
]
LONGEST_S = 120
NO_FILE = "no regular file"


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Stop a test that waits."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("the command hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # the name of a socket may have about 100 letters
    before = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS: dict[str, Callable[[Path], None]] = {"pipe": _pipe, "socket": _socket, "link to a pipe": _link_to_pipe}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small bundle, and cells of another laboratory in class folders."""
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory)).path
    cells = tmp_path / "cells"
    for kind in trained.CELL_TYPES:
        shutil.copytree(trained.cells(tmp_path_factory) / "lab_b" / "images" / kind, cells / kind)
    return {"bundle": bundle, "cells": cells}


VERBS: dict[str, tuple[list[str], int, str]] = {
    "audit": (["data", "audit", "folder:{cells}"], 0, NO_FILE),
    "predict": (["predict", "{bundle}", "{cells}", "--out", "out.csv"], 0, NO_FILE),
    "segment": (["segment", "classical", "{cells}", "--out", "out"], 0, NO_FILE),
    "suggest": (["suggest", "{bundle}", "{cells}", "--out", "out.csv"], 0, NO_FILE),
    "evaluate": (["evaluate", "{bundle}", "--data", "folder:{cells}", "--out", "out", "--explain", "none"], 0, NO_FILE),
    "train": (["train", "stub", "--train", "folder:{cells}", "--out", "out"], 2, NO_FILE),
    "train without": (
        ["train", "stub", "--train", "folder:{cells}", "--out", "out", "--drop-unreadable"],
        0,
        "1 unreadable",
    ),
    "adapt": (["adapt", "{bundle}", "--support", "folder:{cells}", "--out", "out"], 2, NO_FILE),
    "adapt unlabelled": (
        ["adapt", "{bundle}", "--unlabelled", "folder:{cells}", "--out", "out"],
        0,
        "left out 1 unreadable image(s)",
    ),
    "quantize": (
        ["quantize", "{bundle}", "--calibrate", "folder:{cells}", "--precision", "fp16", "--out", "out"],
        2,
        NO_FILE,
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_verb_waits_for_a_special_file(
    verb: str,
    kind: str,
    given: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    folder = given["cells"].parent
    monkeypatch.chdir(folder)
    KINDS[kind](given["cells"] / "neutrophil" / "special.png")
    words, code, says = VERBS[verb]
    ended = Command(monkeypatch, capsys)(*(word.format(**given) for word in words))
    assert ended.code == code, ended.err
    written = [folder / "out.csv", folder / "out" / "segmentation.csv", folder / "out" / "report.json"]
    told = [ended.out, ended.err, *(path.read_text() for path in written if path.is_file())]
    assert any(says in text for text in told), ended
    if code:
        assert "special.png" in ended.error
