"""Rows of a bulk run are those of one machine; a stopped run resumes; nothing of another run is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyarrow import parquet

from bulk_in_process import InProcess
from fakes.bccd import write_bccd_fields
from hemalens import predict
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.predict import predict_on_ray
from hemalens.bundle.bundle import Bundle
from hemalens.errors import HemalensError, OutputError
from hemalens.inference.predict import PredictionSummary
from trained import colour_cells

SEVEN = BulkOptions(shard_size=7)


def _on_one_machine(bundle: Bundle, source: object, folder: Path, **more: object) -> tuple[PredictionSummary, pd.DataFrame]:
    found = predict(bundle, str(source), out=folder / "one.parquet", overwrite=True, **more)  # type: ignore[arg-type]
    return found, pd.read_parquet(folder / "one.parquet")


def _rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "rows")


def _same(found: PredictionSummary, expected: PredictionSummary) -> None:
    shown = [
        (each.n_rows, each.by_label, each.n_abstained, each.n_unreadable, each.first_error) for each in (found, expected)
    ]
    assert shown[0] == shown[1]
    assert (found.review, found.sets, found.notes) == (expected.review, expected.sets, expected.notes)
    assert found.trust.shift.verdict == expected.trust.shift.verdict
    assert found.trust.estimates == pytest.approx(expected.trust.estimates)
    assert found.trust.shift.score == pytest.approx(expected.trust.shift.score)


@pytest.mark.parametrize("which", ["foreign", "home"])
def test_the_rows_are_those_of_one_machine(
    which: str, bundle: Bundle, in_process: InProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(which)
    more = {"abstain_below": 0.7, "embeddings": True, "coverage": 0.8}
    found = predict_on_ray(bundle, source, out=tmp_path / "out", options=SEVEN, **more)
    expected, table = _on_one_machine(bundle, source, tmp_path, **more)
    _same(found, expected)
    pd.testing.assert_frame_equal(_rows(tmp_path / "out"), table, rtol=1e-5)
    assert expected.trust.shift.verdict == ("detected" if which == "foreign" else "not detected")
    parts = sorted((tmp_path / "out" / "rows").iterdir())
    n = len(table)
    assert [parquet.read_metadata(part).num_rows for part in parts] == [7] * (n // 7) + [n % 7] * (n % 7 > 0)
    assert parts[0].name == "part-00000.parquet"


def test_the_last_pass_changes_rows_where_a_shift_is_found(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    """Otherwise the test above would compare rows that nothing revises."""
    predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    revised = _rows(tmp_path / "out")
    assert (revised["review"] == "foreign laboratory").any()
    alone = predict_on_ray(bundle, foreign / "monocyte" / "monocyte 0.png", out=tmp_path / "alone")
    assert alone.trust.shift.verdict.startswith("unknown")


def test_boxes_and_further_columns_are_kept(bundle: Bundle, in_process: InProcess, tmp_path: Path) -> None:
    boxes = write_bccd_fields(tmp_path / "fields", n_per_class=3)
    predict_on_ray(bundle, boxes, out=tmp_path / "boxes", options=BulkOptions(shard_size=4))
    pd.testing.assert_frame_equal(_rows(tmp_path / "boxes"), _on_one_machine(bundle, boxes, tmp_path)[1], rtol=1e-5)
    cells = colour_cells(tmp_path / "cells", {"neutrophil": (200, 60, 60)}, 5, seed=0)
    lines = [f"neutrophil/neutrophil {i}.png,neutrophil,p{i},=1+{i}" for i in range(5)]
    (cells / "list.csv").write_text("\n".join(["path,label,group,error", *lines]), encoding="utf-8")
    source = f"csv:{cells / 'list.csv'}"
    predict_on_ray(bundle, source, out=tmp_path / "table", options=BulkOptions(shard_size=2))
    pd.testing.assert_frame_equal(_rows(tmp_path / "table"), _on_one_machine(bundle, source, tmp_path)[1], rtol=1e-5)


def test_a_stopped_run_computes_the_missing_shards_alone(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    in_process.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        predict_on_ray(bundle, foreign, out=out, options=SEVEN)
    assert not (out / "manifest.json").exists(), "an unfinished output looks finished"
    kept = {path.name: path.stat().st_mtime_ns for path in (out / ".new" / "rows").iterdir()}
    assert sorted(kept) == [f"part-{number:05d}.parquet" for number in range(3)]
    torn = out / ".new" / "rows" / ".part-00003.parquet.0a1b2c-1.abcdefgh.part.parquet"
    torn.write_bytes(b"of a worker that was killed on another machine")
    in_process.stop_after = None
    in_process.done.clear()
    # to be kept apart from the revision of all shards at the end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.bulk.predict.revise", lambda *given, **more: None)
        predict_on_ray(bundle, foreign, out=out, options=SEVEN)
    assert in_process.done == [3, 4, 5, 6]
    assert {name: (out / "rows" / name).stat().st_mtime_ns for name in kept} == kept
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "rows"]
    assert not (out / "rows" / torn.name).exists()


def test_a_stop_in_the_last_pass_loses_nothing(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hemalens.inference.revision import revise

    calls: list[Path] = []

    def stopping(path: Path, **more: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(path)
        revise(path, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.bulk.predict.revise", stopping)
        with pytest.raises(KeyboardInterrupt):
            predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    in_process.done.clear()
    predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    assert not in_process.done
    pd.testing.assert_frame_equal(_rows(tmp_path / "out"), _on_one_machine(bundle, foreign, tmp_path)[1], rtol=1e-5)


@pytest.mark.parametrize("broken", ["rows/part-00001.parquet", "observed/00001.npz"])
def test_a_damaged_shard_is_computed_again(
    broken: str, bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    in_process.stop_after = 6
    with pytest.raises(KeyboardInterrupt):
        predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    file = tmp_path / "out" / ".new" / broken
    file.write_bytes(file.read_bytes()[:-40])
    in_process.done.clear()
    in_process.stop_after = None
    predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    assert in_process.done == [1, 6]


def test_the_manifest_states_what_the_output_is(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"]
    assert manifest["n_images"] == 46
    assert sum(shard["rows"] for shard in manifest["shards"]) == 46
    assert sum(shard["unreadable"] for shard in manifest["shards"]) == manifest["n_unreadable"] == 1
    assert manifest["trust"]["domain_shift"] == "detected"
    assert [shard["file"] for shard in manifest["shards"]] == sorted(p.name for p in (tmp_path / "out/rows").iterdir())
    assert manifest["request"]["options"] == {
        "abstain_below": 0.0, "coverage": 0.9, "embeddings": False, "runtime": "onnxruntime", "shard_size": 7,
    }  # fmt: skip


@pytest.fixture
def finished(bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path) -> Path:
    predict_on_ray(bundle, foreign, out=tmp_path / "out", options=SEVEN)
    return tmp_path / "out"


def test_another_run_is_refused_by_what_differs(
    bundle: Bundle, foreign: Path, home: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="holds this run, finished"):
        predict_on_ray(bundle, foreign, out=finished, options=SEVEN)
    with pytest.raises(OutputError, match=r"another run \(other images\)"):
        predict_on_ray(bundle, home, out=finished, options=SEVEN)
    with pytest.raises(OutputError, match=r"other options: abstain_below, shard_size"):
        predict_on_ray(bundle, foreign, out=finished, abstain_below=0.5)
    shutil.copytree(bundle.path.parent / "plain", tmp_path / "plain")
    with pytest.raises(OutputError, match=r"another run \(another bundle\)"):
        predict_on_ray(tmp_path / "plain", foreign, out=finished, options=SEVEN)


def test_a_changed_image_is_another_run(bundle: Bundle, in_process: InProcess, tmp_path: Path) -> None:
    cells = colour_cells(tmp_path / "cells", {"neutrophil": (200, 60, 60)}, 5, seed=0)
    in_process.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        predict_on_ray(bundle, cells, out=tmp_path / "out", options=BulkOptions(shard_size=2))
    Image.new("RGB", (21, 20), (9, 9, 200)).save(cells / "neutrophil" / "neutrophil 0.png")
    with pytest.raises(OutputError, match="other images"):
        predict_on_ray(bundle, cells, out=tmp_path / "out", options=BulkOptions(shard_size=2))


def test_overwrite_replaces_the_run_and_nothing_else(bundle: Bundle, home: Path, finished: Path) -> None:
    (finished / "notes.txt").write_text("mine")
    predict_on_ray(bundle, home, out=finished, options=BulkOptions(shard_size=30), overwrite=True)
    assert sorted(path.name for path in finished.iterdir()) == ["manifest.json", "notes.txt", "rows"]
    assert len(list((finished / "rows").iterdir())) == 2
    assert len(_rows(finished)) == 56
    (finished / "rows" / "own.parquet").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"own\.parquet"):
        predict_on_ray(bundle, home, out=finished, overwrite=True)
    assert (finished / "rows" / "own.parquet").read_bytes() == b"mine"


def test_the_old_run_stays_until_the_new_one_is_complete(
    bundle: Bundle, home: Path, finished: Path, in_process: InProcess
) -> None:
    before = _rows(finished)
    in_process.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        predict_on_ray(bundle, home, out=finished, options=SEVEN, overwrite=True)
    pd.testing.assert_frame_equal(_rows(finished), before)


def test_a_folder_of_something_else_is_refused(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="something else"):
            predict_on_ray(bundle, foreign, out=tmp_path / "mine", overwrite=overwrite)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


@contextmanager
def _stopped_exchange(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    import os

    calls = []
    replace = os.replace

    def stopping(source: object, target: object) -> None:
        if Path(str(source)).parent.name in (".new", "out"):
            calls.append(source)
            if len(calls) > after:
                raise KeyboardInterrupt
        replace(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.bulk.folder.os.replace", stopping)
        yield


@pytest.mark.parametrize("after", range(3))
def test_a_stop_while_files_take_their_place_is_made_good(
    after: int, bundle: Bundle, home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs, what lies in the folder after the next call is the new one, whole."""
    from hemalens.bulk import folder

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.bulk.predict.open_work", _without_exchange)
        predict_on_ray(bundle, home, out=finished, options=SEVEN, overwrite=True)
    with _stopped_exchange(monkeypatch, after), pytest.raises(KeyboardInterrupt):
        folder._exchange(finished)
    with pytest.raises(OutputError, match="holds this run, finished"):
        predict_on_ray(bundle, home, out=finished, options=SEVEN)
    assert sorted(path.name for path in finished.iterdir()) == ["manifest.json", "rows"]
    assert len(_rows(finished)) == 56


