"""Boxes as they are gathered: clipped, left out for a stated reason and counted, whatever the format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.base import Record
from hemalens.datasets.fields.reader import Annotation, FieldListing, Gathering, complete_kinds
from hemalens.errors import DatasetError
from hemalens.imaging.boxes import KINDS

RECORD = Record(Path("field.png"), "", domain="lab")
WIDTH, HEIGHT = 100, 60
Object = tuple[str, tuple[float, float, float, float]]


def _gathered(*objects: Object) -> FieldListing:
    annotation = Annotation()
    for name, box in objects:
        annotation.add(name, box)
    found = Gathering()
    found.add(RECORD, (WIDTH, HEIGHT), annotation, KINDS)
    return found.listing()


@pytest.mark.parametrize(
    ("name", "box", "reason"),
    [
        ("dust", (10, 10, 20, 20), "class 'dust' is no kind of cell"),
        ("WBC", (10, math.nan, 20, 20), "a corner is no finite number"),
        ("WBC", (10, 10, math.inf, 20), "a corner is no finite number"),
        ("WBC", (10, 10, 10, 20), "a side is shorter than 1 px"),
        ("WBC", (20, 10, 10, 20), "a side is shorter than 1 px"),
        ("WBC", (-1e308, 10, 1e308, 9), "a side is shorter than 1 px"),
        ("WBC", (100, 10, 120, 20), "outside the image"),
        ("WBC", (-20, -20, 0.5, 0.5), "outside the image"),
        ("RBC", (1, 1, 9, 9), "a copy of another box"),
    ],
)
def test_a_bad_box_is_left_out_and_counted(name: str, box: tuple[float, float, float, float], reason: str) -> None:
    listing = _gathered(("RBC", (1, 1, 9, 9)), (name, box))
    assert listing.dropped == ((reason, 1),)
    (field,) = listing.fields
    assert field.boxes.corners.tolist() == [[1, 1, 9, 9]]
    assert field.labels == ()


def test_a_box_over_the_border_is_clipped_and_noted_beyond_rounding() -> None:
    listing = _gathered(("WBC", (-10, 5, 20, 70)), ("RBC", (90, 50, 100.4, 60.4)))
    assert listing.fields[0].boxes.corners.tolist() == [[0, 5, 20, 60], [90, 50, 100, 60]]
    assert listing.notes == ("1 box(es) reach over the image's border and are clipped",)


def test_labels_that_name_a_type_give_the_boxes_their_types() -> None:
    (field,) = _gathered(("NEU", (1, 1, 9, 9)), ("WBC", (11, 1, 19, 9)), ("RBC", (21, 1, 29, 9))).fields
    assert field.labels == ("NEU", "", "")
    assert field.cell_types == ("neutrophil", None, None)
    assert field.boxes.kinds.tolist() == [0, 0, 1]


def test_a_field_without_a_box_is_a_field_without_a_cell() -> None:
    (field,) = _gathered().fields
    assert len(field.boxes) == 0
    assert field.cell_types == ()


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.tuples(st.sampled_from(["WBC", "rbc", "Platelets", "dust", "NEU"]), st.tuples(*[NUMBERS] * 4)), max_size=12)
)
def test_every_box_is_kept_inside_the_image_or_counted(objects: list[Object]) -> None:
    listing = _gathered(*objects)
    (field,) = listing.fields
    assert len(field.boxes) + sum(n for _, n in listing.dropped) == len(objects)
    corners = field.boxes.corners
    assert np.isfinite(corners).all()
    assert (corners >= 0).all()
    assert (corners <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (corners[:, 2:] - corners[:, :2] >= 1).all()
    assert field.labels == () or len(field.labels) == len(field.boxes)


def test_a_kind_that_no_class_names_is_not_boxed_completely() -> None:
    assert complete_kinds(["WBC", "dust"], Path("x")) == ("white cell",)
    assert complete_kinds(["lymphocyte", "RBC", "PLT"], Path("x")) == KINDS
    with pytest.raises(DatasetError, match=r"no class of 'x' is a kind of cell; expected WBC, RBC.*; got 'cat', 'dog'"):
        complete_kinds(["dog", "cat"], Path("x"))
