"""Cut-outs of fields: where the windows lie, what they show, and whose they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import cut_outs
from hemalens.datasets import open_dataset
from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.cut_outs import windows_of
from hemalens.datasets.open import spec_path
from hemalens.errors import DatasetError
from hemalens.imaging.boxes import KINDS, Boxes

LABELS = ("erythrocyte", "platelet", "artefact")


def _field(rows: list[tuple[int, float, float, float, float]], complete: tuple[str, ...] = KINDS) -> Field:
    record = Record(Path("field.png"), "", domain="lab")
    return Field(record, Boxes.of([row[0] for row in rows], [row[1:] for row in rows]), complete)  # type: ignore[arg-type]


def _share(box: tuple[int, ...], other: tuple[float, ...]) -> float:
    """Share of `box` that `other` covers, pixel by pixel of a grid of tenths."""
    x, y = (np.linspace(box[i], box[i + 2], 200, endpoint=False) + (box[i + 2] - box[i]) / 400 for i in (0, 1))
    inside = ((other[0] <= x) & (x < other[2]))[:, None] & ((other[1] <= y) & (y < other[3]))
    return float(inside.mean())


def test_a_field_gives_two_red_cells_two_platelets_and_a_place(tmp_path: Path) -> None:
    dataset = open_dataset(cut_outs.write(tmp_path, n_per_class=3), labels="smear")
    assert Counter(r.source_label for r in dataset.records) == {"erythrocyte": 6, "platelet": 6, "artefact": 3}
    assert dataset.class_counts == {"platelet": 6, "artefact": 9}
    assert dataset.name == "cut_outs of yolo"
    assert dataset.licence == "the user's own"
    assert dataset.notes[-1] == "cut out of 3 field(s): 6 erythrocyte, 6 platelet, 3 artefact"
    for record in dataset.records:
        assert record.group == record.path.stem
        assert record.domain == "yolo"
        x, y, right, bottom = record.box or (0, 0, 0, 0)
        assert record.read().shape == (bottom - y, right - x, 3)


def test_what_is_drawn_depends_on_the_content_of_a_field_alone(tmp_path: Path) -> None:
    before = open_dataset(cut_outs.write(tmp_path, n_per_class=2), labels="smear")
    fingerprint = before.fingerprint
    (tmp_path / "images" / "field_1.png").rename(tmp_path / "images" / "another.png")
    (tmp_path / "labels" / "field_1.txt").rename(tmp_path / "labels" / "another.txt")
    after = open_dataset(f"cut_outs:yolo:{tmp_path}", labels="smear")
    assert after.fingerprint == fingerprint
    boxes = [{r.box for r in before.records if r.path.stem == f"field_{i}"} for i in (0, 1)]
    assert boxes[0] != boxes[1]


@st.composite
def _fields(draw: st.DrawFn) -> tuple[list[tuple[int, float, float, float, float]], tuple[int, int]]:
    size = (draw(st.integers(20, 300)), draw(st.integers(20, 300)))
    rows = []
    for kind in draw(st.lists(st.integers(0, 2), max_size=12)):
        side = draw(st.floats(4, 60))
        left, top = draw(st.floats(0, size[0] - 4)), draw(st.floats(0, size[1] - 4))
        rows.append((kind, left, top, min(left + side, size[0]), min(top + side, size[1])))
    return rows, size


@settings(max_examples=60, deadline=None)
@given(drawn=_fields(), seed=st.integers(0, 99))
def test_every_window_lies_in_the_image_and_shows_next_to_no_white_cell(
    drawn: tuple[list[tuple[int, float, float, float, float]], tuple[int, int]], seed: int
) -> None:
    rows, size = drawn
    found = windows_of(_field(rows), size, np.random.default_rng(seed))
    counts = Counter(label for label, _ in found)
    assert counts["erythrocyte"] <= 2
    assert counts["platelet"] <= 2
    assert counts["artefact"] <= 1
    red = np.median([max(r[3] - r[1], r[4] - r[2]) for r in rows if r[0] == 1] or [0])
    for label, box in found:
        left, top, right, bottom = box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert right - left == bottom - top >= 16
        assert all(_share(box, row[1:]) < 0.07 for row in rows if row[0] == 0)
        centres = [
            ((r[1] + r[3]) / 2, (r[2] + r[4]) / 2, max(r[3] - r[1], r[4] - r[2]))
            for r in rows
            if r[0] == LABELS.index(label) + 1
        ]
        if label == "artefact":
            assert all(_share(box, row[1:]) < 0.07 for row in rows if row[0] == 2)
            assert right - left <= max(16, round(3 * red))
        else:
            within = [side for x, y, side in centres if left <= x <= right and top <= y <= bottom]
            least, most = (1.0, 2.4) if label == "erythrocyte" else (1.6, 2.6)
            sides = [red] if label == "erythrocyte" else within
            assert within
            assert any(max(16, round(least * s)) <= right - left <= max(16, round(most * s)) for s in sides)


@pytest.mark.parametrize(
    ("complete", "labels"),
    [
        (KINDS, {"erythrocyte", "platelet", "artefact"}),
        (("white cell", "platelet"), {"platelet"}),
        (("white cell", "red cell"), {"erythrocyte"}),
        (("red cell", "platelet"), set()),
        ((), set()),
    ],
)
def test_only_what_is_boxed_completely_is_cut_out(complete: tuple[str, ...], labels: set[str]) -> None:
    field = _field([(1, 10, 10, 40, 40), (2, 100, 100, 112, 112)], complete)
    assert {label for label, _ in windows_of(field, (200, 200), np.random.default_rng(0))} == labels


def test_a_cell_at_the_border_is_seen_in_a_window_moved_inside() -> None:
    found = windows_of(_field([(1, 0, 0, 40, 40)]), (100, 100), np.random.default_rng(1))
    boxes = [box for label, box in found if label == "erythrocyte"]
    assert len(boxes) == 1
    assert boxes[0][:2] == (0, 0)
    assert 40 <= boxes[0][2] <= 96


def test_the_path_of_a_name_is_that_of_the_fields(tmp_path: Path) -> None:
    assert spec_path(f"cut_outs:yolo:{tmp_path}") == tmp_path


@pytest.mark.parametrize("spec", ["cut_outs:{}", "cut_outs:yolo:", "cut_outs:yollo:{}", "cut_outs:acevedo20:{}"])
def test_another_name_says_how_to_write_it(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected .*cut_outs:yolo:my_fields"):
        open_dataset(spec.format(tmp_path))


def test_fields_without_complete_boxes_give_nothing(tmp_path: Path) -> None:
    cut_outs.write(tmp_path, n_per_class=1)
    (tmp_path / "data.yaml").write_text("names: [WBC, other, other thing]\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"no field of 'yolo:.* gives a cut-out.*boxed completely; got 1 field"):
        open_dataset(f"cut_outs:yolo:{tmp_path}")
