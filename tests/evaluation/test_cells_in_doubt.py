"""Cells in doubt: which they are, and the accuracy with and without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.stages import CentredCropStage
from hemalens.datasets import Record
from hemalens.evaluation.cells_in_doubt import cells_in_doubt
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.imaging.centred_crop import CentredCropConfig


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


def test_they_are_shown_with_their_windows_and_the_accuracy_without_them(cropping: Bundle, tmp_path: Path) -> None:
    answered = _answered(tmp_path, cropping, [True, True, False, True, False], [60, 55, 2, None, 50])
    found = cells_in_doubt(cropping, answered)
    assert found is not None
    assert [row.name for row in found.rows] == ["3.png", "2.png"]
    assert [row.caption.split(";")[0] for row in found.rows] == ["no white cell", "touches border"]
    assert all(len(row.pictures) == 2 and all(row.pictures) for row in found.rows)
    assert found.note == (
        "Of 5 cells 2 are in doubt (doubtful 1, none 1). Accuracy: 0.600 of all cells, 0.667 without them."
    )
    assert len(cells_in_doubt(cropping, answered, n=1).rows) == 1  # type: ignore[union-attr]


def test_without_doubt_there_is_a_sentence_and_no_picture(cropping: Bundle, tmp_path: Path) -> None:
    found = cells_in_doubt(cropping, _answered(tmp_path, cropping, [True, False], [60, 55]))
    assert found is not None
    assert (found.rows, found.note) == ((), "All 2 cells are found beyond doubt.")


def test_a_bundle_of_whole_images_has_none_to_doubt(plain: Bundle, tmp_path: Path) -> None:
    assert cells_in_doubt(plain, _answered(tmp_path, plain, [True], [60])) is None
