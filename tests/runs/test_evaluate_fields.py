"""`hemalens evaluate` for detectors: which folders and data go together, seen fields, laboratories, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import drawn_detector
import trained
from command import Command
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import DatasetError, InputError, SplitError
from hemalens.report import read_report
from hemalens.runs.evaluate_fields import FieldOptions, evaluate_fields, takes_fields


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return drawn_detector.write_disc_detector(tmp_path / "detector").path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


def test_a_report_of_all_formats(tmp_path: Path, detector: Path, command: Command) -> None:
    spec = drawn_detector.write_fields(tmp_path / "fields", 4)
    ended = command("evaluate", detector, "--data", spec, "--out", tmp_path / "out")
    assert ended.code == 0
    assert "white cells" in ended.out
    assert "recall" in ended.out
    assert max(map(len, ended.out.splitlines()[:-1])) <= 80
    assert "does not record its training images" in ended.err
    report = read_report(tmp_path / "out" / "report.json")
    (result,) = report.detections
    assert (result.n_fields, result.seen) == (4, "unknown")
    assert [scores.n_boxes for scores in result.kinds] == [4, 16, 8]
    assert report.data[0].class_counts == {"white cell": 4, "red cell": 16, "platelet": 8}
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    for words in ("Bland-Altman", "Recall by size", "Boxes of each kind"):
        assert words in html
    for words in ("| white cells |", "Recall by size", "AP50"):
        assert words in markdown


def test_the_default_detector_is_tested_where_none_is_named(
    tmp_path: Path, detector: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hemalens.bundle.detector import open_detector

    monkeypatch.setattr("hemalens.runs.evaluate_fields.default_detector", lambda: open_detector(detector))
    spec = drawn_detector.write_fields(tmp_path / "fields", 2)
    ended = command("evaluate", "--data", spec, "--out", tmp_path / "out", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["detections"][0]["n_fields"] == 2


@pytest.mark.usefixtures("undrawn")
def test_a_run_folder_stands_for_the_detector_in_it(tmp_path: Path) -> None:
    drawn_detector.write_disc_detector(tmp_path / "run" / "detector")
    spec = drawn_detector.write_fields(tmp_path / "fields", 2)
    assert evaluate_fields(tmp_path / "run", spec, out=tmp_path / "out").detections[0].n_fields == 2


@pytest.mark.usefixtures("undrawn")
def test_several_sets_and_the_selection_of_a_laboratory(tmp_path: Path, detector: Path) -> None:
    fields = [drawn_detector.write_fields(tmp_path / name, 2, first=first) for name, first in (("x", 0), ("y", 5))]
    report = evaluate_fields(detector, fields, out=tmp_path / "both")
    labs = {field.record.domain for spec in fields for field in open_fields(spec).fields}
    assert sum(d.n_fields for d in report.detections if not d.together) == 4
    name = next(iter(labs))
    chosen = evaluate_fields(detector, fields, out=tmp_path / "one", options=FieldOptions(domains=(name,)))
    assert {d.laboratory for d in chosen.detections} == {name}
    with pytest.raises(InputError, match="no laboratory of the fields"):
        evaluate_fields(detector, fields, out=tmp_path / "none", options=FieldOptions(domains=("nowhere",)))


@pytest.mark.usefixtures("undrawn")
def test_fields_of_the_training_are_refused_or_left_out(tmp_path: Path) -> None:
    spec = drawn_detector.write_fields(tmp_path / "fields", 3)
    contents = [field.record.content_id() for field in open_fields(spec).fields]
    some = drawn_detector.write_disc_detector(tmp_path / "some", seen=contents[:1]).path
    with pytest.raises(SplitError, match=r"trained on 1 of these fields, first: 'field_0\.png'"):
        evaluate_fields(some, spec, out=tmp_path / "out")
    dropped = evaluate_fields(some, spec, out=tmp_path / "out", options=FieldOptions(drop_seen=True))
    assert (dropped.detections[0].n_fields, dropped.detections[0].seen) == (2, "left out")
    assert dropped.data[0].dropped == {"seen in training": 1}
    every = drawn_detector.write_disc_detector(tmp_path / "every", seen=contents).path
    with pytest.raises(DatasetError, match="no field is left to test"):
        evaluate_fields(every, spec, out=tmp_path / "other", options=FieldOptions(drop_seen=True))
    fresh = drawn_detector.write_disc_detector(tmp_path / "fresh", seen=["0" * 64]).path
    assert evaluate_fields(fresh, spec, out=tmp_path / "new").detections[0].seen == "none"


@pytest.mark.usefixtures("undrawn")
def test_seen_fields_are_stated_for_the_set_that_holds_them(tmp_path: Path) -> None:
    specs = [drawn_detector.write_fields(tmp_path / name, 2, first=first) for name, first in (("x", 0), ("y", 5))]
    contents = [[field.record.content_id() for field in open_fields(spec).fields] for spec in specs]
    for name, seen, dropped in (
        ("one", contents[0][:1], [{"seen in training": 1}, {}]),
        ("set", contents[1], [{}, {"seen in training": 2}]),
    ):
        detector = drawn_detector.write_disc_detector(tmp_path / name, seen=seen).path
        report = evaluate_fields(detector, specs, out=tmp_path / f"{name}_out", options=FieldOptions(drop_seen=True))
        assert [card.dropped for card in report.data] == dropped
        assert sum(d.n_fields for d in report.detections if not d.together) == 4 - len(seen)


def test_an_unreadable_field_is_a_row_and_counted(tmp_path: Path, detector: Path) -> None:
    spec = drawn_detector.write_fields(tmp_path / "fields", 3)
    image = tmp_path / "fields/images/train/field_1.png"
    image.write_bytes(image.read_bytes()[:-400])
    said: list[str] = []
    report = evaluate_fields(detector, spec, out=tmp_path / "out", say=said.append)
    assert report.detections[0].n_fields == 2
    assert len(report.detections[0].unreadable) == 1
    assert any("left out 1 unreadable field(s)" in line for line in said)
    assert "1 unreadable image" in (tmp_path / "out/report.md").read_text("utf-8")


@pytest.mark.usefixtures("undrawn")
def test_a_bundle_behind_the_detector_adds_a_row(
    tmp_path: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory)).path
    spec = drawn_detector.write_fields(tmp_path / "fields", 2)
    report = evaluate_fields(detector, spec, out=tmp_path / "out", options=FieldOptions(bundle=bundle))
    kinds = report.detections[0].kinds
    assert [bool(scores.classifier) for scores in kinds] == [False, True, False, False]
    assert kinds[1].n_found <= kinds[0].n_found


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_gives_the_same_numbers(tmp_path: Path, detector: Path) -> None:
    spec = drawn_detector.write_fields(tmp_path / "fields", 4)
    first, second = (evaluate_fields(detector, spec, out=tmp_path / name, seed=3) for name in ("a", "b"))
    assert first.detections == second.detections


def test_the_model_and_the_data_decide(tmp_path: Path, detector: Path) -> None:
    assert takes_fields(detector, ["yolo:x"])
    assert takes_fields(None, ["yolo:x", "txl_pbc:y"])
    assert not takes_fields(None, ["folder:x"])
    assert not takes_fields(tmp_path / "missing", ["folder:x"])
    for model, specs in ((detector, ["folder:x"]), (None, ["yolo:x", "folder:x"]), (tmp_path / "missing", ["yolo:x"])):
        with pytest.raises(InputError, match="fields"):
            takes_fields(model, specs)
