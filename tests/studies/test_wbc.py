"""Both white-cell studies on generated data in the real layouts, and what they share: rows, parts, masks, tables."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from fakes import FAKES, cam16, prcc
from hemalens.benchmark.protocols.fractions import FractionRun
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.bundle.stages import ClassicalSegmenter
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import ConfigError, InputError, OutputError, SplitError
from hemalens.evaluation.metrics import Predictions
from hemalens.evaluation.results import ComparisonTable, Report
from hemalens.inference.predictor import Predictor
from hemalens.methods.combined_network import CombinedNetworkConfig
from hemalens.methods.mask_augmentation import METHOD as MASK_AUGMENTATION
from hemalens.report import read_report
from hemalens.studies import StudyOptions, find_study, run_study
from hemalens.studies.base import published
from hemalens.studies.wbc import augmentation as wbc_augmentation
from hemalens.studies.wbc import combined as wbc_combined
from hemalens.studies.wbc import common as wbc
from hemalens.studies.wbc.combined import clusters_table
from hemalens.studies.wbc.common import (
    Row,
    WbcStudyConfig,
    chosen_rows,
    configured,
    study_config,
    with_data,
    with_segmenter_masks,
)
from hemalens.studies.wbc.differences import departures
from hemalens.studies.wbc.tables import gains_table, published_table
from hemalens.taxonomy import AS_LABELLED
from hemalens.training import fit as training_fit
from hemalens.training.augmentation import AugmentationConfig
from hemalens.training.cluster_labels import clusters_of
from hemalens.training.pretraining import pretrained

NOT_COMPARABLE = "published, not comparable"
N_EACH = 6
CELL_TYPES = 5
TINY = (
    "n_seeds=1",
    "fit.image_size_px=32",
    "fit.epochs=1",
    "fit.batch_size=8",
    "fit.precision=fp32",
    "fit.pretraining.epochs=1",
    "fit.pretraining.batch_size=8",
    "resnet.backbone=test_resnet",
    "resnet.weights=none",
)
AUGMENTATION = (*TINY, 'rows=["scratch", "augmented"]', "fractions=[1.0, 0.1]")
COMBINED = (
    *TINY,
    'rows=["alone", "combined", "clusters"]',
    "fractions=[1.0, 0.01]",
    "fit.autoencoder.width=2",
    "fit.autoencoder.latent_size=8",
    "fit.autoencoder.epochs=1",
    "fit.autoencoder.precision=fp32",
    "fit.clustering.backbone=test_resnet",
    "fit.clustering.weights=none",
    "fit.clustering.image_size_px=32",
    "fit.clustering.tile_px=48",
)

Roles = dict[str, list[str]]


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three published sets, each in the layout in which it is distributed."""
    root = tmp_path_factory.mktemp("wbc")
    subsets = ("WBC_100", "WBC_10", "WBC_1")
    FAKES["wbc_subsets"](root / "cells", n_per_class=N_EACH, side_px=48, subsets=subsets, smears=False)
    FAKES["cam16"](root / "patches", n_per_class=4, side_px=48)
    FAKES["prcc"](root / "regions", n_per_class=4, side_px=96, typed=True)
    return root


def _cells(root: Path, subset: str = "WBC_100", part: str = "train") -> str:
    return f"wbc_subsets:{root / 'cells' / subset / part}"


@pytest.fixture(scope="module")
def white(root: Path) -> Roles:
    return {"wbc": [_cells(root)], "held": [_cells(root, part="val")]}


@pytest.fixture(scope="module")
def tissue(root: Path) -> Roles:
    top = root / "patches" / cam16.FOLDER
    return {
        "cam16": [f"cam16:{top / 'train'}"],
        "cam16_test": [f"cam16:{top / 'test'}"],
        "prcc": [f"prcc:{root / 'regions'}"],
    }


@pytest.fixture(scope="module")
def kong(white: Roles, tissue: Roles) -> Roles:
    """What the study of Kong needs at least."""
    return {**white, "pretraining": tissue["cam16"]}


@dataclass
class Watched:
    """A study that was run, what it said, and what went through it."""

    out: Path
    report: Report = None  # type: ignore[assignment]
    said: list[str] = field(default_factory=list)
    fits: list[tuple[str, CellDataset, CellDataset]] = field(default_factory=list)
    """Folder below fits, training part and validation part of each."""
    trainings: list[Path] = field(default_factory=list)
    """The folder of each training that was begun, those of encoders included."""
    runs: Mapping[str, FractionRun] = field(default_factory=dict)

    def table(self, beginning: str) -> ComparisonTable:
        return next(table for table in self.report.tables if table.title.startswith(beginning))

    def learned(self, folder: str) -> CellDataset:
        return next(train for name, train, _ in self.fits if name == folder)

    def bundle(self, folder: str) -> Bundle:
        return open_bundle(self.out / "fits" / folder / "bundle")


