"""Laboratories left out of a training: their images, copies of these under other names, and what is cut out of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import trained
from fakes import cut_outs
from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import open_dataset
from hemalens.errors import InputError
from hemalens.runs.inputs import Inputs, open_inputs
from hemalens.runs.train import TrainOptions, train
from hemalens.runs.train_detector import train_detector
from trained import Colour, colour_cells

COLOURS: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


def _table(folder: Path, name: str, laboratories: dict[str, dict[str, Colour]]) -> str:
    """A table of six cells of each class in each laboratory."""
    rows = ["path,label,domain"]
    for seed, (laboratory, colours) in enumerate(laboratories.items()):
        colour_cells(folder / laboratory, colours, 6, seed=seed)
        for path in sorted((folder / laboratory).rglob("*.png")):
            rows.append(f"{path.relative_to(folder)},{path.parent.name},{laboratory}")
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"csv:{folder / name}"


def _opened(*specs: str) -> Inputs:
    return open_inputs(list(specs), labels="smear", role="train")


@pytest.fixture
def spec(tmp_path: Path) -> str:
    two = dict(list(COLOURS.items())[:2])
    return _table(tmp_path, "cells.csv", {"x": COLOURS, "y": two, "z": two})


def test_the_images_of_a_laboratory_are_gone_and_counted(spec: str) -> None:
    given = _opened(spec)
    kept = given.without_laboratories(["y"])
    assert {record.domain for record in kept.dataset.records} == {"x", "z"}
    assert len(kept.dataset) == len(given.dataset) - 12 == kept.card.n_images
    assert kept.card.dropped["laboratory left out, y"] == 12
    assert kept.notes[-1] == "cells: laboratory 'y' left out, 12 image(s)"
    assert given.without_laboratories([]) is given


def test_a_class_without_an_image_left_is_no_class(spec: str) -> None:
    kept = _opened(spec).without_laboratories(["x"])
    assert kept.dataset.classes == ("neutrophil", "lymphocyte")
    small = _opened(spec).without_laboratories(["y"], 7)
    assert small.left_out == {"monocyte": "6 image(s), at least 7 required"}


def test_a_copy_under_another_laboratory_is_gone_too(spec: str, tmp_path: Path) -> None:
    source = next((tmp_path / "y").rglob("*.png"))
    copy = tmp_path / "x" / source.parent.name / "copy.png"
    shutil.copy(source, copy)
    for order in (1, -1):
        rows = [
            f"{copy.relative_to(tmp_path)},{copy.parent.name},x",
            f"{source.relative_to(tmp_path)},{source.parent.name},y",
        ]
        table = tmp_path / f"more{order}.csv"
        table.write_text("\n".join(["path,label,domain", *rows[::order]]) + "\n", encoding="utf-8")
        kept = _opened(f"csv:{table}", spec).without_laboratories(["y"])
        assert source.read_bytes() not in [record.path.read_bytes() for record in kept.dataset.records]
        assert {record.domain for record in kept.dataset.records} == {"x", "z"}


def test_what_is_cut_out_of_an_image_of_the_laboratory_is_gone_too(spec: str, tmp_path: Path) -> None:
    cuts = cut_outs.write(tmp_path / "fields", n_per_class=2)
    field = open_dataset(cuts, labels="smear").records[0].path
    shutil.copy(field, tmp_path / "y" / "neutrophil" / "field.png")
    with (tmp_path / "cells.csv").open("a", encoding="utf-8") as file:
        file.write("y/neutrophil/field.png,neutrophil,y\n")
    kept = _opened(spec, cuts).without_laboratories(["y"])
    assert {record.path.stem for record in kept.dataset.records if record.domain == "yolo"} == {"field_1"}


def test_the_bundle_has_seen_nothing_of_the_laboratory(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    cuts = cut_outs.write(tmp_path / "fields", n_per_class=8)
    options = TrainOptions(labels="smear", leave_out=("y",))
    report = train("stub", [spec, cuts], out=tmp_path / "run", options=options)
    bundle = open_bundle(tmp_path / "run" / "bundle")
    gone = [record for record in open_dataset(spec).records if record.domain == "y"]
    assert bundle.seen.isdisjoint(record.content_id() for record in gone)
    assert bundle.manifest.labels == ("neutrophil", "lymphocyte", "monocyte", "platelet", "artefact")
    assert report.data[0].dropped["laboratory left out, y"] == 12


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["raabin"], r"--leave-out 'raabin' is no laboratory of the training data; expected some of 'x', 'y', 'z'"),
        (["x", "y", "z"], r"--leave-out names every laboratory of the training data; .* got 'x', 'y', 'z'"),
    ],
)
def test_an_unknown_laboratory_and_all_of_them_are_errors(spec: str, names: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        _opened(spec).without_laboratories(names)


def test_a_detector_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="--leave-out is of classifiers; expected the detector's setting, --set leave_out=x,y"
    ):
        train_detector("yolo:fields", out=tmp_path / "run", options=TrainOptions(leave_out=("x", "y")))
