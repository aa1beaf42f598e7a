"""The table of predictions: what is no prediction gets no label, and rows carry what their source knows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import trained
from command import Command
from fakes.bccd import write_bccd_fields
from hemalens import Predictor, open_dataset, predict, segment
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.self_test import SIDE_PX
from hemalens.bundle.stages import DETECTOR, CentredCropEntry
from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.centred_crop import CentredCropConfig


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.colour_bundle(tmp_path_factory.mktemp("predict") / "bundle", trained.laboratory(tmp_path_factory))


@pytest.fixture(scope="module")
def cropping(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle behind a centred crop."""
    manifest = bundle.manifest.model_copy(
        update={"before_graph": (CentredCropEntry(detector=DETECTOR, config=CentredCropConfig()),)}
    )
    return write_bundle(
        tmp_path_factory.mktemp("cropping") / "bundle",
        manifest,
        {MODEL: bundle.graph_bytes, DETECTOR: trained.finder().graph},
    )


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _cell(seed: int = 0) -> np.ndarray:
    return draw_cell("monocyte", LABORATORIES["lab_a"], np.random.default_rng(seed))[0]


def _save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


# ------------------------------------------------------------------------------------------------- outputs of the graph

WRONG = {
    "nan": ([np.nan] * 4, "NaN or infinity"),
    "infinity": ([np.inf, 0, 0, 0], "NaN or infinity"),
    "beyond one": ([9, -4, -4, 0], "outside 0 to 1"),
    "a sum of 1.1": ([0.8, 0.1, 0.1, 0.1], "sum to 1.1"),
    "too few": ([0.5, 0.5], "not 4 probabilities"),
    "a matrix": ([[0.25] * 4] * 2, "for one image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_distribution_is_a_row_with_its_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    values, said = WRONG[name]
    assert len(bundle.manifest.labels) == 4
    predictor = Predictor(bundle, abstain_below=0.8)
    monkeypatch.setattr(GraphRunner, "run", lambda runner, image: {"probabilities": np.array(values, np.float32)})
    (found,) = predictor.predict(_save(tmp_path / "a.png", _cell()))
    assert (found.label, found.probabilities, found.prediction_set) == (None, None, None)
    assert found.abstained
    assert said in str(found.error)


def test_a_sum_within_a_thousandth_is_a_prediction(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0.9, 0.05, 0.03, 0.0205], np.float32)
    predictor = Predictor(bundle)
    monkeypatch.setattr(GraphRunner, "run", lambda runner, image: {"probabilities": values})
    (found,) = predictor.predict(_cell())
    assert found.label == bundle.manifest.labels[0]


def test_a_network_of_nan_ends_with_2_and_the_table_is_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hemalens: Command
) -> None:
    for i in range(3):
        _save(tmp_path / "cells" / f"{i}.png", _cell(i))
    run = GraphRunner.run

    def broken(runner: GraphRunner, image: np.ndarray) -> dict[str, np.ndarray]:
        """Right for the bundle's own test image alone."""
        own = image.shape[0] == SIDE_PX
        return run(runner, image) if own else {"probabilities": np.full(4, np.nan, np.float32)}

    monkeypatch.setattr(GraphRunner, "run", broken)
    ended = hemalens("predict", bundle.path, tmp_path / "cells", "--out", tmp_path / "a.csv")
    assert ended.code == 2
    assert ended.error.startswith("error: no prediction: the graph gives NaN")
    assert str(tmp_path / "a.csv") in ended.error
    assert [row["label"] for row in _rows(tmp_path / "a.csv")] == [""] * 3


# ------------------------------------------------------------------------------------------------------------- exit code


def test_one_unreadable_image_ends_with_2_and_some_of_many_with_0(
    bundle: Bundle, tmp_path: Path, hemalens: Command
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "torn.png").write_bytes(b"no image")
    ended = hemalens("predict", bundle.path, tmp_path / "cells" / "torn.png", "--out", tmp_path / "a.csv")
    assert ended.code == 2
    assert "torn.png" in ended.error
    assert str(tmp_path / "a.csv") in ended.error
    assert "torn.png" in _rows(tmp_path / "a.csv")[0]["error"]
    _save(tmp_path / "cells" / "good.png", _cell())
    ended = hemalens("predict", bundle.path, tmp_path / "cells", "--out", tmp_path / "b.csv", "--json")
    assert ended.code == 0
    assert (json.loads(ended.out)["n_rows"], json.loads(ended.out)["n_unreadable"]) == (2, 1)


# --------------------------------------------------------------------------------------------------------------- no cell

