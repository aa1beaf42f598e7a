"""Pictures of the evidence for each image, and their index; labels are compared with those of a `Predictor`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.stages import CellImageStage, ClassicalSegmenter
from hemalens.datasets import Record
from hemalens.errors import BundleError, OutputError
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.inference.explain import INDEX, SCALE, Evidence, Explainer, check_explainable, explain, explainer_of, picture
from hemalens.inference.predictor import Predictor
from trained import Fitted


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, "linear_probe")


@pytest.fixture(scope="module")
def unexplained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose head is no linear one."""
    return trained.colour_bundle(tmp_path_factory.mktemp("colours") / "bundle", trained.laboratory(tmp_path_factory))


@pytest.fixture
def images(fit: Fitted, tmp_path: Path) -> Path:
    """Two cells of one name in two folders, a broken file, and a black image."""
    folder = tmp_path / "images"
    for name, record in zip(("a", "b"), fit.validation.records, strict=False):
        (folder / name).mkdir(parents=True)
        Image.open(record.path).save(folder / name / "cell.png")
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(folder / "black.png")
    return folder


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / INDEX).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_image_has_a_row_and_each_cell_a_picture(fit: Fitted, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    found = explain(fit.bundle.path, images, out=out)
    assert (found.n_images, found.n_pictures, found.n_unreadable, found.n_without_cell) == (4, 2, 1, 1)
    rows = {Path(row["path"]).relative_to(images).as_posix(): row for row in _rows(out)}
    pictures = [row["picture"] for row in rows.values() if row["picture"]]
    assert sorted(path.name for path in out.iterdir()) == sorted([INDEX, *pictures])
    assert len(set(pictures)) == 2
    assert all(name.endswith("_cell.png") for name in pictures)
    assert "is not a readable image" in rows["broken.png"]["error"]
    assert rows["black.png"]["picture"] == rows["black.png"]["error"] == rows["black.png"]["label"] == ""
    for prediction in Predictor(fit.bundle).predict([images / "a" / "cell.png", images / "b" / "cell.png"]):
        row = rows[prediction.record.path.relative_to(images).as_posix()]
        assert row["label"] == prediction.label
        assert prediction.probabilities is not None
        assert float(row["probability"]) == pytest.approx(prediction.probabilities.max(), abs=1e-4)
        parts = [float(row[name]) for name in ("evidence_for", "evidence_against")]
        assert float(row["evidence"]) == pytest.approx(sum(parts), abs=1e-3)
        assert parts[0] >= 0 >= parts[1]
        with Image.open(out / row["picture"]) as shown:
            assert shown.width > shown.height > 200


def test_the_evidence_is_split_into_for_and_against() -> None:
    evidence = Evidence("lymphocyte", 0.9, np.array([[3.0, -1.0], [0.0, 2.0]]), places=((2, 2),))
    assert (evidence.pro, evidence.contra) == (1.25, -0.25)
    assert str(evidence) == "evidence for 1.2, against 0.2"
    assert str(Evidence("lymphocyte", 0.9, np.array([[1.0, 0.0]]), places=((1, 2),))).endswith("against 0.0")
    image = np.full((2, 2, 3), 200, np.uint8)
    red, _, blue = np.moveaxis(evidence.over(image).astype(int), 2, 0)
    assert red[0, 0] > blue[0, 0]
    assert red[0, 1] < blue[0, 1]
    assert abs(red[1, 0] - blue[1, 0]) <= 1
    # full colour is the same for all pictures
    stronger = Evidence("lymphocyte", 0.9, np.array([[SCALE, 100.0]]), places=((1, 2),)).over(image[:1])
    np.testing.assert_array_equal(stronger[0, 0], stronger[0, 1])


@pytest.mark.parametrize(("height", "width"), [(30, 90), (90, 30), (64, 64)])
def test_a_picture_shows_the_image_and_its_map_side_by_side(height: int, width: int) -> None:
    image = np.full((height, width, 3), (250, 20, 20), np.uint8)
    drawn = np.asarray(picture(image, Evidence("monocyte", 0.5, np.zeros((height, width)), places=((1, 1),)))).astype(int)
    reds = drawn[..., 0] - drawn[..., 1] > 150
    columns = np.flatnonzero(reds.any(axis=0))
    assert columns.max() < drawn.shape[1] / 2, "the map is gray where nothing counts"
    assert (np.ptp(columns) + 1) / (np.ptp(np.flatnonzero(reds.any(axis=1))) + 1) == pytest.approx(width / height, rel=0.05)


def test_a_cell_that_a_stage_cuts_out_is_shown_as_the_network_sees_it(fit: Fitted, tmp_path: Path) -> None:
    stage = CellImageStage(ClassicalSegmenter(), CellImageConfig())
    manifest = fit.bundle.manifest.model_copy(update={"before_graph": (stage.entry(),)})
    files = {name: (fit.bundle.path / name).read_bytes() for name in fit.bundle.manifest.files if name != MODEL}
    cutting = write_bundle(tmp_path / "cutting", manifest, {MODEL: fit.bundle.graph_bytes, **files})
    source = fit.validation.records[0]
    folder = tmp_path / "cells"
    folder.mkdir()
    Image.open(source.path).save(folder / "cell.png")
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    found = explain(cutting.path, folder, out=tmp_path / "evidence")
    assert (found.n_pictures, found.n_without_cell) == (1, 1)
    image = stage.once()(Record(folder / "cell.png", "", "").read())
    row = next(row for row in _rows(tmp_path / "evidence") if row["picture"])
    assert row["evidence"] == f"{Explainer(cutting)(image).map.mean():.4f}"


def test_a_bundle_without_an_exact_map_is_refused_before_anything_is_written(
    unexplained: Bundle, images: Path, tmp_path: Path
) -> None:
    assert explainer_of(unexplained) is None
    for refused in (explain, check_explainable):
        with pytest.raises(BundleError, match=r"no exact map of its evidence.*--explain occlusion"):
            refused(unexplained.path, images, out=tmp_path / "evidence")
    assert not (tmp_path / "evidence").exists()


def test_a_folder_of_pictures_is_replaced_on_request_and_nothing_else(fit: Fitted, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    explain(fit.bundle.path, images / "a", out=out)
    with pytest.raises(OutputError, match="exists already"):
        explain(fit.bundle.path, images / "b", out=out)
    assert explain(fit.bundle.path, images, out=out, overwrite=True).n_pictures == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes.txt' besides explanations.*choose another --explain"):
        explain(fit.bundle.path, images, out=out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / INDEX).write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match="holds something else than explanations"):
        explain(fit.bundle.path, images, out=other, overwrite=True)


def test_pictures_do_not_lie_among_the_images(fit: Fitted, images: Path) -> None:
    with pytest.raises(OutputError, match=r"would lie among the images.*--explain"):
        explain(fit.bundle.path, images, out=images / "evidence")


def test_a_cell_of_a_field_has_its_box(fit: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(fit.validation.records[0].path, "", "lab", box=(0, 0, 40, 50))
    monkeypatch.setattr("hemalens.inference.explain.open_images", lambda source, say: (record,))
    explain(fit.bundle.path, "anything", out=tmp_path / "evidence")
    (row,) = _rows(tmp_path / "evidence")
    assert [row[name] for name in ("x_min", "y_min", "x_max", "y_max")] == ["0", "0", "40", "50"]


def test_any_number_of_workers_gives_the_same(
    fit: Fitted, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    for n in (1, 4):
        monkeypatch.setattr("hemalens.inference.explain.n_cores", lambda n=n: n)
        explain(fit.bundle.path, images, out=tmp_path / f"{n}")
        made.append({path.name: path.read_bytes() for path in (tmp_path / f"{n}").iterdir()})
    assert made[0] == made[1]
