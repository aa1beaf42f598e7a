"""The benchmark as a grid: several methods, protocols, sources and targets; resumed, changed, failed, side by side."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trained
from command import Command
from hemalens.benchmark import workers
from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.plan import plan_benchmark
from hemalens.benchmark.run import benchmark
from hemalens.benchmark.trials import Status, Trial
from hemalens.bundle.bundle import Bundle
from hemalens.cache import damage_notes, forget_damage
from hemalens.cli.options import Talk
from hemalens.cli.trial_table import TrialLines, TrialTable
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, InputError, SplitError
from hemalens.methods import Method
from hemalens.report import read_report
from trained import Colour, colour_cells

COLOURS: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def labs(tmp_path: Path) -> Path:
    """Laboratories `one`, `two` and `three`."""
    for seed, (name, noise) in enumerate((("one", 30), ("two", 60), ("three", 60))):
        colour_cells(tmp_path / "labs" / name, COLOURS, 8, seed=seed, noise=noise)
    return tmp_path / "labs"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stubs named after any method asked for, as entry/source/fold; one named "broken" fails, "buggy" by a mistake."""
    folders: list[str] = []

    def find(name: str) -> Method:
        stub = trained.stub_method(lambda learn, held, run_dir: folders.append("/".join(run_dir.parts[-3:])))

        def fit(train: CellDataset, **more: Any) -> Bundle:
            if name == "broken":
                raise SplitError("too few of everything", remedy="Add images.")
            if name == "buggy":
                raise ZeroDivisionError("in line\n7")
            return stub.fit(train, **more)

        return replace(stub, name=name, fit=fit)

    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    return folders


def _asked(labs: Path, *names: str, **changes: Any) -> BenchmarkConfig:
    specs = tuple(f"folder:{labs / name}" for name in names or ("one", "two"))
    asked = {"methods": ("near", "far"), "sources": specs, "targets": specs, "folds": 2}
    return BenchmarkConfig.from_mapping(asked | changes)


# ---------------------------------------------------------------------------------------------------------- end to end