NOTHING = {
    "white": (np.full((90, 90, 3), 250), "white image"),
    "black": (np.full((90, 90, 3), 3), "black image"),
    "flat": (np.full((90, 90, 3), 128), "flat image"),
    "noise": (np.random.default_rng(0).integers(0, 256, (90, 90, 3)), "noise"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_cell_is_no_label(cropping: Bundle, tmp_path: Path, name: str) -> None:
    pixels, said = NOTHING[name]
    _save(tmp_path / "cells" / "a nothing.png", pixels)
    _save(tmp_path / "cells" / "b cell.png", _cell())
    found = predict(cropping, tmp_path / "cells", out=tmp_path / "a.csv")
    nothing, cell = _rows(tmp_path / "a.csv")
    assert (nothing["label"], nothing["probability"], nothing["abstained"]) == ("", "", "True")
    assert (nothing["cell_found"], nothing["cell_reason"], nothing["error"]) == ("none", said, "")
    assert (cell["cell_found"], cell["cell_reason"], cell["abstained"]) == ("found", "", "False")
    assert cell["label"]
    assert (found.cell_found, found.cell_reasons) == ({"none": 1, "found": 1}, {said: 1})
    assert (found.n_unreadable, sum(found.by_label.values())) == (0, 1)


def test_a_bundle_of_whole_images_looks_for_no_cell(bundle: Bundle) -> None:
    noise, white = Predictor(bundle).predict([np.uint8(NOTHING["noise"][0]), np.uint8(NOTHING["white"][0])])
    assert noise.label is not None
    assert (noise.cell_found, noise.cell_reason) == (None, None)
    assert (white.label, white.cell_found, white.cell_reason) == (None, "none", "white image")


def test_a_cut_cell_and_several_cells_are_told(cropping: Bundle) -> None:
    one = _cell(3)
    middle = one.shape[1] // 2
    pair = np.concatenate([one, _cell(4)], axis=1)
    found = [(p.cell_found, p.cell_reason) for p in Predictor(cropping).predict([one, one[:, middle:], pair])]
    assert found == [("found", None), ("doubtful", "touches border"), ("several", "another white cell")]
    assert all(p.label is not None for p in Predictor(cropping).predict([one, one[:, middle:], pair]))


# ----------------------------------------------------------------------------------------------------- rows of a source


@pytest.mark.usefixtures("undrawn")
def test_boxes_groups_and_labels_are_carried_through(bundle: Bundle, tmp_path: Path) -> None:
    spec = write_bccd_fields(tmp_path / "fields", n_per_class=2)
    records = open_dataset(spec, labels="as_labelled").records
    for out in ("a.csv", "a.parquet"):
        predict(bundle, spec, out=tmp_path / out)
    rows = _rows(tmp_path / "a.csv")
    corners = ("x_min", "y_min", "x_max", "y_max")
    assert [tuple(int(row[name]) for name in corners) for row in rows] == [record.box for record in records]
    assert [(row["group"], row["source_label"], row["domain"]) for row in rows] == [
        (record.group, record.source_label, record.domain) for record in records
    ]
    keys = [(row["path"], *(row[name] for name in corners)) for row in rows]
    assert len(set(keys)) == len(rows), "path and box name a row"
    segment("classical", spec, out=tmp_path / "masks")
    masks = _rows(tmp_path / "masks" / "segmentation.csv")
    assert [(row["path"], *(row[name] for name in corners)) for row in masks] == keys
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert list(table[0]) == list(rows[0])
    assert [tuple(row[name] for name in corners) for row in table] == [record.box for record in records]


def test_columns_of_a_csv_are_carried_through(bundle: Bundle, tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    for name in ("a.png", "b.png", "=c.png"):
        _save(cells / name, _cell())
    (cells / "list.csv").write_text(
        "path,label,group,age,probability,cell_found,note\n"
        "a.png,neutrophil,p1,31,high,x,=SUM(A1)\n"
        "b.png,lymphocyte,p2,-4,low,y,plain\n"
        "'=c.png,lymphocyte,p2,,,,\n"
    )
    predict(bundle, f"csv:{cells / 'list.csv'}", out=tmp_path / "a.csv")
    first, second, third = _rows(tmp_path / "a.csv")
    assert list(first)[-7:] == ["source_label", "group", "domain", "age", "source_probability", "source_cell_found", "note"]
    assert (first["group"], first["age"], first["source_probability"], first["source_cell_found"]) == (
        "p1",
        "31",
        "high",
        "x",
    )
    assert (first["note"], second["note"], second["age"]) == ("'=SUM(A1)", "plain", "-4")
    assert 0 < float(first["probability"]) <= 1
    assert third["path"] == str(cells / "=c.png")


def test_no_cell_of_the_table_is_a_formula_or_an_escape_code(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hemalens: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+2.png", "-3.png", "@4.png", "red \x1b[31m.png"]
    for name in names:
        _save(Path(name), _cell())
        predict(bundle, f"./{name}" if name.startswith("-") else name, out="a.csv", overwrite=True)
        (row,) = _rows(Path("a.csv"))
        assert row["path"][0] not in "=+-@"
        assert "\x1b" not in row["path"]
    Path("torn \x1b[31m.png").write_bytes(b"no image")
    ended = hemalens("predict", bundle.path, "torn \x1b[31m.png", "--out", "b.csv")
    assert "\x1b" not in ended.out + ended.err
    assert "\\x1b[31m" in ended.error


def test_the_summary_says_for_whom_the_coverage_holds(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, hemalens: Command
) -> None:
    fitted: Any = trained.fitted(tmp_path_factory, "linear_probe")
    _save(tmp_path / "cells" / "a.png", _cell())
    ended = hemalens("predict", fitted.bundle.path, tmp_path / "cells", "--out", tmp_path / "a.csv")
    assert "prediction sets: 90 % in the bundle's own laboratory alone, by" in ended.out
    why = "held-out images; whether there is a domain shift is unknown, and the bundle has no imitated laboratories"
    assert why in " ".join(ended.out.split())
    ended = hemalens("predict", fitted.bundle.path, tmp_path / "cells", "--out", tmp_path / "b.csv", "--coverage", "")
    assert "prediction sets" not in ended.out
