"""What a data card says of the files of a dataset: planted defects, and what is not looked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import bccd
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.file_checks import NEAR_DUPLICATES, file_checks
from hemalens.datasets.splits import Unreadable, clean
from hemalens.runs.inputs import open_inputs
from hemalens.taxonomy import AS_LABELLED


def _save(path: Path, seed: int, width: int = 30, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Four neutrophils and two monocytes."""
    for i in range(6):
        _save(tmp_path / "cells" / ("neutrophil" if i < 4 else "monocyte") / f"{i}.png", i)
    return tmp_path / "cells"


def _checks(folder: Path, unreadable: Unreadable = "refuse") -> dict[str, str]:
    return open_inputs(f"folder:{folder}", labels="five_class", role="test", unreadable=unreadable).card.audit


def test_clean_data(cells: Path) -> None:
    assert _checks(cells) == {
        "unreadable": "none; checked by the files' headers",
        "same image under two labels": "none",
        "byte-identical copies": "none",
        "near-duplicates": NEAR_DUPLICATES,
        "image sizes": "all 30 x 20 px",
        "class sizes": "from 2 (monocyte) to 4 (neutrophil), 2 times as many",
        "groups": "none: patients and smears are unknown, so a split may divide the images of one patient",
    }


def test_planted_defects_are_counted(cells: Path) -> None:
    shutil.copy(cells / "neutrophil" / "0.png", cells / "neutrophil" / "copy.png")
    shutil.copy(cells / "neutrophil" / "1.png", cells / "monocyte" / "other word.png")
    _save(cells / "monocyte" / "large.png", 7, width=1200, height=1000)
    (cells / "monocyte" / "empty.png").write_bytes(b"")
    whole = (cells / "monocyte" / "4.png").read_bytes()
    (cells / "monocyte" / "cut.png").write_bytes(whole[: len(whole) // 2])
    kept, dropped = _checks(cells, "keep"), _checks(cells, "drop")
    for found in (kept, dropped):
        assert found["same image under two labels"] == "2, left out"
        assert found["byte-identical copies"] == "1, left out"
    assert kept["unreadable"] == "1, listed in the test that reads them; checked by the files' headers"
    assert dropped["unreadable"] == "2, left out; every image was decoded"
    sizes = "width 30–1,200 px, height 20–1,000 px; 2 sizes, most often 30 x 20 px"
    assert kept["image sizes"] == f"{sizes} (6 images)", "the header of the truncated one is whole"
    assert dropped["image sizes"] == f"{sizes} (5 images)"


def test_equal_classes_and_one_side_of_several_lengths(cells: Path) -> None:
    for name in ("6", "7"):
        _save(cells / "monocyte" / f"{name}.png", int(name), height=25)
    found = _checks(cells)
    assert found["class sizes"] == "4 image(s) each"
    assert found["image sizes"] == "width 30 px, height 20–25 px; 2 sizes, most often 30 x 20 px (6 images)"


def test_groups_are_counted_by_domain(cells: Path) -> None:
    dataset, cleaning = clean(open_dataset(f"folder:{cells}"))

    def grouped(groups: dict[int, str]) -> CellDataset:
        records = [replace(record, group=groups.get(i), domain=f"lab {i % 2}") for i, record in enumerate(dataset.records)]
        return replace(dataset, records=tuple(records))

    assert file_checks(grouped({0: "p", 1: "p", 2: "p"}), cleaning)["groups"] == "2; 3 of 6 images in none"
    assert file_checks(grouped(dict.fromkeys(range(6), "p")), cleaning)["groups"] == "2; every image in one"


def test_cells_in_boxes_have_the_size_of_their_box(tmp_path: Path) -> None:
    given = open_inputs(bccd.write_bccd_fields(tmp_path / "set", n_per_class=2), labels=AS_LABELLED, role="test")
    sizes = {record.read().shape[1::-1] for record in given.dataset.records}
    assert all(record.box is not None for record in given.dataset.records)
    assert set(given.cleaning.sizes.values()) == sizes
    decoded = open_inputs(
        bccd.write_bccd_fields(tmp_path / "again", n_per_class=2), labels=AS_LABELLED, role="t", unreadable="drop"
    )
    assert decoded.cleaning.sizes == given.cleaning.sizes
    assert sizes == {(x_max - x_min, y_max - y_min) for _, _, (x_min, y_min, x_max, y_max) in bccd.OBJECTS}
    assert "3 sizes" in given.card.audit["image sizes"]


def test_the_card_without_what_a_model_has_seen_is_about_the_rest(cells: Path) -> None:
    _save(cells / "neutrophil" / "large.png", 9, width=100)
    given = open_inputs(f"folder:{cells}", labels="five_class", role="test")
    large = next(r for r in given.dataset.records if r.path.name == "large.png")
    rest = given.unseen([large.content_id()]).card.audit
    assert given.card.audit["image sizes"].startswith("width 30–100 px")
    assert rest["image sizes"] == "all 30 x 20 px"
    assert rest["class sizes"] == "from 2 (monocyte) to 4 (neutrophil), 2 times as many"
    everything = given.unseen(given.dataset.contents).card.audit
    assert everything["image sizes"] == "not known"
