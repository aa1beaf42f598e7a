"""A count on Ray writes what a count on one machine writes; a stopped one keeps its finished slides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import drawn_slides as drawn
from bulk_in_process import InProcess
from hemalens.bulk.count import count_on_ray
from hemalens.bundle.bundle import Bundle
from hemalens.errors import OutputError
from hemalens.files import files_below
from hemalens.runs.count import CountSummary, count
from hemalens.runs.counting.options import CountOptions

OPTIONS = CountOptions(parquet=True, target=4, review=2, n_workers=1)
RUN_ITSELF = {"report.json", "report.md", "report.html", "manifest.json", "count.json"}
"""Files that name the command, or list the others."""


@pytest.fixture(autouse=True)
def _by_colour(undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "manifest.json").write_text("{}")
    monkeypatch.setattr(drawn.DETECTOR, "path", tmp_path / "detector")
    with drawn.counted_by_colour():
        yield


@pytest.fixture(scope="module")
def of_discs(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return drawn.bundle_of(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides: fields that overlap, one field and a torn one, and one field."""
    folder = tmp_path_factory.mktemp("slides")
    canvas = drawn.draw_canvas(1, white=("neutrophil",) * 4 + ("lymphocyte",) * 3)
    for x, y in ((0, 0), (320, 0), (640, 0), (0, 240), (320, 240), (640, 240), (480, 240), (320, 480), (640, 480)):
        drawn.save(canvas.field(x, y), folder / "A" / f"{x} {y}.png")
    for number, name in enumerate(("B", "C")):
        cells = drawn.draw_canvas(2 + number, white=("neutrophil", "lymphocyte"), size=(320, 240), n_red=20)
        drawn.save(cells.pixels, folder / name / "one.png")
    (folder / "B" / "torn.png").write_text("no image")
    return folder


def _same(out: Path, expected: Path, found: CountSummary, one: CountSummary) -> None:
    assert [each.result for each in found.slides] == [each.result for each in one.slides]
    assert (found.notes, found.sets, found.review, found.trust) == (one.notes, one.sets, one.review, one.trust)
    names = set(files_below(expected))
    assert set(files_below(out)) == names | {"manifest.json"}
    for name in names - RUN_ITSELF:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    reports = [json.loads((folder / "report.json").read_text("utf-8")) for folder in (out, expected)]
    assert reports[0]["slides"] == reports[1]["slides"]


def test_a_count_writes_what_one_machine_writes(
    of_discs: Bundle, slides: Path, in_process: InProcess, tmp_path: Path
) -> None:
    found = count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
    one = count(of_discs, slides, out=tmp_path / "one", options=OPTIONS)
    assert in_process.done == [0, 1, 2]
    assert one.slides[0].result.n_beyond > 0, "the target must divide a slide"
    assert one.n_unreadable == 1
    _same(tmp_path / "out", tmp_path / "one", found, one)


def test_a_stopped_count_keeps_its_slides(of_discs: Bundle, slides: Path, in_process: InProcess, tmp_path: Path) -> None:
    in_process.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".new"]
    with pytest.raises(OutputError, match=r"another run \(other options: target\)"):
        count_on_ray(of_discs, slides, out=tmp_path / "out", options=CountOptions(parquet=True, target=5, review=2))
    in_process.stop_after = None
    found = count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
    assert in_process.done == [0, 1, 2]
    _same(tmp_path / "out", tmp_path / "one", found, count(of_discs, slides, out=tmp_path / "one", options=OPTIONS))


def test_a_stop_while_tables_are_written_is_made_good(
    of_discs: Bundle, slides: Path, in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.runs.count.write_slides", stop)
        with pytest.raises(KeyboardInterrupt):
            count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
    in_process.done.clear()
    found = count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
    assert not in_process.done
    _same(tmp_path / "out", tmp_path / "one", found, count(of_discs, slides, out=tmp_path / "one", options=OPTIONS))


def test_another_command_is_another_run(of_discs: Bundle, slides: Path, in_process: InProcess, tmp_path: Path) -> None:
    from hemalens.bulk.predict import predict_on_ray

    predict_on_ray(of_discs, slides, out=tmp_path / "out")
    with pytest.raises(OutputError, match="another command"):
        count_on_ray(of_discs, slides, out=tmp_path / "out", options=OPTIONS)
