"""What the report shows of a count: cells to review, crops of each type, and fields that open their overlays."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from hemalens.errors import ImageError
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.imaging.reading import read_image
from hemalens.runs.counting.decide import SURELY_FOUND, doubt
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.pictures import overlay_name
from hemalens.runs.counting.slides import Slide
from hemalens.trust.review import FOREIGN, Reason, in_words

MOST_CROPS = 18
"""Cells of a type that the report shows."""
MOST_TO_REVIEW = 36
"""Cells to review that the report shows."""
NOT_COUNTED = "not counted"
TO_REVIEW = "Cells to review"
_Reasons = tuple[Reason | None, Reason | None]
"""The reason for a review, and the reason in a foreign laboratory."""
_Crop = tuple[float, int, str, str]
"""A crop by its doubt and its order: the file, and caption and place in two lines."""


class Exhibits:
    """Collects what the report shows while slides are counted, in flat memory.

    Of the cells to review the `MOST_TO_REVIEW` most urgent are shown, of each type the `MOST_CROPS` most doubtful, of the
    fields the `most_overlays` first that hold a white cell.
    """

    def __init__(self, folder: Path, *, most_overlays: int) -> None:
        self._folder = folder
        self._most = most_overlays
        self._crops: dict[str, list[_Crop]] = {}
        self._to_review: dict[_Reasons, list[_Crop]] = {}
        self._order = count()
        self._n: dict[str, int] = {}
        self._fields: list[tuple[str, Picture]] = []
        self.n_fields = 0

    def add(self, slide: Slide, found: FoundField, shown: str | None) -> None:
        """Take the crops of a field, and its small overlay where there is room."""
        for cell in found.cells:
            if cell.is_white and cell.crop:
                self._add_crop(cell, f"{slide.name}, {found.field.name}")
        if shown is None:
            return
        self.n_fields += 1
        white = sum(cell.is_white and not cell.reason for cell in found.cells)
        if len(self._fields) < self._most and white:
            caption = formatting.counted(white, "white cell")
            link = overlay_name(slide, found)
            self._fields.append((slide.name, Picture(name=found.field.name, caption=caption, pictures=(shown,), link=link)))

    def _add_crop(self, cell: FoundCell, where: str) -> None:
        code = NOT_COUNTED if cell.reason else cell.type
        self._n[code] = self._n.get(code, 0) + 1
        caption = cell.reason or _caption(cell)
        shown = doubt(cell), -next(self._order), cell.crop
        _keep(self._crops.setdefault(code, []), (*shown, f"{caption}\n{where}"), MOST_CROPS)
        reasons = cell.review, cell.review_if_foreign
        if any(reasons):
            text = f"{formatting.label(cell.label or 'no label')}, {_caption(cell)}\n{where}"
            _keep(self._to_review.setdefault(reasons, []), (*shown, text), MOST_TO_REVIEW)

    def tables(self, labels: Sequence[str], to_review: Mapping[Reason, int]) -> list[PictureTable]:
        """The pictures of the report: cells to review, fields by slide, then cells by type in the order of `labels`.

        `to_review`: how many cells each reason has, the most urgent first.
        """
        by_slide: dict[str, list[Picture]] = {}
        for slide, picture in self._fields:
            by_slide.setdefault(slide, []).append(picture)
        found = [
            PictureTable(title=f"Fields of {slide}", columns=("",), rows=tuple(rows), note=self._fields_note(), large=True)
            for slide, rows in by_slide.items()
        ]
        order = [code for code in (*labels, NOT_COUNTED) if code in self._crops]
        return [*self._reviewed(to_review), *found, *(self._cells(code) for code in order)]

    def _reviewed(self, to_review: Mapping[Reason, int]) -> list[PictureTable]:
        """A table of the most urgent cells to review; none without such a cell."""
        foreign = FOREIGN in to_review
        crops = [
            (doubt, order, crop, f"{reason}: {text}")
            for reason in to_review
            for doubt, order, crop, text in _sorted(
                [crop for reasons, kept in self._to_review.items() if reasons[foreign] == reason for crop in kept]
            )
        ]
        rows = self._pictures(crops[:MOST_TO_REVIEW])
        n, of = len(rows), sum(to_review.values())
        note = f"{in_words(to_review)}. " + (f"The {n} most urgent of {of}." if of > n else "The most urgent first.")
        return [PictureTable(title=TO_REVIEW, columns=("",), rows=rows, note=note)] if rows else []

    def _fields_note(self) -> str:
        n = self.n_fields - len(self._fields)
        return "Select a field to open it in full size." + (
            f" {formatting.counted(n, 'further field')} in the folder overlays." if n else ""
        )

    def _cells(self, code: str) -> PictureTable:
        rows = self._pictures(_sorted(self._crops[code]))
        n, of = len(rows), self._n[code]
        note = f"The {n} most doubtful of {of}." if of > n else "The most doubtful first."
        return PictureTable(title=f"Cells: {formatting.label(code)}", columns=("",), rows=rows, note=note)

    def _pictures(self, crops: Sequence[_Crop]) -> tuple[Picture, ...]:
        """The crops that can be read, as pictures that open them."""
        rows = []
        for _, _, crop, text in crops:
            caption, _, where = text.partition("\n")
            try:
                shown = thumbnail(read_image(self._folder / crop))
            except ImageError:
                continue
            rows.append(Picture(name=where, caption=caption, pictures=(shown,), link=crop))
        return tuple(rows)


def _keep(kept: list[_Crop], crop: _Crop, most: int) -> None:
    """Add a crop, and drop the least doubtful of more than `most`; the earlier one stays where two are as doubtful."""
    heapq.heappush(kept, crop)
    if len(kept) > most:
        heapq.heappop(kept)


def _sorted(crops: Sequence[_Crop]) -> list[_Crop]:
    """The most doubtful first."""
    return sorted(crops, key=lambda one: (-one[0], -one[1]))


def _caption(cell: FoundCell) -> str:
    """What makes a cell doubtful, in a few words."""
    parts = ["n/a" if cell.probability is None else f"p {cell.probability:.2f}"]
    if cell.typicality is not None and cell.typicality < 0.05:
        parts.append("atypical")
    if cell.prediction_set is not None and len(cell.prediction_set) > 1:
        others = [code for code in cell.prediction_set if code != cell.label]
        parts.append("or " + formatting.listed([formatting.label(code) for code in others[:2]]))
    if cell.cell_found not in SURELY_FOUND:
        parts.append(cell.cell_found)
    return ", ".join(parts) + (", cut" if cell.cut else "")
