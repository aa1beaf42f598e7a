"""Cells to review in a test: why, the errors that they hold, false alarms, and the most urgent ones in pictures."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.stages import CentredCropStage, cut_by
from hemalens.datasets import Record
from hemalens.evaluation.cells_to_review import cells_to_review
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.segmentation import Outcome
from hemalens.inference.explain import Explainer
from hemalens.report.review import section, sentence
from hemalens.report.tables import Table
from hemalens.trust.review import ReviewThresholds


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.colour_bundle(tmp_path_factory.mktemp("plain") / "bundle", trained.laboratory(tmp_path_factory))


@pytest.fixture(scope="module")
def cropping(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    stage = CentredCropStage(trained.finder(), CentredCropConfig())
    manifest = plain.manifest.model_copy(update={"before_graph": (stage.entry(),)})
    return write_bundle(
        tmp_path_factory.mktemp("cropping") / "bundle", manifest, {MODEL: plain.graph_bytes, **stage.files()}
    )


def _answered(folder: Path, bundle: Bundle, right: list[bool], columns: list[int | None]) -> DatasetPredictions:
    """Images with a nucleus at these columns, none for None; some answered rightly."""
    first, second = bundle.manifest.labels[:2]
    records, probabilities = [], np.zeros((len(right), len(bundle.manifest.labels)), np.float32)
    rows, across = np.indices((100, 120))
    for i, (good, column) in enumerate(zip(right, columns, strict=True)):
        image = np.full((100, 120, 3), 230, np.uint8)
        if column is not None:
            image[np.hypot(rows - 50, across - column) < 16] = (84, 38, 128)
        Image.fromarray(image).save(folder / f"{i}.png")
        records.append(replace(Record(folder / f"{i}.png", "x", "lab"), label=first if good else second))
        probabilities[i, 0] = 1
    return DatasetPredictions(
        tuple(records), np.arange(len(right)), probabilities, np.zeros((len(right), 3), np.float32), {}
    )


def _doubtful(bundle: Bundle, answered: DatasetPredictions) -> dict[str, Outcome]:
    """The outcome of the last stage on each image, by the digest of its file."""
    found = {}
    for record in answered.records:
        outcome = cut_by(bundle.stages, record.read()).outcome
        if outcome != "cell":
            found[hashlib.sha256(record.path.read_bytes()).hexdigest()] = outcome
    return found


def _with_thresholds(bundle: Bundle, folder: Path) -> Bundle:
    thresholds = ReviewThresholds(urgent=None, distance=None, near_tie=0.3, n_cells=40, false_alarms=0.025, near_ties=0.05)
    manifest = bundle.manifest.model_copy(update={"review": thresholds})
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(folder, manifest, files)


def test_doubtful_cells_are_shown_with_their_windows(cropping: Bundle, tmp_path: Path) -> None:
    answered = _answered(tmp_path, cropping, [True, True, False, True, False], [60, 55, 2, None, 50])
    found = cells_to_review(cropping, answered, doubtful=_doubtful(cropping, answered))
    assert found is not None
    assert {row.name for row in found.cells.rows} == {"2.png", "3.png"}
    assert {row.caption.split(";")[0] for row in found.cells.rows} == {
        "doubtful cell: no white cell", "doubtful cell: touches border",
    }  # fmt: skip
    assert all(len(row.pictures) == 2 and all(row.pictures) for row in found.cells.rows)
    assert (found.n_cells, found.n_wrong, found.n_to_review, found.n_caught) == (5, 2, 2, 1)
    assert found.stated is None, "the bundle has no thresholds"
    assert "5 cells; they hold 1 of 2 wrong labels. The bundle has no thresholds" in sentence(found)
    shown = cells_to_review(cropping, answered, doubtful=_doubtful(cropping, answered), n=1)
    assert shown is not None
    assert len(shown.cells.rows) == 1
    assert shown.cells.note == "The 1 most urgent of 2."


def test_the_most_urgent_come_first_and_errors_are_counted(plain: Bundle, tmp_path: Path) -> None:
    bundle = _with_thresholds(plain, tmp_path / "bundle")
    answered = _answered(tmp_path, bundle, [True, False, True, False], [60, 60, 60, 60])
    answered.probabilities[0] = [0.9, 0.1, 0, 0]
    answered.probabilities[1] = [0.6, 0.4, 0, 0]
    answered.probabilities[2] = [0.55, 0.45, 0, 0]
    found = cells_to_review(bundle, answered, doubtful=_doubtful(bundle, answered))
    assert found is not None
    assert [(each.reason, each.n, each.n_wrong) for each in found.reasons if each.n] == [("near tie", 2, 1)]
    assert [row.name for row in found.cells.rows] == ["2.png", "1.png"], "the least sure first"
    assert [tuple(each.model_dump().values()) for each in found.types] == [
        (bundle.manifest.labels[0], 2, 2, 0, 1, 0),
        (bundle.manifest.labels[1], 2, 0, 0, 1, 1),
    ]
    _, table = section(found, ()).blocks
    assert isinstance(table, Table)
    assert [[cell.text for cell in row][1:] for row in table.rows] == [["2", "2", "0", "1", "0"], ["2", "0", "0", "1", "1"]]
    assert all(len(row.pictures) == 1 for row in found.cells.rows)
    assert (found.n_mature, found.n_false_alarms, found.stated) == (4, 0, 0.025)
    assert sentence(found) == (
        "To review: 2 of 4 cells; they hold 1 of 2 wrong labels; false alarms 0.0 % of the cells of mature types "
        "(2.5 % on held-out training data)."
    )


def test_a_bundle_of_whole_images_without_thresholds_has_none(plain: Bundle, tmp_path: Path) -> None:
    assert cells_to_review(plain, _answered(tmp_path, plain, [True], [60]), doubtful={}) is None


def test_an_explainer_adds_the_evidence_for_each_cell(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    probe = _with_thresholds(trained.fitted(tmp_path_factory, "linear_probe").bundle, tmp_path / "bundle")
    answered = _answered(tmp_path, probe, [True, False], [60, 40])
    even = np.full_like(answered.probabilities, 1 / answered.probabilities.shape[1])
    answered = replace(answered, probabilities=even, embeddings=np.zeros((2, probe.manifest.embedding_size), np.float32))
    plain, explained = (
        cells_to_review(probe, answered, doubtful={}, explainer=explainer) for explainer in (None, Explainer(probe))
    )
    assert plain is not None
    assert explained is not None
    assert plain.cells.columns == ("image",)
    assert explained.cells.columns == ("image", "evidence")
    assert len(explained.cells.rows) == 2, "a near tie"
    for before, row in zip(plain.cells.rows, explained.cells.rows, strict=True):
        assert row.pictures[:1] == before.pictures
        assert row.pictures[1] not in ("", row.pictures[0])
    assert "Orange: evidence for the predicted type" in explained.cells.note
    assert "Orange" not in plain.cells.note
