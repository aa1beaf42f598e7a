"""The scale of a slide, and what a field keeps in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import drawn_slides as drawn
from hemalens.datasets.base import Record
from hemalens.runs.counting.find import N_FOR_SCALE, FieldWorker, slide_scales
from hemalens.runs.counting.slides import SlideField


class _Scales(drawn.ColourFinder):
    """Takes the first pixel of a field for its scale, and keeps the scales that it is given."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.given: list[float | None] = []

    def scale_of(self, image: np.ndarray) -> float | None:
        self.asked.append(float(image[0, 0, 0]))
        return self.asked[-1] or None

    def by_tile(self, pixels, *, scale=None):  # type: ignore[no-untyped-def]
        self.given.append(scale)
        yield from super().by_tile(pixels)


def _field(folder: Path, i: int, value: int, size: tuple[int, int] = (60, 40)) -> SlideField:
    path = drawn.save(np.full((size[1], size[0], 3), value, np.uint8), folder / f"{i}.png")
    return SlideField(Record(path, source_label="", domain=""), path.name, path.stem)


def test_fields_of_one_size_have_the_median_scale_of_a_few(tmp_path: Path) -> None:
    values = [1, 7, 2, 0, 90, 3, 4, 5, 6]
    fields = [_field(tmp_path, i, value) for i, value in enumerate(values)]
    finder = _Scales()
    scales = slide_scales(finder, fields)
    # a field without a cell says nothing, and one that is far off changes little
    assert scales == {(40, 60): float(np.median([value for value in values if value]))}
    worker = FieldWorker(finder, None, scales)  # type: ignore[arg-type]
    other = _field(tmp_path, 20, 9, (80, 40))
    for given in (fields[4], other):
        assert worker(given).error is None
    assert finder.given == [scales[40, 60], None]


def test_few_fields_of_many_are_looked_at_for_the_scale(tmp_path: Path) -> None:
    fields = [_field(tmp_path, i, 10 + i) for i in range(30)]
    torn = tmp_path / "torn.png"
    torn.write_text("no image")
    fields[0] = SlideField(Record(torn, source_label="", domain=""), "torn.png", "torn")
    finder = _Scales()
    slide_scales(finder, fields)
    assert len(finder.asked) == N_FOR_SCALE - 1
    assert finder.asked[-1] == 39
