"""`count`: what is counted, what is written, and that neither order, workers nor an interruption change it."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from report_fakes import make_report

import drawn_slides as drawn
from command import Command
from hemalens.bundle.bundle import Bundle
from hemalens.datasets.table_text import plain
from hemalens.errors import InputError, OutputError
from hemalens.report import read_report, write_report
from hemalens.runs.count import CountSummary, count, counted_files
from hemalens.runs.counting.options import CountOptions

WHITE = ("neutrophil",) * 7 + ("lymphocyte",) * 4 + ("erythroblast",) * 2


@pytest.fixture(autouse=True)
def _by_colour(undrawn: None) -> Iterator[None]:
    with drawn.counted_by_colour():
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return drawn.bundle_of(tmp_path_factory.mktemp("bundle"), ("neutrophil", "lymphocyte", "erythroblast"))


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides: A is a canvas in 9 fields without overlap, B one field, an empty one, and one that is torn."""
    folder = tmp_path_factory.mktemp("fields")
    canvas = drawn.draw_canvas(1, white=WHITE)
    for y in range(3):
        for x in range(3):
            drawn.save(canvas.field(320 * x, 240 * y), folder / "A" / f"{y}{x}.png")
    drawn.save(drawn.draw_canvas(2, white=WHITE[:3], size=(320, 240), n_red=30).pixels, folder / "B" / "one.png")
    drawn.save(drawn.draw([]).pixels, folder / "B" / "empty.png")
    (folder / "B" / "torn.png").write_text("no image")
    return folder


@dataclass(frozen=True)
class Counted:
    """One count of both slides, which several tests look at."""

    out: Path
    summary: CountSummary


