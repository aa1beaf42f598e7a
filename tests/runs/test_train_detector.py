"""`hemalens train detector`: the folder, its manifest, a second run of the same command."""

from __future__ import annotations

from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest

import drawn_fields
from command import Command
from hemalens.bundle.detector import Detector, open_detector
from hemalens.bundle.seen import SEEN
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import BundleError, InputError
from hemalens.methods.detector import DetectorConfig
from hemalens.report import read_report
from hemalens.runs.train import TrainOptions
from hemalens.runs.train_detector import train_detector

SMALL = (
    "weights=none",
    "epochs=1",
    "windows_per_epoch=2",
    "batch_size=2",
    "side_px=64",
    "optimiser.warmup_steps=0",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on five drawn fields."""
    folder = tmp_path_factory.mktemp("detector")
    fields = drawn_fields.yolo_folder(folder / "fields", 5)
    train_detector(f"yolo:{fields}", out=folder / "run", settings=SMALL, options=TrainOptions(test_fraction=0.4))
    return folder


def _detector(made: Path) -> Detector:
    return open_detector(made / "run" / "detector")


def test_the_detector_finds_and_tests_itself(made: Path) -> None:
    detector = _detector(made)
    detector.check_test()
    image, _, _ = drawn_fields.drawn(7)
    boxes = detector.finder.in_field(image, least_score=0.0)
    assert np.all(boxes.corners >= 0)
    assert np.all(boxes.corners <= drawn_fields.SIDE)


def test_the_manifest_states_what_was_learned(made: Path) -> None:
    detector, given = _detector(made), open_fields(f"yolo:{made / 'fields'}")
    manifest = detector.manifest
    (entry,) = manifest.data
    assert (entry.role, entry.name, entry.licence) == ("train", given.name, given.licence)
    assert manifest.n_fields == sum(manifest.laboratories.values()) == 3
    assert entry.class_counts == manifest.n_boxes == {"white cell": 3, "red cell": 12, "platelet": 3}
    assert manifest.nuclei == {"n_white": 3, "n_with_nucleus": 3, "n_masked": 0}
    assert manifest.left_out == {}
    assert 0 <= manifest.parity < 0.01
    contents = {field.record.content_id() for field in given.fields}
    assert len(detector.seen) == 3
    assert detector.seen < contents
    given_domains = {field.record.domain for field in given.fields}
    assert set(manifest.laboratories) == given_domains


def test_the_report_names_the_laboratories(made: Path) -> None:
    report = read_report(made / "run" / "report.json")
    assert report.protocol == "one split: 40% of the fields held out for the test, 2 field(s)"
    (table,) = report.tables
    assert [row[1:] for row in table.rows] == [("train", 3, 3, 12, 3), ("test", 2, 2, 8, 2)]
    assert [(card.role, card.n_images) for card in report.data] == [("train", 3), ("test", 2)]
    assert report.curves


def test_nothing_temporary_is_left(made: Path) -> None:
    names = {path.name for path in (made / "run").iterdir()}
    assert {"detector", "run.json", "report.json", "history.jsonl"} <= names
    assert not names & {"checkpoints", "scratch", ".new"}


def test_a_finished_run_is_not_run_again(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    given = ("train", "detector", "--train", f"yolo:{made / 'fields'}", "--out", made / "run", *settings)
    assert "holds this run, finished" in command(*given, "--test-fraction", 0.4).error
    # another seed holds out other fields
    assert "holds another run" in command(*given, "--test-fraction", 0.4, "--seed", 1).error


def test_leaving_everything_out_makes_no_folder(made: Path, tmp_path: Path) -> None:
    domain = next(iter(_detector(made).manifest.laboratories))
    settings = [*SMALL, f"leave_out={domain}"]
    with pytest.raises(InputError, match="leave_out names every laboratory"):
        train_detector(f"yolo:{made / 'fields'}", out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_laboratories_are_a_list_or_a_text() -> None:
    assert DetectorConfig.load(overrides=["leave_out=raabin, bccd"]).leave_out == ("raabin", "bccd")
    assert DetectorConfig.load(overrides=['leave_out=["raabin"]']).leave_out == ("raabin",)
    assert DetectorConfig.load(overrides=["leave_out="]).leave_out == ()


def test_a_list_of_seen_fields_that_is_none_is_refused(made: Path) -> None:
    detector = _detector(made)
    file = detector.path / SEEN
    kept = file.read_bytes()
    file.write_bytes(b"no digest\n")
    try:
        with pytest.raises(BundleError, match=r"seen_images\.txt' of the detector .* is damaged"):
            _detector(made)
        with pytest.raises(BundleError, match=r"is no list of images; .* Train or adapt the detector again"):
            assert not detector.seen
    finally:
        file.write_bytes(kept)
