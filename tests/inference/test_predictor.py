"""Prediction with a bundle: order, rows, labels, abstention, memory, and life without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.datasets import CellDataset, Record
from hemalens.errors import BundleError
from hemalens.graphs.runtime import GraphRunner
from hemalens.inference.predictor import Prediction, Predictor


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "linear_probe").bundle


def _stacked(predictions: list[Prediction]) -> np.ndarray:
    return np.stack([p.probabilities for p in predictions if p.probabilities is not None])


def test_one_prediction_an_input_in_input_order(bundle: Bundle, cells: CellDataset) -> None:
    records = [cells.records[i] for i in np.random.default_rng(0).permutation(len(cells))]
    predictions = list(Predictor(bundle, n_workers=3).predict(records))
    assert [p.record for p in predictions] == records
    alone = [next(iter(Predictor(bundle).predict([record]))) for record in records[:5]]
    np.testing.assert_array_equal(_stacked(alone), _stacked(predictions[:5]))


def test_probabilities_are_a_distribution_in_label_order(bundle: Bundle, cells: CellDataset) -> None:
    predictor = Predictor(bundle)
    predictions = list(predictor.predict(cells.records))
    p = _stacked(predictions)
    assert p.shape == (len(cells), len(bundle.manifest.labels))
    assert np.all(p >= 0)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert [x.label for x in predictions] == [bundle.manifest.labels[i] for i in p.argmax(axis=1)]
    assert len({x.label for x in predictions}) > 1, "a model of one answer would hide a wrong order"


def test_the_result_does_not_depend_on_the_worker_count(bundle: Bundle, cells: CellDataset) -> None:
    one, four = (list(Predictor(bundle, n_workers=n, embeddings=True).predict(cells.records)) for n in (1, 4))
    np.testing.assert_array_equal(_stacked(one), _stacked(four))
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(one, four, strict=True))


def test_abstains_exactly_below_the_threshold(bundle: Bundle, cells: CellDataset) -> None:
    best = _stacked(list(Predictor(bundle).predict(cells.records))).max(axis=1)
    threshold = float(np.median(best))
    predictions = list(Predictor(bundle, abstain_below=threshold).predict(cells.records))
    assert [p.abstained for p in predictions] == [bool(b < threshold) for b in best]
    assert 0 < sum(p.abstained for p in predictions) < len(predictions)
    assert all(p.label is not None for p in predictions), "the best guess is given all the same"


def test_embeddings_come_only_when_asked_for(bundle: Bundle, cells: CellDataset) -> None:
    first = cells.records[:1]
    assert next(Predictor(bundle).predict(first)).embedding is None
    embedding = next(Predictor(bundle, embeddings=True).predict(first)).embedding
    assert embedding is not None
    assert embedding.shape == (bundle.manifest.embedding_size,)
    assert embedding.dtype == np.float32


@pytest.mark.parametrize("size", [(8, 8), (31, 200), (640, 480)])
def test_any_size_of_image(bundle: Bundle, tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "cell.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    prediction = next(Predictor(bundle).predict([file]))
    assert prediction.error is None
    assert prediction.label in bundle.manifest.labels


def test_the_box_of_a_record_is_what_is_classified(bundle: Bundle, cells: CellDataset, tmp_path: Path) -> None:
    inner = cells.records[0].read()
    field = np.full((400, 500, 3), 220, np.uint8)
    field[100 : 100 + inner.shape[0], 50 : 50 + inner.shape[1]] = inner
    Image.fromarray(field).save(tmp_path / "field.png")
    box = (50, 100, 50 + inner.shape[1], 100 + inner.shape[0])
    cut = Record(tmp_path / "field.png", source_label="", domain="", box=box)
    a, b = Predictor(bundle).predict([cut, cells.records[0]])
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_an_unreadable_image_is_a_row_with_its_error(bundle: Bundle, cells: CellDataset, tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(b"no image")
    good = cells.records[0].path
    predictions = list(Predictor(bundle).predict([good, broken, missing, good]))
    assert [p.error is None for p in predictions] == [True, False, False, True]
    for prediction, name in zip(predictions[1:3], ("broken.png", "missing.png"), strict=True):
        assert name in str(prediction.error)
        assert prediction.label is prediction.probabilities is prediction.embedding is None
        assert prediction.abstained
    np.testing.assert_array_equal(predictions[0].probabilities, predictions[3].probabilities)


def test_no_input_is_no_prediction(bundle: Bundle) -> None:
    assert list(Predictor(bundle).predict([])) == []


def test_a_stage_before_the_graph_is_refused_when_unknown(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "foreign")
    manifest = tmp_path / "foreign" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["before_graph"] = [{"kind": "cell_crop"}]
    manifest.write_text(json.dumps(content))
    with pytest.raises(
        BundleError, match=r"damaged; expected Input tag 'cell_crop' found .* 'centred_crop'; got key 'before"
    ):
        open_bundle(tmp_path / "foreign")


def test_at_most_four_images_a_worker_are_under_way(bundle: Bundle, cells: CellDataset) -> None:
    n_workers, taken = 2, 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield cells.records[0]

    answers = GraphRunner(bundle.graph_bytes, ["probabilities"], n_workers=n_workers).map(endless())
    ahead = []
    for consumed in range(1, 30):
        next(answers)
        time.sleep(0.002)
        ahead.append(taken - consumed)
    answers.close()
    assert max(ahead) <= 4 * n_workers
    assert max(ahead) >= n_workers, "nothing is read ahead: the workers would idle"
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")], "closing leaves no thread"


def test_a_failure_that_is_no_image_error_is_not_swallowed(
    bundle: Bundle, cells: CellDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: GraphRunner, image: np.ndarray) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(GraphRunner, "run", fail)
    with pytest.raises(ValueError, match="ours"):
        list(Predictor(bundle).predict(cells.records[:3]))


PREDICT_WITHOUT = """
import importlib.abc, json, sys
FORBIDDEN = {"torch", "torchvision", "timm", "lightning", "sklearn", "skl2onnx", "xgboost", "matplotlib"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is forbidden here")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from hemalens import predict
found = predict(Path(sys.argv[1]), sys.argv[2], out=Path(sys.argv[3]))
print(json.dumps([found.n_rows, found.n_unreadable]))
"""


def test_prediction_needs_neither_torch_nor_scikit_learn(bundle: Bundle, cells: CellDataset, tmp_path: Path) -> None:
    images, out = cells.records[0].path.parent, tmp_path / "answers.csv"
    command = [sys.executable, "-W", "error", "-c", PREDICT_WITHOUT, str(bundle.path), str(images), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [trained.N_PER_CLASS, 0]
    assert len(out.read_text().splitlines()) == 1 + trained.N_PER_CLASS


def test_predictions_are_the_same_for_a_copy_of_a_record(bundle: Bundle, cells: CellDataset) -> None:
    record = cells.records[3]
    a, b = Predictor(bundle).predict([record, replace(record, source_label="something else", domain="elsewhere")])
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_a_monitor_fills_typicality_and_set_and_leaves_the_rest(bundle: Bundle, cells: CellDataset, tmp_path: Path) -> None:
    records = [*cells.records, Record(tmp_path / "gone.png", "", "")]
    plain = list(Predictor(bundle).predict(records))
    monitor = bundle.monitor()
    monitored = list(Predictor(bundle, monitor=monitor).predict(records))
    assert [p.record.path for p in monitored] == [record.path for record in records]
    np.testing.assert_array_equal(_stacked(monitored), _stacked(plain))
    assert {(p.typicality, p.prediction_set, p.embedding) for p in plain} == {(None, None, None)}
    for prediction in monitored[:-1]:
        assert prediction.embedding is None
        assert prediction.typicality is not None
        assert 0 < prediction.typicality <= 1
        assert prediction.prediction_set is not None
        assert prediction.label in prediction.prediction_set
    assert (monitored[-1].error is None, monitored[-1].typicality, monitored[-1].prediction_set) == (False, None, None)
    assert monitor.report().n_images == len(cells)
