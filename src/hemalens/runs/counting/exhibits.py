"""What the report shows of a count: crops of each type, doubtful ones first, and fields that open their overlays."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
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

MOST_CROPS = 18
"""Cells of a type that the report shows."""
NOT_COUNTED = "not counted"


class Exhibits:
    """Collects what the report shows while slides are counted, in flat memory.

    Of each type the `MOST_CROPS` most doubtful crops are shown, of the fields the `most_overlays` first that hold a white
    cell.
    """

    def __init__(self, folder: Path, *, most_overlays: int) -> None:
        self._folder = folder
        self._most = most_overlays
        self._crops: dict[str, list[tuple[float, int, str, str]]] = {}
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
        kept = self._crops.setdefault(code, [])
        # the earlier one stays where two are as doubtful
        heapq.heappush(kept, (doubt(cell), -next(self._order), cell.crop, f"{caption}\n{where}"))
        if len(kept) > MOST_CROPS:
            heapq.heappop(kept)

    def tables(self, labels: Sequence[str]) -> list[PictureTable]:
        """The pictures of the report: fields by slide, then cells by type in the order of `labels`."""
        by_slide: dict[str, list[Picture]] = {}
        for slide, picture in self._fields:
            by_slide.setdefault(slide, []).append(picture)
        found = [
            PictureTable(title=f"Fields of {slide}", columns=("",), rows=tuple(rows), note=self._fields_note(), large=True)
            for slide, rows in by_slide.items()
        ]
        order = [code for code in (*labels, NOT_COUNTED) if code in self._crops]
        return [*found, *(self._cells(code) for code in order)]

    def _fields_note(self) -> str:
        n = self.n_fields - len(self._fields)
        return "Select a field to open it in full size." + (
            f" {formatting.counted(n, 'further field')} in the folder overlays." if n else ""
        )

    def _cells(self, code: str) -> PictureTable:
        rows = []
        for _, _, crop, text in sorted(self._crops[code], key=lambda one: (-one[0], -one[1])):
            caption, _, where = text.partition("\n")
            try:
                shown = thumbnail(read_image(self._folder / crop))
            except ImageError:
                continue
            rows.append(Picture(name=where, caption=caption, pictures=(shown,), link=crop))
        n, of = len(rows), self._n[code]
        note = f"The {n} most doubtful of {of}." if of > n else "The most doubtful first."
        return PictureTable(title=f"Cells: {formatting.label(code)}", columns=("",), rows=tuple(rows), note=note)


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
