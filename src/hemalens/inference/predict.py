"""Classify images with a bundle, into a CSV or Parquet file: one row an image, in input order."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import READERS, Record, open_dataset
from hemalens.errors import InputError, OutputError, one_line
from hemalens.files import atomic_path, claim_output
from hemalens.imaging.segmentation import Outcome
from hemalens.inference.predictor import Prediction, Predictor, list_images
from hemalens.progress import track
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.conformal import COVERAGE
from hemalens.trust.monitor import Monitor, Trust

ROWS_A_BATCH = 256


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """What a run of predictions came to: rows, answers by label, abstentions, and the unreadable images."""

    n_rows: int
    by_label: dict[str, int]
    n_abstained: int
    n_unreadable: int
    first_error: str | None
    cell_images: dict[Outcome, int]
    """How the cells came out that were cut out before the graph; empty for a bundle that sees whole images."""
    trust: Trust
    """Whether the images are like those of the bundle's own laboratory, and what accuracy to expect; no label is read."""


def predict(
    bundle_path: Path,
    source: str,
    *,
    out: Path,
    abstain_below: float = 0.0,
    embeddings: bool = False,
    coverage: float | None = COVERAGE,
    overwrite: bool = False,
) -> PredictionSummary:
    """Predict for an image, a folder of images or a dataset ("reader:path"), and write `out` (.csv or .parquet).

    Columns: path, label, probability, abstained, one p_<label> a class, of a bundle that tells finer types fine_label and
    fine_probability, then typicality, prediction_set, error; with `embeddings` (Parquet only) a list column. The typicality
    in (0, 1] says how common so strange an image is at home; the prediction set holds the labels, joined by "|", that
    `coverage` in (0, 1) asks for, and None leaves that column out. Both are empty where the bundle cannot tell. An
    unreadable image is a row with its error. The file appears whole at the end, or not at all.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise OutputError(f"cannot write {one_line(out)}", expected="a name that ends in .csv or .parquet")
    if embeddings and out.suffix != ".parquet":
        raise OutputError("embeddings do not fit a CSV", remedy="Name an --out that ends in .parquet.")
    if not 0 <= abstain_below <= 1:
        raise InputError("the abstention threshold is out of range", expected="0 to 1", got=str(abstain_below))
    claim_output(out, overwrite=overwrite)
    bundle = open_bundle(bundle_path)
    inputs = open_images(source)
    judge = Monitor(bundle.home, calibrated_confidence=bundle.manifest.calibrated_confidence, coverage=coverage)
    predictor = Predictor(bundle, abstain_below=abstain_below, embeddings=embeddings or judge.needs_embeddings)
    counts: Counter[str] = Counter()
    n_abstained = n_unreadable = 0
    first_error = None
    judged = ["typicality", *(["prediction_set"] if coverage is not None else [])]
    with (
        atomic_path(out) as temporary,
        _writer(temporary, _columns(predictor, judged), embeddings) as write,
        track("predicting", len(inputs)) as progress,
    ):
        for batch in _batches(predictor.predict(inputs)):
            rows = [_row(p, predictor, embeddings) for p in batch]
            _judge(judge, batch, rows, predictor.labels, judged)
            write(rows)
            counts.update(p.label for p in batch if p.label is not None)
            n_abstained += sum(p.abstained for p in batch)
            errors = [p.error for p in batch if p.error is not None]
            n_unreadable += len(errors)
            first_error = first_error or next(iter(errors), None)
            progress(len(batch))
    by_label = {label: counts[label] for label in predictor.labels if counts[label]}
    cells = dict(sum((stage.seen for stage in predictor.stages), Counter[Outcome]()))
    return PredictionSummary(len(inputs), by_label, n_abstained, n_unreadable, first_error, cells, judge.verdict())


def open_images(source: str) -> tuple[Record, ...]:
    """The images of a dataset ("reader:path"), a folder, or one image; raises `DatasetError` when there is none."""
    reader, separator, _ = source.partition(":")
    if separator and reader in READERS and not Path(source).exists():
        return open_dataset(source, labels=AS_LABELLED).records
    return tuple(Record(path, source_label="", domain=path.parent.name) for path in list_images(Path(source)))


def _batches(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    batch: list[Prediction] = []
    for prediction in predictions:
        batch.append(prediction)
        if len(batch) == ROWS_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _columns(predictor: Predictor, judged: list[str]) -> list[str]:
    """Names of the columns, the embedding's left out."""
    fine = ["fine_label", "fine_probability"] if predictor.fine else []
    classes = [f"p_{label}" for label in predictor.labels]
    return ["path", "label", "probability", "abstained", *classes, *fine, *judged, "error"]


def _row(prediction: Prediction, predictor: Predictor, embeddings: bool) -> dict[str, Any]:
    p = prediction.probabilities
    row: dict[str, Any] = {
        # a name that is no UTF-8 is written with its bytes escaped
        "path": str(prediction.record.path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "label": prediction.label,
        "probability": None if p is None else float(p.max()),
        "abstained": None if p is None else prediction.abstained,
        **{f"p_{label}": None if p is None else float(p[i]) for i, label in enumerate(predictor.labels)},
        "error": prediction.error,
    }
    if predictor.fine:
        row |= {"fine_label": prediction.fine_label, "fine_probability": prediction.fine_probability}
    if embeddings:
        row["embedding"] = None if prediction.embedding is None else prediction.embedding.tolist()
    return row


def _judge(
    judge: Monitor, batch: list[Prediction], rows: list[dict[str, Any]], labels: tuple[str, ...], names: list[str]
) -> None:
    """Fill the columns `names` of the rows, empty where nothing can be told, and let the judge see the images."""
    for row in rows:
        row.update(dict.fromkeys(names))
    read = [i for i, p in enumerate(batch) if p.probabilities is not None]
    if not read:
        return
    vectors = [batch[i].embedding for i in read] if judge.needs_embeddings else None
    probabilities = np.stack([p.probabilities for p in batch if p.probabilities is not None])
    typicality, members = judge.see(None if vectors is None else np.stack(vectors), probabilities)  # type: ignore[arg-type]
    for place, i in enumerate(read):
        if typicality is not None:
            rows[i]["typicality"] = float(typicality[place])
        if members is not None:
            rows[i]["prediction_set"] = "|".join(np.array(labels)[members[place]])


Write = Callable[[list[dict[str, Any]]], None]


@contextmanager
def _writer(path: Path, names: list[str], embeddings: bool) -> Iterator[Write]:
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()

            def write_csv(rows: list[dict[str, Any]]) -> None:
                table.writerows([{name: _short(value) for name, value in row.items()} for row in rows])

            yield write_csv
        return
    import pyarrow as pa
    from pyarrow import parquet

    texts = ("path", "label", "fine_label", "prediction_set", "error")
    kinds = {**dict.fromkeys(texts, pa.string()), "abstained": pa.bool_()}
    fields = [pa.field(name, kinds.get(name, pa.float32())) for name in names]
    if embeddings:
        fields.append(pa.field("embedding", pa.list_(pa.float32())))
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as file:
        yield lambda rows: file.write_table(pa.Table.from_pylist(rows, schema=schema))


def _short(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value
