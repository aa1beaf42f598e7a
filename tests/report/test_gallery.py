"""Galleries: the same cells for the same seed, every class, small pictures, and what cannot be shown is said."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_fakes import make_report

import trained
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import InputError
from hemalens.evaluation.results import Picture
from hemalens.report import render_html, render_markdown
from hemalens.report.gallery import GalleryRow, mask_gallery, sample_gallery


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


def _decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def _shown(row: Picture) -> Image.Image:
    return _decoded(row.pictures[0])


def test_two_cells_of_each_class_in_its_order(cells: CellDataset) -> None:
    table = sample_gallery(cells, title="Cells", note="Two of each.", size_px=40)
    assert (table.title, table.note, table.columns) == ("Cells", "Two of each.", ("",))
    assert [row.caption for row in table.rows] == [code for code in cells.classes for _ in range(2)]
    label_of = {record.path.name: record.label for record in cells.records}
    assert [label_of[row.name] for row in table.rows] == [row.caption for row in table.rows]
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert (_shown(row).format, max(_shown(row).size)) == ("JPEG", 40)
        assert len(row.pictures[0]) < 4_000


def test_the_seed_draws_the_cells(cells: CellDataset) -> None:
    assert sample_gallery(cells, title="a", seed=3) == sample_gallery(cells, title="a", seed=3)
    drawn = {tuple(row.name for row in sample_gallery(cells, title="a", seed=seed).rows) for seed in range(4)}
    assert len(drawn) > 1


def test_a_class_without_enough_cells_shows_all(cells: CellDataset) -> None:
    few = cells.subset(np.flatnonzero(cells.targets != 0)[:-1])
    n = max(few.class_counts.values())
    rows = sample_gallery(few, title="a", per_class=n).rows
    assert sorted(row.name for row in rows) == sorted(record.path.name for record in few.records)
    with pytest.raises(InputError, match="per_class of 1 or more"):
        sample_gallery(few, title="a", per_class=0)


def test_an_unreadable_image_is_passed_over_and_counted(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "b_1"):
        folder = tmp_path / name[0]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (200, 60, 120)).save(folder / f"{name}.png")
    broken = open_dataset(f"folder:{tmp_path}", labels="as_labelled")
    (tmp_path / "a" / "a_1.png").write_bytes(b"no image")
    table = sample_gallery(broken, title="a", note="Cells.")
    assert [row.name for row in table.rows] == ["a_2.png", "b_1.png"]
    assert table.note == "Cells. 1 unreadable image passed over."


def test_a_cell_its_mask_and_new_images() -> None:
    image = np.full((200, 100, 3), (210, 120, 190), np.uint8)
    mask = np.zeros((200, 100), bool)
    mask[:100] = True
    rows = [
        GalleryRow("one.png", {"image": image, "mask": mask, "new image": image[::-1]}, "monocyte"),
        GalleryRow("two.png", {"image": image, "mask": None}),
    ]
    table = mask_gallery(rows, title="New images", note="By mask.", size_px=50)
    assert (table.title, table.note, table.columns) == ("New images", "By mask.", ("image", "mask", "new image"))
    assert [(row.name, row.caption) for row in table.rows] == [("one.png", "monocyte"), ("two.png", "")]
    shown = _decoded(table.rows[0].pictures[1])
    assert (shown.format, shown.size) == ("PNG", (25, 50))
    found = np.asarray(shown.convert("L"))
    assert (found[:24] == 255).all()
    assert (found[26:] == 0).all()
    assert len(table.rows[0].pictures[1]) < 400
    assert [bool(picture) for picture in table.rows[1].pictures] == [True, False, False]


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), bool)]
)
def test_what_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="image is no picture"):
        mask_gallery([GalleryRow("one.png", {"image": array})], title="a")


def test_a_gallery_needs_a_picture() -> None:
    for rows in ([], [GalleryRow("one.png", {})]):
        with pytest.raises(InputError, match="a gallery without pictures"):
            mask_gallery(rows, title="a")


def test_the_report_shows_and_names_the_cells(cells: CellDataset) -> None:
    table = sample_gallery(cells, title="Sample cells")
    report = make_report(n_evaluations=0).model_copy(update={"pictures": (table,)})
    html, markdown = render_html(report), render_markdown(report)
    assert html.count("<img ") == len(table.rows)
    assert f"The HTML report shows {len(table.rows)} pictures:" in markdown
    assert f"- {table.rows[0].name}: {table.rows[0].caption}" in markdown


@pytest.mark.parametrize(
    "link", ["../a.png", "/a.png", "http://x/a.png", "a.html", ".a.png", "a/.b/c.png", "a//b.png", "a b.png"]
)
def test_a_link_stays_in_the_folder_of_the_report(link: str) -> None:
    with pytest.raises(ValueError, match="link"):
        Picture(name="x", pictures=("",), link=link)
    assert Picture(name="x", pictures=("",), link="overlays/slide_7/field-1.png").link
