"""The efficiency table from end to end: counted, timed and scored, resumed, and what is refused. No time is compared."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

import trained
from command import Command
from hemalens.benchmark.efficiency import networks as module
from hemalens.benchmark.efficiency.config import NetworksConfig
from hemalens.benchmark.efficiency.measure import measure_networks
from hemalens.benchmark.efficiency.timing import alternate
from hemalens.bundle.bundle import SEEN_UNLABELLED, Bundle, open_bundle, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.bundle.stages import CLASSICAL, CellImageConfig, CellImageEntry
from hemalens.datasets import open_dataset
from hemalens.errors import BundleError, ConfigError, DatasetError, InputError, OutputError, SplitError
from hemalens.evaluation.results import Efficiency, Estimate, Report
from hemalens.graphs.cost import count_graph
from hemalens.report import read_report
from hemalens.runs.evaluate import evaluate

COLOURS = {"neutrophil": (160, 110, 110), "lymphocyte": (110, 110, 160), "monocyte": (110, 160, 110)}


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are not repeated, and no process is started for its memory: test_timing.py does both."""
    monkeypatch.setattr(module, "alternate", functools.partial(alternate, shortest_s=0))
    monkeypatch.setattr(module, "peak_memory_mb", lambda what: 123.4)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two laboratories of three colours, and bundles trained in the first: `near` and `far/bundle`."""
    folder = tmp_path_factory.mktemp("labs")
    for seed, name in enumerate(("home", "away")):
        trained.colour_cells(folder / name, COLOURS, 8, seed=seed, noise=30)
    home = open_dataset(f"folder:{folder / 'home'}")
    for i, name in enumerate(("near", "far/bundle")):
        trained.colour_bundle(folder / name, home.subset(range(i, len(home), 2)))
    return folder


def _with(bundle: Bundle, path: Path, *, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """A copy of a bundle with further files and another manifest."""
    kept = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files} | (files or {})
    return write_bundle(path, bundle.manifest.model_copy(update=changes), kept).path


def _measure(
    *bundles: Path,
    out: Path,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> Report:
    config = NetworksConfig.from_mapping({"bundles": bundles, **settings})
    return measure_networks(config, out=out, overwrite=overwrite, say=say)


def _check_times(row: Efficiency, n_rounds: int) -> None:
    assert row.timings
    for timing in row.timings:
        for estimate in (timing.latency_ms, timing.images_per_s):
            limits = (estimate.low, estimate.high) if n_rounds > 1 else ()
            assert all(v is not None and math.isfinite(v) and v > 0 for v in (estimate.value, *limits))
        assert timing.peak_memory_mb is None or timing.peak_memory_mb > 0


# ---------------------------------------------------------------------------------------------------------- end to end


def test_backbones_and_a_bundle_with_its_scores(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, quick: None
) -> None:
    fitted = trained.fitted(tmp_path_factory, "finetune")
    target = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    out = tmp_path / "run"
    report = _measure(
        fitted.bundle.path,
        backbones=["test_resnet@32", "test_vit", "test_resnet@32"],
        out=out,
        target=target,
        classes=4,
        rounds=2,
        threads=1,
    )
    small, vit, bundle = report.efficiency
    assert [(row.name, row.kind, row.input_px) for row in report.efficiency] == [
        ("test_resnet@32", "backbone", 32),
        ("test_vit", "backbone", 160),
        (bundle.name, "bundle", 32),
    ]
    assert bundle.name.startswith("finetune (")
    # the bundle is the first network with the same head, its batch norms folded away
    assert bundle.macs == small.macs
    assert 0.95 * small.parameters < bundle.parameters < small.parameters
    assert bundle.parameters_without_head is not None
    assert bundle.parameters - bundle.parameters_without_head == small.parameters - (small.parameters_without_head or 0)
    assert bundle.weights_mb == (fitted.bundle.path / "model.onnx").stat().st_size / 1e6
    assert small.weights_mb == pytest.approx(4 * small.parameters / 1e6, rel=0.1)
    assert all(row.flops == 2 * row.macs > 0 for row in report.efficiency)
    for row in report.efficiency:
        _check_times(row, 2)
    assert [(t.runtime, t.device, t.precision, t.n_threads) for t in bundle.timings] == [("onnxruntime", "cpu", "fp32", 1)]
    assert next((t.runtime, t.precision) for t in vit.timings) == ("torch", "fp32")
    alone = evaluate(fitted.bundle.path, target, out=tmp_path / "evaluation").evaluations[0]
    assert bundle.balanced_accuracy == alone.scores.balanced_accuracy
    assert bundle.accuracy == alone.scores.accuracy
    assert (bundle.n_images, bundle.majority_rate) == (alone.n_images, alone.scores.majority_rate)
    assert bundle.tested_on == "lab_b, 4 cell types"
    assert (small.tested_on, small.accuracy, small.balanced_accuracy) == ("", None, None)
    assert [e.method for e in report.evaluations] == [bundle.name]
    assert report.protocol == "efficiency, all networks taking turns: 2 rounds, 1 thread"
    assert read_report(out / "report.json") == report
    assert "Size of every network" in (out / "report.html").read_text(encoding="utf-8")
    assert json.loads((out / "run.json").read_text())["finished"] is True


@pytest.mark.usefixtures("undrawn", "quick")
def test_bundles_of_one_method_and_one_test_are_told_apart(labs: Path, tmp_path: Path) -> None:
    copy = _with(open_bundle(labs / "near"), tmp_path / "other" / "near")
    said: list[str] = []
    report = _measure(
        labs / "near",
        labs / "far" / "bundle",
        copy,
        labs / "near",
        out=tmp_path / "run",
        target=f"folder:{labs / 'away'}",
        rounds=1,
        say=said.append,
    )
    assert [row.name for row in report.efficiency] == [
        "nearest_colour (near)",
        "nearest_colour (far)",
        "nearest_colour (near), 2",
    ]
    assert {row.tested_on for row in report.efficiency} == {"away, 3 cell types"}
    assert {row.macs for row in report.efficiency} == {0}, "a graph of means and distances has no products"
    assert len(report.data) == 1
    assert report.efficiency[0].balanced_accuracy == report.efficiency[2].balanced_accuracy
    for row in report.efficiency:
        _check_times(row, 1)
    assert any(line.startswith("timing 3 networks: 1 round, ") for line in said)


@pytest.mark.usefixtures("undrawn", "quick")
def test_classes_tested_are_part_of_the_test(labs: Path, tmp_path: Path) -> None:
    """A bundle that knows two of three classes answers another question."""
    home = open_dataset(f"folder:{labs / 'home'}")
    two = [home.subset([i for i, r in enumerate(home.records) if r.label != name]) for name in ("monocyte", "neutrophil")]
    paths = [
        trained.colour_bundle(tmp_path / f"two {i}", part.under([c for c in home.classes if part.class_counts.get(c)])).path
        for i, part in enumerate(two)
    ]
    report = _measure(labs / "near", *paths, out=tmp_path / "run", target=f"folder:{labs / 'away'}", rounds=1)
    assert [row.tested_on for row in report.efficiency] == [
        "away, 3 cell types",
        "away, 2 cell types",
        "away, 2 cell types, another choice (2)",
    ]


@pytest.mark.usefixtures("undrawn", "quick")
def test_images_that_any_bundle_has_seen_are_left_out(labs: Path, tmp_path: Path, quick: None) -> None:
    home = f"folder:{labs / 'home'}"
    report = _measure(labs / "near", out=tmp_path / "run", target=home, drop_seen=True, rounds=1)
    (row,), (card,) = report.efficiency, report.data
    assert (row.n_images, card.n_images, card.dropped["seen in training"]) == (12, 12, 12)
    both = [labs / "near", labs / "far" / "bundle"]
    with pytest.raises(DatasetError, match="shares too few classes"):
        _measure(*both, out=tmp_path / "both", target=home, drop_seen=True, rounds=1)


def test_what_was_seen_or_comes_before_the_graph_is_told(labs: Path, tmp_path: Path) -> None:
    near = open_bundle(labs / "near")
    away = open_dataset(f"folder:{labs / 'away'}")
    seen = _with(near, tmp_path / "seen", files={SEEN_UNLABELLED: seen_images(away.contents)})
    cut = _with(near, tmp_path / "cut", before_graph=(CellImageEntry(segmenter=CLASSICAL, config=CellImageConfig()),))
    report = _measure(seen, cut, out=tmp_path / "run", target=f"folder:{labs / 'away'}", rounds=1)
    assert report.efficiency[0].name == "nearest_colour (seen), transductive"
    assert "Cutting the cell out beforehand is neither counted nor timed: nearest_colour (cut)." in report.summary


@pytest.mark.usefixtures("undrawn", "quick")
def test_bf16_is_timed_where_it_is_multiplied_and_otherwise_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "bf16 is not timed: the processor does not multiply it."
    for able in (True, False):
        monkeypatch.setattr("hemalens.training.trainer.has_bf16", lambda able=able: able)
        report = _measure(backbones=["test_resnet@32"], out=tmp_path / str(able), rounds=1, threads=1)
        precisions = [timing.precision for timing in report.efficiency[0].timings if timing.device == "cpu"]
        assert precisions == (["fp32", "bf16"] if able else ["fp32"])
        assert (sentence in report.summary) is not able


@pytest.mark.usefixtures("undrawn", "quick")
def test_a_killed_run_begins_anew_and_a_finished_one_is_refused(
    labs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "run", list[str]()

    def run(n_rounds: int = 1, **more: Any) -> Report:
        return _measure(labs / "near", out=out, rounds=n_rounds, threads=1, say=said.append, **more)

    def killed(*given: Any) -> list[tuple[Estimate, Estimate]]:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "alternate", killed)
        with pytest.raises(KilledError):
            run()
    assert not out.exists(), "nothing of it can be used again"
    run()
    with pytest.raises(OutputError, match="holds this run, finished"):
        run()
    run(n_rounds=2, overwrite=True)


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("backbones", "error", "message"),
    [
        (["resnet5000"], ConfigError, "unknown backbone 'resnet5000'"),
        (["test_vit@96"], ConfigError, "'test_vit' takes images of one size only; expected image_size_px=160; got 96"),
        (["test_resnet@8"], ConfigError, "key 'image_size_px'"),
        (["test_resnet@big"], InputError, "cannot read --backbone 'test_resnet@big'; expected NAME or NAME@PX"),
        (["test_resnet@"], InputError, "cannot read --backbone 'test_resnet@'"),
        ([], InputError, "no network is named; expected backbones or bundles"),
    ],
)
def test_bad_backbones_are_refused(backbones: list[str], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        _measure(backbones=backbones, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_size_that_only_the_network_itself_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: object, input_px: int) -> None:
        raise AssertionError("the window is larger than the map")

    monkeypatch.setattr("hemalens.models.cost.count", fail)
    with pytest.raises(
        ConfigError, match="'test_resnet' does not take images of 16 px; got the window is larger than the map"
    ):
        _measure(backbones=["test_resnet@16"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_bundles_targets_and_numbers_are_refused(labs: Path, tmp_path: Path) -> None:
    out, away = tmp_path / "run", f"folder:{labs / 'away'}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"'.*empty' is no bundle; expected a manifest.json in it"):
        _measure(tmp_path / "empty", out=out)
    with pytest.raises(BundleError, match="there is no bundle folder"):
        _measure(tmp_path / "gone", out=out)
    with pytest.raises(InputError, match=r"only a bundle can be tested on a target.*Leave --target out"):
        _measure(backbones=["test_resnet@32"], out=out, target=away)
    with pytest.raises(SplitError, match="were trained on"):
        _measure(labs / "near", out=out, target=f"folder:{labs / 'home'}")
    for name in ("rounds", "threads", "classes"):
        with pytest.raises(InputError, match=f"key '{name}'.*greater than or equal to 1"):
            _measure(labs / "near", out=out, **{name: 0})
    assert not out.exists()


def test_a_bundle_that_cannot_be_counted_is_named(labs: Path, tmp_path: Path) -> None:
    near = open_bundle(labs / "near")
    graph = near.graph
    graph.opset_import.add(domain="com.microsoft", version=1)
    (last,) = (i for i, node in enumerate(graph.graph.node) if "raw_logits" in node.output)
    node = graph.graph.node[last]
    graph.graph.node.insert(last, helper.make_node("FastGelu", [node.input[0]], ["curved"], domain="com.microsoft"))
    graph.graph.node[last + 1].input[0] = "curved"
    path = _with(near, tmp_path / "foreign", files={"model.onnx": graph.SerializeToString()})
    with pytest.raises(BundleError, match=r"cannot be counted, in '.*foreign'; expected .*; got com.microsoft FastGelu"):
        _measure(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.usefixtures("undrawn", "quick")
def test_the_command_prints_tables_and_json(labs: Path, tmp_path: Path, command: Command) -> None:
    arguments = ("benchmark", "--protocol", "efficiency", "--bundle", labs / "near", "--bundle", labs / "far" / "bundle")
    arguments += ("--target", f"folder:{labs / 'away'}", "--rounds", 2, "--threads", 1)
    ended = command(*arguments, "--out", tmp_path / "a")
    assert ended.code == 0
    *tables, last = ended.out.splitlines()
    assert max(map(len, tables)) <= 80
    assert last == f"report: {tmp_path / 'a' / 'report.html'}"
    for words in ("FLOPs = 2 \u00d7 MACs", "Size of every network", "Latency,", "Pareto", "away, 3 cell types"):
        assert words in ended.out
    found = json.loads(command(*arguments, "--out", tmp_path / "b", "--json", "--quiet").out)
    assert [row["name"] for row in found["efficiency"]] == ["nearest_colour (near)", "nearest_colour (far)"]
    assert found["efficiency"][0]["parameters"] == count_graph(open_bundle(labs / "near").graph, 16).parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--protocol", "efficiency", "--bundle", "x", "--methods", "finetune", "--source", "folder:x"),
            "--bundle is for benchmarks without methods",
        ),
        (
            ("--protocol", "efficiency", "--bundle", "x", "--folds", "5"),
            "--folds does not apply to the protocol efficiency",
        ),
        (("--protocol", "efficiency", "--bundle", "x", "--target", "folder:a", "--target", "folder:b"), "takes one target"),
        (("--protocol", "efficiency"), "no network is named"),
        (("--protocol", "efficiency", "--backbone", "resnet5000"), "unknown backbone 'resnet5000'"),
        (("--protocol", "k-fold"), "a benchmark needs methods. Use --methods"),
        (("--methods", "linear_probe"), "a benchmark needs sources. Use --source"),
        (("--protocol", "k-shot", "--source", "folder:x"), "a benchmark needs methods. Use --methods"),
        (
            ("--methods", "finetune", "--source", "folder:x", "--backbone", "resnet50", "--rounds", "5"),
            "--backbone does not apply to the protocol cross-domain. Leave it out, or use --protocol efficiency.",
        ),
        (
            ("--protocol", "k-fold", "--bundle", "x", "--methods", "finetune", "--source", "folder:x"),
            "--bundle does not apply",
        ),
    ],
)
def test_options_of_the_other_protocols_are_refused_on_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, command: Command
) -> None:
    ended = command("benchmark", *arguments, "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert message in ended.error
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_command_leaves_a_folder_of_something_else_alone(labs: Path, tmp_path: Path, command: Command) -> None:
    shutil.copytree(labs / "away", tmp_path / "mine")
    ended = command("benchmark", "--protocol", "efficiency", "--bundle", labs / "near", "--out", tmp_path / "mine")
    assert (ended.code, "is not a run folder" in ended.error) == (2, True)
