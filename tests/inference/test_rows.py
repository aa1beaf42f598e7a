"""Rows: the columns of a bundle's predictions, in CSV and Parquet alike."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.inference import rows as module
from hemalens.inference.predictor import Prediction, Predictor
from hemalens.inference.rows import RowFormat, row_writer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "linear_probe").bundle


@pytest.fixture(scope="module")
def predictions(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Prediction]:
    records = trained.laboratory(tmp_path_factory).records[:7]
    return list(Predictor(bundle, monitor=bundle.monitor()).predict(records))


def test_csv_and_parquet_hold_the_same_rows(
    bundle: Bundle, predictions: list[Prediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_GROUP", 3)
    rows = RowFormat.of(Predictor(bundle, monitor=bundle.monitor()))
    for name in ("a.csv", "a.parquet"):
        with row_writer(tmp_path / name, rows) as write:
            for prediction in predictions:
                write(prediction)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        text = list(csv.DictReader(file))
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert list(text[0]) == list(table[0]) == rows.columns
    for written, value, prediction in zip(text, table, predictions, strict=True):
        assert written["path"] == value["path"] == str(prediction.record.path)
        assert written["label"] == value["label"] == prediction.label
        assert prediction.probabilities is not None
        p = [value[f"p_{label}"] for label in rows.labels]
        np.testing.assert_array_equal(np.float32(p), prediction.probabilities)
        np.testing.assert_allclose([float(written[f"p_{label}"]) for label in rows.labels], p, atol=1e-6)
        assert (
            written["prediction_set"].split("|")
            == value["prediction_set"].split("|")
            == list(prediction.prediction_set or ())
        )


def test_the_columns_depend_on_what_is_predicted() -> None:
    whole = RowFormat(("a", "b"), subtypes=True, prediction_sets=True, embeddings=True)
    least = RowFormat(("a", "b"), subtypes=False, prediction_sets=False, embeddings=False)
    assert set(whole.columns) - set(least.columns) == {"fine_label", "fine_probability", "prediction_set"}
    assert least.columns == [
        "path",
        "label",
        "probability",
        "abstained",
        "review",
        "review_rank",
        "p_a",
        "p_b",
        "typicality",
        "cell_found",
        "cell_reason",
        "error",
    ]