@pytest.fixture(scope="module")
def counted(bundle: Bundle, fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    out = tmp_path_factory.mktemp("counted") / "out"
    with drawn.counted_by_colour():
        return Counted(out, count(bundle, fields, out=out, options=CountOptions(parquet=True, n_workers=1)))


def _rows(out: Path, name: str = "cells.csv") -> list[dict[str, str]]:
    with open(out / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _counts(summary: CountSummary, slide: str) -> dict[str, int]:
    result = next(each.result for each in summary.slides if each.slide.name == slide)
    return {each.code: each.count for each in (*result.types, *result.beside)}


def test_each_drawn_cell_is_counted_with_its_type(counted: Counted) -> None:
    summary, out = counted.summary, counted.out
    drawn_cells = Counter(WHITE)
    # fields without overlap: a cell that a seam cuts is counted in the field whose left or top border cuts it, where its
    # visible part may have another colour
    found = _counts(summary, "A")
    assert sum(found.values()) == len(WHITE)
    assert sum(abs(found[code] - n) for code, n in drawn_cells.items()) <= 2
    rows = [row for row in _rows(out) if row["slide"] == "A" and row["kind"] == "white cell"]
    assert Counter(row["type"] for row in rows if row["counted"] == "True") == {k: n for k, n in found.items() if n}
    result = summary.slides[0].result
    assert result.total == found["neutrophil"] + found["lymphocyte"]
    assert next(each for each in result.beside if each.code == "erythroblast").count == found["erythroblast"]


def test_an_unreadable_field_is_a_row_and_the_slide_goes_on(counted: Counted) -> None:
    summary, out = counted.summary, counted.out
    slide = summary.slides[1]
    assert (slide.n_unreadable, slide.n_empty, slide.n_counted, slide.result.total) == (1, 1, 2, 3)
    torn = [row for row in _rows(out) if row["field"] == "torn.png"]
    assert len(torn) == 1
    assert "torn.png" in torn[0]["error"]
    assert torn[0]["counted"] == "False"
    assert any("1 of 3 field(s) cannot be read" in note for note in summary.notes)


def _content(out: Path) -> dict[str, bytes]:
    changing = ("report.json", "report.md", "report.html", "count.json")
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name not in changing
    }


def test_the_result_depends_on_neither_workers_nor_order(
    bundle: Bundle, fields: Path, counted: Counted, tmp_path: Path
) -> None:
    rows = [f"{path.parent.name},{path.parent.name}/{path.name}" for path in sorted(fields.rglob("*.png"))]
    (fields / "fields.csv").write_text("slide,field\n" + "\n".join(rows[::-1]))
    try:
        count(bundle, fields / "fields.csv", out=tmp_path / "out", options=CountOptions(n_workers=4, crops=False))
    finally:
        (fields / "fields.csv").unlink()
    first, second = _content(counted.out), _content(tmp_path / "out")
    assert {n: first[n] for n in second if n.startswith("overlays")} == {
        n: second[n] for n in second if n.startswith("overlays")
    }
    assert first["slides.csv"] == second["slides.csv"]
    ours, theirs = _rows(counted.out), _rows(tmp_path / "out")
    for one, other in zip(ours, theirs, strict=True):
        assert {**one, "crop": "", "field": ""} == {**other, "field": ""}
        assert other["field"] == f"{one['slide']}/{one['field']}"


def test_what_is_written_is_linked_and_listed(counted: Counted) -> None:
    summary, out = counted.summary, counted.out
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(counted_files(out) or ()) == written
    assert {name for name in written if name.startswith("overlays/")} == {
        f"overlays/{slide.slide.file}/{field.file}.jpg"
        for slide in summary.slides
        for field in slide.slide.fields
        if field.name != "torn.png"
    }
    crops = [row["crop"] for row in _rows(out) if row["crop"]]
    assert len(crops) == len(set(crops))
    assert len(crops) == sum(name.startswith("crops/") for name in written)
    for row in _rows(out):
        if row["crop"]:
            assert row["crop"].split("/")[1] == (row["type"] if row["counted"] == "True" else "not_counted")
    links = re.findall(r'<a href="((?:overlays|crops)/[^"]+)"', (out / "report.html").read_text(encoding="utf-8"))
    assert links
    assert set(links) <= written
    report = read_report(out / "report.json")
    assert [slide.name for slide in report.slides] == ["A", "B"]
    from pyarrow import parquet

    table = parquet.read_table(out / "cells.parquet").to_pylist()
    assert [str(row["field"]) for row in table] == [row["field"] for row in _rows(out)]


def test_without_pictures_there_are_none(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    count(bundle, fields / "B", out=tmp_path / "out", options=CountOptions(crops=False, overlays=False))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("cells.csv", "slides.csv", "count.json", "report.json", "report.md", "report.html")
    }


def test_a_target_counts_the_first_cells(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    options = CountOptions(target=5, crops=False, overlays=False)
    summary = count(bundle, fields / "A", out=tmp_path / "out", options=options)
    result = summary.slides[0].result
    assert (result.total, result.target) == (5, 5)
    rows = [
        r for r in _rows(tmp_path / "out") if r["slide"] == "A" and r["kind"] == "white cell" and r["counted"] == "True"
    ]
    assert sum(row["type"] != "erythroblast" for row in rows) == 5
    beyond = [r for r in _rows(tmp_path / "out") if r["why_not"] == "beyond the target of 5" and r["slide"] == "A"]
    assert sum(row["type"] != "erythroblast" for row in beyond) == result.n_beyond


def test_the_table_of_slides_agrees_with_the_cells(counted: Counted) -> None:
    summary, out = counted.summary, counted.out
    cells = [row for row in _rows(out) if row["counted"] == "True"]
    for row, each in zip(_rows(out, "slides.csv"), summary.slides, strict=True):
        own = Counter(r["type"] for r in cells if r["slide"] == row["slide"])
        assert row["slide"] == each.slide.name
        assert int(row["red_cells"]) == own["red_cell"]
        assert int(row["platelets"]) == own["platelet"]
        for code in ("neutrophil", "lymphocyte", "erythroblast"):
            assert int(row[f"{code}_n"]) == own[code]
        if own["neutrophil"]:
            share = 100 * own["neutrophil"] / (own["neutrophil"] + own["lymphocyte"])
            assert float(row["neutrophil_percent"]) == pytest.approx(share, abs=0.01)
            assert float(row["neutrophil_percent_low"]) <= share <= float(row["neutrophil_percent_high"])


def test_names_of_slides_cannot_run_or_escape(bundle: Bundle, tmp_path: Path) -> None:
    field = drawn.draw_canvas(2, white=WHITE[:3], size=(320, 240), n_red=20).pixels
    for name in ("=cmd()", "a b", "a_b"):
        drawn.save(field, tmp_path / "in" / name / "f.png")
    count(bundle, tmp_path / "in", out=tmp_path / "out")
    assert {plain(row["slide"]) for row in _rows(tmp_path / "out")} == {"=cmd()", "a b", "a_b"}
    assert not any(row["slide"].startswith("=") for row in _rows(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {"cmd", "a_b", "a_b-2"}


def test_the_same_slide_twice_is_told(bundle: Bundle, tmp_path: Path) -> None:
    field = drawn.draw_canvas(2, white=WHITE[:3], size=(320, 240), n_red=20).pixels
    for name in ("one", "two"):
        drawn.save(field, tmp_path / "in" / name / "f.png")
    summary = count(bundle, tmp_path / "in", out=tmp_path / "out")
    assert any("'one' and 'two' share 1 field, byte for byte" in note for note in summary.notes)
    assert [each.result.total for each in summary.slides] == [3, 3]


def test_single_cells_are_told(bundle: Bundle, tmp_path: Path) -> None:
    for i in range(3):
        cell = drawn.draw([drawn.Disc("neutrophil", 46 + 6 * i, 50, 22), drawn.Disc("red", 30 * i + 12, 12, 9)], (100, 100))
        drawn.save(cell.pixels, tmp_path / "in" / f"{i}.png")
    summary = count(bundle, tmp_path / "in", out=tmp_path / "out")
    assert any("look like single cells; use `hemalens predict`" in note for note in summary.notes)
    assert summary.slides[0].result.total == 3


@pytest.mark.parametrize(("n", "n_centred", "told"), [(10, 10, True), (10, 8, True), (10, 7, False), (9, 9, False)])
def test_large_images_of_single_cells_are_told(
    bundle: Bundle, tmp_path: Path, n: int, n_centred: int, *, told: bool
) -> None:
    for i in range(n):
        x = 285 + 6 * i if i < n_centred else 150
        discs = [drawn.Disc("neutrophil", x - 20, 290 - 3 * i, 30), drawn.Disc("red", 40 + 45 * i, 60 + 9 * i, 11)]
        drawn.save(drawn.draw(discs, (575, 575)).pixels, tmp_path / "in" / f"{i}.png")
    options = CountOptions(crops=False, overlays=False)
    summary = count(bundle, tmp_path / "in", out=tmp_path / "out", options=options)
    assert any(f"{n_centred} of {n} field(s) look like single cells" in note for note in summary.notes) == told


def test_the_report_holds_no_path_of_this_machine(counted: Counted) -> None:
    settings = read_report(counted.out / "report.json").methods["count"]
    assert settings["bundle"].split("/")[-1] == "bundle"
    assert str(counted.out.parents[1]) not in json.dumps(settings)


def test_what_the_bundle_cannot_separate_is_told(fields: Path, tmp_path: Path) -> None:
    small = drawn.bundle_of(tmp_path / "small")
    summary = count(small, fields / "B", out=tmp_path / "out", options=CountOptions(crops=False, overlays=False))
    assert any("no class for nucleated red cells and smudge cells" in note for note in summary.notes)
    assert summary.slides[0].result.beside == ()
    assert "per 100 white cells" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_interruption_leaves_nothing(
    bundle: Bundle, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def interrupted(*arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("hemalens.runs.count.decide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        count(bundle, fields, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_a_count_is_replaced_and_other_files_stay(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    count(bundle, fields / "B" / "one.png", out=out)
    with pytest.raises(OutputError, match="--overwrite"):
        count(bundle, fields / "B" / "one.png", out=out)
    (out / "my notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="my notes"):
        count(bundle, fields / "B" / "one.png", out=out, overwrite=True)
    (out / "my notes.txt").unlink()
    count(bundle, fields / "B", out=out, overwrite=True)
    assert {row["slide"] for row in _rows(out)} == {"B"}


def test_an_overlay_shows_the_boxes_in_the_colours_of_their_types(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    from hemalens.runs.counting.pictures import COLOURS

    count(bundle, fields / "B" / "one.png", out=tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "overlays" / "one" / "one.jpg"))
    field = np.asarray(Image.open(fields / "B" / "one.png"))
    scale = picture.shape[1] / field.shape[1]
    assert picture.shape[0] > field.shape[0] * scale  # the legend
    for row in _rows(tmp_path / "out"):
        if row["kind"] == "white cell" and row["counted"] == "True":
            wanted = [int(COLOURS[row["type"]][i : i + 2], 16) for i in (1, 3, 5)]
            y = round((float(row["y_min"]) + float(row["y_max"])) / 2 * scale)
            x = round(float(row["x_min"]) * scale)
            assert (np.abs(picture[y, x : x + 3].astype(int) - wanted).sum(axis=1) < 12).any()


def test_the_command_prints_the_differential(
    bundle: Bundle, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Command(monkeypatch, capsys)
    ended = run("count", fields / "A", "--out", tmp_path / "out", "--bundle", bundle.path, "--white-count", "7.2")
    assert ended.code == 0, ended.err
    assert all(len(line) <= 80 for line in ended.out.splitlines() if "report:" not in line)
    assert re.search(r"^neutrophil +\d+ +\d+\.\d +\d+\.\d to \d+\.\d +\d\.\d\d$", ended.out, re.M)
    assert re.search(r"^erythroblast +\d .*per 100 white cells$", ended.out, re.M)
    assert "more for 100 white cells" in " ".join(ended.out.split())
    printed = run("count", fields / "A", "--out", tmp_path / "json", "--bundle", bundle.path, "--json", "-q")
    value = json.loads(printed.out)
    assert value["slides"][0]["total"] == sum(t["count"] for t in value["slides"][0]["types"] if not t["total_of"])


def test_cells_are_drawn_for_review_again_for_one_seed(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    plain_options = CountOptions(review=4, seed=3, crops=False, overlays=False)
    count(bundle, fields, out=tmp_path / "a", options=plain_options)
    count(bundle, fields, out=tmp_path / "b", options=plain_options)
    sheet = _rows(tmp_path / "a", "review.csv")
    assert sheet == _rows(tmp_path / "b", "review.csv")
    assert Counter(row["slide"] for row in sheet) == {"A": 4, "B": 3}
    assert all(row["reviewed"] == "" for row in sheet)
    counted_rows = [row for row in _rows(tmp_path / "a") if row["counted"] == "True" and row["kind"] == "white cell"]
    places = [(row["slide"], row["field"], row["x_min"], row["y_min"], row["type"]) for row in counted_rows]
    assert all((row["slide"], row["field"], row["x_min"], row["y_min"], row["type"]) in places for row in sheet)
    assert not any(row["type"] == "erythroblast" for row in sheet)
    assert json.loads((tmp_path / "a" / "count.json").read_text())["review"] == {"cells": 4, "seed": 3}
    assert "review.csv" in (counted_files(tmp_path / "a") or ())


def _test_report(folder: Path, classes: tuple[str, ...]) -> Path:
    made = make_report(n_evaluations=1, n_points=5)
    size = len(classes)
    matrix = tuple(tuple(90 if i == j else 5 for j in range(size)) for i in range(size))
    each = made.evaluations[0].model_copy(update={"classes": classes, "tested_classes": classes, "confusion": matrix})
    write_report(made.model_copy(update={"evaluations": (each,)}), folder)
    return folder


def test_the_known_confusion_is_corrected_beside_the_count(bundle: Bundle, fields: Path, tmp_path: Path) -> None:
    report = _test_report(tmp_path / "test", tuple(bundle.manifest.labels))
    options = CountOptions(confusion=report, crops=False, overlays=False)
    result = count(bundle, fields / "A", out=tmp_path / "out", options=options).slides[0].result
    plain_result = (
        count(bundle, fields / "A", out=tmp_path / "plain", options=replace(options, confusion=None)).slides[0].result
    )
    assert [each.share for each in result.types] == [each.share for each in plain_result.types]
    assert all(each.adjusted is not None for each in result.types)
    assert "Adjusted" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    other = _test_report(tmp_path / "other", ("monocyte", "basophil"))
    with pytest.raises(InputError, match=r"knows no .*report of the model that counts"):
        count(bundle, fields / "A", out=tmp_path / "no", options=replace(options, confusion=other))
    assert not (tmp_path / "no").exists()


def test_a_scan_is_counted_as_the_same_field_in_memory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = drawn.draw_canvas(1, white=WHITE)
    height, width = canvas.pixels.shape[:2]
    padded = np.full((-(-height // 16) * 16, -(-width // 16) * 16, 3), drawn.BACKGROUND, np.uint8)
    padded[:height, :width] = canvas.pixels
    tifffile.imwrite(tmp_path / "scan.tif", padded, tile=(128, 128), photometric="rgb")
    whole = count(bundle, tmp_path / "scan.tif", out=tmp_path / "whole")
    monkeypatch.setattr("hemalens.imaging.scans.MAX_PIXELS", 20_000)
    monkeypatch.setattr("hemalens.runs.counting.pictures.MOST_OVERLAY_PX", 500)
    in_parts = count(bundle, tmp_path / "scan.tif", out=tmp_path / "parts")
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "parts")
    assert whole.slides[0].result == in_parts.slides[0].result
    (overlay,) = (tmp_path / "parts" / "overlays").rglob("*.jpg")
    with Image.open(overlay) as picture:
        assert picture.width == max(640, -(-padded.shape[1] // 2))
