"""Pictures in a report: outlines where the masks end, every picture with its words, nothing a user named breaks out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from report_fakes import make_k_shot_report, make_report
from report_page import HOSTILE, Page, check_accessible, check_self_contained

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.errors import InputError
from hemalens.evaluation.results import Picture, PictureTable, Report
from hemalens.evaluation.thumbnails import CYAN, GREEN, OUTLINE_COLOURS, WHITE, outlined, thumbnail
from hemalens.report import contents, read_report, render_html, render_markdown, write_report
from hemalens.report.compose import Results
from hemalens.report.compose import make_report as make_report_of

COLUMNS = ("image", "true outline", "found outline")
TRANSDUCTIVE = "Transductive: test images were seen in training, without their labels."


def _decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 200, 30)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(n_rows: int = 4, **changes: Any) -> PictureTable:
    rows = []
    for number in range(n_rows):
        image, mask = draw_cell("monocyte", LABORATORIES["lab_b"], np.random.default_rng(number))
        cell = mask > 0
        views = (image, outlined(image, cell), outlined(image, np.roll(cell, 5, 1), colours=[WHITE]))
        rows.append(
            Picture(
                name=f"monocyte/cell_{number}.png",
                caption=f"IoU 0.{80 + number}",
                pictures=tuple(thumbnail(view) for view in views),
            )
        )
    whole = PictureTable(title="Outlines of monocytes", columns=COLUMNS, rows=tuple(rows), note="Green: drawn by hand")
    return whole.model_copy(update=changes)


def _with(*tables: PictureTable) -> Report:
    return make_report(n_evaluations=1, n_points=10).model_copy(update={"pictures": tables})


def _disc(n_px: int, radius_px: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:n_px, :n_px] - (n_px - 1) / 2
    return np.hypot(rows, columns) <= radius_px


@pytest.fixture(scope="module")
def report() -> Report:
    return _with(_table(), _table(2, title="More of them", columns=("a", "b", "c"), note=""))


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


@pytest.mark.parametrize(("shape", "size"), [((363, 360, 3), (95, 96)), ((60, 120, 3), (96, 48)), ((40, 30, 3), (30, 40))])
def test_thumbnail_is_a_small_jpeg(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    image = _decoded(thumbnail(np.full(shape, (200, 120, 190), np.uint8)))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
    assert np.abs(np.asarray(image).astype(int) - (200, 120, 190)).max() <= 3


def test_thumbnail_of_another_size() -> None:
    assert _decoded(thumbnail(np.zeros((500, 400, 3), np.uint8), size_px=160)).size == (128, 160)


@pytest.mark.parametrize("n_px", [40, 160, 360, 900])
def test_outline_follows_the_mask_at_every_size(n_px: int) -> None:
    radius_px = 0.3 * n_px
    drawn = outlined(np.full((n_px, n_px, 3), (230, 205, 120), np.uint8), _disc(n_px, radius_px))
    side_px = max(n_px, 320)
    assert drawn.shape == (side_px, side_px, 3)
    assert drawn.dtype == np.uint8
    line = (drawn == GREEN).all(axis=2)
    rows, columns = np.nonzero(line)
    distance = np.hypot(rows - (side_px - 1) / 2, columns - (side_px - 1) / 2) / side_px
    assert np.abs(distance - 0.3).max() < 0.02
    angles = np.degrees(np.arctan2(rows - side_px / 2, columns - side_px / 2))
    assert len(np.unique(angles.round(-1))) >= 36, "the outline is closed"
    small = np.asarray(_decoded(thumbnail(drawn))).astype(int)
    assert ((small[..., 1] - small[..., 0] > 40).sum()) > 100, "the line is seen in a thumbnail"


def test_outlines_have_the_colour_of_their_place_and_leave_the_rest() -> None:
    image = np.full((320, 320, 3), (230, 205, 120), np.uint8)
    masks = [_disc(320, radius) for radius in (40, 80, 120)]
    drawn = outlined(image, *masks)
    for radius, colour in zip((40, 80, 120), (GREEN, WHITE, CYAN), strict=True):
        assert tuple(drawn[160, 160 + radius]) == colour
    assert (drawn[155:165, 155:165] == image[0, 0]).all()
    assert (drawn[:20] == image[0, 0]).all()
    assert tuple(outlined(image, masks[0], colours=[(1, 2, 3)])[160, 200]) == (1, 2, 3)
    assert (image == (230, 205, 120)).all(), "the image itself is not drawn on"
    both = outlined(image, masks[0], masks[0])
    assert tuple(both[160, 200]) == WHITE


def test_empty_and_full_masks() -> None:
    image = np.full((320, 400, 3), (90, 40, 120), np.uint8)
    assert (outlined(image) == image).all()
    assert (outlined(image, np.zeros((320, 400), bool)) == image).all()
    full = (outlined(image, np.ones((320, 400), bool)) == GREEN).all(axis=2)
    assert full[0].all()
    assert full[:, -1].all()
    assert not full[20:-20, 20:-20].any()


@pytest.mark.parametrize(
    ("mask", "got"),
    [(np.zeros((10, 12), bool), r"bool \(10, 12\)"), (np.zeros((12, 10), np.uint8), r"uint8 \(12, 10\)")],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, got: str) -> None:
    with pytest.raises(InputError, match=rf"mask.*expected bool \(12, 10\); got {got}"):
        outlined(np.zeros((12, 10, 3), np.uint8), mask)


def test_too_few_colours_are_refused() -> None:
    masks = [np.zeros((12, 10), bool)] * (len(OUTLINE_COLOURS) + 1)
    with pytest.raises(InputError, match="colours; expected 4, one for each mask; got 3"):
        outlined(np.zeros((12, 10, 3), np.uint8), *masks)


def test_a_row_has_as_many_pictures_as_columns() -> None:
    picture = thumbnail(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValidationError, match="a row of 2 pictures in a table of 3 columns"):
        PictureTable(title="a", columns=COLUMNS, rows=(Picture(name="b", pictures=(picture, picture)),))
    with pytest.raises(ValidationError, match="columns"):
        PictureTable(title="a", columns=(), rows=())


@pytest.mark.parametrize("text", ["data:image/png;base64,iVBORw0KGgo", "R0lGODlh", "/9j/\"'>", "no picture", "/9j/ab\n"])
def test_what_is_no_picture_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="JPEG or PNG"):
        Picture(name="a", pictures=(text,))


@pytest.mark.usefixtures("undrawn")
def test_json_comes_back_as_it_was(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report


def test_every_picture_is_there_with_its_words(report: Report, html: str) -> None:
    check_accessible(html)
    check_self_contained(html)
    page = Page(html)
    shown = {a["alt"]: a["src"] for tag, a in page.tags if tag == "img"}
    for table in report.pictures:
        assert table.title in page.text
        for row in table.rows:
            assert row.caption in page.text
            assert row.name in page.text
            for column, picture in zip(table.columns, row.pictures, strict=True):
                assert shown[f"{row.name}: {column}"] == f"data:image/jpeg;base64,{picture}"
    assert page.text.count("found outline") == 4
    assert "Green: drawn by hand." in page.text
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert links.index("#pictures") == links.index("#data") - 1


def test_markdown_says_how_many_and_which(report: Report) -> None:
    section = render_markdown(report).split("## Pictures\n\n")[1].split("\n## ")[0]
    first, second = section.split("### ")[1:]
    assert first.split("\n\n")[:3] == [
        "Outlines of monocytes",
        "Green: drawn by hand.",
        "The HTML report shows 12 pictures (image, true outline, found outline):",
    ]
    assert first.split("\n\n")[3].splitlines() == [f"- monocyte/cell_{i}.png: IoU 0.{80 + i}" for i in range(4)]
    assert "6 pictures (a, b, c):\n\n- monocyte/cell_0.png" in second
    assert "base64" not in section


def test_png_and_missing_pictures() -> None:
    rows = (Picture(name="cell", pictures=(_png(), "")),)
    table = PictureTable(title="Some", columns=("image", "outline"), rows=rows)
    html = render_html(_with(table))
    check_accessible(html)
    assert f'src="data:image/png;base64,{_png()}" alt="cell: image"' in html
    assert "no image: outline" in Page(html).text
    markdown = render_markdown(_with(table))
    assert "shows 1 picture (image, outline):\n\n- cell\n" in markdown


@pytest.mark.usefixtures("undrawn")
def test_no_section_without_pictures() -> None:
    for tables in ((), (_table(0),)):
        for text in (render_html(_with(*tables)), render_markdown(_with(*tables))):
            assert "Pictures" not in text
            assert "Outlines of monocytes" not in text
            assert "#pictures" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_table_without_pictures_gives_its_reason() -> None:
    table = _table(0, reason="No maps: the head is a forest.")
    for text in (render_html(_with(table)), render_markdown(_with(table))):
        assert "Outlines of monocytes" in text
        assert "No maps: the head is a forest." in text


def test_hostile_words_stay_text() -> None:
    row = _table(1).rows[0].model_copy(update={"name": HOSTILE, "caption": HOSTILE})
    report = _with(_table(title=HOSTILE, columns=(HOSTILE,) * 3, note=HOSTILE, rows=(row,)))
    html = render_html(report)
    check_accessible(html)
    check_self_contained(html)
    assert "<script" not in html.lower()
    assert "\u202e" not in html
    text = Page(html).text.split("How it was made")[1]
    assert text.count("{{ 7*7 }}") == 7, "title, note, three columns, name and caption"
    markdown = render_markdown(report).split("## Pictures")[1].split("## Data")[0]
    assert "<script" not in markdown
    assert "\u202e" not in markdown
    assert all(line.startswith(("### ", "The HTML", "- ", "&lt;")) for line in markdown.split("\n") if line)


@pytest.mark.usefixtures("undrawn")
def test_differences_from_the_paper_follow_the_tables() -> None:
    plain = make_report(n_evaluations=1, n_points=10)
    report = plain.model_copy(update={"differences": (f"Folds are ours: {HOSTILE}", "Masks are rounded.")})
    html, markdown = render_html(report), render_markdown(report)
    check_accessible(html)
    check_self_contained(html)
    assert "What differs from the paper" in Page(html).text
    assert "\n- Masks are rounded.\n" in markdown.split("## What differs from the paper")[1].split("##")[0]
    assert "differs from the paper" not in render_html(plain) + render_markdown(plain)


@pytest.mark.parametrize(("n_columns", "wanted"), [(1, 1), (2, 2), (4, 4), (5, 5), (7, 7), (8, 4), (9, 5), (15, 5)])
def test_lines_of_pictures_are_equally_long(n_columns: int, wanted: int) -> None:
    assert contents.n_abreast(n_columns) == wanted


def test_a_job_hands_its_pictures_on() -> None:
    table = _table(1)
    assert make_report_of("a", "b", Results(pictures=[table]), data=(), methods={}, seed=0).pictures == (table,)
    assert make_report_of("a", "b", Results(), data=(), methods={}, seed=0).pictures == ()


@pytest.mark.usefixtures("undrawn")
def test_transductive_is_explained_once_where_an_evaluation_is() -> None:
    report = make_report(n_evaluations=3, n_points=10)
    for text in (render_html(report), render_markdown(report)):
        assert "ransductive" not in text
    seen = [e.model_copy(update={"transductive": i > 0}) for i, e in enumerate(report.evaluations)]
    report = report.model_copy(update={"evaluations": tuple(seen)})
    html = render_html(report)
    check_accessible(html)
    for text in (Page(html).text, render_markdown(report)):
        assert text.count(TRANSDUCTIVE) == 1
    # in the overview and in the table of domains
    assert html.count('<strong class="tag">transductive</strong>') == 2 * 2
    rows = [line for line in render_markdown(report).splitlines() if line.startswith(("| 1 |", "| 2 |", "| 3 |"))]
    assert [" **transductive** |" in row for row in rows] == [False, True, True]


@pytest.mark.usefixtures("undrawn")
def test_k_shot_results_explain_themselves() -> None:
    report = make_k_shot_report(n_methods=2)
    assert TRANSDUCTIVE not in Page(render_html(report)).text
