"""YOLO rows: what is written is read; rubbish, per cent and pixels are one clear error with file and line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_fields import error_of
from hemalens.datasets.fields.yolo_rows import Row, read_rows, write_rows
from hemalens.errors import DatasetError

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def _rows(folder: Path, text: str | bytes) -> list[Row]:
    path = folder / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows(path)


def _boxes(side: int) -> st.SearchStrategy[list[float]]:
    pairs = st.tuples(st.floats(0, side), st.floats(0, side)).map(sorted)
    return st.tuples(pairs, pairs).map(lambda p: [p[0][0], p[1][0], p[0][1], p[1][1]])


@SHARED
@given(
    st.lists(st.tuples(st.integers(0, 40), _boxes(300), st.floats(0, 1)), max_size=8), st.booleans(), st.integers(300, 5000)
)
def test_what_is_written_is_read(
    tmp_path: Path, boxes: list[tuple[int, list[float], float]], scored: bool, side: int
) -> None:
    corners = np.array([box for _, box, _ in boxes]).reshape(-1, 4)
    scores = [score for _, _, score in boxes]
    write_rows(tmp_path / "w.txt", [i for i, _, _ in boxes], corners, (side, side), scores if scored else None)
    found = read_rows(tmp_path / "w.txt")
    assert [row.index for row in found] == [i for i, _, _ in boxes]
    np.testing.assert_allclose(np.array([r.corners for r in found]).reshape(-1, 4) * side, corners, atol=1e-4)
    for row, score in zip(found, scores, strict=True):
        assert row.score is None if not scored else math.isclose(row.score or 0.0, score, abs_tol=1e-7)


@SHARED
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60), st.lists(st.floats()).map(lambda v: " ".join(map(str, v)))))
def test_rubbish_is_rows_or_one_clear_error(tmp_path: Path, text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    error = error_of(lambda: _rows(tmp_path, raw))
    if error is None:
        assert all(len(row.corners) == 4 and row.index >= 0 for row in _rows(tmp_path, raw))
    else:
        assert "\n" not in error
        assert "a.txt'" in error


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert _rows(tmp_path, "") == _rows(tmp_path, "\n  \n") == []


def test_a_centre_and_sides_become_corners(tmp_path: Path) -> None:
    (row,) = _rows(tmp_path, "2 0.5 0.4 0.2 0.1\n")
    assert row.index == 2
    assert row.corners == pytest.approx((0.4, 0.35, 0.6, 0.45))
    assert row.score is None


def test_a_sixth_column_is_the_score_and_seven_are_a_polygon(tmp_path: Path) -> None:
    scored, outlined = _rows(tmp_path, "0 0.5 0.5 0.2 0.2 0.75\n1 0.1 0.2 0.6 0.3 0.4 0.9\n")
    assert scored.score == 0.75
    assert outlined == Row(1, (0.1, 0.2, 0.6, 0.9), None, True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "0 45.4 39.6 33.1 44.2",
            "line 2 is in per cent; expected shares of the image's sides, 0 to 1; got 45.4",
        ),
        ("0 320 240 90 101", "line 2 is in pixels; expected shares"),
        ("0 0.5 0.5 0.2 0.2 3", "line 2 has a sixth number that is no confidence; expected 0 to 1; got 3"),
        ("0 0.5 0.5 0.2 0.2 nan", "no confidence"),
        ("0 0.5 0.5 0.2", "line 2 is no box; expected 5 numbers"),
        ("WBC 0.5 0.5 0.2 0.2", "line 2 is no box"),
        ("-1 0.5 0.5 0.2 0.2", "line 2 is no box"),
        ("1.5 0.5 0.5 0.2 0.2", "line 2 is no box"),
        ("inf 0.5 0.5 0.2 0.2", "line 2 is no box"),
        ("0 0,5 0,5 0,2 0,2", "line 2 is no box"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(DatasetError) as caught:
        _rows(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert f"a.txt' {says}" in str(caught.value) or ("a.txt' line 2" in str(caught.value) and says in str(caught.value))


def test_a_row_without_numbers_keeps_its_corners_for_the_count(tmp_path: Path) -> None:
    assert all(math.isnan(v) for row in _rows(tmp_path, "0 nan nan nan nan\n0 nan 1 0.2 0.2 0.3 0.3") for v in row.corners)
