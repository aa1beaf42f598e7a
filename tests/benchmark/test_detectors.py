"""Detectors on laboratories left out, with a training that takes no time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import drawn_detector
from command import Command
from hemalens.benchmark.detectors import DetectorBenchmark, benchmark_detectors, leave_one_out
from hemalens.bundle.detector import Detector
from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import DatasetError, HemalensError, InputError
from hemalens.report import read_report

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[set[str]]:
    """The laboratories that each training has seen; the detector finds discs whatever it was trained on."""
    seen: list[set[str]] = []

    def fit(
        train: Sequence[FieldDataset],
        *,
        config: Any,
        run_dir: Path,
        dropped: Sequence[dict[str, int]],
        left_out: Mapping[str, int],
    ) -> Detector:
        labs = {field.record.domain for each in train for field in each.fields}
        if "broken" in labs:
            raise DatasetError("this laboratory cannot be learned")
        assert len(dropped) == len(train)
        assert set(left_out.values()) == {4}, "all fields of the laboratory left out"
        assert not labs & set(left_out)
        seen.append(labs)
        return drawn_detector.write_disc_detector(run_dir / "detector")

    monkeypatch.setattr("hemalens.methods.detector.fit_detector", fit)
    return seen


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Fields of the laboratories x, y and z, four of each."""
    return [_laboratory(monkeypatch, tmp_path, name, 10 * i) for i, name in enumerate("xyz")]


def _laboratory(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, first: int) -> str:
    def opened(spec: str) -> FieldDataset:
        dataset = open_fields(spec)
        lab = Path(spec.partition(":")[2]).name
        named = tuple(replace(f, record=replace(f.record, domain=lab)) for f in dataset.fields)
        return replace(dataset, name=lab, fields=named)

    monkeypatch.setattr("hemalens.benchmark.detectors.open_fields", opened)
    return drawn_detector.write_fields(folder / name, 4, first=first)


def test_each_laboratory_is_left_out_once(tmp_path: Path, three: list[str], trainings: list[set[str]]) -> None:
    report = benchmark_detectors(DetectorBenchmark(sources=tuple(three)), out=tmp_path / "out")
    assert trainings == [{"y", "z"}, {"x", "z"}, {"x", "y"}]
    assert [(d.laboratory, d.source, d.n_fields) for d in report.detections] == [
        (lab, f"all but {lab}", 4) for lab in "xyz"
    ]
    markdown = (tmp_path / "out/report.md").read_text("utf-8")
    assert "Mean over laboratories" in markdown


def test_a_stopped_benchmark_resumes_and_a_finished_one_is_refused(
    tmp_path: Path, three: list[str], trainings: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DetectorBenchmark(sources=tuple(three))
    with monkeypatch.context() as patch:
        patch.setattr("hemalens.benchmark.detectors.finish_run", _stop)
        with pytest.raises(KeyboardInterrupt):
            benchmark_detectors(config, out=tmp_path / "out")
    assert len(trainings) == 3
    benchmark_detectors(config, out=tmp_path / "out")
    assert len(trainings) == 3, "the trainings are kept"
    changed = DetectorBenchmark(sources=tuple(three), settings=("epochs=2",))
    benchmark_detectors(changed, out=tmp_path / "out")
    assert len(trainings) == 6, "other settings are other trainings"


def _stop(folder: Path, report: Any) -> None:
    raise KeyboardInterrupt


def test_leaving_laboratories_out_by_a_setting_is_refused(
    tmp_path: Path, three: list[str], trainings: list[set[str]]
) -> None:
    config = DetectorBenchmark(sources=tuple(three), settings=("leave_out=x",))
    with pytest.raises(InputError, match="leave_out has no effect"):
        benchmark_detectors(config, out=tmp_path / "out")
    assert trainings == []
    assert not (tmp_path / "out").exists()


def test_a_failed_training_is_a_row(
    tmp_path: Path, trainings: list[set[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = [_laboratory(monkeypatch, tmp_path, name, 10 * i) for i, name in enumerate(("x", "broken"))]
    ended = Command(monkeypatch, capsys)(
        *("benchmark", "--methods", "detector", "--protocol", "leave-one-laboratory-out"),
        *("--source", specs[0], "--source", specs[1], "--out", tmp_path / "out"),
    )
    assert ended.code == 1
    assert "1 part(s) of the benchmark failed" in ended.error
    report = read_report(tmp_path / "out/report.json")
    assert [f.target for f in report.failures] == ["x"]
    assert [d.laboratory for d in report.detections] == ["broken"]


def test_copies_of_tested_fields_are_not_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hemalens.benchmark import detectors

    specs = [_laboratory(monkeypatch, tmp_path, name, 10 * i) for i, name in enumerate("xy")]
    for part in ("images/train/field_0.png", "labels/train/field_0.txt"):
        shutil.copy(tmp_path / "x" / part, tmp_path / "y" / part)
    folds = leave_one_out([detectors.open_fields(spec) for spec in specs], seed=0)
    assert [[len(each) for each in fold.parts.learn] for fold in folds] == [[0, 4], [3, 0]]
    for fold in folds:
        tested = {f.record.content_id() for each in fold.test for f in each.fields}
        assert not tested & {f.record.content_id() for each in fold.parts.learn for f in each.fields}


def _with_record(field: Field, record: Record) -> Field:
    return replace(field, record=record)


def test_a_given_part_is_learned_and_tested_like_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hemalens.benchmark import detectors

    specs = [_laboratory(monkeypatch, tmp_path, name, 10 * i) for i, name in enumerate("xy")]
    given = [detectors.open_fields(spec) for spec in specs]
    parts = ("test", "train", "train", "validation")
    with_parts = [
        replace(
            each,
            fields=tuple(replace(f, record=replace(f.record, part=p)) for f, p in zip(each.fields, parts, strict=True)),
        )
        for each in given
    ]
    for fold in leave_one_out(with_parts, seed=0):
        assert sum(map(len, fold.parts.learn)) == sum(map(len, fold.test)) == 4


def test_one_laboratory_cannot_be_left_out(tmp_path: Path, three: list[str], trainings: list[set[str]]) -> None:
    with pytest.raises(InputError, match="two laboratories or more"):
        benchmark_detectors(DetectorBenchmark(sources=(three[0],)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not trainings


def test_cells_are_no_fields(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes fields with boxes"):
        benchmark_detectors(DetectorBenchmark(sources=("folder:cells",)), out=tmp_path / "out")
    with pytest.raises(HemalensError, match="no benchmark of detectors"):
        benchmark_detectors("cells", out=tmp_path / "out")  # type: ignore[arg-type]
