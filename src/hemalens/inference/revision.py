"""Revise a table of predictions by what its end alone shows: the domain shift of all images together."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path

from hemalens.files import atomic_path
from hemalens.inference.rows import ROWS_A_GROUP, review_values, set_value
from hemalens.trust.review import REASONS

Change = Mapping[str, str | int | None]
"""New values of a row by column; empty for a row that stays."""


class LaterSets:
    """The prediction set of each row where a domain shift is detected or unknown; in memory lie a few bytes a row."""

    def __init__(self) -> None:
        self._rows = array("I")
        self._numbers: dict[tuple[str, ...] | None, int] = {}

    def add(self, members: tuple[str, ...] | None) -> None:
        """Take the set of the next row; None for one without."""
        self._rows.append(self._numbers.setdefault(members, len(self._numbers)))

    def values(self) -> Iterator[str | None]:
        """The set of each row as the column `prediction_set` has it."""
        named = [set_value(members) for members in self._numbers]
        return (named[number] for number in self._rows)


def revise(path: Path, *, ranks: Sequence[int] = (), sets: LaterSets | None = None) -> None:
    """Write the table at `path`, .csv or .parquet, anew, one part of it in memory at a time.

    Each row gets the reason for a review of its rank, where that is not 0, and its set of `sets`. Without either the table
    stays as it is.
    """
    if sets is None and not any(ranks):
        return
    with atomic_path(path) as temporary:
        (_revise_csv if path.suffix == ".csv" else _revise_parquet)(path, temporary, _changes(ranks, sets))


def _changes(ranks: Sequence[int], sets: LaterSets | None) -> Iterator[Change]:
    """The change of each row."""
    reasons: Iterator[Change] = (review_values(REASONS[rank - 1]) if rank else {} for rank in ranks)
    if sets is None:
        return reasons
    reviewed = reasons if ranks else repeat(dict[str, str | int | None]())
    return ({"prediction_set": members, **reason} for members, reason in zip(sets.values(), reviewed, strict=bool(ranks)))


def _revise_csv(path: Path, new: Path, changes: Iterator[Change]) -> None:
    with (
        open(path, newline="", encoding="utf-8") as old,
        open(new, "w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.reader(old)
        columns = next(rows)
        table = csv.writer(file)
        table.writerow(columns)
        for row, change in zip(rows, changes, strict=True):
            table.writerow([change.get(name, value) for name, value in zip(columns, row, strict=True)])


def _revise_parquet(path: Path, new: Path, changes: Iterator[Change]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as old, parquet.ParquetWriter(new, old.schema_arrow) as file:
        for batch in old.iter_batches(ROWS_A_GROUP):
            part = pa.Table.from_batches([batch])
            given = list(islice(changes, len(part)))
            for name in dict.fromkeys(name for change in given for name in change):
                known, column = part.schema.field(name), part[name].to_pylist()
                filled = [change.get(name, before) for change, before in zip(given, column, strict=True)]
                part = part.set_column(part.schema.get_field_index(name), known, pa.array(filled, known.type))
            file.write_table(part)
