"""Predictions as rows of a CSV or Parquet file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hemalens.inference.predictor import Prediction, Predictor

Value = str | float | bool | list[float] | None
Row = dict[str, Value]
Write = Callable[[Prediction], None]
ROWS_A_GROUP = 256
"""Rows of a Parquet row group."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Which columns a prediction fills: those of the label order, of subtypes, of prediction sets and of the embedding."""

    labels: tuple[str, ...]
    subtypes: bool
    prediction_sets: bool
    embeddings: bool

    @classmethod
    def of(cls, predictor: Predictor) -> RowFormat:
        """The columns that a predictor fills; prediction sets where its monitor has a coverage."""
        monitored = predictor.monitor is not None and predictor.monitor.coverage is not None
        return cls(predictor.labels, bool(predictor.fine), monitored, predictor.embeddings)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without that of the embedding."""
        subtypes = ["fine_label", "fine_probability"] if self.subtypes else []
        monitored = ["typicality", *(["prediction_set"] if self.prediction_sets else [])]
        classes = [f"p_{label}" for label in self.labels]
        return ["path", "label", "probability", "abstained", *classes, *subtypes, *monitored, "error"]

    def row(self, prediction: Prediction) -> Row:
        """The row of a prediction, by column."""
        p = prediction.probabilities
        values: Row = {
            # a name that is not UTF-8 is written with its bytes escaped
            "path": prediction.record.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
            "label": prediction.label,
            "probability": None if p is None else float(p.max()),
            "abstained": None if p is None else prediction.abstained,
            **{f"p_{label}": None if p is None else float(p[i]) for i, label in enumerate(self.labels)},
            "typicality": prediction.typicality,
            "error": prediction.error,
        }
        if self.subtypes:
            values |= {"fine_label": prediction.fine_label, "fine_probability": prediction.fine_probability}
        if self.prediction_sets:
            members = prediction.prediction_set
            values["prediction_set"] = None if members is None else "|".join(members)
        if self.embeddings:
            values["embedding"] = None if prediction.embedding is None else prediction.embedding.tolist()
        return values


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

    texts = ("path", "label", "fine_label", "prediction_set", "error")
    types = {**dict.fromkeys(texts, pa.string()), "abstained": pa.bool_()}
    fields = [pa.field(name, types.get(name, pa.float32())) for name in rows.columns]
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
