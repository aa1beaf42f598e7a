"""The datasets of a benchmark: opened once, and kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemalens.benchmark.protocols.data import BenchmarkData, open_laboratories
from hemalens.datasets import open_dataset
from hemalens.errors import InputError, SplitError
from trained import Colour, colour_cells

COLOURS: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200)}


@pytest.fixture
def lab(tmp_path: Path) -> str:
    return f"folder:{colour_cells(tmp_path / 'lab', COLOURS, 4, seed=0)}"


def test_each_dataset_is_opened_once_in_each_role(lab: str) -> None:
    data = BenchmarkData(labels="five_class")
    assert data.source(lab) is data.source(lab)
    (target,), (again,) = (data.targets([lab], min_per_class=1) for _ in range(2))
    assert target is again
    assert (data.source(lab).card.role, target.card.role) == ("source", "target")
    assert data.laboratories([lab])[0] is data.laboratories([lab])[0]


def test_the_target_may_have_a_label_map_of_its_own(lab: str) -> None:
    data = BenchmarkData(labels="five_class", target_labels="as_labelled")
    assert data.source(lab).dataset.label_map == "five_class"
    assert data.laboratories([lab])[0].target.label_map == "as_labelled"


def test_images_of_the_source_are_refused_in_target_and_pool(lab: str, tmp_path: Path) -> None:
    other = f"folder:{colour_cells(tmp_path / 'other', COLOURS, 4, seed=1)}"
    source = open_dataset(lab)
    open_laboratories([other], None, labels="five_class")[0].refuse_source(source)
    for target, pool in ((lab, None), (other, lab)):
        (laboratory,) = open_laboratories([target], pool, labels="five_class")
        with pytest.raises(SplitError, match="trained on"):
            laboratory.refuse_source(source)
    with pytest.raises(InputError, match="one target"):
        open_laboratories([lab, other], other, labels="five_class")
