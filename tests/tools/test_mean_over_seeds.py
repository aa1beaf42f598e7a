"""tools/mean_over_seeds.py: means over several runs of the BC-SAM study, and counts of its comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import mean_over_seeds

COLUMNS = ("method", "autoencoder trained on", "1 -> 1", "1 -> 2", "2 -> 1", "2 -> 2")


def _table(title: str, *rows: tuple[str | None, ...]) -> Any:
    return SimpleNamespace(title=title, columns=COLUMNS, rows=rows)


def _report(accuracy: str, balanced: str, gains: Sequence[str]) -> Any:
    return SimpleNamespace(
        tables=(
            _table("Accuracy in %, trained on -> tested on", ("linear MMD, rf", "all images", accuracy, None, None, None)),
            _table(
                "Accuracy in %, restricted to types of both laboratories", ("linear MMD, rf", "all images", *["9.99"] * 4)
            ),
            _table("Balanced accuracy (95 % interval)", ("linear MMD, rf", "all images", balanced, None, None, None)),
            _table("Does the autoencoder help? Yes", ("linear MMD, rf", "all images", *gains)),
        )
    )


RUNS = (
    _report(
        "80.00 ± 1.0",
        "0.700 (0.600–0.800)",
        ["+9.0 (+8.0 to +9.9)", "+0.1 (+0.05 to +0.2)", "-0.1 (-0.2 to -0.05)", "+0.0 (-0.1 to +0.1)"],
    ),
    _report(
        "90.00 ± 2.0",
        "0.800 (0.700–0.900)",
        ["+9.0 (+8.0 to +9.9)", "+0.1 (-0.05 to +0.2)", "+0.1 (+0.0 to +0.2)", "+0.0 (-0.1 to +0.1)"],
    ),
)


def test_the_table_has_means_and_the_range_over_the_runs() -> None:
    (row,) = mean_over_seeds.mean_table(RUNS, ("Acevedo", "Zheng"))
    assert row == {
        "representation": "linear MMD",
        "autoencoder_saw": "all images",
        "head": "rf",
        "train": "Acevedo",
        "test": "Acevedo",
        "seeds": 2,
        "accuracy": "0.850",
        "balanced_accuracy": "0.750",
        "lowest": "0.700",
        "highest": "0.800",
    }


def test_comparisons_in_the_other_laboratory_are_counted_by_their_intervals() -> None:
    counts = mean_over_seeds.verdicts(RUNS)
    assert counts == {
        ("linear MMD", "all images", "better"): 1,
        ("linear MMD", "all images", "neither"): 2,
        ("linear MMD", "all images", "worse"): 1,
    }
