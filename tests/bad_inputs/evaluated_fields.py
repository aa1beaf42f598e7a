"""Detectors with the wrong data, fields that cannot be tested, and benchmarks of detectors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from bad_input_cases import Case, Place

import drawn_detector
from hemalens.datasets.fields.open import open_fields

Arguments = Sequence[object]
LEAVE_OUT = ("--protocol", "leave-one-laboratory-out")


def _detector(place: Place, *, seen: list[str] | None = None) -> Path:
    return drawn_detector.write_disc_detector(place.folder / "detector", seen=seen).path


def _fields(place: Place, n: int = 2) -> str:
    return drawn_detector.write_fields(place.folder / "fields", n)


def _evaluate(place: Place, *more: object) -> Arguments:
    return ("evaluate", *more, "--out", place.out)


def _without_boxes(place: Place) -> Arguments:
    spec = _fields(place)
    for file in (place.folder / "fields/labels/train").iterdir():
        file.write_text("")
    return _evaluate(place, _detector(place), "--data", spec)


def _all_unreadable(place: Place) -> Arguments:
    spec = _fields(place)
    for file in (place.folder / "fields/images/train").iterdir():
        file.write_bytes(file.read_bytes()[:-400])
    return _evaluate(place, _detector(place), "--data", spec)


def _seen(place: Place, *more: str) -> Arguments:
    spec = _fields(place)
    contents = [field.record.content_id() for field in open_fields(spec).fields]
    return _evaluate(place, _detector(place, seen=contents), "--data", spec, *more)


def _damaged_seen(place: Place) -> Arguments:
    detector = _detector(place, seen=["0" * 64])
    (detector / "seen_images.txt").write_text("nonsense\n")
    return _evaluate(place, detector, "--data", _fields(place))


def _damaged_graph(place: Place) -> Arguments:
    detector = _detector(place)
    (detector / "detector.onnx").write_bytes(b"nothing")
    return _evaluate(place, detector, "--data", _fields(place))


def _other_folder(place: Place) -> Arguments:
    shutil.rmtree(place.out, ignore_errors=True)
    place.out.mkdir()
    (place.out / "mine.txt").write_text("mine")
    return _evaluate(place, _detector(place), "--data", _fields(place), "--overwrite")


def _benchmark(place: Place, *more: object) -> Arguments:
    return ("benchmark", *more, "--out", place.out)


CASES = (
    Case(
        "a detector with single cells",
        lambda p: _evaluate(p, _detector(p), "--data", f"folder:{p.cells()}"),
        ("is a detector, and finds cells in fields", "yolo:PATH"),
    ),
    Case(
        "a bundle with fields",
        lambda p: _evaluate(p, p.bundle(), "--data", _fields(p)),
        ("is no detector", "--bundle"),
    ),
    Case(
        "fields and cells together",
        lambda p: _evaluate(p, "--data", _fields(p), "--data", f"folder:{p.cells()}"),
        ("finds cells in fields", "folder:"),
    ),
    Case(
        "two sets of cells for a bundle",
        lambda p: _evaluate(p, p.bundle(), "--data", f"folder:{p.cells()}", "--data", f"folder:{p.cells('more')}"),
        ("one --data",),
    ),
    Case(
        "a missing detector",
        lambda p: _evaluate(p, p.folder / "nowhere", "--data", _fields(p)),
        ("is no detector",),
    ),
    Case("no box at all", _without_boxes, ("has a box",)),
    Case("no readable field", _all_unreadable, ("no field can be read",)),
    Case(
        "an unknown laboratory",
        lambda p: _evaluate(p, _detector(p), "--data", _fields(p), "--domain", "nowhere"),
        ("--domain 'nowhere' is no laboratory",),
    ),
    Case("fields of the training", _seen, ("was trained on 2 of these fields", "--drop-seen")),
    Case("fields of the training alone", lambda p: _seen(p, "--drop-seen"), ("no field is left to test",)),
    Case("an edited list of seen fields", _damaged_seen, ("damaged",)),
    Case("a damaged graph", _damaged_graph, ("damaged",)),
    Case(
        "occlusion maps of a detector",
        lambda p: _evaluate(p, _detector(p), "--data", _fields(p), "--explain", "occlusion"),
        ("--explain does not apply to a detector",),
    ),
    Case(
        "classes of a detector",
        lambda p: _evaluate(p, _detector(p), "--data", _fields(p), "--min-per-class", "3"),
        ("--min-per-class does not apply",),
    ),
    Case(
        "laboratories of a bundle",
        lambda p: _evaluate(p, p.bundle(), "--data", f"folder:{p.cells()}", "--domain", "x"),
        ("--domain does not apply to a bundle",),
    ),
    Case(
        "a classifier behind a bundle",
        lambda p: _evaluate(p, p.bundle(), "--data", f"folder:{p.cells()}", "--bundle", p.bundle()),
        ("--bundle does not apply to a bundle",),
    ),
    Case(
        "a detector behind a detector",
        lambda p: _evaluate(p, _detector(p), "--data", _fields(p), "--bundle", p.folder / "detector"),
        ("is no hemalens bundle",),
    ),
    Case(
        "an output in place of the fields",
        lambda p: ("evaluate", _detector(p), "--data", _fields(p), "--out", p.folder / "fields", "--overwrite"),
        ("would replace the input",),
    ),
    Case(
        "an output above the detector",
        lambda p: ("evaluate", _detector(p), "--data", _fields(p), "--out", p.folder, "--overwrite"),
        ("would replace the input",),
    ),
    Case("an output with a file of mine", _other_folder, ("something else than a report",)),
    Case(
        "an output inside the data",
        lambda p: (
            "evaluate",
            _detector(p),
            "--data",
            _fields(p),
            "--out",
            p.folder / "fields/out",
            "--overwrite",
        ),
        ("report:",),
        code=0,
        writes=("fields/out",),
    ),
    Case(
        "a laboratory left out of cells",
        lambda p: _benchmark(p, "--methods", "detector", *LEAVE_OUT, "--source", f"folder:{p.cells()}"),
        ("takes fields with boxes",),
    ),
    Case(
        "one laboratory left out of one",
        lambda p: _benchmark(p, "--methods", "detector", *LEAVE_OUT, "--source", _fields(p)),
        ("two laboratories or more",),
    ),
    Case(
        "another method on laboratories left out",
        lambda p: _benchmark(p, "--methods", "robust", *LEAVE_OUT, "--source", _fields(p)),
        ("is for detectors",),
    ),
    Case("no source", lambda p: _benchmark(p, "--methods", "detector", *LEAVE_OUT), ("--source",)),
    Case(
        "an option of another protocol",
        lambda p: _benchmark(p, *LEAVE_OUT, "--source", _fields(p), "--shots", "1,2"),
        ("--shots does not apply",),
    ),
    Case(
        "an unknown setting of the detector",
        lambda p: _benchmark(p, *LEAVE_OUT, "--source", _fields(p), "--set", "epoch=3"),
        ("epoch",),
    ),
)
