"""The MobileViT study end to end on generated cells in the layout of Matek-19, its settings, its images, its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import trained
from fakes import FAKES
from hemalens.bundle.bundle import open_bundle
from hemalens.errors import InputError, OutputError, SplitError
from hemalens.evaluation.results import Report
from hemalens.models.backbone import create_backbone
from hemalens.report import read_report
from hemalens.studies import find_study, run_study
from hemalens.studies.base import published
from hemalens.studies.mobilevit.images import divide, draw_cells
from hemalens.studies.mobilevit.settings import (
    ROWS,
    MobileVitStudyConfig,
    departures,
    network_configs,
    published_rows,
    split_settings,
)
from hemalens.studies.mobilevit.tables import class_table

N_IMAGES = 60
TINY = (
    'rows=["test_resnet","resnet10t"]',
    "min_per_class=4",
    f"n_images={N_IMAGES}",
    "test_fraction=0.3",
    "fit.image_size_px=32",
    "fit.epochs=2",
    "fit.batch_size=8",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    return FAKES["matek19"](tmp_path_factory.mktemp("matek") / "root", n_per_class=5)


def _study(cells: str, out: Path, settings: Sequence[str] = TINY, *, published_only: bool = False) -> Report:
    return run_study("mobilevit", data={"cells": cells}, out=out, settings=settings, published_only=published_only)


@pytest.fixture(scope="module")
def done(cells: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    with trained.undrawn():
        _study(cells, out)
    return out


# ------------------------------------------------------------------------------------------------------------------ run


def test_every_network_is_tested_on_the_same_images_it_has_not_seen(done: Path) -> None:
    report = read_report(done / "report.json")
    assert [e.method for e in report.evaluations] == ["test_resnet", "resnet10t"]
    assert len({e.n_images for e in report.evaluations}) == 1
    assert report.data[0].n_images == N_IMAGES
    assert report.data[0].dropped["images that the study leaves out"] > 0


def test_the_test_part_is_watched_in_every_epoch_and_nothing_else(cells: str, done: Path) -> None:
    config, _ = split_settings(TINY)
    parts = divide(draw_cells(cells, config, 0).inputs.dataset, config, 0)
    assert len(parts.train) + len(parts.test) == N_IMAGES
    assert parts.scored is parts.test
    bundle = open_bundle(done / "fits" / "test_resnet" / "bundle")
    assert set(parts.train.contents) == set(bundle.seen)
    assert [(entry.role, sum(entry.class_counts.values())) for entry in bundle.manifest.data] == [
        ("train", len(parts.train)),
        ("watched", len(parts.test)),
    ]
    assert bundle.manifest.temperature == 1
    assert bundle.reference is None
    lines = (done / "fits" / "test_resnet" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in history] == [0, 1]
    assert {"train_loss", "val_accuracy", "val_nll"} <= set(history[0])
    tested = read_report(done / "report.json").evaluations[0]
    assert tested.scores.accuracy.value == pytest.approx(history[-1]["val_accuracy"], abs=1e-5)


def test_the_table_counts_the_networks_and_names_its_convention(done: Path) -> None:
    _, table, _ = read_report(done / "report.json").tables
    config, own = split_settings(TINY)
    n_classes = len(read_report(done / "report.json").evaluations[0].classes)
    for (_, each), row in zip(network_configs(config, own).items(), table.rows, strict=True):
        n = sum(p.numel() for p in create_backbone(each, n_classes=n_classes).parameters())
        assert row[4] == f"{n / 1e6:.3f}"
    assert "thop 0.0.31" in table.note
    assert "exchanged" in table.note


def test_the_report_has_a_curve_of_every_network_and_cells_of_every_class(done: Path) -> None:
    report = read_report(done / "report.json")
    assert [(curve.name, curve.part, curve.epoch, curve.kept) for curve in report.curves] == [
        ("test_resnet", "test", (1, 2), 2),
        ("resnet10t", "test", (1, 2), 2),
    ]
    assert len({curve.group for curve in report.curves}) == 1
    for curve in report.curves:
        assert len(curve.train_loss) == len(curve.val_nll) == len(curve.accuracy) == 2
    (gallery,) = report.pictures
    assert [row.caption.replace(" ", "_") for row in gallery.rows[::2]] == list(report.data[0].class_counts)
    text = (done / "report.md").read_text(encoding="utf-8")
    assert "Training curves" in text
    assert "Cells of each class" in text


def test_the_report_names_the_contradiction_and_why_nothing_is_comparable(done: Path) -> None:
    table = read_report(done / "report.json").tables[0]
    assert "0.964" in table.note
    assert "97 %" in table.note
    assert "the last of 2 epochs" in table.note
    assert read_report(done / "report.json").differences == find_study("mobilevit").differences != ()
    assert table.columns[2] == "published, not comparable"
    for reason in ("not the 18,365 images of Matek-19", f"n_images={N_IMAGES}", "test_fraction=0.3"):
        assert reason in table.note


def test_a_finished_study_is_refused_and_too_many_images_too(done: Path, cells: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="finished"):
        _study(cells, done)
    with pytest.raises(InputError, match="fewer images"):
        _study(cells, tmp_path / "x", [*TINY, "n_images=9000"])


def test_published_only_leaves_out_what_the_paper_does_not_have(cells: str, tmp_path: Path) -> None:
    own = [s for s in TINY if not s.startswith("rows")]
    rows = 'rows=["test_resnet","mobilenetv2_100"]'
    with trained.undrawn():
        report = _study(cells, tmp_path / "run", [*own, rows, "fit.epochs=1"], published_only=True)
    assert [e.method for e in report.evaluations] == ["MobileNetV2"]
    assert report.comparisons == ()
    assert report.tables[0].columns == ("network", "accuracy", "published, not comparable")
    with pytest.raises(InputError, match="no row of the study is published"):
        _study(cells, tmp_path / "none", [*own, 'rows=["test_resnet"]'], published_only=True)


def test_a_validation_part_chooses_the_epoch_and_calibrates(cells: str, tmp_path: Path) -> None:
    settings = [*TINY[1:], 'rows=["test_resnet"]', "validation_fraction=0.3", "stratified=true"]
    with trained.undrawn():
        report = _study(cells, tmp_path / "run", settings)
    bundle = open_bundle(tmp_path / "run" / "fits" / "test_resnet" / "bundle")
    assert [entry.role for entry in bundle.manifest.data] == ["train", "validation"]
    assert bundle.reference is not None
    assert "the best epoch by validation balanced accuracy" in report.tables[0].note


# ------------------------------------------------------------------------------------------------------------- settings


def test_the_published_protocol_is_the_default() -> None:
    config, own = split_settings(())
    assert (config.labels, config.n_images, config.class_mix) == ("fab_eight", 6033, "proportional")
    assert (config.test_fraction, config.validation_fraction, config.stratified) == (0.1, 0.0, False)
    configs = network_configs(config, own)
    assert tuple(configs) == tuple(ROWS) == tuple(published_rows())
    assert {name: each.image_size_px for name, each in configs.items()} == {
        "resnet50": 224,
        "densenet121": 224,
        "mobilenetv2_100": 224,
        "mobilenetv3_large_100": 224,
        "mobilevit_plain_xs": 256,
    }
    for each in configs.values():
        assert (each.epochs, each.batch_size, each.optimiser.learning_rate, each.weights) == (200, 128, 1e-3, "none")
        assert (each.kept_epoch, each.patience, each.calibrate, each.only_watches) == ("last", None, False, True)
        assert each.precision == "fp32"
        assert each.sampling == "balanced"


def test_published_accuracies_are_comparable_for_the_published_set_and_settings_only() -> None:
    config, own = split_settings(())
    configs = network_configs(config, own)
    assert departures("matek19:folder", 18365, config, configs) == ()
    assert departures("matek19:folder", 19, config, configs) == ("not the 18,365 images of Matek-19",)
    assert departures("acevedo20:folder", 18365, config, configs) == ("not the 18,365 images of Matek-19",)
    for setting in ("n_images=0", "class_mix=equal", "stratified=true"):
        changed, _ = split_settings([setting])
        (reason,) = departures("matek19:folder", 18365, changed, configs)
        assert reason.lower() == setting
    config, own = split_settings(["fit.image_size_px=64", "fit.n_loader_workers=2"])
    assert departures("matek19:folder", 18365, config, network_configs(config, own)) == ("fit.image_size_px=64",)


@pytest.mark.parametrize("setting", ["fit.kept_epoch=best", "fit.patience=5", "fit.calibrate=true"])
def test_test_images_choose_and_calibrate_nothing(setting: str) -> None:
    config, own = split_settings([setting])
    with pytest.raises(InputError, match="on test images"):
        network_configs(config, own)
    config, own = split_settings([setting, "validation_fraction=0.1"])
    assert not any(each.only_watches for each in network_configs(config, own).values())


# --------------------------------------------------------------------------------------------------------------- images


def test_a_random_split_ignores_classes_and_a_stratified_one_keeps_their_shares(cells: str) -> None:
    config = MobileVitStudyConfig(n_images=0, min_per_class=4, test_fraction=0.2)
    whole = draw_cells(cells, config, 0).inputs.dataset
    random = [divide(whole, config, seed) for seed in range(12)]
    even = [divide(whole, config.model_copy(update={"stratified": True}), seed) for seed in range(12)]
    for parts in (*random, *even):
        assert not set(parts.train.contents) & set(parts.test.contents)
        assert len(parts.train) + len(parts.test) == len(whole)
    share = {label: round(0.2 * n) for label, n in whole.class_counts.items()}
    assert all(abs(parts.test.class_counts[label] - n) <= 1 for parts in even for label, n in share.items())
    counts = np.array([list(parts.test.class_counts.values()) for parts in random])
    assert counts[:, :-1].min() == 0, "a class of five without a test image, in one of twelve splits"


def test_a_class_without_a_training_image_is_refused(cells: str) -> None:
    config = MobileVitStudyConfig(n_images=0, min_per_class=4, test_fraction=0.9)
    whole = draw_cells(cells, config, 0).inputs.dataset
    with pytest.raises(SplitError, match=r"no training image of.*stratified=true"):
        divide(whole, config, 0)


def test_larger_classes_are_drawn_in_proportion_or_equally(cells: str) -> None:
    config = MobileVitStudyConfig(n_images=50, min_per_class=4)
    found = draw_cells(cells, config, 0)
    assert sum(found.available.values()) == found.n_found == 75
    assert found.available["other"] == 40
    assert found.inputs.dataset.class_counts["other"] == 15
    assert sum(found.inputs.dataset.class_counts.values()) == 50


# --------------------------------------------------------------------------------------------------------------- tables


def test_classes_before_and_after_the_sampler(cells: str) -> None:
    config = MobileVitStudyConfig(n_images=0, min_per_class=4)
    found = draw_cells(cells, config, 0)
    parts = divide(found.inputs.dataset, config, 0)
    (network,) = network_configs(config.model_copy(update={"rows": ("test_resnet",)}), ["images_per_epoch=160"]).values()
    table = class_table(found, parts.train, network)
    assert [row[0] for row in table.rows] == list(parts.train.classes)
    assert [row[3] for row in table.rows] == list(parts.train.class_counts.values())
    assert {row[4] for row in table.rows} == {f"{160 / 8:.0f}"}
    off = class_table(found, parts.train, network.model_copy(update={"sampling": "none"}))
    wanted = [f"{160 * n / len(parts.train):.0f}" for n in parts.train.class_counts.values()]
    assert [row[4] for row in off.rows] == wanted


def test_the_published_numbers_are_those_of_the_paper() -> None:
    rows = published("mobilevit")["rows"]
    assert rows["mobilevit_plain_xs"] == {"accuracy": 0.964, "gflops": 1.799, "parameters_m": 1.998}
    assert rows["resnet50"] == {"accuracy": 0.950, "gflops": 8.219, "parameters_m": 23.524}
    assert rows["densenet121"] == {"accuracy": 0.942, "gflops": 5.725, "parameters_m": 6.962}
    assert rows["mobilenetv2_100"] == {"accuracy": 0.940, "gflops": 0.495066, "parameters_m": 2.234}
    assert rows["mobilenetv3_large_100"] == {"accuracy": 0.937, "gflops": 0.625849, "parameters_m": 4.304}