@contextmanager
def _without_exchange(out: Path, request: object, **more: object) -> Iterator[object]:
    from hemalens.bulk import folder

    stop = {"on": False}
    exchange = folder._exchange

    def once(path: Path) -> None:
        if not stop["on"]:
            exchange(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.bulk.folder._exchange", once)
        with folder.open_work(out, request, **more) as work:  # type: ignore[arg-type]
            yield work
            stop["on"] = True


def test_a_shard_that_other_machines_write_elsewhere_is_an_error(
    bundle: Bundle, home: Path, in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.bulk.predict.run_units", lambda *given, **more: None)
    with pytest.raises(HemalensError, match=r"shard 0 is not in .* a disk that all machines"):
        predict_on_ray(bundle, home, out=tmp_path / "out")


def test_an_image_of_400_megapixels_is_a_row(bundle: Bundle, in_process: InProcess, tmp_path: Path) -> None:
    cells = colour_cells(tmp_path / "cells", {"neutrophil": (200, 60, 60)}, 5, seed=0)
    Image.fromarray(np.zeros((20_000, 20_000), bool)).save(cells / "huge.png")
    found = predict_on_ray(bundle, cells, out=tmp_path / "out", options=BulkOptions(shard_size=2))
    errors = _rows(tmp_path / "out")["error"]
    assert found.n_unreadable == errors.notna().sum() == 1
    assert "too large" in errors[0]


@pytest.mark.realdata
def test_real_cells_and_the_default_model(real_data: Path, in_process: InProcess, tmp_path: Path) -> None:
    from hemalens import default_model_path, open_bundle

    folder = tmp_path / "cells"
    folder.mkdir()
    for file in sorted(file for file in (real_data / "raabin").rglob("*.jpg"))[::40][:10]:
        shutil.copy(file, folder)
    assert len(list(folder.iterdir())) >= 5
    default = open_bundle(default_model_path())
    predict_on_ray(default, folder, out=tmp_path / "out", options=BulkOptions(shard_size=3))
    pd.testing.assert_frame_equal(_rows(tmp_path / "out"), _on_one_machine(default, folder, tmp_path)[1], rtol=1e-5)
