"""The jobs from end to end on synthetic cells: what they leave, what they refuse, and how a stopped one goes on."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest

import trained
from bench import benchmark
from hemalens import evaluate, open_bundle, predict, train
from hemalens.bundle.bundle import Bundle
from hemalens.cli.quickstart import quickstart
from hemalens.datasets.synthetic.smear import SmearConfig
from hemalens.errors import OutputError, SplitError
from hemalens.evaluation.activation import REFUSED
from hemalens.methods import Method, find_method
from hemalens.report import read_report
from hemalens.runs.evaluate import EvaluateOptions
from hemalens.runs.folders import fit_or_resume, method_request
from hemalens.runs.train import TrainOptions

REPORT_FILES = {"report.json", "report.md", "report.html"}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The name of a laboratory's cells for `open_dataset`."""
    folder = trained.cells(tmp_path_factory)
    return lambda name: f"synthetic:{folder / name}"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stub in place of every method; the folders of the fits that were run."""
    folders: list[str] = []

    def find(name: str) -> Method:
        return trained.stub_method(lambda learn, held, run_dir: folders.append(run_dir.name))

    monkeypatch.setattr("hemalens.runs.train.find_method", find)
    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    return folders


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    cells = trained.laboratory(tmp_path_factory)
    return trained.colour_bundle(tmp_path_factory.mktemp("bundle") / "bundle", cells)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize("method", ["linear_probe", "finetune"])
def test_train_from_end_to_end(labs: Callable[[str], str], tmp_path: Path, method: str) -> None:
    chosen = {"linear_probe": trained.PROBE, "finetune": {**trained.FINETUNE, "epochs": 1}}[method]
    said: list[str] = []
    report = train(method, labs("lab_a"), out=tmp_path / "run", settings=trained.settings(chosen), say=said.append)
    assert {*REPORT_FILES, "bundle", "run.json", "fit.json"} <= _names(tmp_path / "run")
    assert read_report(tmp_path / "run" / "report.json") == report
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is True
    assert report.synthetic
    (evaluation,) = report.evaluations
    assert evaluation.target == "lab_a"
    bundle = open_bundle(tmp_path / "run" / "bundle")
    assert bundle.manifest.method == method
    n_seen = sum(sum(entry.class_counts.values()) for entry in bundle.manifest.data)
    assert n_seen + evaluation.n_images == report.data[0].n_images == 4 * trained.N_PER_CLASS
    assert any(f"{evaluation.n_images} held out for the test" in text for text in said)
    assert report.methods[method]["backbone"] == "test_resnet"
    # a probe has no epochs
    assert [(curve.name, curve.epoch) for curve in report.curves] == (
        [] if method == "linear_probe" else [("finetune", (1,))]
    )
    assert (tmp_path / "run" / "curves" / "training.svg").is_file() == (method != "linear_probe")
    found = predict(bundle.path, labs("lab_b"), out=tmp_path / "answers.csv")
    assert (found.n_rows, found.n_unreadable) == (4 * trained.N_PER_CLASS, 0)


@pytest.mark.usefixtures("undrawn")
def test_the_test_part_was_never_seen(labs: Callable[[str], str], fits: list[str], tmp_path: Path) -> None:
    report = train("stub", labs("lab_a"), out=tmp_path / "run")
    seen = open_bundle(tmp_path / "run" / "bundle").seen
    rest = evaluate(
        tmp_path / "run" / "bundle", labs("lab_a"), out=tmp_path / "report", options=EvaluateOptions(drop_seen=True)
    )
    assert len(seen) + rest.evaluations[0].n_images == 4 * trained.N_PER_CLASS
    assert rest.evaluations[0].confusion == report.evaluations[0].confusion
    assert rest.data[0].dropped == {"seen in training": len(seen)}


@pytest.mark.usefixtures("undrawn")
def test_without_a_test_part_nothing_is_tested_and_the_report_says_so(
    labs: Callable[[str], str], fits: list[str], tmp_path: Path
) -> None:
    report = train("stub", labs("lab_a"), out=tmp_path / "run", options=TrainOptions(test_fraction=0.0))
    assert report.evaluations == ()
    assert report.protocol == "no test part"
    assert len(open_bundle(tmp_path / "run" / "bundle").seen) == 4 * trained.N_PER_CLASS
    assert _names(tmp_path / "run") >= REPORT_FILES


def test_validation_data_of_ones_own(labs: Callable[[str], str], fits: list[str], tmp_path: Path) -> None:
    report = train(
        "stub", labs("lab_a"), out=tmp_path / "run", options=TrainOptions(validation_spec=labs("lab_b"), test_fraction=0.0)
    )
    learn, held = open_bundle(tmp_path / "run" / "bundle").manifest.data
    assert (learn.name, held.name) == ("lab_a", "lab_b")
    assert sum(held.class_counts.values()) == 4 * trained.N_PER_CLASS
    assert [(card.name, card.role) for card in report.data] == [("lab_a", "train and validation"), ("lab_b", "validation")]


@pytest.mark.usefixtures("undrawn")
def test_validation_data_without_some_classes_are_counted_in_the_order_of_the_training_classes(
    labs: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """The second and the fourth class only: their targets stay 1 and 3."""
    held_folder = tmp_path / "held"
    for kind in ("lymphocyte", "eosinophil"):
        shutil.copytree(trained.cells(tmp_path_factory) / "lab_b" / "images" / kind, held_folder / kind)
    given = []
    stub = trained.stub_method(lambda learn, held, run_dir: given.append((learn, held)))
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: stub)
    train("stub", labs("lab_a"), out=tmp_path / "run", options=TrainOptions(validation_spec=f"folder:{held_folder}"))
    ((learn, held),) = given
    assert held.classes == learn.classes
    for record, target in zip(held.records, held.targets, strict=True):
        assert learn.classes[target] == record.label
    assert set(held.targets) == {learn.classes.index("lymphocyte"), learn.classes.index("eosinophil")}


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_refused_and_replaced_only_when_asked(
    labs: Callable[[str], str], fits: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train("stub", labs("lab_a"), out=out)
    with pytest.raises(OutputError, match=r"'.*run' holds this run, finished.*--overwrite"):
        train("stub", labs("lab_a"), out=out)
    with pytest.raises(OutputError, match=r"holds another run \(other data, settings or seed\)"):
        train("stub", labs("lab_a"), out=out, seed=1)
    assert fits == [".new"]
    (out / "left over").write_text("x")
    train("stub", labs("lab_a"), out=out, seed=1, overwrite=True)
    assert fits == [".new", ".new"]
    assert (out / "left over").read_text() == "x"


@pytest.mark.usefixtures("undrawn")
def test_a_run_stopped_after_the_fit_does_not_fit_again(
    labs: Callable[[str], str], fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object, **more: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.runs.train.evaluate", killed)
        with pytest.raises(KilledError):
            train("stub", labs("lab_a"), out=tmp_path / "run")
    said: list[str] = []
    report = train("stub", labs("lab_a"), out=tmp_path / "run", say=said.append)
    assert fits == [".new"]
    assert any("stopped run" in text for text in said)
    assert report.evaluations


class _WithFile(trained.StubConfig):
    weights: str

    def file_digests(self) -> dict[str, str]:
        return {"weights": Path(self.weights).read_text()}


def test_a_request_names_the_method_its_settings_and_what_lies_in_its_files(tmp_path: Path) -> None:
    method = trained.stub_method()
    assert method_request(method, trained.StubConfig(scale=9.0)) == {
        "method": "nearest_colour",
        "config": {"scale": 9.0},
        "sources": {},
    }
    (tmp_path / "weights").write_text("of today")
    config = _WithFile(weights=str(tmp_path / "weights"))
    assert method_request(method, config)["sources"] == {"weights": "of today"}
    probe = find_method("linear_probe").config.load(None, [f"weights={tmp_path / 'weights'}"])
    assert method_request(find_method("linear_probe"), probe)["sources"] == {"weights": sha256(b"of today").hexdigest()}


@pytest.mark.usefixtures("undrawn")
def test_other_content_of_a_file_makes_another_run_and_another_fit(
    labs: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders: list[str] = []
    stub = trained.stub_method(lambda learn, held, run_dir: folders.append(run_dir.name))
    method = replace(stub, config=_WithFile)
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: method)
    file = tmp_path / "weights"
    file.write_text("of today")
    settings = [f"weights={file}"]
    train("stub", labs("lab_a"), out=tmp_path / "run", settings=settings)
    file.write_text("of tomorrow")
    with pytest.raises(OutputError, match=r"holds another run \(other data, settings or seed\)"):
        train("stub", labs("lab_a"), out=tmp_path / "run", settings=settings)
    assert folders == [".new"]

    cells, config = trained.laboratory(tmp_path_factory), _WithFile(weights=str(file))
    folders.clear()
    for content in ("of today", "of today", "of tomorrow"):
        file.write_text(content)
        rng = np.random.default_rng(0)
        fit_or_resume(tmp_path / "fit", method, cells, validation=None, config=config, rng=rng)
    assert folders == ["fit", "fit"], "the second fit was finished already, the third one is another"


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_gives_the_same_report(labs: Callable[[str], str], fits: list[str], tmp_path: Path) -> None:
    a, b, c = (train("stub", labs("lab_a"), out=tmp_path / name, seed=s) for name, s in (("a", 0), ("b", 0), ("c", 1)))
    assert a.evaluations == b.evaluations
    assert a.data == b.data
    assert open_bundle(tmp_path / "a" / "bundle").seen != open_bundle(tmp_path / "c" / "bundle").seen
    assert c.seed == 1


# ----------------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_writes_a_row_an_image_in_input_order(
    bundle: Bundle, labs: Callable[[str], str], tmp_path: Path, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path / f"answers{suffix}"
    found = predict(bundle.path, labs("lab_b"), out=out, abstain_below=0.5)
    rows = pandas.read_csv(out) if suffix == ".csv" else pandas.read_parquet(out)
    labels = bundle.manifest.labels
    judged = ["typicality", "prediction_set"]
    columns = ["path", "label", "probability", "abstained", "review", "review_rank"]
    columns += [
        *(f"p_{label}" for label in labels),
        *judged,
        "cell_found",
        "cell_reason",
        "error",
        "source_label",
        "domain",
    ]
    assert list(rows.columns) == columns
    records = trained.laboratory(tmp_path_factory, "lab_b").records
    assert rows["path"].tolist() == [str(record.path) for record in records]
    p = rows[[f"p_{label}" for label in labels]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert rows["label"].tolist() == [labels[i] for i in p.argmax(axis=1)]
    np.testing.assert_allclose(rows["probability"], p.max(axis=1), atol=1e-6)
    assert rows["abstained"].tolist() == (rows["probability"] < 0.5).tolist()
    assert rows["error"].isna().all()
    assert found.by_label == {label: n for label in labels if (n := int((rows["label"] == label).sum()))}
    assert found.n_abstained == int(rows["abstained"].sum())
    assert (found.n_rows, found.n_unreadable, found.first_error) == (len(rows), 0, None)


def test_embeddings_are_a_column_of_the_parquet_file(
    bundle: Bundle, labs: Callable[[str], str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    predict(bundle.path, labs("lab_b"), out=tmp_path / "a.parquet", embeddings=True)
    rows = np.stack(pandas.read_parquet(tmp_path / "a.parquet")["embedding"].to_list())
    records = trained.laboratory(tmp_path_factory, "lab_b").records
    expected = np.stack([record.read().mean(axis=(0, 1)) / 255 for record in records])
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_rows_beyond_one_batch(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labs: Any) -> None:
    whole = predict(bundle.path, labs("lab_b"), out=tmp_path / "whole.parquet")
    monkeypatch.setattr("hemalens.inference.predictor.MONITORED_AT_ONCE", 5)
    monkeypatch.setattr("hemalens.inference.rows.ROWS_A_GROUP", 7)
    parts = predict(bundle.path, labs("lab_b"), out=tmp_path / "parts.parquet")
    assert whole == parts
    a, b = (pandas.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    pandas.testing.assert_frame_equal(a, b)


# ---------------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_from_end_to_end(bundle: Bundle, labs: Callable[[str], str], tmp_path: Path) -> None:
    said: list[str] = []
    report = evaluate(bundle.path, labs("lab_b"), out=tmp_path / "report", say=said.append)
    assert f"testing {4 * trained.N_PER_CLASS} images, with confidence intervals" in said
    assert REFUSED in said
    assert _names(tmp_path / "report") == REPORT_FILES
    assert read_report(tmp_path / "report" / "report.json") == report
    (evaluation,) = report.evaluations
    assert (evaluation.source, evaluation.target, evaluation.n_images) == ("lab_a", "lab_b", 4 * trained.N_PER_CLASS)
    (table,) = report.pictures
    assert (table.title, table.rows, table.reason) == ("nearest_colour on lab_b: evidence", (), REFUSED)
    shown = (tmp_path / "report" / "report.md").read_text()
    assert "nearest_colour on lab_b: evidence. No maps: this model has no exact map" in shown.replace("\\", "")


@pytest.mark.usefixtures("undrawn")
def test_evaluate_shows_occlusion_maps_on_request_or_no_maps(
    bundle: Bundle, labs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    occluded = EvaluateOptions(explain="occlusion")
    report = evaluate(bundle.path, labs("lab_b"), out=tmp_path / "occluded", options=occluded, say=said.append)
    (table,) = report.pictures
    assert (table.title, len(table.rows)) == ("nearest_colour on lab_b: occlusion maps", 4)
    assert "at most 4 cells" in table.note
    assert "occlusion maps of at most 4 cells" in said
    none = EvaluateOptions(explain="none")
    assert evaluate(bundle.path, labs("lab_b"), out=tmp_path / "none", options=none, say=said.append).pictures == ()
    assert not any("too large" in text for text in said)
    monkeypatch.setattr("hemalens.evaluation.occlusion.affordable", lambda bundle, n: 0)
    report = evaluate(bundle.path, labs("lab_b"), out=tmp_path / "large", options=occluded, say=said.append)
    assert sum(len(table.rows) for table in report.pictures) == 0
    assert "No occlusion maps" in said[-1]


@pytest.mark.usefixtures("undrawn")
def test_evaluate_shows_exact_maps_of_a_linear_head(
    labs: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    probe = trained.fitted(tmp_path_factory, "linear_probe").bundle
    reports = [
        evaluate(probe.path, labs("lab_b"), out=tmp_path / explain, options=EvaluateOptions(explain=explain))
        for explain in ("activation", "none")
    ]
    (table,) = reports[0].pictures
    assert table.title == "linear_probe on lab_b: evidence"
    assert 4 <= len(table.rows) <= 12
    assert all("evidence for" in row.caption and len(row.pictures) == 2 for row in table.rows)
    assert reports[1].pictures == ()


def test_evaluate_refuses_images_the_model_has_seen(bundle: Bundle, labs: Any, tmp_path: Path) -> None:
    n = 4 * trained.N_PER_CLASS
    with pytest.raises(SplitError, match=rf"{n} image\(s\) of lab_a were trained on, first: "):
        evaluate(bundle.path, labs("lab_a"), out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("undrawn")
def test_evaluate_drops_seen_images_when_asked(
    bundle: Bundle, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = trained.cells(tmp_path_factory)
    for kind in trained.CELL_TYPES:
        shutil.copytree(folder / "lab_b" / "images" / kind, tmp_path / "mixed" / kind)
    for i, image in enumerate(sorted((folder / "lab_a" / "images" / "monocyte").iterdir())[:3]):
        shutil.copy(image, tmp_path / "mixed" / "monocyte" / f"seen under another name {i}.png")
    shutil.copy(next((tmp_path / "mixed" / "neutrophil").iterdir()), tmp_path / "mixed" / "neutrophil" / "copy.png")
    said: list[str] = []
    report = evaluate(
        bundle.path,
        f"folder:{tmp_path / 'mixed'}",
        out=tmp_path / "r",
        options=EvaluateOptions(drop_seen=True),
        say=said.append,
    )
    assert report.evaluations[0].n_images == report.data[0].n_images == 4 * trained.N_PER_CLASS
    assert report.data[0].dropped == {"copies": 1, "seen in training": 3}, "what was dropped before stays on the card"
    assert "mixed: left out 3 image(s) seen in training" in said


# --------------------------------------------------------------------------------------------------------- benchmark


def test_a_benchmark_from_end_to_end(labs: Callable[[str], str], fits: list[str], tmp_path: Path) -> None:
    report = benchmark(
        ["nearest_colour"],
        labs("lab_a"),
        target_specs=[labs("lab_b")],
        protocol="cross-domain",
        out=tmp_path / "run",
        folds=2,
    )
    assert [(e.source, e.target, e.n_folds) for e in report.evaluations] == [("lab_a", "lab_a", 2), ("lab_a", "lab_b", 2)]
    assert _names(tmp_path / "run") >= REPORT_FILES
    assert fits == ["fold_0", "fold_1"]
    assert read_report(tmp_path / "run" / "report.json") == report
    again = benchmark(
        ["nearest_colour"],
        labs("lab_a"),
        target_specs=[labs("lab_b")],
        protocol="cross-domain",
        out=tmp_path / "run",
        folds=2,
    )
    assert again.evaluations == report.evaluations
    assert fits == ["fold_0", "fold_1"], "what is known is not run again"


@pytest.mark.usefixtures("undrawn")
def test_a_stopped_benchmark_fits_only_what_is_missing(
    labs: Callable[[str], str], fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Any:
        return benchmark(["nearest_colour"], labs("lab_a"), protocol="k-fold", out=tmp_path / "run", folds=3)

    make = trained.colour_bundle

    def killed_in_the_third(path: Path, *given: Any, **more: Any) -> Bundle:
        if "fold_2" in str(path):
            raise KilledError
        return make(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trained, "colour_bundle", killed_in_the_third)
        with pytest.raises(KilledError):
            run()
    assert fits == ["fold_0", "fold_1", "fold_2"]
    fits.clear()
    resumed = run()
    assert fits == ["fold_2"]
    unbroken = benchmark(["nearest_colour"], labs("lab_a"), protocol="k-fold", out=tmp_path / "again", folds=3)
    assert resumed.evaluations == unbroken.evaluations


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_fold_is_fitted_again(
    labs: Callable[[str], str], fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Any:
        return benchmark(["nearest_colour"], labs("lab_a"), protocol="k-fold", out=tmp_path / "run", folds=2)

    def killed(*given: object, **more: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.runs.folders.write_report", killed)
        with pytest.raises(KilledError):
            run()
    fits.clear()
    (model,) = (tmp_path / "run").rglob("fold_0/bundle/model.onnx")
    model.write_bytes(model.read_bytes()[:50])
    run()
    assert fits == ["fold_0"]


@pytest.mark.usefixtures("undrawn")
def test_settings_of_one_method_and_of_all(labs: Callable[[str], str], fits: list[str], tmp_path: Path) -> None:
    for name, setting in (("all", "scale=9.0"), ("one", "nearest_colour.scale=9.0")):
        report = benchmark(
            ["nearest_colour"], labs("lab_a"), protocol="k-fold", out=tmp_path / name, folds=2, settings=[setting]
        )
        assert report.methods["nearest_colour"] == {"scale": 9.0}


# -------------------------------------------------------------------------------------------------------- quickstart


@pytest.mark.usefixtures("undrawn")
def test_quickstart_from_end_to_end(tmp_path: Path, fits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.cli.quickstart.N_PER_CLASS", 3)
    smear = SmearConfig(n_slides=1, n_fields=2, width_px=256, height_px=192, white_cells=3, empty=False)
    monkeypatch.setattr("hemalens.cli.quickstart.SMEAR", smear)
    stand_in = SimpleNamespace(finder=trained.stand_in_detector(monkeypatch), path=Path("stand-in"))
    monkeypatch.setattr("hemalens.runs.count.default_detector", lambda: stand_in)
    out = tmp_path / "quick"
    report, predicted = quickstart(out=out)
    folders = {"data", "train", "lab_b", "adapted", "lab_b_adapted", "fields", "count"}
    assert {*REPORT_FILES, *folders, "predictions.csv", "run.json"} == _names(out)
    assert [(e.method, e.target) for e in report.evaluations] == [
        ("nearest_colour", "lab_a"),
        ("nearest_colour", "lab_b"),
        ("nearest_colour, adapted", "lab_b"),
    ]
    support = open_bundle(out / "adapted").manifest.data[-1]
    assert (support.role, sum(support.class_counts.values())) == ("support", 8)
    assert report.evaluations[-1].n_images == 2 * 8, "what was memorised is not tested"
    assert report.synthetic
    with (out / "fields" / "lab_b" / "cells.csv").open(encoding="utf-8", newline="") as file:
        drawn = Counter(row["type"] for row in csv.DictReader(file))
    (table,) = report.tables
    white = {str(row[0]): row[1] for row in table.rows if row[1]}
    assert white == {code: n for code, n in drawn.items() if code not in ("erythrocyte", "platelet", "erythroblast")}
    made = read_report(out / "count" / "report.json")
    assert made.synthetic
    (counted,) = made.slides
    assert {str(row[0]): row[3] for row in table.rows if row[3]} == {e.code: e.count for e in counted.types if e.count}
    assert predicted.n_rows == 3 * 8 == len(pandas.read_csv(out / "predictions.csv"))
    assert all(Path(path).is_file() for path in pandas.read_csv(out / "predictions.csv")["path"])
    assert not any(b"/.new" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    with pytest.raises(OutputError, match="finished"):
        quickstart(out=out)


@pytest.mark.slow
def test_quickstart_with_the_real_network(tmp_path: Path) -> None:
    report, _ = quickstart(out=tmp_path / "quick")
    home, away, adapted = (e.scores.balanced_accuracy.value for e in report.evaluations)
    assert home is not None
    assert away is not None
    assert adapted is not None
    assert home > 0.8
    assert away < home - 0.2, "the next laboratory is the point of it"
    assert adapted > away + 0.1, "and a few of its cells help"
