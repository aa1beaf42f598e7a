"""Copies and overlaps: each cell once, and nothing merged without evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drawn_slides as drawn
from hemalens.datasets.base import Record
from hemalens.differential.rules import CountRules
from hemalens.runs.counting.copies import (
    Spectrum,
    count_once,
    find_overlaps,
    matched,
    near_copies,
    phase_shifts,
    same_content,
)
from hemalens.runs.counting.decide import decide
from hemalens.runs.counting.find import FieldWorker, FoundCell, FoundField
from hemalens.runs.counting.slides import SlideField

WHITE = ("neutrophil", "lymphocyte") * 9


class _NoPredictor:
    """Gives no prediction; cells get their labels from the test."""

    def predict(self, images: object) -> list[object]:
        return []


def _found(folder: Path, fields: dict[str, np.ndarray], **options: object) -> list[FoundField]:
    worker = FieldWorker(drawn.ColourFinder(), _NoPredictor())  # type: ignore[arg-type]
    found = []
    for name, pixels in fields.items():
        path = drawn.save(pixels, folder / name, **options)
        each = worker(SlideField(Record(path, source_label="", domain=""), name, path.stem))
        assert each.error is None
        for cell in each.cells:
            cell.label = "neutrophil" if cell.is_white else None
        decide(each, CountRules())
        found.append(each)
    return found


def _counted(found: list[FoundField]) -> list[int]:
    return [sum(cell.is_white and not cell.reason for cell in each.cells) for each in found]


@pytest.fixture(scope="module")
def canvas() -> drawn.Canvas:
    return drawn.draw_canvas(3, white=WHITE)


@pytest.mark.parametrize("shift", [(160, 0), (0, 90), (-140, 60), (200, 100), (37, -83)])
def test_an_overlap_is_found_with_its_shift(canvas: drawn.Canvas, tmp_path: Path, shift: tuple[int, int]) -> None:
    x, y = 320, 240
    found = _found(tmp_path, {"a.png": canvas.field(x, y), "b.png": canvas.field(x + shift[0], y + shift[1])})
    (overlap,) = find_overlaps(found, [0, 1])
    assert overlap.shift == pytest.approx((-shift[0], -shift[1]), abs=2.6)


def test_every_cell_of_overlapping_fields_counts_once(canvas: drawn.Canvas, tmp_path: Path) -> None:
    # a mosaic with 25 % overlap that covers the canvas: with the rule of the border, every cell but those that the right
    # and bottom edges of the canvas cut counts
    places = [(x, y) for y in (0, 160, 320, 480) for x in (0, 213, 426, 640)]
    found = _found(tmp_path, {f"{i}.png": canvas.field(x, y) for i, (x, y) in enumerate(places)})
    n_before = sum(_counted(found))
    count_once(found)
    n_drawn = sum(disc.kind in drawn.TYPES for disc in canvas.discs)
    assert n_before > n_drawn
    assert sum(_counted(found)) == n_drawn


def test_the_whole_view_of_a_cell_counts_rather_than_the_cut_one(tmp_path: Path) -> None:
    canvas = drawn.draw_canvas(8, white=WHITE, size=(640, 480), n_red=120)
    cell = next(d for d in canvas.discs if d.kind in drawn.TYPES and 180 < d.x < 400 and 120 < d.y < 300)
    left = int(cell.x) - 8  # the left border of the first field cuts the cell
    fields = {"a.png": canvas.field(left, 60, 240, 240), "b.png": canvas.field(left - 90, 60, 240, 240)}
    found = _found(tmp_path, fields)
    count_once(found)
    cut = [
        c for c in found[0].cells if c.is_white and c.cut and abs(c.corners[3] - (cell.y - 60)) < 30 and c.corners[0] < 2
    ]
    assert cut
    assert cut[0].reason == "counted in b.png"


def test_copies_are_told_and_counted_once(canvas: drawn.Canvas, tmp_path: Path) -> None:
    field = canvas.field(100, 100)
    found = _found(tmp_path, {"a.png": field, "b.png": field, "c.jpg": field}, quality=88)
    assert same_content(found) == {1: 0}
    assert near_copies(found, [0, 2]) == {2: 0}
    before = _counted(found)
    count_once(found)
    assert [each.copy_of for each in found] == ["", "a.png", "a.png"]
    assert _counted(found) == [before[0], 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_fields_of_different_places_are_not_merged(seed: int, tmp_path: Path) -> None:
    canvases = [drawn.draw_canvas(100 + 10 * seed + i, white=WHITE[:4], size=(320, 240), n_red=50) for i in range(5)]
    found = _found(tmp_path, {f"{i}.png": each.pixels for i, each in enumerate(canvases)})
    before = _counted(found)
    count_once(found)
    assert _counted(found) == before
    assert not any(each.copy_of or each.overlaps for each in found)


def test_bare_fields_are_no_copies_of_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bare = drawn.draw([]).pixels
    noisy = {f"{i}.png": np.uint8(np.clip(bare + rng.normal(0, 2, bare.shape), 0, 255)) for i in range(3)}
    found = _found(tmp_path, noisy)
    count_once(found)
    assert not any(each.copy_of or each.overlaps for each in found)


def test_fields_of_different_sizes_are_not_compared(canvas: drawn.Canvas, tmp_path: Path) -> None:
    found = _found(tmp_path, {"a.png": canvas.field(0, 0), "b.png": canvas.field(40, 0, 300, 240)})
    assert find_overlaps(found, [0, 1]) == []


@given(st.integers(-60, 60), st.integers(-40, 40))
def test_the_spectra_propose_the_shift_of_two_pictures(x: int, y: int) -> None:
    whole = np.random.default_rng(1).normal(size=(240, 300))
    pictures = whole[60:180, 80:240], whole[60 - y : 180 - y, 80 - x : 240 - x]
    transformed = [np.fft.rfft2(picture) for picture in pictures]
    first, second = (Spectrum(each / np.abs(each), (160, 120)) for each in transformed)
    assert (x, y) in phase_shifts(first, second)


def _cells(corners: list[tuple[float, float, float, float]], kinds: list[int]) -> FoundField:
    place = SlideField(Record(Path("x"), source_label="", domain=""), "x", "x")
    cells = [FoundCell(i, k, c, 1.0, False, False) for i, (c, k) in enumerate(zip(corners, kinds, strict=True))]
    return FoundField(place, cells, shape=(100, 100))


def test_cells_match_by_place_and_kind_and_each_once() -> None:
    first = _cells([(0, 0, 20, 20), (50, 50, 70, 70), (80, 0, 90, 10)], [0, 0, 1])
    second = _cells([(12, 10, 32, 30), (10, 10, 30, 30), (90, 10, 100, 20)], [0, 0, 0])
    assert matched(first, second, (10, 10)) == [(0, 1)]
    assert matched(first, _cells([], []), (0, 0)) == []


def test_a_cut_cell_matches_its_whole_view() -> None:
    assert matched(_cells([(0, 0, 6, 20)], [0]), _cells([(40, 0, 60, 20)], [0]), (54, 0)) == [(0, 0)]
