"""The runner of the benchmarks: ratios point the right way, growth is measured, a failure is told, the history is kept."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("rows", "commands", "scale", "run")


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, ModuleType]:
    """The modules of the folder, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        found = {name: import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]
    return found


def test_a_ratio_above_1_means_that_ours_is_better(benchmarks: dict[str, ModuleType]) -> None:
    row = benchmarks["rows"].Row.of
    assert row("a", "images/s", [30.0, 20.0], [10.0, 10.0], "p").ratios == (3.0, 2.0)
    assert row("a", "s", [5.0, 2.0], [10.0, 10.0], "p").ratios == (2.0, 5.0)
    assert row("a", "accuracy", [0.5], [0.25], "p", more_is_better=True).ratio == 2.0
    assert row("a", "s", [1.0, 2.0, 4.0], [4.0, 4.0, 4.0], "p").spread == "1.00 to 4.00"


def test_rows_cross_to_another_process_unchanged(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["rows"]
    rows = [module.Row.of("a", "s", [1.0, 3.0], [2.0, 2.0], "p"), module.Row.of("b", "images/s", [1.0], [4.0], "q")]
    assert module.loaded(module.dumped(rows)) == rows


@given(start=st.floats(0, 5), cost=st.floats(1e-4, 1), exponent=st.floats(0.5, 2.5), first=st.integers(10, 1000))
def test_the_exponent_is_that_of_the_growth(
    benchmarks: dict[str, ModuleType], start: float, cost: float, exponent: float, first: int
) -> None:
    spent = benchmarks["commands"].Spent
    points = [(n, spent(0, 0, start + cost * n**exponent, 100 + 0.02 * n)) for n in (first, 3 * first, 9 * first)]
    found = benchmarks["scale"].slope(points)
    assert found.exponent == pytest.approx(exponent, abs=1e-3)
    assert found.mb_per_thousand == pytest.approx(20)
    assert found.start_mb == pytest.approx(100, abs=1e-6)


def test_every_benchmark_is_a_module_with_the_same_function(benchmarks: dict[str, ModuleType]) -> None:
    for name in benchmarks["run"].BENCHMARKS:
        assert "def measure(*, quick: bool = False) -> list[Row]:" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def test_runs_are_kept_and_drawn(benchmarks: dict[str, ModuleType], tmp_path: Path) -> None:
    run, row = benchmarks["run"], benchmarks["rows"].Row.of
    for seconds in (2.0, 1.0):
        rows = [row("one", "s", [seconds], [4.0], "p"), row("two", "images/s", [seconds, 3.0], [4.0, 1.0], "q")]
        run.keep(tmp_path / "history.jsonl", {"some": rows}, quick=True)
    records = run.read_history(tmp_path / "history.jsonl")
    assert [record["rows"]["some"][0]["ratio"] for record in records] == [2.0, 4.0]
    assert all(record["machine"]["cores"] and record["commit"] and record["date"] for record in records)
    run.draw(records, tmp_path / "history.svg")
    assert ElementTree.parse(tmp_path / "history.svg").getroot().tag.endswith("svg")


def test_a_benchmark_that_fails_is_told_and_the_others_count(
    benchmarks: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = benchmarks["run"]
    good = benchmarks["rows"].Row.of("one", "s", [2.0], [4.0], "p")

    def run_one(name: str, *, quick: bool) -> list[object]:
        if name == "sam":
            raise RuntimeError("exit code 1: no memory")
        return [good]

    monkeypatch.setattr(run, "run_one", run_one)
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "sam", "heads", "--history", str(tmp_path / "h.jsonl")])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "failed: sam: exit code 1: no memory" in printed.err
    assert "one" in printed.out
    assert list(json.loads((tmp_path / "h.jsonl").read_text())["rows"]) == ["heads"]