@contextmanager
def _watching(watched: Watched, module: Any, *, killed_at: str = "") -> Iterator[None]:
    """Note what the study does; end it like a kill when it comes to the fit in this folder."""
    fit_or_resume, run_rows, honest = wbc.fit_or_resume, module.run_rows, training_fit.train

    def spy_fit_in(run_dir: Path, method: Any, part: CellDataset, *, validation: CellDataset, **more: Any) -> Bundle:
        name = str(run_dir.relative_to(watched.out / ".new" / "fits"))
        if name == killed_at:
            raise KilledError
        watched.fits.append((name, part, validation))
        return fit_or_resume(run_dir, method, part, validation=validation, **more)

    def spy_train(*given: Any, run_dir: Path, **more: Any) -> None:
        watched.trainings.append(run_dir)
        honest(*given, run_dir=run_dir, **more)

    def spy_run_rows(*given: Any, **more: Any) -> Mapping[str, FractionRun]:
        watched.runs = run_rows(*given, **more)
        return watched.runs

    with trained.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(wbc, "fit_or_resume", spy_fit_in)
        patch.setattr(module, "run_rows", spy_run_rows)
        patch.setattr(training_fit, "train", spy_train)
        yield


def _run(name: str, data: Roles, out: Path, *settings: str, said: list[str] | None = None) -> Report:
    say = (lambda text: None) if said is None else said.append
    return run_study(name, data=data, out=out, settings=settings, say=say)


@pytest.fixture(scope="module")
def augmentation(root: Path, kong: Roles, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The study of Kong, killed before its last fit, and gone on with; the tenth of the cells comes with the data."""
    data = {**kong, "wbc_10": [_cells(root, "WBC_10")]}
    watched = Watched(tmp_path_factory.mktemp("augmentation") / "study")
    asked = ("wbc-augmentation", data, watched.out, *AUGMENTATION)
    with _watching(watched, wbc_augmentation, killed_at="augmented/0.1/seed_0"), pytest.raises(KilledError):
        _run(*asked)
    assert json.loads((watched.out / ".new" / "run.json").read_text())["finished"] is False
    watched.fits.clear()
    with _watching(watched, wbc_augmentation):
        watched.report = _run(*asked, said=watched.said)
    return watched


@pytest.fixture(scope="module")
def combined(root: Path, white: Roles, tissue: Roles, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The study of Mo; the hundredth of the cells comes with the data."""
    watched = Watched(tmp_path_factory.mktemp("combined") / "study")
    with _watching(watched, wbc_combined):
        data = {**white, **tissue, "wbc_1": [_cells(root, "WBC_1")]}
        watched.report = _run("wbc-combined", data, watched.out, *COMBINED, said=watched.said)
    return watched


def _accuracy(run: FractionRun, fraction: float) -> float:
    return float(np.mean([(a.predicted == a.target).mean() for a in run.predictions[fraction]]))


def _balanced(run: FractionRun, fraction: float) -> float:
    (answers,) = run.predictions[fraction]
    return float(np.mean([(answers.predicted == c)[answers.target == c].mean() for c in np.unique(answers.target)]))


# --------------------------------------------------------------------------------------------------- published numbers


def test_published_numbers_are_those_of_the_papers() -> None:
    assert published("wbc_augmentation")["accuracy"] == {
        "scratch": {"1": 97.05, "0.5": 96.59, "0.1": 92.53, "0.01": 84.03},
        "pretrained": {"1": 97.57, "0.5": 95.78, "0.1": 93.06, "0.01": 84.32},
        "augmented": {"1": 97.63, "0.5": 96.47, "0.1": 93.69, "0.01": 82.93},
    }
    told = published("wbc_combined")
    assert told["accuracy"]["alone"] == {"1": 97.9, "0.5": 97.5, "0.1": 95.1, "0.01": 80.0}
    assert told["accuracy"]["combined"] == {"1": 97.6, "0.5": 97.2, "0.1": 95.0, "0.01": 80.8}
    assert (told["cam16"], told["prcc_classifier"]) == (92.13, 91.2)
    assert sorted(told["prcc_cluster_sizes"]) == [610, 809]
    assert sum(told["prcc_cluster_sizes"]) == 1419
    for name, module in (("wbc_augmentation", wbc_augmentation), ("wbc_combined", wbc_combined)):
        assert set(published(name)["accuracy"]) <= set(module.ROWS)


def test_the_published_settings_are_the_default() -> None:
    config = WbcStudyConfig()
    assert (config.labels, config.fractions, config.selection) == ("five_class", (1.0, 0.5, 0.1, 0.01), "validation")
    assert config.mask_fraction == 0.1
    kong = {key: row.config([]) for key, row in wbc_augmentation.ROWS.items()}
    for key in ("scratch", "pretrained", "augmented"):
        chosen: Any = kong[key]
        assert (chosen.backbone, chosen.weights, chosen.image_size_px, chosen.epochs) == ("resnet18", "none", 224, 30)
        assert (chosen.masks.copies, chosen.open_stages) == (5 if key == "augmented" else 0, None)
        for part in (chosen, chosen.pretraining):
            assert (part.patience, part.kept_epoch, part.selection_score) == (None, "best", "accuracy")
        assert chosen.augmentation == chosen.pretraining.augmentation == AugmentationConfig.none()
        assert (chosen.sampling, chosen.optimiser.label_smoothing, chosen.optimiser.gradient_clip) == ("none", 0.0, None)
        assert (chosen.pretraining.sampling, chosen.pretraining.optimiser.label_smoothing) == ("none", 0.0)
    assert [bool(wbc_augmentation.ROWS[key].auxiliary) for key in ("scratch", "pretrained", "augmented")] == [
        False,
        True,
        True,
    ]
    alone: Any = wbc_combined.ROWS["alone"].config([])
    assert (alone.backbone, alone.weights, alone.open_stages, alone.epochs) == ("resnet18", "hub:tv_in1k", 1, 30)
    for part in (alone, CombinedNetworkConfig(), CombinedNetworkConfig().pretraining):
        assert part.augmentation == AugmentationConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
        assert (part.sampling, part.optimiser.label_smoothing, part.optimiser.gradient_clip) == ("none", 0.0, None)
        assert (part.patience, part.kept_epoch, part.selection_score) == (None, "best", "accuracy")
    assert wbc_combined.ROWS["combined"].config([]) == CombinedNetworkConfig()
    assert wbc_combined.ROWS["clusters"].config([]) == CombinedNetworkConfig(prcc="clusters")


# ---------------------------------------------------------------------------------------------------- the study of Kong


def test_training_curves_are_in_the_report(augmentation: Watched, combined: Watched, as_published: Watched) -> None:
    for watched, keys, groups in (
        (augmentation, ("scratch", "augmented"), ("100", "10")),
        (combined, ("alone", "combined", "clusters"), ("100", "1")),
    ):
        rows = wbc_augmentation.ROWS | wbc_combined.ROWS
        shown = {(curve.name, curve.group) for curve in watched.report.curves}
        assert shown == {(rows[key].name, f"{group} % of the labels") for key in keys for group in groups}
        for curve in watched.report.curves:
            assert (curve.epoch, curve.part, curve.kept) == ((1,), "validation", 1)
            assert len(curve.train_loss) == len(curve.accuracy) == 1
    assert {curve.part for curve in as_published.report.curves} == {"test"}


def test_cells_with_masks_and_their_new_images_are_shown(augmentation: Watched) -> None:
    (table,) = augmentation.report.pictures
    assert table.columns == ("image", "mask", *(f"new image {n}" for n in range(1, 6)))
    assert "segmenter" not in table.note
    masked = [r for r in augmentation.learned("augmented/1/seed_0").records if r.mask_path is not None]
    assert len(table.rows) == len({record.label for record in masked})
    for row in table.rows:
        shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in row.pictures]
        assert len(set(row.pictures)) == 7
        share_of_black = [(image.max(axis=-1) < 40).mean() for image in shown]
        assert share_of_black[0] < 0.05
        assert min(share_of_black[1:]) > 0.1, "black around the cell"


