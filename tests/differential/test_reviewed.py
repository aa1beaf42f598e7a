"""Partly reviewed counts: the published estimate, and limits that hold."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.differential import reviewed as module
from hemalens.differential.reviewed import reviewed_share
from hemalens.errors import InputError


def _labels(values: np.ndarray) -> list[str]:
    return ["a" if value else "b" for value in values]


def test_the_estimate_is_the_program_s_share_plus_the_mean_correction() -> None:
    rng = np.random.default_rng(0)
    calls, truth = rng.random(200) < 0.4, rng.random(200) < 0.5
    reviewed: list[str | None] = [label if i < 60 else None for i, label in enumerate(_labels(truth))]
    found = reviewed_share("a", _labels(calls), reviewed)
    assert found.value == pytest.approx(calls.mean() + (truth[:60].astype(float) - calls[:60]).mean())
    assert (found.program, found.n_reviewed) == (calls.mean(), 60)


@pytest.mark.parametrize(("share", "missed", "false"), [(0.6, 0.05, 0.03), (0.03, 0.3, 0.01), (0.005, 0.5, 0.002)])
def test_limits_cover_the_share_of_the_blood(
    monkeypatch: pytest.MonkeyPatch, share: float, missed: float, false: float
) -> None:
    monkeypatch.setattr(module, "DRAWS", 1000)
    rng, hits = np.random.default_rng(1), 0
    for trial in range(150):
        truth = rng.random(200) < share
        calls = np.where(truth, rng.random(200) > missed, rng.random(200) < false)
        drawn = set(rng.permutation(200)[:50].tolist())
        reviewed = [label if i in drawn else None for i, label in enumerate(_labels(truth))]
        found = reviewed_share("a", _labels(calls), reviewed, seed=trial)
        hits += found.low <= share <= found.high
    assert hits >= 0.9 * 150


def test_nothing_reviewed() -> None:
    with pytest.raises(InputError):
        reviewed_share("a", ["a", "b"], [None, None])
