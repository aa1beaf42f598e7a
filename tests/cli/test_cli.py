"""The command line: help at 80 columns, JSON that parses, start-up that loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hemalens
import trained
from command import Command
from hemalens.datasets import READERS

VERBS = (
    (),
    ("quickstart",),
    ("data",),
    ("data", "list"),
    ("data", "audit"),
    ("data", "synthesize"),
    ("train",),
    ("adapt",),
    ("predict",),
    ("evaluate",),
    ("benchmark",),
    ("study",),
)
HEAVY = ("torch", "torchvision", "timm", "lightning", "sklearn", "matplotlib", "pandas", "onnxruntime", "scipy", "skimage")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_within_80_columns(verb: tuple[str, ...], command: Command) -> None:
    ended = command(*verb, "--help")
    assert ended.code == 0
    assert "Usage: hemalens" in ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 80


def test_version(command: Command) -> None:
    assert command("--version").out == f"hemalens {hemalens.__version__}\n"


def test_an_unknown_option_is_wrong_usage(command: Command) -> None:
    assert command("data", "list", "--nonsense").code == 2


def test_list_names_every_reader_with_its_licence(command: Command) -> None:
    facts = json.loads(command("data", "list", "--json").out)
    assert set(facts) == set(READERS)
    assert all(entry["licence"] and entry["layout"] and entry["citation"] for entry in facts.values())
    printed = command("data", "list").out
    assert all(f"{name}:PATH" in printed for name in READERS)


def test_synthesize_then_audit(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "drawn cells"
    ended = command("data", "synthesize", folder, "--n-per-class", 1, "--laboratory", "lab_b", "--quiet")
    assert ended.code == 0
    assert "8 images with masks" in ended.out
    audit = json.loads(command("data", "audit", f"synthetic:{folder}", "--labels", "as_labelled", "--json", "--quiet").out)
    assert audit["n_images"] == 8
    assert audit["n_with_mask"] == 8
    assert set(audit["domains"]) == {"lab_b"}
    assert audit["unreadable"] == {}


def test_audit_prints_hostile_names_on_one_line(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "monocyte"
    folder.mkdir(parents=True)
    (folder / "two\nlines.png").write_bytes(b"")
    lines = command("data", "audit", f"folder:{tmp_path / 'cells'}", "--quiet").out.splitlines()
    assert "unreadable: 1" in lines
    assert any("two\\nlines.png" in line for line in lines)


def test_predict_prints_counts_and_json(command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = trained.laboratory(tmp_path_factory)
    bundle = trained.colour_bundle(tmp_path / "bundle", dataset).path
    images = trained.cells(tmp_path_factory) / "lab_a" / "images"
    printed = command("predict", bundle, images, "--out", tmp_path / "a.csv", "--quiet")
    assert printed.code == 0
    assert f"{len(dataset)} rows in" in printed.out
    assert "unreadable: 0" in printed.out
    found = json.loads(command("predict", bundle, images, "--out", tmp_path / "b.parquet", "--quiet", "--json").out)
    assert found["n_rows"] == len(dataset)
    assert sum(found["by_label"].values()) == len(dataset)


@pytest.mark.parametrize(
    "statement", ["import hemalens", "sys.argv = ['hemalens', '--help']; from hemalens.cli.main import main; main()"]
)
def test_starting_loads_nothing_heavy(statement: str) -> None:
    report = f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY!r} if m in sys.modules]))"
    code = f"import sys, atexit\n{report}\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_public_names_are_these() -> None:
    assert set(hemalens.__all__) == {
        "Bundle",
        "CellDataset",
        "HemalensError",
        "Prediction",
        "Predictor",
        "Record",
        "__version__",
        "benchmark",
        "evaluate",
        "open_bundle",
        "open_dataset",
        "predict",
        "train",
    }
    for name in hemalens.__all__:
        assert getattr(hemalens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hemalens.nonsense
