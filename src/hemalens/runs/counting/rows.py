"""The tables of a count: cells.csv with a row a cell, and slides.csv with a row a slide."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hemalens.datasets.table_text import cell as as_cell
from hemalens.imaging.boxes import KINDS
from hemalens.inference.rows import BOX, REVIEW, ROWS_A_GROUP, review_values
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.results import SlideCounts
from hemalens.runs.counting.slides import Slide

CELLS_CSV, CELLS_PARQUET, SLIDES_CSV = "cells.csv", "cells.parquet", "slides.csv"
_TEXTS = (
    "slide",
    "field",
    "kind",
    "type",
    "fine_type",
    "prediction_set",
    "cell_found",
    "review",
    "why_not",
    "crop",
    "error",
)
_NUMBERS = ("score", "probability", "typicality")
CELL_COLUMNS = (
    "slide",
    "field",
    *BOX,
    "kind",
    "score",
    "type",
    "probability",
    "fine_type",
    "typicality",
    "prediction_set",
    "cell_found",
    *REVIEW,
    "counted",
    "why_not",
    "crop",
    "error",
)
"""A field that cannot be read is a row with its error alone."""
Value = str | int | float | bool | None
Write = Callable[[Mapping[str, Value]], None]


def cell_rows(slide: Slide, found: FoundField) -> Iterator[dict[str, Value]]:
    """The rows of a field."""
    where: dict[str, Value] = {"slide": as_cell(slide.name), "field": as_cell(found.field.name)}
    if found.error is not None:
        yield where | {"counted": False, "error": as_cell(found.error)}
    for cell in found.cells:
        yield where | _row(cell)


def _row(cell: FoundCell) -> dict[str, Value]:
    members = cell.prediction_set
    corners: dict[str, Value] = {name: round(value, 1) for name, value in zip(BOX, cell.corners, strict=True)}
    return corners | {
        "kind": KINDS[cell.kind],
        "score": cell.score,
        "type": as_cell(cell.type),
        "probability": cell.probability,
        "fine_type": None if cell.fine_label is None else as_cell(cell.fine_label),
        "typicality": cell.typicality,
        "prediction_set": None if members is None else as_cell("|".join(members)),
        "cell_found": cell.cell_found or None,
        **review_values(cell.review),
        "counted": not cell.reason,
        "why_not": as_cell(cell.reason) if cell.reason else None,
        "crop": cell.crop or None,
        "error": None if cell.error is None else as_cell(cell.error),
    }


@contextmanager
def cell_writer(folder: Path, *, parquet: bool) -> Iterator[Write]:
    """A function that appends a row to cells.csv, and with `parquet` to cells.parquet."""
    with ExitStack() as stack:
        file = stack.enter_context(open(folder / CELLS_CSV, "w", newline="", encoding="utf-8", errors="backslashreplace"))
        table = csv.DictWriter(file, CELL_COLUMNS)
        table.writeheader()
        further = [stack.enter_context(_parquet_writer(folder / CELLS_PARQUET))] if parquet else []

        def write(row: Mapping[str, Value]) -> None:
            table.writerow({name: _short(name, value) for name, value in row.items()})
            for each in further:
                each(row)

        yield write


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    types = {
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys((*_NUMBERS, *BOX), pa.float32()),
        "review_rank": pa.int64(),
        "counted": pa.bool_(),
    }
    schema = pa.schema([pa.field(name, types[name]) for name in CELL_COLUMNS])
    group: list[Mapping[str, Value]] = []
    with parquet.ParquetWriter(path, schema) as file:

        def write(row: Mapping[str, Value]) -> None:
            group.append({name: _text(value) for name, value in row.items()})
            if len(group) == ROWS_A_GROUP:
                file.write_table(pa.Table.from_pylist(group, schema=schema))
                group.clear()

        yield write
        if group:
            file.write_table(pa.Table.from_pylist(group, schema=schema))


def _text(value: Value) -> Value:
    """A text without what UTF-8 does not have."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _short(name: str, value: Value) -> Value:
    return f"{value:.4f}" if isinstance(value, float) and name in _NUMBERS else value


def write_slides(folder: Path, slides: Sequence[SlideCounts]) -> None:
    """Write slides.csv: counts, per cent with limits, and absolute counts of each type, in columns of their own."""
    codes = list(dict.fromkeys(each.code for counts in slides for each in counts.result.types))
    beside = list(dict.fromkeys(each.code for counts in slides for each in counts.result.beside))
    rows = [_slide_row(counts) for counts in slides]
    parts = ("n", "percent", "percent_low", "percent_high", "absolute")
    columns = [*_FIXED, *(f"{code}_{part}" for code in codes for part in parts)]
    columns += [f"{code}_{part}" for code in beside for part in ("n", "per_100")]
    with open(folder / SLIDES_CSV, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, list(map(as_cell, columns)), restval="")
        table.writeheader()
        table.writerows({as_cell(name): value for name, value in row.items()} for row in rows)


_FIXED = (
    "slide",
    "white_cells",
    "target",
    "beyond_target",
    "white_count",
    "white_count_corrected",
    "red_cells",
    "platelets",
    "platelets_by_ratio",
    "platelets_by_field",
    "fields",
    "counted_fields",
    "empty_fields",
    "copies",
    "overlapping_fields",
    "unreadable_fields",
    "single_cell_images",
    "flags",
    "decision",
)


def _slide_row(counts: SlideCounts) -> dict[str, Value]:
    result = counts.result
    row: dict[str, Value] = {
        "slide": as_cell(counts.slide.name),
        "white_cells": result.total,
        "target": result.target,
        "beyond_target": result.n_beyond,
        "white_count": result.white_count,
        "white_count_corrected": _rounded(result.corrected_white_count),
        "red_cells": result.n_red_cells,
        "platelets": result.n_platelets,
        "platelets_by_ratio": _rounded(result.platelets_by_ratio),
        "platelets_by_field": _rounded(result.platelets_by_field),
        "fields": len(counts.slide.fields),
        "counted_fields": counts.n_counted,
        "empty_fields": counts.n_empty,
        "copies": counts.n_copies,
        "overlapping_fields": counts.n_overlapping,
        "unreadable_fields": counts.n_unreadable,
        "single_cell_images": counts.n_single_cells,
        "flags": as_cell("; ".join(result.flags)),
        "decision": as_cell(result.decision),
    }
    for each in result.types:
        absolute = None if each.absolute is None else each.absolute.value
        values = (
            each.count,
            *(_percent(v) for v in (each.share.value, each.share.low, each.share.high)),
            _rounded(absolute),
        )
        parts = ("n", "percent", "percent_low", "percent_high", "absolute")
        row |= {f"{each.code}_{part}": value for part, value in zip(parts, values, strict=True)}
    for other in result.beside:
        row |= {f"{other.code}_n": other.count, f"{other.code}_per_100": _rounded(other.per_100)}
    return row


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
