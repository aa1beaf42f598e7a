"""The detector in the package: without weights for training, with a card, and only with tests of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import pytest

import drawn_fields
from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import CARD
from hemalens.bundle.detector import DETECTOR, open_detector
from hemalens.bundle.seen import SEEN
from hemalens.errors import BundleError, InputError, OutputError, ReportError
from hemalens.runs import package_detector as module
from hemalens.runs.package_detector import package_detector
from hemalens.runs.train import TrainOptions
from hemalens.runs.train_detector import train_detector
from tested_detectors import Outcome

SMALL = ("weights=none", "epochs=1", "windows_per_epoch=2", "batch_size=2", "side_px=64", "optimiser.warmup_steps=0")


@dataclass(frozen=True)
class Written:
    """A report with this one test."""

    methods: dict[str, Any]
    detections: tuple[Outcome, ...]
    title: str = "tests"


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two drawn fields."""
    folder = tmp_path_factory.mktemp("packaged")
    fields = drawn_fields.yolo_folder(folder / "fields", 2)
    train_detector(f"yolo:{fields}", out=folder / "run", settings=SMALL, options=TrainOptions(test_fraction=0))
    return folder / "run"


@pytest.fixture
def report(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report of a test of this detector."""
    manifest = open_detector(trained_run / "detector").manifest
    tested = Outcome("here", source=manifest.data[0].name)
    monkeypatch.setattr(module, "read_report", lambda path: Written({"detector": manifest.config}, (tested,)))
    return trained_run / "report.json"


def test_the_package_has_the_card_and_no_weights_for_training(trained_run: Path, report: Path, tmp_path: Path) -> None:
    made = package_detector(trained_run, [report], remarks=["A remark."], out=tmp_path / "package")
    assert {path.name for path in made.path.iterdir()} == {DETECTOR, SEEN, CARD, "manifest.json"}
    assert WEIGHTS not in made.manifest.files
    made.check_test()
    assert "- A remark." in (made.path / CARD).read_text(encoding="utf-8")
    assert made.seen == open_detector(trained_run / "detector").seen
    with pytest.raises(OutputError):
        package_detector(trained_run, [report], out=tmp_path / "package")
    again = package_detector(made.path, [report], remarks=["A remark."], out=tmp_path / "package2")
    assert again.manifest.files[DETECTOR] == made.manifest.files[DETECTOR]


def test_a_report_without_a_test_of_it_is_refused(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the report of the training tests nothing
    with pytest.raises(ReportError, match="tests another model; expected a test of detector"):
        package_detector(trained_run, [trained_run / "report.json"], out=tmp_path / "package")
    monkeypatch.setattr(module, "read_report", lambda path: Written({"detector": {"epochs": 9}}, (Outcome("here"),)))
    with pytest.raises(ReportError, match="tests another model"):
        package_detector(trained_run, [trained_run / "report.json"], out=tmp_path / "package")
    with pytest.raises(InputError, match="needs test results"):
        package_detector(trained_run, [], out=tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_large_detector_is_refused(
    trained_run: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_BYTES", 1_000_000)
    with pytest.raises(BundleError, match=r"is too large for the package; expected at most 1 MB; got 3\.\d MB"):
        package_detector(trained_run, [report], out=tmp_path / "package")