def test_a_row_of_ours_without_its_data_is_left_out_and_reported(kong: Roles, tmp_path: Path) -> None:
    said: list[str] = []
    rows, config = wbc_augmentation.ROWS, WbcStudyConfig()
    found = with_data(rows, kong, config, said.append)
    assert set(rows) - set(found) == {"prcc_pretrained"}
    assert said == ["left out the row 'pretrained by reconstructing unlabelled tissue', which needs --data prcc=SPEC"]
    with pytest.raises(InputError, match="the row 'pretrained by reconstructing unlabelled tissue' needs the role prcc"):
        with_data(rows, kong, WbcStudyConfig(rows=("prcc_pretrained",)), said.append)


def test_unlabelled_tissue_gives_the_weights_to_start_from(kong: Roles, tissue: Roles, tmp_path: Path) -> None:
    watched = Watched(tmp_path / "study")
    settings = (*TINY, 'rows=["prcc_pretrained"]', "fractions=[1.0]", "fit.reconstruction.epochs=1")
    with _watching(watched, wbc_augmentation):
        _run("wbc-augmentation", {**kong, "prcc": tissue["prcc"]}, watched.out, *settings)
    regions = set(open_dataset(tissue["prcc"][0], labels=AS_LABELLED).contents)
    bundle = watched.bundle("prcc_pretrained/1/seed_0")
    assert (bundle.manifest.method, bundle.seen_unlabelled) == ("mask_augmentation", regions)


