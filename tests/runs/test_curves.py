"""Training curves from a run folder: what the history holds, which epoch was kept, and damage in one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hemalens.errors import OutputError
from hemalens.files import write_sealed
from hemalens.runs.curves import read_curve

BALANCED = (0.4, 0.7, 0.7, 0.6)


def _run(folder: Path, rows: list[dict[str, Any]], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if config is not None:
        write_sealed(folder / "fit.json", {"key": "k", "config": config})
    return folder


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "epoch": i,
            "train_loss": 1.0 - i / 10,
            "val_loss": 1.5 - i / 10,
            "val_accuracy": (0.5, 0.6, 0.7, 0.9)[i],
            "val_balanced_accuracy": BALANCED[i],
            "val_nll": 9.0,
        }
        for i in range(4)
    ]


def test_a_value_an_epoch_counted_from_one(tmp_path: Path) -> None:
    curve = read_curve(_run(tmp_path / "run", _rows()), "finetune", group="10 % of the labels", part="test")
    assert curve is not None
    assert (curve.name, curve.group, curve.part) == ("finetune", "10 % of the labels", "test")
    assert curve.epoch == (1, 2, 3, 4)
    assert curve.train_loss == (1.0, 0.9, 0.8, 0.7)
    assert curve.val_loss == (1.5, 1.4, 1.3, 1.2)
    assert curve.accuracy == (0.5, 0.6, 0.7, 0.9)
    assert curve.balanced_accuracy == BALANCED
    assert curve.val_nll == (9.0,) * 4
    assert curve.further == {}
    assert curve.kept is None, "without the settings nothing is known"


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, 4),
        ({"kept_epoch": "last", "selection_score": "balanced_accuracy"}, 4),
        ({"kept_epoch": "best", "selection_score": "balanced_accuracy"}, 2),
        ({"kept_epoch": "best", "selection_score": "accuracy"}, 4),
        ({"kept_epoch": "best", "selection_score": "not_recorded"}, 4),
    ],
)
def test_the_kept_epoch_is_the_last_or_the_first_of_the_best_score(
    tmp_path: Path, config: dict[str, Any], kept: int
) -> None:
    curve = read_curve(_run(tmp_path / "run", _rows(), config), "finetune")
    assert curve is not None
    assert curve.kept == kept


def test_other_losses_keep_their_names(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "dissimilarity": 0.5, "mmd": 0.1}, {"epoch": 1, "dissimilarity": float("nan"), "mmd": 0.2}]
    curve = read_curve(_run(tmp_path / "run", rows), "autoencoder")
    assert curve is not None
    assert curve.further == {"dissimilarity": (0.5, None), "mmd": (0.1, 0.2)}
    assert (curve.train_loss, curve.accuracy) == ((), ())


def test_a_series_that_begins_late_has_gaps(tmp_path: Path) -> None:
    curve = read_curve(_run(tmp_path / "run", [{"epoch": 0}, {"epoch": 1, "train_loss": float("inf")}, _rows()[2]]), "a")
    assert curve is not None
    assert curve.train_loss == (None, None, 0.8)


def test_without_a_history_there_is_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path, "linear_probe") is None
    assert read_curve(_run(tmp_path / "empty", []), "linear_probe") is None


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"epoch": 0}\n{"epoch": 1, "train_lo', 'line 2: {"epoch": 1, "train_lo'),
        ("[1, 2]\n", "line 1: [1, 2]"),
        ('{"train_loss": 1.0}\n', "line 1: "),
        ('{"epoch": 0, "train_loss": "low"}\n', "line 1: train_loss='low'"),
        ('{"epoch": 0, "train_loss": true}\n', "line 1: train_loss=True"),
        ('{"epoch": 1}\n{"epoch": 1}\n', "1, 1"),
        ("\xff\xfe", "utf-8"),
    ],
)
def test_damage_is_one_clear_error(tmp_path: Path, text: str, got: str) -> None:
    (tmp_path / "history.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match="is damaged") as caught:
        read_curve(tmp_path, "finetune")
    assert got in str(caught.value)
    assert "--overwrite" in str(caught.value)
