"""The verb that dispatches to the ways of adapting, and the options that it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import trained
from command import Command
from hemalens import AdaptOptions, adapt
from hemalens.bundle.bundle import MODEL
from hemalens.datasets import open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import ConfigError, InputError
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (150, 110, 90), "lymphocyte": (80, 110, 160), "monocyte": (80, 180, 90)}
BIAS = ["size=false"]


def _digests(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in walk_files(folder)}


def test_with_both_kinds_of_data_the_unlabelled_images_come_first(tmp_path: Path) -> None:
    cells = open_dataset(f"folder:{colour_cells(tmp_path / 'home', HOME, 6, seed=0, noise=15)}")
    colours = trained.colour_bundle(tmp_path / "bundle", cells, scale=30.0)
    away = colour_cells(tmp_path / "away", AWAY, 10, seed=1, noise=15)
    support = colour_cells(tmp_path / "support", AWAY, 5, seed=5)
    both = adapt(
        colours.path,
        out=tmp_path / "both",
        unlabelled=str(away),
        support=f"folder:{support}",
        options=AdaptOptions(few_shot=["normalise=true"], settings=BIAS),
    )
    first = adapt(colours.path, out=tmp_path / "first", unlabelled=str(away), options=AdaptOptions(settings=BIAS))
    second = adapt(
        first.path, out=tmp_path / "second", support=f"folder:{support}", options=AdaptOptions(few_shot=["normalise=true"])
    )
    assert both.graph == second.graph
    manifest = both.manifest
    assert manifest.unlabelled is not None
    assert manifest.adaptation is not None
    assert manifest.unlabelled.base_model_sha256 == colours.manifest.files[MODEL].sha256
    assert [entry.role for entry in manifest.data] == ["train", "unlabelled", "support"]
    assert both.seen_unlabelled == _digests(away)
    assert _digests(support) <= both.seen


UNUSED = {
    "nothing": ({}, {}, "nothing to adapt to"),
    "new classes": ({"unlabelled": "x"}, {"allow_new": True}, "--allow-new needs --support"),
    "few-shot": ({"unlabelled": "x"}, {"few_shot": ["rule=base"]}, "--few-shot needs --support"),
    "fine-tuning": ({"unlabelled": "x"}, {"finetune": True}, "--finetune needs --support"),
    "settings": ({"support": "x"}, {"settings": ["size=false"]}, "--set needs"),
    "both": ({"support": "x", "unlabelled": "y"}, {"finetune": True}, "--unlabelled do not go together"),
    "rule": ({"support": "x"}, {"few_shot": ["rule=base"], "finetune": True}, "--few-shot do not go together"),
}


@pytest.mark.parametrize(("data", "options", "message"), UNUSED.values(), ids=UNUSED)
def test_an_option_without_a_use_is_refused(
    data: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        adapt(tmp_path / "bundle", out=tmp_path / "out", options=AdaptOptions(**options), **data)


@pytest.mark.parametrize("setting", ["prior=true", "standardise=true", "class_balance=true", "pseudo_labels=true"])
@pytest.mark.parametrize("support", [None, "x"])
def test_an_unknown_step_is_refused_before_any_work(setting: str, support: str | None, tmp_path: Path) -> None:
    options = AdaptOptions(settings=[setting])
    with pytest.raises(ConfigError, match="unknown key"):
        adapt(tmp_path / "b", out=tmp_path / "out", unlabelled="y", support=support, options=options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = Command(monkeypatch, capsys)("adapt", tmp_path / "b", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "nothing to adapt to" in ended.error
