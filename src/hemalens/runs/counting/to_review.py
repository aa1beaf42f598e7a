"""The cells of a count that a person must look at: how many for each reason, and which rows wait for the domain shift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hemalens.inference.rows import mark_foreign
from hemalens.runs.counting.decide import seen_elsewhere
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.rows import CELLS_CSV, CELLS_PARQUET
from hemalens.trust.review import FOREIGN, REASONS, Reason, is_foreign


class ToReview:
    """Counts reasons field by field, in the order of the rows of cells.csv; a byte a row, so that memory stays flat."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._foreign = bytearray()

    def add(self, found: FoundField) -> None:
        """Take the rows of a field."""
        if found.error is not None:
            self._foreign.append(False)
        for cell in found.cells:
            if cell.review is not None:
                self._counts[cell.review] += 1
            self._foreign.append(waits(cell))

    def mark(self, folder: Path) -> None:
        """Mark the atypical cells of a foreign laboratory in the tables of the folder."""
        for name in (CELLS_CSV, CELLS_PARQUET):
            if (folder / name).exists():
                self._counts[FOREIGN] = mark_foreign(folder / name, self._foreign)

    @property
    def counts(self) -> Mapping[Reason, int]:
        """Cells by the reason, the most urgent first."""
        return {reason: self._counts[reason] for reason in REASONS if self._counts[reason]}


def waits(cell: FoundCell) -> bool:
    """Whether a cell is to be reviewed where the laboratory is foreign."""
    return not seen_elsewhere(cell.reason) and is_foreign(cell.review, cell.typicality)
