"""Commands without a bundle: the default model answers and is named on standard error, or one line says it is missing."""

from __future__ import annotations

import csv
import shlex
import shutil
from pathlib import Path

import pytest

import trained
from command import Command
from hemalens.bundle.bundle import Bundle, open_bundle

SAID = "default model: robust (test_resnet), trained on lab_a; research use: a morphologist confirms every result"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "robust").bundle


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.cells(tmp_path_factory) / "lab_b"


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def packaged(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr("hemalens.bundle.default_model.FOLDER", own.path)
    return own


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.bundle.default_model.FOLDER", tmp_path / "nothing")


@pytest.mark.usefixtures("packaged")
def test_predict_without_a_bundle(abroad: Path, own: Bundle, tmp_path: Path, hemalens: Command) -> None:
    images = abroad / "images"
    alone = hemalens("predict", images, "--out", tmp_path / "a.csv")
    assert alone.code == 0
    assert alone.err.count(SAID) == 1
    named = hemalens("predict", own.path, images, "--out", tmp_path / "b.csv")
    assert named.code == 0
    assert "default model" not in named.err
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    with open(tmp_path / "a.csv", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 33
    quiet = hemalens("predict", images, "--out", tmp_path / "c.csv", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


@pytest.mark.usefixtures("packaged")
def test_suggest_without_a_bundle(abroad: Path, own: Bundle, tmp_path: Path, hemalens: Command) -> None:
    images = shutil.copytree(abroad / "images", tmp_path / "images")
    alone = hemalens("suggest", images, "--out", tmp_path / "a.csv", "--n", 4)
    assert (alone.code, alone.err.count(SAID)) == (0, 1), alone.error
    assert f"hemalens adapt --support csv:{tmp_path / 'a.csv'}" in alone.out
    named = hemalens("suggest", own.path, images, "--out", tmp_path / "b.csv", "--n", 4)
    assert (named.code, "default model" in named.err) == (0, False)
    assert f"hemalens adapt {shlex.quote(str(own.path))} --support" in named.out
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


@pytest.mark.usefixtures("packaged", "undrawn")
def test_evaluate_and_adapt_without_a_bundle(abroad: Path, tmp_path: Path, hemalens: Command) -> None:
    spec = f"synthetic:{abroad}"
    for command in (
        ("evaluate", "--data", spec, "--explain", "none"),
        ("adapt", "--support", spec),
        ("adapt", "--unlabelled", spec),
    ):
        ended = hemalens(*command, "--out", tmp_path / command[1] / command[0])
        assert ended.code == 0, ended.error
        assert ended.err.count(SAID) == 1
    assert open_bundle(tmp_path / "--support" / "adapt").manifest.adaptation is not None
    assert open_bundle(tmp_path / "--unlabelled" / "adapt").manifest.unlabelled is not None


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize(
    "command",
    [("predict", "cells"), ("suggest", "cells"), ("evaluate", "--data", "folder:x"), ("adapt", "--support", "folder:x")],
)
def test_where_the_package_has_none_one_line_says_so(command: tuple[str, ...], tmp_path: Path, hemalens: Command) -> None:
    ended = hemalens(*command, "--out", tmp_path / "out.csv")
    assert (ended.code, ended.out) == (2, "")
    assert ended.error.startswith("error: this installation of hemalens has no default model; expected a bundle in ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("packaged")
def test_words_that_cannot_be_told_apart_are_refused(own: Bundle, abroad: Path, tmp_path: Path, hemalens: Command) -> None:
    for words, message in (
        ((), "no images given; expected hemalens predict [BUNDLE] IMAGES --out FILE"),
        ((own.path,), "is a bundle, and no images are given; expected hemalens predict [BUNDLE] IMAGES --out FILE"),
        ((abroad / "images", own.path), "is a bundle, and comes second; expected hemalens predict [BUNDLE] IMAGES"),
        ((tmp_path / "gone", abroad), "there is no bundle folder"),
        ((tmp_path / "gone",), "there is no image or folder"),
    ):
        ended = hemalens("predict", *words, "--out", tmp_path / "out.csv")
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.error
    assert hemalens("predict", "a", "b", "c", "--out", tmp_path / "out.csv").code == 2
    assert list(tmp_path.iterdir()) == []
