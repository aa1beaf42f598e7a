"""Rounds by a clock of our own, and one real process for each kind of network."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest

import trained
from hemalens.benchmark.efficiency import timing
from hemalens.benchmark.efficiency.timing import N_BATCH, N_SINGLE, alternate, graph_runner, peak_memory_mb
from hemalens.errors import BundleError, HemalensError


class Clock:
    """Time passes only in the networks: `costs` seconds an image, times what the round is like."""

    def __init__(self, costs: list[float]) -> None:
        self.costs = costs
        self.now = 0.0
        self.calls: list[tuple[int, int]] = []

    def __call__(self) -> float:
        return self.now

    def run(self, number: int) -> timing.Run:
        def run(n_images: int) -> None:
            self.calls.append((number, n_images))
            self.now += self.costs[number] * n_images * (1 + 0.01 * len(self.calls))

        return run


def test_networks_take_turns_in_every_round() -> None:
    clock = Clock([0.1, 0.2])
    alternate([clock.run(0), clock.run(1)], 3, shortest_s=0, clock=clock)
    warm = [(0, 1), (0, N_BATCH), (1, 1), (1, N_BATCH)]
    once = [[(number, 1)] * (1 + N_SINGLE) + [(number, N_BATCH)] for number in (0, 1)]
    assert clock.calls == [*warm, *(call for _ in range(3) for number in (0, 1) for call in once[number])]


def test_values_are_medians_of_rounds_with_their_percentiles() -> None:
    clock = Clock([0.1])
    ((latency, rate),) = alternate([clock.run(0)], 5, shortest_s=0, clock=clock)
    # calls are numbered from 1: two to warm up, then a round of one, three and the batch
    singles = [[0.1 * (1 + 0.01 * (2 + 5 * r + i)) for i in (2, 3, 4)] for r in range(5)]
    rates = [1 / (0.1 * (1 + 0.01 * (2 + 5 * r + 5))) for r in range(5)]
    by_round = [1000 * statistics.median(times) for times in singles]
    assert latency.value == pytest.approx(statistics.median(by_round))
    assert (latency.low, latency.high) == pytest.approx(tuple(np.percentile(by_round, (2.5, 97.5))))
    assert rate.value == pytest.approx(statistics.median(rates))
    assert (rate.low, rate.high) == pytest.approx(tuple(np.percentile(rates, (2.5, 97.5))))


def test_short_calls_are_repeated_and_one_round_has_no_interval() -> None:
    clock = Clock([0.001])
    ((latency, rate),) = alternate([clock.run(0)], 1, shortest_s=0.1, clock=clock)
    assert sum(n == 1 for _, n in clock.calls) > 50
    assert (latency.low, latency.high, rate.low, rate.high) == (None,) * 4


@pytest.mark.slow
def test_a_process_of_its_own_tells_its_peak(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory))
    small = {"graph": str(bundle.path / "model.onnx"), "n_threads": 1}
    backbone = {"backbone": "test_resnet", "input_px": 32, "n_classes": 8, "precision": "fp32", "n_threads": 1}
    peaks = [
        peak_memory_mb({**small, "input_px": 16}),
        peak_memory_mb({**small, "input_px": 1024}),
        peak_memory_mb(backbone),
    ]
    if not timing.STATUS.is_file():
        assert peaks == [None] * 3
        return
    assert all(peak is not None and math.isfinite(peak) and peak > 10 for peak in peaks)
    # 32 images of 1024 px are 100 MB of input alone
    assert (peaks[1] or 0) - (peaks[0] or 0) > 90


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    what = {"graph": str(tmp_path / "model.onnx"), "input_px": 16, "n_threads": 1}
    if timing.STATUS.is_file():
        with pytest.raises(
            HemalensError, match=r"model.onnx cannot be run in a process of its own; got .*a graph cannot be run"
        ):
            peak_memory_mb(what)
    with pytest.raises(BundleError, match="a graph cannot be run"):
        graph_runner(b"no graph", 16, 1)


def test_where_no_system_tells_there_is_no_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timing, "STATUS", tmp_path / "status")
    assert peak_memory_mb({"graph": "unread", "input_px": 16, "n_threads": 1}) is None
