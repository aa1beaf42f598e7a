"""Slides from folders and tables: names, order, counts of the analyser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import drawn_slides as drawn
from hemalens.errors import HemalensError, InputError
from hemalens.runs.counting.options import CountOptions, check_red_count, check_white_count
from hemalens.runs.counting.slides import LONGEST_NAME, file_names, natural, open_slides, safe_name

FIELD = drawn.draw([], (64, 48)).pixels


def _names(slides):  # type: ignore[no-untyped-def]
    return {slide.name: [field.name for field in slide.fields] for slide in slides}


def test_a_folder_is_a_slide_and_each_folder_below_it_is_one(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "b/x.png", "a/deep/y.png"):
        drawn.save(FIELD, tmp_path / "run" / name)
    slides = open_slides(tmp_path / "run", CountOptions(), say=pytest.fail)
    assert _names(slides) == {"a/deep": ["y.png"], "b": ["x.png"], "run": ["f2.png", "f10.png"]}
    assert [slide.file for slide in slides] == ["a_deep", "b", "run"]


def test_a_folder_of_the_same_name_in_a_folder_is_another_slide(tmp_path: Path) -> None:
    for name in ("f.png", "run/f.png"):
        drawn.save(FIELD, tmp_path / "run" / name)
    slides = open_slides(tmp_path / "run", CountOptions(), say=pytest.fail)
    assert _names(slides) == {"./run": ["f.png"], "run": ["f.png"]}
    assert len({slide.file for slide in slides}) == 2


def test_an_image_and_each_page_of_a_tiff_is_a_field(tmp_path: Path) -> None:
    pages = [Image.fromarray(FIELD + np.uint8(i)) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    slides = open_slides(tmp_path / "stack.tif", CountOptions(), say=lambda text: None)
    assert _names(slides) == {"stack": ["stack.tif#1", "stack.tif#2", "stack.tif#3"]}
    assert len({field.file for field in slides[0].fields}) == 3
    assert (slides[0].fields[2].record.read() == FIELD + np.uint8(2)).all()
    one = open_slides(drawn.save(FIELD, tmp_path / "one.png"), CountOptions(white_count=7.2), say=pytest.fail)
    assert (_names(one), one[0].white_count) == ({"one": ["one.png"]}, 7.2)


def test_a_table_names_slides_fields_and_counts(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "y.png"):
        drawn.save(FIELD, tmp_path / name)
    (tmp_path / "t.csv").write_text("Slide;path;WBC;rbc\nP1;x/2.png;7,2;4.5\nP1;x/1.png;7.2;\nP2;y.png;;\n")
    slides = open_slides(tmp_path / "t.csv", CountOptions(), say=lambda text: None)
    assert _names(slides) == {"P1": ["x/1.png", "x/2.png"], "P2": ["y.png"]}
    assert [(slide.white_count, slide.red_count) for slide in slides] == [(7.2, 4.5), (None, None)]


def test_the_order_of_a_table_does_not_matter_and_twice_is_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn.save(FIELD, tmp_path / name)
    rows = ["S,a.png", "S,b.png", "S,a.png"]
    said: list[str] = []
    (tmp_path / "one.csv").write_text("slide,field\n" + "\n".join(rows))
    (tmp_path / "two.csv").write_text("slide,field\n" + "\n".join(reversed(rows)))
    first, second = (open_slides(tmp_path / name, CountOptions(), say=said.append) for name in ("one.csv", "two.csv"))
    assert _names(first) == _names(second) == {"S": ["a.png", "b.png"]}
    assert said == ["slide 'S': 1 field(s) listed twice are counted once"] * 2


@given(st.lists(st.text(max_size=90), unique=True, max_size=12), st.randoms())
def test_file_names_are_safe_unique_and_do_not_depend_on_the_order(names: list[str], random) -> None:  # type: ignore[no-untyped-def]
    found = file_names(names)
    shuffled = list(names)
    random.shuffle(shuffled)
    assert file_names(shuffled) == found
    assert len({name.casefold() for name in found.values()}) == len(names)
    for name in found.values():
        assert name.isascii()
        assert not name.startswith((".", "-"))
        assert not set(name) & set('/\\:*?"<>|\n ')
        assert 0 < len(name) <= LONGEST_NAME + 6


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("a/b c", "a_b_c"),
        ("..", "unnamed"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("ü", "unnamed"),
        ("x" * 99, "x" * 60),
    ],
)
def test_safe_name(given_name: str, expected: str) -> None:
    assert safe_name(given_name) == expected


def test_names_that_collide_stay_apart() -> None:
    assert file_names(["a b", "a_b", "A.B", "A b"]) == {"A b": "A_b", "A.B": "A.B", "a b": "a_b-2", "a_b": "a_b-3"}


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_are_sorted_by_value(numbers: list[int]) -> None:
    assert sorted([f"field {n}.png" for n in numbers], key=natural) == [f"field {n}.png" for n in sorted(numbers)]


def test_names_of_mixed_kinds_can_be_sorted() -> None:
    assert sorted(["b1", "1b", "", "a", "²"], key=natural)[0] == ""


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_white_count_is_above_0_and_at_most_1000(value: float) -> None:
    if 0 < value <= 1000:
        assert check_white_count(value) == value
    else:
        with pytest.raises(InputError, match="10\\^3 per microlitre"):
            check_white_count(value)


def test_a_count_in_cells_per_microlitre_is_understood_and_refused() -> None:
    with pytest.raises(InputError, match=r"7200 per microlitre is 7.2 in this unit"):
        check_white_count(7200)
    with pytest.raises(InputError, match=r"4.5e\+06 per microlitre is 4.5 in this unit"):
        check_red_count(4.5e6)


def test_one_white_count_for_several_slides_is_refused(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        drawn.save(FIELD, tmp_path / name)
    with pytest.raises(HemalensError, match="for one slide, and there are 2"):
        open_slides(tmp_path, CountOptions(white_count=7.2), say=pytest.fail)
