"""Outcomes of stages over a dataset: counted, and the doubtful ones by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemalens.bundle.outcomes import outcomes_of
from hemalens.bundle.stages import CellImageStage
from hemalens.datasets import CellDataset, Record
from hemalens.imaging.segmentation import CellImageConfig

SMALL = CellImageConfig(size_px=32, margin_px=3, background=90)
BOXES = {"cell": (10, 10, 30, 28), "touches border": (0, 10, 20, 30), "no white cell": None}


class _Red:
    """A segmenter without learning: where red is over 200."""

    name = "red"
    digest = "red over 200, of outcomes"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(image[..., 0] > 200)


@pytest.fixture
def cells(tmp_path: Path) -> CellDataset:
    """Three cells, one at the border, one image without a cell, and a broken file."""
    records = []
    for i, name in enumerate(["cell", "cell", "no white cell", "touches border", "cell"]):
        image = np.random.default_rng(i).integers(0, 150, (40, 50, 3), dtype=np.uint8)
        if (box := BOXES[name]) is not None:
            image[box[0] : box[2], box[1] : box[3], 0] = 230
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        records.append(Record(tmp_path / f"{i}.png", "", "lab"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    return CellDataset("cells", (*records, Record(tmp_path / "broken.png", "", "lab")), (), "as_labelled", "-", "-")


def test_outcomes_are_counted_and_broken_files_are_not(cells: CellDataset) -> None:
    stage = CellImageStage(_Red(), SMALL)
    expected = {"cell": 3, "no white cell": 1, "touches border": 1}
    assert outcomes_of(cells, [stage]).counts == (expected,)
    assert outcomes_of(cells.through((stage,)), [stage]).counts == (expected,), "of the images as they lie on disk"
    assert not stage.seen


def test_only_images_without_one_sure_cell_are_named_by_their_content(cells: CellDataset) -> None:
    found = outcomes_of(cells, [CellImageStage(_Red(), SMALL)]).doubtful
    digests = [hashlib.sha256(record.path.read_bytes()).hexdigest() for record in cells.records]
    assert found == {digests[2]: "no white cell", digests[3]: "touches border"}


def test_a_second_stage_sees_what_the_first_has_made(cells: CellDataset) -> None:
    first, second = CellImageStage(_Red(), SMALL), CellImageStage(_Red(), CellImageConfig(size_px=16, margin_px=0))
    counts = outcomes_of(cells, [first, second]).counts
    assert [sum(count.values()) for count in counts] == [5, 5]
    # the window of the cell at the border has a margin on every side but that one
    assert counts[1]["no white cell"] == 1


def test_without_stages_nothing_is_counted(cells: CellDataset) -> None:
    found = outcomes_of(cells, [])
    assert (found.counts, found.doubtful) == ((), {})