@pytest.mark.usefixtures("undrawn")
def test_every_method_from_every_source_on_every_target(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = benchmark(_asked(labs, "one", "two", "three"), out=out)
    pairs = [(e.method, e.source, e.target) for e in report.evaluations]
    expected = []
    for source, others in (("one", ("two", "three")), ("two", ("one", "three")), ("three", ("one", "two"))):
        expected += [(m, source, target) for m in ("near", "far") for target in (source, *others)]
    assert pairs == expected
    assert fits == [f"{m}/{s}/fold_{i}" for s in ("one", "two", "three") for m in ("near", "far") for i in range(2)]
    # both stubs are the same model: nothing tells them apart
    assert {(c.source, c.target) for c in report.comparisons} == {(s, t) for _, s, t in pairs}
    assert [c.better for c in report.comparisons] == [None] * 9
    assert {c.p_accuracy for c in report.comparisons} == {1.0}
    assert [(s.method, s.source, s.targets) for s in report.scatters][:2] == [
        ("near", "one", ("two", "three")),
        ("far", "one", ("two", "three")),
    ]
    assert {point.domain for point in report.scatters[0].scatter.points} == {"one", "two", "three"}
    assert [table.title for table in report.pictures] == [
        "near, one -> two: evidence",
        "far, one -> two: evidence",
    ]
    assert [(card.role, card.name) for card in report.data] == [
        *(("source", name) for name in ("one", "two", "three")),
        *(("target", name) for name in ("two", "three", "one")),
    ]
    assert report.failures == ()
    assert read_report(out / "report.json") == report
    assert any("in-domain and" in sentence for sentence in report.summary)


@pytest.mark.usefixtures("undrawn")
def test_several_protocols_share_a_report_and_k_fold_is_a_part_of_cross_domain(
    labs: Path, fits: list[str], tmp_path: Path
) -> None:
    few: dict[str, Any] = {"k_shot": {"shots": [1], "repeats": 2}, "fractions": {"fractions": [1.0], "seeds": 1}}
    protocols = ("k-fold", "cross-domain", "k-shot", "fractions", "efficiency")
    report = benchmark(
        _asked(labs, methods=("near",), protocols=protocols, efficiency={"rounds": 1}, **few), out=tmp_path / "run"
    )
    assert [(e.source, e.target) for e in report.evaluations] == [
        ("one", "one"),
        ("one", "two"),
        ("two", "two"),
        ("two", "one"),
    ]
    assert [(k.source, k.target) for k in report.k_shot] == [("one", "two"), ("two", "one")]
    assert [(c.source, c.target) for c in report.fractions] == [
        *(("one", "one, test part"), ("one", "two")),
        *(("two", "two, test part"), ("two", "one")),
    ]
    assert [run.split("/")[-1] for run in fits] == ["fold_0", "fold_1", "whole", "seed_0"] * 2
    assert [row.name for row in report.efficiency] == ["near, one", "near, two"]
    for row, evaluation in zip(report.efficiency, report.evaluations[1::2], strict=True):
        assert row.balanced_accuracy == evaluation.scores.balanced_accuracy
        assert row.timings[0].latency_ms.value is not None


@pytest.mark.usefixtures("undrawn")
def test_each_training_has_one_curve_whatever_it_is_tested_on(
    labs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(learn: CellDataset, held: CellDataset | None, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "history.jsonl").write_text(json.dumps({"epoch": 0, "train_loss": len(learn)}) + "\n")

    monkeypatch.setattr("hemalens.benchmark.config.find_method", lambda name: replace(trained.stub_method(note), name=name))
    few: dict[str, Any] = {"k_shot": {"shots": [1], "repeats": 2}, "fractions": {"fractions": [1.0, 0.5], "seeds": 2}}
    protocols = ("k-fold", "cross-domain", "k-shot", "fractions")
    config = _asked(labs, methods=("near", "far"), protocols=protocols, **few)
    report = benchmark(config, out=tmp_path / "run")
    found = Counter((curve.name, curve.group) for curve in report.curves)
    assert found == {
        (name, f"{source}, {what}"): n
        for name in ("near", "far")
        for source in ("one", "two")
        for what, n in (("2 folds", 2), ("whole", 1), ("100 % of the labels", 2), ("50 % of the labels", 2))
    }
    assert {curve.part for curve in report.curves} == {"validation"}
    again = benchmark(config, out=tmp_path / "run", say=lambda text: None)
    assert again.curves == report.curves, "a trial that is cached keeps its curves"


@pytest.mark.usefixtures("undrawn")
def test_one_method_twice_under_names_of_its_own(labs: Path, fits: list[str], tmp_path: Path) -> None:
    methods = ({"method": "near", "name": "sharp", "settings": ("scale=9.0",)}, "near")
    config = _asked(labs, methods=methods, settings=("sharp.scale=7.0", "scale=8.0"), sources=f"folder:{labs / 'one'}")
    report = benchmark(config, out=tmp_path / "run")
    assert report.methods == {"sharp": {"scale": 9.0}, "near": {"scale": 8.0}}, "its own settings come last"
    assert [(e.method, e.name) for e in report.evaluations][::2] == [
        ("sharp", "sharp: one -> one"),
        ("near", "near: one -> one"),
    ]
    with pytest.raises(ConfigError, match="two methods are called 'near'"):
        benchmark(_asked(labs, methods=("near", {"method": "far", "name": "near"})), out=tmp_path / "other")


# ------------------------------------------------------------------------------------------------------------- resumed


@pytest.mark.usefixtures("undrawn")
def test_a_killed_benchmark_runs_only_what_is_missing(
    labs: Path, fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, make = tmp_path / "run", trained.colour_bundle

    def killed_in_the_third(path: Path, *given: Any, **more: Any) -> Bundle:
        if path.parts[-4:-1] == ("far", "one", "fold_1"):
            raise KilledError
        return make(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trained, "colour_bundle", killed_in_the_third)
        with pytest.raises(KilledError):
            benchmark(_asked(labs), out=out)
    assert fits == ["near/one/fold_0", "near/one/fold_1", "far/one/fold_0", "far/one/fold_1"]
    assert not (out / "report.json").exists()
    fits.clear()
    seen: list[tuple[str, Status]] = []
    resumed = benchmark(
        _asked(labs), out=out, on_trial=lambda trial, status, outcome: seen.append((trial.entry.name, status))
    )
    assert fits == ["far/one/fold_1", *(f"{m}/two/fold_{i}" for m in ("near", "far") for i in range(2))]
    ended = [entry for entry in seen if entry[1] not in ("waiting", "running")]
    assert ended == [*[("near", "cached")] * 2, *[("far", "done")] * 2, *[("near", "done")] * 2, *[("far", "done")] * 2]
    unbroken = benchmark(_asked(labs), out=tmp_path / "again")
    assert resumed.evaluations == unbroken.evaluations
    assert resumed.comparisons == unbroken.comparisons
    assert resumed.scatters == unbroken.scatters


@pytest.mark.usefixtures("undrawn")
def test_after_a_change_only_what_it_touches_runs(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = benchmark(_asked(labs), out=out)
    fits.clear()
    benchmark(_asked(labs, settings=("far.scale=9.0",)), out=out)
    assert fits == [f"far/{s}/fold_{i}" for s in ("one", "two") for i in range(2)], "near's are known"
    fits.clear()
    more = benchmark(_asked(labs, methods=("near", "far", "third")), out=out)
    assert {run.split("/")[0] for run in fits} == {"third"}, "far's results with the first settings are still there"
    assert more.evaluations[:2] == first.evaluations[:2]
    fits.clear()
    # another image in a source, which is the other's target
    (labs / "two" / "monocyte" / "monocyte 0.png").unlink()
    changed = benchmark(_asked(labs, methods=("near",)), out=out)
    assert fits == ["near/two/fold_0", "near/two/fold_1"]
    assert changed.evaluations[0] == first.evaluations[0]
    assert changed.evaluations[1].n_images == 23


@pytest.mark.usefixtures("undrawn")
def test_an_edited_result_is_computed_anew_and_noted(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out, config = tmp_path / "run", _asked(labs, methods=("near",), sources=f"folder:{labs / 'one'}")
    whole = benchmark(config, out=out)
    file = next((out / "results" / "near").rglob("result.json"))
    content = json.loads(file.read_text())
    content["outcome"]["evaluations"][0]["scores"]["accuracy"]["value"] = 0.123
    file.write_text(json.dumps(content))
    forget_damage()
    assert benchmark(config, out=out).evaluations == whole.evaluations
    assert damage_notes() == [f"a damaged result of the benchmark was computed anew: '{file.relative_to(out)}'"]
    forget_damage()


@pytest.mark.usefixtures("undrawn")
def test_damaged_results_and_models_are_made_again(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out, config = tmp_path / "run", _asked(labs, sources=f"folder:{labs / 'one'}")
    whole = benchmark(config, out=out)
    results = sorted((out / "results" / "near").iterdir())
    (results[0] / "result.json").write_text("{")
    (results[1] / "embeddings.npy").write_bytes(b"no array")
    shutil.rmtree(out / "fits" / "far" / "one" / "fold_0" / "bundle")
    fits.clear()
    assert benchmark(config, out=out).evaluations == whole.evaluations
    assert fits == ["far/one/fold_0"], "of the damaged results the models are there"


# --------------------------------------------------------------------------------------------------------------- failed


@pytest.mark.usefixtures("undrawn")
def test_what_fails_is_a_row_and_the_others_go_on(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    said: list[str] = []
    report = benchmark(_asked(labs, methods=("broken", "near", "buggy")), out=out, say=said.append)
    assert {e.method for e in report.evaluations} == {"near"}
    assert [(f.method, f.source, f.target) for f in report.failures] == [
        *(("broken", "one", "one, two"), ("buggy", "one", "one, two")),
        *(("broken", "two", "two, one"), ("buggy", "two", "two, one")),
    ]
    assert report.failures[0].error == "too few of everything. Add images."
    assert report.failures[1].error == "ZeroDivisionError: in line 7"
    assert "ZeroDivisionError" in next((out / "results" / "buggy").rglob("error.txt")).read_text()
    assert not (out / "results" / "broken").exists(), "a mistake in the input needs no traceback"
    assert report.summary[0].startswith("4 parts of this benchmark failed: broken from one, buggy")
    for file in ("report.html", "report.md"):
        assert "too few of everything" in (out / file).read_text()
    assert sum(text.startswith("failed: broken, one -> one") for text in said) == 1


@pytest.mark.usefixtures("undrawn")
def test_what_failed_is_tried_again(labs: Path, fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, make = tmp_path / "run", trained.colour_bundle

    def no_memory(path: Path, *given: Any, **more: Any) -> Bundle:
        if "far" in path.parts:
            raise MemoryError
        return make(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trained, "colour_bundle", no_memory)
        assert {f.method for f in benchmark(_asked(labs), out=out).failures} == {"far"}
    fits.clear()
    report = benchmark(_asked(labs), out=out)
    assert report.failures == ()
    assert {run.split("/")[0] for run in fits} == {"far"}
    assert not list((out / "results").rglob("error.txt"))


# ----------------------------------------------------------------------------------------------------- what it is asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "no method is named"),
        ({"sources": ()}, "no source is named"),
        ({"targets": ()}, "cross-domain needs a target"),
        ({"protocols": "k-fold"}, "the protocol k-fold takes no target"),
        ({"protocols": ("efficiency",), "targets": ()}, "times the models of another protocol"),
        ({"k_shot": {"shots": [1]}}, "the settings k_shot are given without the protocol k-shot"),
        ({"fractions": {"seeds": 2}}, "the settings fractions are given without the protocol fractions"),
    ],
)
def test_what_asks_for_nothing_is_refused(
    labs: Path, fits: list[str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(_asked(labs, **changes), out=tmp_path / "run")
    assert fits == []
    assert not (tmp_path / "run").exists()


def test_a_target_that_shares_too_few_classes_is_refused_before_training(
    labs: Path, fits: list[str], tmp_path: Path
) -> None:
    colour_cells(labs / "strange", {"basophil": (90, 90, 90), "eosinophil": (200, 90, 90)}, 3, seed=4)
    with pytest.raises(InputError, match="strange shares too few classes"):
        benchmark(_asked(labs, targets=(f"folder:{labs / 'strange'}",)), out=tmp_path / "run")
    assert fits == []


def test_two_sets_of_one_name_are_refused(labs: Path, fits: list[str], tmp_path: Path) -> None:
    colour_cells(labs / "elsewhere" / "two", COLOURS, 8, seed=9, noise=60)
    with pytest.raises(InputError, match=r"two sets are called 'two'; got folder:\S+ and folder:\S+\. Give the folder"):
        benchmark(_asked(labs, "one", "two", "elsewhere/two"), out=tmp_path / "run")
    other = (f"folder:{labs / 'elsewhere' / 'two'}",)
    with pytest.raises(InputError, match="two sets are called 'two'"):
        benchmark(_asked(labs, "two", targets=other), out=tmp_path / "run")
    assert fits == []


def test_a_yaml_file_says_the_same_as_flags(labs: Path, tmp_path: Path) -> None:
    file = tmp_path / "benchmark.yaml"
    file.write_text(
        f"methods: [near, {{method: far, name: other, settings: [scale=3.0]}}]\n"
        f"sources: &labs\n  - folder:{labs / 'one'}\n  - folder:{labs / 'two'}\n"
        "targets: *labs\nprotocols: [cross-domain, k-shot]\nk_shot: {shots: [1, 3], repeats: 4}\nfolds: 2\n"
        "auxiliary: {unlabelled: folder:x}\n"
    )
    read = BenchmarkConfig.read(file)
    assert read == _asked(
        labs,
        methods=("near", {"method": "far", "name": "other", "settings": ("scale=3.0",)}),
        protocols=("cross-domain", "k-shot"),
        k_shot={"shots": (1, 3), "repeats": 4},
        auxiliary={"unlabelled": ("folder:x",)},
    )
    assert BenchmarkConfig.from_mapping(json.loads(read.model_dump_json())) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [a]\nsources: [folder:x]\ntarget: [folder:y]\n", "unknown key 'target'. did you mean 'targets'"),
        ("- a\n- b\n", "is no benchmark; expected keys and values"),
        ("methods: [a\n", "is not valid YAML"),
        ("methods: [a]\nsources: [folder:x]\nprotocols: [kfold]\n", "unknown protocol 'kfold'"),
        ("methods: [a]\nsources: [folder:x]\nfolds: two\n", "key 'folds'"),
        ("methods: [{name: a}]\nsources: [folder:x]\n", "key 'methods.0"),
        ("!!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_yaml_file_that_says_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "benchmark.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        BenchmarkConfig.read(file)
    with pytest.raises(ConfigError, match="cannot read"):
        BenchmarkConfig.read(tmp_path / "gone.yaml")


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


@pytest.mark.usefixtures("undrawn")
def test_flags_come_on_top_of_the_file(labs: Path, fits: list[str], tmp_path: Path, hemalens: Command) -> None:
    file, out = tmp_path / "benchmark.yaml", tmp_path / "run"
    one, two = (f"folder:{labs / name}" for name in ("one", "two"))
    file.write_text(f"methods: [near]\nsources: [{one}]\ntargets: [{two}]\nfolds: 3\nsettings: [scale=3.0]\nseed: 5\n")
    call = ("benchmark", "--config", file, "--methods", "far", "--folds", 2, "--set", "far.scale=4.0", "--out", out)
    ended = hemalens(*call)
    assert ended.code == 0, ended.err
    report = read_report(out / "report.json")
    assert (report.methods, report.seed, report.evaluations[0].n_folds) == ({"far": {"scale": 4.0}}, 5, 2)
    assert "[1/2] far, one -> one, cross-domain: done, " in ended.err
    assert "[2/2] far, one -> two, cross-domain: done, " in ended.err
    assert max(len(line) for line in ended.out.splitlines() if not line.startswith("report: ")) <= 80


@pytest.mark.usefixtures("undrawn")
def test_the_command_fails_when_something_failed_and_says_what(
    labs: Path, fits: list[str], tmp_path: Path, hemalens: Command
) -> None:
    specs = ("--source", f"folder:{labs / 'one'}", "--target", f"folder:{labs / 'two'}")
    ended = hemalens("benchmark", "--methods", "broken,near", *specs, "--folds", 2, "--out", tmp_path / "run", "--quiet")
    assert ended.code == 1
    assert ended.error.startswith("failure: 1 part(s) of the benchmark failed; got too few of everything. Add images. They")
    assert "FAILED: broken, one -> one, two, cross-domain" in ended.out
    assert "near: one -> one" in ended.out, "what did not fail is shown"
    assert read_report(tmp_path / "run" / "report.json").failures


def test_a_benchmark_without_data_is_refused_on_one_line(tmp_path: Path, hemalens: Command) -> None:
    for arguments, message in (
        (("--methods", "near"), "a benchmark needs sources. Use --source"),
        (("--source", "folder:x"), "a benchmark needs methods. Use --methods"),
        (("--config", tmp_path / "gone.yaml"), "cannot read"),
        (("--methods", "linear_probe", "--source", "folder:x", "--protocol", "kfold"), "unknown protocol 'kfold'"),
        (
            ("--methods", "linear_probe", "--source", "folder:x", "--classes", "3"),
            "--classes does not apply to the protocol",
        ),
    ):
        ended = hemalens("benchmark", *arguments, "--out", tmp_path / "run")
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.error
        assert not (tmp_path / "run").exists()


def _trial(labs: Path, fits: list[str], out: Path) -> list[Trial]:
    return list(plan_benchmark(_asked(labs), out).trials)


def test_the_live_table_counts_what_waits_runs_and_ended(labs: Path, fits: list[str], tmp_path: Path) -> None:
    from rich.console import Console

    trials = _trial(labs, fits, tmp_path / "run")
    table = TrialTable()
    for trial in trials:
        table.update(trial, "waiting", None)
    table.update(trials[0], "running", None)
    table.update(trials[0], "done", None)
    table.update(trials[1], "cached", None)
    table.update(trials[2], "running", None)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.render())
    shown = console.export_text()
    assert f"{len(trials) - 3} waiting, 1 running, 1 cached, 1 done" in shown
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line for line in shown.splitlines() if "cross-domain" in line]
    assert [row.split()[0] for row in rows] == [trials[i].entry.name for i in (0, 1, 2)]


def test_lines_are_numbered_and_say_how_it_ended(
    labs: Path, fits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = TrialLines(Talk(False))
    trials = _trial(labs, fits, tmp_path / "run")
    for trial in trials:
        lines.update(trial, "waiting", None)
    lines.update(trials[0], "running", None)
    lines.update(trials[0], "failed", None)
    lines.update(trials[1], "cached", None)
    assert capsys.readouterr().err.splitlines() == [
        f"[1/{len(trials)}] near, one -> one, cross-domain: FAILED",
        f"[2/{len(trials)}] near, one -> two, cross-domain: cached",
    ]


# -------------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize(("free_kb", "n"), [(100_000_000, 8), (7_000_000, 2), (1_000, 1)])
def test_no_more_workers_than_memory_allows(free_kb: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **more: f"MemTotal: 1 kB\nMemAvailable:  {free_kb} kB\n")
    assert workers.affordable(8) == n


def test_where_memory_cannot_be_told_all_workers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Path, **more: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", gone)
    assert workers.affordable(8) == 8


@pytest.mark.slow
def test_workers_side_by_side_find_the_same(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    folder = trained.cells(tmp_path_factory)
    specs = tuple(f"synthetic:{folder / name}" for name in ("lab_a", "lab_b"))
    config = BenchmarkConfig(
        methods=("linear_probe",), sources=specs, targets=specs, folds=2, settings=tuple(trained.settings(trained.PROBE))
    )
    said: list[str] = []
    ended: list[Status] = []
    side_by_side = benchmark(
        config,
        out=tmp_path / "two",
        n_workers=2,
        say=said.append,
        on_trial=lambda trial, status, outcome: ended.append(status),
    )
    alone = benchmark(config, out=tmp_path / "one")
    assert ended.count("done") == 4
    for mine, other in zip(side_by_side.evaluations, alone.evaluations, strict=True):
        assert mine.confusion == other.confusion
        assert mine.scores.nll == pytest.approx(other.scores.nll, abs=1e-4)
    assert np.all([f == () for f in (side_by_side.failures, alone.failures)])


@pytest.mark.slow
def test_a_benchmark_killed_from_outside_goes_on(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    folder, out = trained.cells(tmp_path_factory), tmp_path / "run"
    specs = [f"synthetic:{folder / name}" for name in ("lab_a", "lab_b")]
    settings = [word for setting in trained.settings(trained.PROBE) for word in ("--set", setting)]
    call = [
        *(sys.executable, "-c", "from hemalens.cli.main import main; main()", "benchmark", "--methods", "linear_probe"),
        *(word for spec in specs for word in ("--source", spec, "--target", spec)),
        *(*settings, "--folds", "2", "--out", str(out)),
    ]
    with subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert any("[2/4]" in line for line in process.stderr), "it ended before it was killed"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    ended = subprocess.run(call, capture_output=True, text=True, check=True)
    assert [line.rpartition(": ")[2].split(",")[0] for line in ended.stderr.splitlines() if line.startswith("[")] == [
        *("cached", "cached", "done", "done"),
    ]
    assert len(read_report(out / "report.json").evaluations) == 4


@pytest.mark.slow
def test_the_plane_can_be_a_umap(labs: Path, fits: list[str], tmp_path: Path) -> None:
    report = benchmark(_asked(labs, methods=("near",), projection="UMAP"), out=tmp_path / "run")
    assert [scatter.scatter.projection for scatter in report.scatters] == ["UMAP", "UMAP"]