def test_rows_over_fractions_on_halves_of_what_was_held_out(augmentation: Watched) -> None:
    report = augmentation.report
    assert read_report(augmentation.out / "report.json") == report
    assert [curve.method for curve in report.fractions] == ["ResNet-18 from scratch", "pretrained + mask augmentation"]
    for curve in report.fractions:
        assert (curve.source, curve.target, curve.selection) == ("WBC_100 train", "WBC_100 val, test half", "validation")
        assert [(scores.fraction, scores.n_train, scores.n_seeds) for scores in curve.fractions] == [
            (1.0, 30, 1),
            (0.1, 5, 1),
        ]
        assert curve.n_images + curve.n_validation == CELL_TYPES * N_EACH
        assert not curve.transductive
    train, validation = augmentation.learned("augmented/0.1/seed_0"), augmentation.fits[0][2]
    assert all(held.fingerprint == validation.fingerprint for _, _, held in augmentation.fits)
    assert Counter(r.label for r in validation.records) == dict.fromkeys(train.classes, N_EACH // 2)
    assert not set(validation.contents) & set(augmentation.learned("scratch/1/seed_0").contents)


def test_a_given_subset_is_taken_instead_of_a_drawn_one(root: Path, augmentation: Watched, combined: Watched) -> None:
    for watched, subset, share in ((augmentation, "WBC_10", "0.1"), (combined, "WBC_1", "0.01")):
        wanted = set(open_dataset(_cells(root, subset)).contents)
        parts = {name: set(part.contents) for name, part, _ in watched.fits if name.split("/")[1] == share}
        assert parts
        assert all(contents == wanted for contents in parts.values())
    assert [card.name for card in augmentation.report.data] == [
        "WBC_100 train",
        "WBC_100 val",
        "WBC_10 train",
        "cam16 train",
    ]


def test_without_a_given_subset_parts_are_drawn(root: Path, white: Roles, tmp_path: Path) -> None:
    config = WbcStudyConfig(fractions=(1.0, 0.5, 0.1))
    drawn = wbc.open_white_cells(white, config, out=tmp_path, seed=0).parts.training(config.protocol, 0, seed=0)
    assert {fraction: len(part) for fraction, part in drawn.items()} == {1.0: 30, 0.5: 15, 0.1: 5}
    given = wbc.open_white_cells({**white, "wbc_10": [_cells(root, "WBC_10")]}, config, out=tmp_path, seed=0)
    assert set(given.parts.given) == {0.1}
    assert set(given.parts.training(config.protocol, 0, seed=0)[0.5].contents) == set(drawn[0.5].contents)


def test_the_published_selection_without_cells_held_out_tests_the_same_images(
    root: Path, white: Roles, tmp_path: Path
) -> None:
    data = {"wbc": white["wbc"]}
    config = WbcStudyConfig()
    own = wbc.open_white_cells(data, config, out=tmp_path, seed=0).parts
    as_published = WbcStudyConfig(selection="published-selection")
    told = wbc.open_white_cells(data, as_published, out=tmp_path, seed=0).parts
    assert told.validation.fingerprint == told.tests[0].fingerprint == own.tests[0].fingerprint
    assert set(told.train.contents) == set(own.train.contents) | set(own.validation.contents)


def test_published_accuracy_stands_beside_ours(augmentation: Watched, combined: Watched) -> None:
    table = augmentation.table("Accuracy")
    assert table.columns == ("method", "100 %", NOT_COMPARABLE, "10 %", NOT_COMPARABLE)
    for row, key, told in zip(
        table.rows, ("scratch", "augmented"), (("0.9705", "0.9253"), ("0.9763", "0.9369")), strict=True
    ):
        ours = [f"{_accuracy(augmentation.runs[key], fraction):.3f}" for fraction in (1.0, 0.1)]
        assert row == (wbc_augmentation.ROWS[key].name, ours[0], told[0], ours[1], told[1])
    assert "Always predicting the most frequent class: 0.200" in table.note
    table = combined.table("Accuracy")
    assert table.columns == ("method", "100 %", NOT_COMPARABLE, "1 %", NOT_COMPARABLE)
    assert [(row[2], row[4]) for row in table.rows] == [("0.9790", "0.8000"), ("0.9760", "0.8080"), (None, "about 0.73")]
    assert "listed under the differences" in augmentation.table("Accuracy").note


def test_the_report_states_what_differs_from_the_paper(augmentation: Watched, combined: Watched) -> None:
    for watched, name in ((augmentation, "wbc-augmentation"), (combined, "wbc-combined")):
        study = find_study(name)
        assert len(study.differences) > 3
        assert watched.report.differences[: len(study.differences)] == study.differences
        epoch, images, settings = watched.report.differences[len(study.differences) :]
        assert "--published-only does so too" in epoch
        assert "wbc has 30 images, not the 8,447 of WBC_100, training" in images
        assert {"fit.epochs=1", "fit.pretraining.batch_size=8"} <= set(settings.partition(": ")[2].rstrip(".").split("; "))
        assert "fit.patience" not in settings
    assert "wbc_10 has 5 images, not the 842 of WBC_10, training" in augmentation.report.differences[-2]
    assert "pretraining has 8 images, not the 757 of CAM16, training" in augmentation.report.differences[-2]


def test_published_numbers_are_comparable_with_the_published_images_and_settings() -> None:
    def card(role: str, n_images: int, **dropped: int) -> Any:
        return SimpleNamespace(role=role, n_images=n_images, dropped=dropped)

    sizes = {"wbc": card("wbc", 8440, copies=7), "held": card("held", 1728)}
    row = wbc_augmentation.ROWS["pretrained"]
    opened: Any = SimpleNamespace(
        rows={"pretrained": (row, row.config([])), "lite0": (wbc_augmentation.ROWS["lite0"], row.config(["fit.epochs=2"]))},
        cells=SimpleNamespace(cards=list(sizes.values())),
        more={"pretraining": SimpleNamespace(card=card("auxiliary, pretraining", 757))},
    )
    study = wbc_augmentation.STUDY
    assert departures(study, opened) == []
    opened.more["pretraining"].card = card("auxiliary, pretraining", 756)
    opened.rows["pretrained"] = (row, row.config(["fit.pretraining.epochs=3", "fit.n_loader_workers=2"]))
    opened.cells.cards = [sizes["wbc"]]
    assert departures(study, opened) == [
        "pretraining has 756 images, not the 757 of CAM16, training",
        "tested on other images",
        "fit.pretraining.epochs=3",
    ]


def test_a_row_without_further_data_runs_alone(white: Roles, tissue: Roles, tmp_path: Path) -> None:
    report = _run("wbc-combined", {**white, **tissue}, tmp_path / "x", *TINY, 'rows=["alone"]', "fractions=[1.0]")
    assert [curve.method for curve in report.fractions] == ["without further data"]


def test_differences_are_to_the_first_row(augmentation: Watched) -> None:
    table = augmentation.table("Balanced accuracy, difference to: ResNet-18 from scratch")
    assert table.columns == ("method", "100 %", "10 %")
    ((name, *cells),) = table.rows
    assert name == "pretrained + mask augmentation"
    for cell, fraction in zip(cells, (1.0, 0.1), strict=True):
        expected = _balanced(augmentation.runs["augmented"], fraction) - _balanced(augmentation.runs["scratch"], fraction)
        assert str(cell).startswith(f"{expected:+.3f} (")


def test_each_row_has_learned_from_what_it_is_said_to(root: Path, tissue: Roles, augmentation: Watched) -> None:
    patches = set(open_dataset(tissue["cam16"][0], labels=AS_LABELLED).contents)
    assert patches <= augmentation.bundle("augmented/0.1/seed_0").seen
    assert not patches & augmentation.bundle("scratch/0.1/seed_0").seen
    made = json.loads((augmentation.out / "fits" / "augmented" / "1" / "seed_0" / "masks.json").read_text())
    # of the six training images of a class two come with a mask
    assert (made["images"], made["with a mask"], made["new images"]) == (30, 10, 50)
    assert not (augmentation.out / "fits" / "scratch" / "1" / "seed_0" / "masks.json").exists()
    assert [scores.n_masks for scores in augmentation.report.fractions[1].fractions] == [10, 5]


def test_settings_reach_the_rows_that_have_them(augmentation: Watched) -> None:
    methods = augmentation.report.methods
    assert set(methods) == {"ResNet-18 from scratch", "pretrained + mask augmentation"}
    for settings in methods.values():
        assert (settings["backbone"], settings["image_size_px"], settings["epochs"]) == ("test_resnet", 32, 1)
        assert settings["pretraining"]["epochs"] == 1
    assert [settings["masks"]["copies"] for settings in methods.values()] == [0, 5]


def test_a_killed_study_goes_on_and_trains_nothing_twice(augmentation: Watched) -> None:
    assert any("stopped run" in text for text in augmentation.said)
    folders = [f"{row}/{fraction}/seed_0" for row in ("scratch", "augmented") for fraction in ("1", "0.1")]
    assert sorted(name for name, *_ in augmentation.fits) == sorted(folders)
    own = [path for path in augmentation.trainings if path.is_relative_to(augmentation.out)]
    assert [str(path.relative_to(augmentation.out / ".new" / "fits")) for path in own] == folders
    assert len(augmentation.trainings) == len(own) + 1, "the classifier of tissue, once"
    assert not list(augmentation.out.rglob("checkpoints"))


def test_a_finished_study_is_refused(root: Path, kong: Roles, augmentation: Watched) -> None:
    data = {**kong, "wbc_10": [_cells(root, "WBC_10")]}
    with pytest.raises(OutputError, match="holds this run, finished"):
        _run("wbc-augmentation", data, augmentation.out, *AUGMENTATION)
    with pytest.raises(OutputError, match="holds another run"):
        _run("wbc-augmentation", data, augmentation.out, *AUGMENTATION, "n_seeds=2")


# ------------------------------------------------------------------------- the study of Kong on other cells, as published


def test_other_cells_without_masks_and_the_published_selection(root: Path, kong: Roles, tmp_path: Path) -> None:
    """The same images as folders of classes: no masks, no published numbers, and the epoch chosen on the test images."""
    top = root / "cells" / "WBC_100"
    watched = Watched(tmp_path / "study")
    data = {**kong, "wbc": [f"folder:{top / 'train' / 'data'}"], "held": [f"folder:{top / 'val' / 'data'}"]}
    settings = (
        *TINY,
        'rows=["scratch_augmented"]',
        "fractions=[1.0]",
        "selection=published-selection",
        "mask_segmenter=classical",
        "mask_fraction=0.5",
    )
    with _watching(watched, wbc_augmentation):
        watched.report = _run("wbc-augmentation", data, watched.out, *settings, said=watched.said)
    (curve,) = watched.report.fractions
    assert (curve.selection, curve.n_images, curve.n_validation) == ("published-selection", CELL_TYPES * N_EACH, 0)
    for name in ("report.html", "report.md"):
        assert "epoch chosen on the tested images" in (watched.out / name).read_text()
    ((_, train, held),) = watched.fits
    assert set(held.contents) == {r.content_id() for r in open_dataset(data["held"][0]).records}
    # the table of differences needs the reference row
    (table,) = watched.report.tables
    assert table.columns == ("method", "100 %")
    assert "are left out" in table.note
    assert "The white cells are not WBC_100 and its subsets: the published accuracies are left out." in (
        watched.report.differences
    )
    assert "The masks of the training images are those of the segmenter classical." in watched.report.differences
    masks = [record.mask_path for record in train.records if record.mask_path is not None]
    assert 0 < len(masks) == curve.fractions[0].n_masks <= CELL_TYPES * 3
    assert f"data: {len(masks)} masks by the segmenter classical" in watched.said
    assert "those of the segmenter classical" in watched.report.pictures[0].note
    made = json.loads((watched.out / "fits" / "scratch_augmented" / "1" / "seed_0" / "masks.json").read_text())
    assert (made["with a mask"], made["new images"]) == (len(masks), 5 * len(masks))


@pytest.mark.parametrize("share", [0.5, 0.29, 1.0])
def test_masks_that_stand_in_are_the_segmenter_s(root: Path, tmp_path: Path, share: float) -> None:
    train = open_dataset(f"folder:{root / 'cells' / 'WBC_100' / 'train' / 'data'}")
    config = WbcStudyConfig(mask_segmenter="classical", mask_fraction=share)
    masked, n_masks = with_segmenter_masks(train, config, folder=tmp_path, seed=0)
    assert (masked.fingerprint, masked.classes) == (train.fingerprint, train.classes)
    found = [record for record in masked.records if record.mask_path is not None]
    assert n_masks == len(found) == len(list(tmp_path.iterdir()))
    for name, n in Counter(record.label for record in found).items():
        assert n <= int(share * N_EACH + 1e-9), name
    for record in found:
        expected = ClassicalSegmenter()(record.read())
        assert record.mask_path is not None
        np.testing.assert_array_equal(np.asarray(Image.open(record.mask_path)), expected * np.uint8(255))
    again, _ = with_segmenter_masks(train, config, folder=tmp_path, seed=0)
    assert again.records == masked.records


def test_an_image_in_which_no_cell_is_found_gets_no_mask(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_dataset(f"folder:{root / 'cells' / 'WBC_100' / 'train' / 'data'}")
    empty = {record.path for record in train.records[::2]}
    full = {record.path for record in train.records[1::4]}

    def mask(record: Any, segmenter: object) -> np.ndarray:
        one = np.zeros((48, 48), bool)
        one[10:20, 10:20] = True
        return np.zeros_like(one) if record.path in empty else np.ones_like(one) if record.path in full else one

    monkeypatch.setattr(wbc, "kept_mask", mask)
    config = WbcStudyConfig(mask_segmenter="classical", mask_fraction=1.0)
    masked, n_masks = with_segmenter_masks(train, config, folder=tmp_path, seed=0)
    assert {r.path for r in masked.records if r.mask_path} == {r.path for r in train.records} - empty - full
    assert n_masks == len(train) - len(empty) - len(full)


def test_masks_that_came_with_the_images_are_kept(white: Roles, tmp_path: Path) -> None:
    cells = wbc.open_white_cells(white, WbcStudyConfig(mask_segmenter="classical"), out=tmp_path, seed=0)
    assert sum(record.mask_path is not None for record in cells.parts.train.records) == 10
    assert not (tmp_path / "masks").exists()
    assert not any("by the segmenter" in note for note in cells.notes)


# ----------------------------------------------------------------------------------------------------- the study of Mo


def test_the_rows_of_the_study_of_mo(combined: Watched, tissue: Roles) -> None:
    report = combined.report
    assert read_report(combined.out / "report.json") == report
    names = ["without further data", "combined network", "combined network, pRCC by clusters"]
    assert [curve.method for curve in report.fractions] == names
    regions = set(open_dataset(tissue["prcc"][0], labels=AS_LABELLED).contents)
    patches = set(open_dataset(tissue["cam16"][0], labels=AS_LABELLED).contents)
    for key in ("alone", "combined", "clusters"):
        bundle = combined.bundle(f"{key}/0.01/seed_0")
        assert bundle.seen_unlabelled == (set() if key == "alone" else regions)
        assert bool(patches & bundle.seen) == (key != "alone")
    assert [len(table.rows) for table in report.tables if table.title.startswith("Balanced")] == [2]
    own = [path for path in combined.trainings if path.is_relative_to(combined.out)]
    assert len(own) == len(set(own)) == 3 * 2
    encoders = [path for path in combined.trainings if path not in own]
    assert len(encoders) == len(set(encoders)) == 3, "patches, clusters, and clusters without those tested"


def test_the_classifier_of_patches_is_tested_on_patches(combined: Watched, tissue: Roles) -> None:
    table = combined.table("Classifier of the labelled tissue")
    ((target, n_images, accuracy, _, rate, told),) = table.rows
    assert (target, n_images, rate, told) == ("cam16 test", 8, 0.5, 0.9213)
    config: Any = configured(wbc_combined.ROWS, COMBINED)["combined"][1]
    train = open_dataset(tissue["cam16"][0], labels=AS_LABELLED)
    bundle = pretrained(train, config, config.pretraining)
    test = open_dataset(tissue["cam16_test"][0], labels=AS_LABELLED)
    right = [p.label == r.label for p, r in zip(Predictor(bundle).predict(test.records), test.records, strict=True)]
    assert accuracy == pytest.approx(np.mean(right))
    assert combined.report.evaluations[0].n_images == 8


@pytest.fixture(scope="module")
def as_published(root: Path, white: Roles, tissue: Roles, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The study of Mo as published, of one fraction."""
    watched = Watched(tmp_path_factory.mktemp("as_published") / "study")
    settings = (*COMBINED[: len(TINY)], *COMBINED[len(TINY) + 2 :], 'rows=["alone", "combined"]', "fractions=[1.0]")
    with _watching(watched, wbc_combined):
        options = StudyOptions(watched.out, settings, published_only=True, say=watched.said.append)
        watched.report = find_study("wbc-combined").run({**white, **tissue}, options)
    return watched


def test_as_published_the_tested_images_choose_the_epochs(
    as_published: Watched, combined: Watched, white: Roles, tissue: Roles
) -> None:
    held = open_dataset(white["held"][0])
    for _, _, validation in as_published.fits:
        assert set(validation.contents) == set(held.contents)
    assert {(curve.selection, curve.n_images) for curve in as_published.report.fractions} == {
        ("published-selection", len(held))
    }
    assert "The epoch is chosen on the tested images, as in both papers: the scores are optimistic." in (
        as_published.report.differences
    )
    ((target, n_images, _, _, _, told),) = as_published.table("Classifier of the labelled tissue").rows
    assert (target, n_images, told) == ("cam16 test, the epoch chosen on it", 8, 0.9213)
    assert "as published" in as_published.table("Classifier of the labelled tissue").note
    assert "here other images choose the epoch" in combined.table("Classifier of the labelled tissue").note
    patches = set(open_dataset(tissue["cam16_test"][0], labels=AS_LABELLED).contents)
    assert patches < as_published.bundle("combined/1/seed_0").seen
    assert not patches & combined.bundle("combined/1/seed_0").seen


def test_images_of_tissue_that_choose_the_epoch_may_be_given(
    root: Path, white: Roles, tissue: Roles, tmp_path: Path
) -> None:
    held = f"cam16:{root / 'patches' / cam16.FOLDER / 'val'}"
    watched = Watched(tmp_path / "study")
    with _watching(watched, wbc_combined):
        data = {**white, **tissue, "cam16_held": [held]}
        settings = (*COMBINED[: len(TINY)], *COMBINED[len(TINY) + 2 :], 'rows=["combined"]', "fractions=[0.01]")
        watched.report = _run("wbc-combined", data, watched.out, *settings)
    patches = set(open_dataset(held, labels=AS_LABELLED).contents)
    assert patches < watched.bundle("combined/0.01/seed_0").seen
    assert watched.table("Classifier of the labelled tissue").rows[0][0] == "cam16 test"


def test_clusters_stand_beside_the_published_ones(combined: Watched, tissue: Roles) -> None:
    table = combined.table("Clusters of prcc")
    config: Any = configured(wbc_combined.ROWS, COMBINED)["clusters"][1]
    clusters = clusters_of(open_dataset(tissue["prcc"][0], labels=AS_LABELLED), config.clustering)
    assert [row[1:] for row in table.rows[:2]] == [(clusters.sizes["cluster_1"], 809), (clusters.sizes["cluster_2"], 610)]
    assert sum(clusters.sizes.values()) == 8
    assert clusters.agreement is not None
    assert table.rows[2:4] == (("regions of type 1", 4, 870), ("regions of type 2", 4, 547))
    assert [row[1] for row in table.rows[4:7]] == [
        clusters.agreement.accuracy,
        clusters.agreement.majority_rate,
        clusters.agreement.adjusted_rand,
    ]
    assert table.rows[7][2] == 0.912
    assert "agreement is unknown" not in table.note
    assert "clusters/prcc_feature.csv" in table.note
    labels = (combined.out / "clusters" / "prcc_cluster_label.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in labels[1:]] == list(clusters.labels)
    assert len((combined.out / "clusters" / "prcc_feature.csv").read_text().splitlines()) == 1 + 8


def test_drawn_regions_have_no_published_numbers(combined: Watched, tissue: Roles) -> None:
    config: Any = configured(wbc_combined.ROWS, COMBINED)["clusters"][1]
    clusters = clusters_of(open_dataset(tissue["prcc"][0], labels=AS_LABELLED), config.clustering)
    drawn = replace(clusters, dataset=replace(clusters.dataset, synthetic=True), agreement=None)
    table = clusters_table(drawn, combined.report.evaluations[-1])
    assert {row[2] for row in table.rows} == {None}
    assert "Without type labels" in table.note


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (
            'rows=["scratch", "pretraned"]',
            InputError,
            r"the study has no row 'pretraned'; expected some of scratch, pretrained,",
        ),
        ("n_seed=2", ConfigError, r"unknown key 'n_seed'. did you mean 'n_seeds'"),
        ("selection=best", ConfigError, "key 'selection'"),
        ("fit.epoch=2", ConfigError, r"no row of the study uses the setting 'fit.epoch=2'. did you mean 'epochs'"),
        ("fit.optimiser.rate=2", ConfigError, r"unknown key 'optimiser.rate'"),
    ],
)
def test_bad_settings_are_told_first(
    kong: Roles, tmp_path: Path, setting: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _run("wbc-augmentation", kong, tmp_path / "x", *TINY, setting)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("study", "change", "message"),
    [
        ("wbc-augmentation", {"wbc": []}, "number of datasets in the role wbc"),
        ("wbc-augmentation", {"cam16": ["cam16:x"]}, "the study wbc-augmentation has no role 'cam16'"),
        ("wbc-augmentation", {}, "number of datasets in the role pretraining.*Use --data pretraining=SPEC"),
        ("wbc-augmentation", {"hold": ["prcc:x"]}, r"no role 'hold'. did you mean 'held'"),
        ("wbc-combined", {}, "number of datasets in the role cam16.*Use --data cam16=SPEC"),
    ],
)
def test_roles_are_checked(white: Roles, tmp_path: Path, study: str, change: Roles, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _run(study, {**white, **change}, tmp_path / "x", *TINY)
    assert not (tmp_path / "x").exists()


def test_cells_that_are_learned_from_and_tested_on_are_refused(kong: Roles, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"image\(s\) of WBC_100 train"):
        _run("wbc-augmentation", {**kong, "held": kong["wbc"]}, tmp_path / "x", *TINY, 'rows=["scratch"]')


# ------------------------------------------------------------------------------------------------------------------ rows


def test_rows_are_chosen_by_name_in_the_order_of_the_study() -> None:
    rows = wbc_augmentation.ROWS
    assert list(chosen_rows(rows, [])) == list(rows)
    assert list(chosen_rows(rows, ["augmented", "scratch"])) == ["scratch", "augmented"]


def test_a_setting_goes_to_the_rows_that_have_such_a_key() -> None:
    settings = ["fit.epochs=3", "resnet.backbone=resnet10t", "fit.autoencoder.epochs=2", "n_seeds=1", "resnet.epochs=4"]
    found: dict[str, Any] = {key: config for key, (_, config) in configured(wbc_combined.ROWS, settings).items()}
    assert {key: config.epochs for key, config in found.items()} == {"alone": 4, "combined": 4, "clusters": 4, "lite0": 3}
    assert {key for key, config in found.items() if config.backbone == "resnet10t"} == {"alone", "combined", "clusters"}
    assert found["combined"].autoencoder.epochs == found["clusters"].autoencoder.epochs == 2
    frozen: Any = configured(wbc_augmentation.ROWS, ["fit.image_size_px=64"])["lite0_frozen"][1]
    assert frozen == type(frozen)(), "what is not trained is not changed"


def test_a_setting_that_no_row_takes_is_refused() -> None:
    lite = {key: row for key, row in wbc_augmentation.ROWS.items() if key.startswith("lite0")}
    for setting in ("resnet.epochs=3", "fit.autoencoder.epochs=3"):
        with pytest.raises(ConfigError, match=f"no row of the study uses the setting '{setting}'"):
            configured(lite, [setting])
    with pytest.raises(ConfigError, match="cannot read the setting 'epochs'"):
        configured(lite, ["fit.epochs"])


def test_the_published_rows_are_those_with_published_numbers() -> None:
    for name, module in (("wbc_augmentation", wbc_augmentation), ("wbc_combined", wbc_combined)):
        chosen = chosen_rows(module.ROWS, [], published_only=True)
        assert list(chosen) == list(published(name)["accuracy"]) == list(module.ROWS)[:3]
    with pytest.raises(InputError, match=r"the row 'lite0' is not in the paper; expected some of scratch, pretrained, aug"):
        chosen_rows(wbc_augmentation.ROWS, ["lite0"], published_only=True)


def test_the_published_rows_alone_choose_the_epoch_as_published(tmp_path: Path) -> None:
    for settings, selection in (((), "published-selection"), (("selection=validation",), "validation")):
        options = StudyOptions(tmp_path, settings, published_only=True)
        assert study_config(options).selection == selection
    assert study_config(StudyOptions(tmp_path)).selection == "validation"


def test_settings_go_over_a_row_s_own() -> None:
    row = Row("row", "mask_augmentation", {"epochs": 30, "masks": {"copies": 5, "background": "pasted"}})
    config: Any = row.config(["fit.masks.copies=2"])
    assert (config.epochs, config.masks.copies, config.masks.background) == (30, 2, "pasted")
    assert isinstance(config, MASK_AUGMENTATION.config)


# ------------------------------------------------------------------------------------------------------- small examples


def _answered(*models: Sequence[int]) -> FractionRun:
    truth = np.array([0, 0, 0, 1, 1, 2])
    answers = [Predictions(truth, np.array(predicted), np.arange(6)) for predicted in models]
    curve: Any = SimpleNamespace(method="a row", fractions=[SimpleNamespace(fraction=0.1)])
    return FractionRun(curve, {0.1: answers}, 3)


def test_equal_rows_do_not_differ() -> None:
    run = _answered([0, 0, 1, 1, 0, 2], [0, 1, 1, 1, 1, 0])
    (table,) = gains_table({"first": run, "second": run}, "first", seed=0)
    assert table.rows == (("a row", "+0.000 (+0.000 to +0.000)"),)
    assert table.columns == ("method", "10 %")


def test_a_difference_is_that_of_mean_balanced_accuracies() -> None:
    worse, better = _answered([0, 0, 1, 1, 0, 2], [1, 1, 1, 1, 1, 2]), _answered([0, 0, 0, 1, 0, 2], [0, 0, 0, 1, 1, 2])
    expected = np.mean([(1 + 1 / 2 + 1) / 3, 1]) - np.mean([(2 / 3 + 1 / 2 + 1) / 3, (0 + 1 + 1) / 3])
    (table,) = gains_table({"first": worse, "second": better}, "first", seed=0)
    assert str(table.rows[0][1]).startswith(f"{expected:+.3f} (")


def test_there_are_no_differences_without_the_reference_row_or_to_it_alone() -> None:
    run = _answered([0, 0, 1, 1, 0, 2])
    assert gains_table({"second": run, "third": run}, "first", seed=0) == []
    assert gains_table({"first": run}, "first", seed=0) == []


def test_a_fraction_without_a_published_number_has_none(augmentation: Watched) -> None:
    table = published_table(augmentation.runs, {"accuracy": {"scratch": {"0.1": 92.53}}}, shown=True)
    assert table.columns[2::2] == ("published", "published")
    assert [row[2::2] for row in table.rows] == [(None, "0.9253"), (None, None)]
    table = published_table(augmentation.runs, {"accuracy": {}}, shown=False)
    assert table.note.endswith("are left out.")
    assert table.columns == ("method", "100 %", "10 %")


def test_regions_in_one_folder_tell_no_agreement(root: Path, tmp_path: Path) -> None:
    spec = prcc.write(tmp_path, n_per_class=3, side_px=48)
    config: Any = configured(wbc_combined.ROWS, COMBINED)["clusters"][1]
    assert clusters_of(open_dataset(spec, labels=AS_LABELLED), config.clustering).agreement is None
