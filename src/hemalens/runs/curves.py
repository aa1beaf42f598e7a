"""Training curves of a run folder, from its `history.jsonl` and `fit.json`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hemalens.errors import OutputError, one_line
from hemalens.evaluation.results import TrainingCurve
from hemalens.files import parse_json, read_sealed

HISTORY = "history.jsonl"
_FIELDS = {
    "train_loss": "train_loss",
    "val_loss": "val_loss",
    "val_nll": "val_nll",
    "val_accuracy": "accuracy",
    "val_balanced_accuracy": "balanced_accuracy",
}
"""Keys of the history and fields of a curve."""
_Row = dict[str, float]


def read_curve(run_dir: Path, name: str, *, group: str = "", part: str = "validation") -> TrainingCurve | None:
    """The curve of the training in `run_dir`; None where no network was trained, as for a linear probe.

    `part` names the images that the training watched. Keys of the history beyond the loss and the scores, such as
    `mask_loss`, become `further`. The kept epoch is known from the settings in `fit.json`. Raises `OutputError` for a
    damaged history.
    """
    file = run_dir / HISTORY
    if not file.is_file():
        return None
    rows = [_row(file, number, line) for number, line in enumerate(_lines(file), start=1)]
    if not rows:
        return None
    keys = dict.fromkeys(key for row in rows for key in row if key != "epoch")
    series = {key: tuple(_finite(row.get(key)) for row in rows) for key in keys}
    epochs = [int(row["epoch"]) for row in rows]
    if any(b <= a for a, b in zip([-1, *epochs], epochs, strict=False)):
        raise _damaged(file, "epochs that ascend from 0", ", ".join(map(str, epochs[:8])))
    return TrainingCurve(
        name=name,
        group=group,
        part=part,
        epoch=tuple(epoch + 1 for epoch in epochs),
        further={key: values for key, values in series.items() if key not in _FIELDS},
        kept=_kept(run_dir, rows),
        **{field: series.get(key, ()) for key, field in _FIELDS.items()},
    )


def read_curves(run_dirs: Iterable[Path], name: str, *, group: str = "", part: str = "validation") -> list[TrainingCurve]:
    """The curve of each folder where a network was trained, as `read_curve`: trainings of one model, such as seeds."""
    found = (read_curve(run_dir, name, group=group, part=part) for run_dir in run_dirs)
    return [curve for curve in found if curve is not None]


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, "a text file in UTF-8", str(error)) from error


def _row(file: Path, number: int, line: str) -> _Row:
    """One epoch of a history; raises `OutputError`."""
    try:
        row = parse_json(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
        raise _damaged(file, "one JSON object an epoch, with the key epoch", f"line {number}: {line[:60]}")
    for key, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _damaged(file, "numbers", f"line {number}: {key}={value!r}")
    return row


def _damaged(file: Path, expected: str, got: str) -> OutputError:
    return OutputError(
        f"the history {one_line(file)} is damaged",
        expected=expected,
        got=one_line(got),
        remedy="Train again with --overwrite, or delete the file to have no training curves.",
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _kept(run_dir: Path, rows: Sequence[_Row]) -> int | None:
    """The epoch, counted from 1, whose weights were kept; None without the settings of the fit.

    It is the last, or the first of the best score.
    """
    config = _settings(run_dir)
    if config is None:
        return None
    score = f"val_{config.get('selection_score')}"
    scored = [row for row in rows if _finite(row.get(score)) is not None]
    if config.get("kept_epoch") != "best" or not scored:
        return int(rows[-1]["epoch"]) + 1
    return int(max(scored, key=lambda row: row[score])["epoch"]) + 1


def _settings(run_dir: Path) -> Mapping[str, Any] | None:
    config = (read_sealed(run_dir / "fit.json") or {}).get("config")
    return config if isinstance(config, dict) else None
