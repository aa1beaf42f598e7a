"""Cells drawn at random for a reviewer: a sheet to be filled in, from which the count is corrected."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hemalens.datasets.table_text import cell as as_cell
from hemalens.differential.reviewed import draw_for_review
from hemalens.differential.rules import CountRules
from hemalens.inference.rows import BOX
from hemalens.runs.counting.decide import counted_white
from hemalens.runs.counting.find import FoundField
from hemalens.runs.counting.rows import Value, cell_rows
from hemalens.runs.counting.slides import Slide

REVIEW_CSV, REVIEWED = "review.csv", "reviewed"
PLACE = ("slide", "field", *BOX)
"""Columns that name a cell."""
REVIEW_COLUMNS = (*PLACE, "type", "probability", "crop", REVIEWED)


def rows_for_review(
    slide: Slide, fields: Sequence[FoundField], rules: CountRules, n: int, seed: int
) -> Iterator[dict[str, Value]]:
    """Rows of `n` counted white cells of the slide, drawn at random, in the order of counting; all of fewer."""
    white = [id(cell) for cell in counted_white(fields) if rules.is_white_cell(cell.type)]
    drawn = {white[i] for i in draw_for_review(len(white), min(n, len(white)), seed=seed)} if white else set()
    for found in fields:
        for cell, row in zip(found.cells, cell_rows(slide, found), strict=False):
            if id(cell) in drawn:
                yield {name: row.get(name) for name in REVIEW_COLUMNS}


def write_sheet(folder: Path, rows: Iterable[Mapping[str, Value]]) -> None:
    """Write review.csv, whose column `reviewed` is empty."""
    with open(folder / REVIEW_CSV, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, [as_cell(name) for name in REVIEW_COLUMNS])
        table.writeheader()
        for row in rows:
            shown = row["probability"]
            table.writerow({**row, "probability": f"{shown:.4f}" if isinstance(shown, float) else shown})
