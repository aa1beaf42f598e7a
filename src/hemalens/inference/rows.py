"""Predictions as rows of a CSV or Parquet file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hemalens.datasets.base import Record
from hemalens.datasets.table_text import cell, free_names
from hemalens.errors import OutputError, one_line
from hemalens.files import open_regular
from hemalens.inference.predictor import Prediction, Predictor
from hemalens.trust.review import Reason, rank

Value = str | int | float | bool | list[float] | None
Row = dict[str, Value]
Write = Callable[[Prediction], None]
ROWS_A_GROUP = 256
"""Rows of a Parquet row group."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the source knows of its images, which their rows repeat: boxes, labels, groups, domains and further columns."""

    boxes: bool = False
    fields: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Sequence[Record]) -> Source:
        """What some of the records know; the domain only of records with labels: it is the folder's name otherwise."""
        labelled = any(record.source_label for record in records)
        known = {
            "source_label": labelled,
            "group": any(record.group is not None for record in records),
            "domain": labelled,
        }
        extra = dict.fromkeys(name for record in records for name, _ in record.extra)
        boxes = any(record.box is not None for record in records)
        return cls(boxes, tuple(name for name, given in known.items() if given), tuple(extra))

    def renamed(self, taken: Sequence[str]) -> list[str]:
        """The names of its columns, those of further ones renamed where they are `taken`."""
        return [*self.fields, *free_names(map(cell, self.extra), (*taken, *self.fields))]

    def values(self, record: Record) -> list[str | None]:
        """The cells of a record, in the order of the columns."""
        given = dict(record.extra)
        return [_cell(value) for value in (*(getattr(record, f) for f in self.fields), *map(given.get, self.extra))]


BOX = ("x_min", "y_min", "x_max", "y_max")
REVIEW = ("review", "review_rank")


def review_values(reason: Reason | None) -> dict[str, str | int | None]:
    """The columns `REVIEW` of a reason: its words, and its place in the order of urgency."""
    return dict(zip(REVIEW, (reason, rank(reason)), strict=True))


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Which columns a prediction fills: of the label order, subtypes, prediction sets, the embedding, and of the source.

    `source` are the columns of `Source`.
    """

    labels: tuple[str, ...]
    subtypes: bool
    prediction_sets: bool
    embeddings: bool
    source: Source = Source()

    @classmethod
    def of(cls, predictor: Predictor, records: Sequence[Record] = ()) -> RowFormat:
        """The columns that a predictor fills for `records`; prediction sets where its monitor has a coverage."""
        monitored = predictor.monitor is not None and predictor.monitor.coverage is not None
        return cls(predictor.labels, bool(predictor.fine), monitored, predictor.embeddings, Source.of(records))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without that of the embedding."""
        return [*self._place, *self._own, *self.source.renamed(self._place + self._own)]

    @property
    def _place(self) -> list[str]:
        return ["path", *(BOX if self.source.boxes else ())]

    @property
    def _own(self) -> list[str]:
        subtypes = ["fine_label", "fine_probability"] if self.subtypes else []
        monitored = ["typicality", *(["prediction_set"] if self.prediction_sets else [])]
        classes = [f"p_{label}" for label in self.labels]
        found = ["cell_found", "cell_reason", "error"]
        return ["label", "probability", "abstained", *REVIEW, *classes, *subtypes, *monitored, *found]

    def row(self, prediction: Prediction) -> Row:
        """The row of a prediction, by column."""
        p, record = prediction.probabilities, prediction.record
        values: Row = {
            "path": cell(record.name),
            "label": _cell(prediction.label),
            "probability": None if p is None else float(p.max()),
            "abstained": prediction.abstained,
            **{f"p_{label}": None if p is None else float(p[i]) for i, label in enumerate(self.labels)},
            "typicality": prediction.typicality,
            **review_values(prediction.review),
            "cell_found": prediction.cell_found,
            "cell_reason": prediction.cell_reason,
            "error": _cell(prediction.error),
        }
        if self.source.boxes:
            values |= dict(zip(BOX, record.box or (None,) * 4, strict=True))
        if self.subtypes:
            values |= {"fine_label": _cell(prediction.fine_label), "fine_probability": prediction.fine_probability}
        if self.prediction_sets:
            values["prediction_set"] = set_value(prediction.prediction_set)
        if self.embeddings:
            values["embedding"] = None if prediction.embedding is None else prediction.embedding.tolist()
        return values | dict(zip(self.source.renamed(self._place + self._own), self.source.values(record), strict=True))


def set_value(members: Sequence[str] | None) -> str | None:
    """A prediction set as its column has it."""
    return None if members is None else cell("|".join(members))


def _cell(text: str | None) -> str | None:
    return None if text is None else cell(text)


def check_predictions(path: Path) -> None:
    """Raise `OutputError` unless the file at `path` is a table of predictions, which may be replaced."""
    try:
        if path.suffix == ".csv":
            with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
                columns = next(csv.reader(file), [])
        else:
            from pyarrow import lib, parquet

            try:
                columns = parquet.read_schema(path).names
            except lib.ArrowException:
                columns = []
    except (ValueError, csv.Error):
        columns = []
    if not {"path", "label", "probability", "abstained"} <= set(columns):
        raise OutputError(
            f"{one_line(path)} holds something else than predictions",
            remedy="Choose another --out; it is not overwritten.",
        )


@contextmanager
def row_writer(path: Path, rows: RowFormat) -> Iterator[Write]:
    """A function that appends a prediction to the new file `path`, .csv or .parquet."""
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows.columns)
            table.writeheader()
            yield lambda prediction: table.writerow({name: _short(v) for name, v in rows.row(prediction).items()})
        return
    with _parquet_writer(path, rows) as write:
        yield write


@contextmanager
def _parquet_writer(path: Path, rows: RowFormat) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    numbers = ("probability", "fine_probability", "typicality", *(f"p_{label}" for label in rows.labels))
    types = {**dict.fromkeys(numbers, pa.float32()), **dict.fromkeys((*BOX, "review_rank"), pa.int64())}
    types["abstained"] = pa.bool_()
    fields = [pa.field(name, types.get(name, pa.string())) for name in rows.columns]
    if rows.embeddings:
        fields.append(pa.field("embedding", pa.list_(pa.float32())))
    schema = pa.schema(fields)
    group: list[Row] = []

    def flush(file: parquet.ParquetWriter, group: Sequence[Row]) -> None:
        file.write_table(pa.Table.from_pylist(group, schema=schema))

    with parquet.ParquetWriter(path, schema) as file:

        def write(prediction: Prediction) -> None:
            group.append(rows.row(prediction))
            if len(group) == ROWS_A_GROUP:
                flush(file, group)
                group.clear()

        yield write
        if group:
            flush(file, group)


def _short(value: Value) -> Value:
    return f"{value:.6f}" if isinstance(value, float) else value
