"""The feature cache: found again without running a graph, and never a value of another image, box or graph."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import trained
from hemalens.cache import FeatureCache
from hemalens.datasets import CellDataset, Record
from hemalens.errors import ImageError
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import GraphRunner


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, cells: CellDataset) -> onnx.ModelProto:
    """image -> embedding: the mean colour."""
    bundle = trained.colour_bundle(tmp_path_factory.mktemp("bundle") / "bundle", cells)
    return cut(bundle.graph, ["image"], ["embedding"])


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records that a graph was run for."""
    records: list[Record] = []
    run_all = GraphRunner.map

    def counted(self: GraphRunner, given: Iterable[Record]) -> Iterator[Any]:
        given = list(given)
        records.extend(given)
        return run_all(self, given)

    monkeypatch.setattr(GraphRunner, "map", counted)
    return records


def _colours(records: Iterable[Record]) -> np.ndarray:
    return np.stack([record.read().mean(axis=(0, 1)) / 255 for record in records])


def test_embeddings_come_in_the_order_of_the_records(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, ran: list[Record]
) -> None:
    first = extract(cells.records[:9], graph, cache=cache).complete()
    np.testing.assert_allclose(first, _colours(cells.records[:9]), atol=1e-5)
    ran.clear()
    mixed = [cells.records[i] for i in (12, 3, 10, 0)]
    np.testing.assert_allclose(extract(mixed, graph, cache=cache).complete(), _colours(mixed), atol=1e-5)
    assert ran == [cells.records[12], cells.records[10]], "what is known is not computed again"


def test_a_hit_runs_no_graph_and_gives_the_same_bits(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, ran: list[Record]
) -> None:
    first = extract(cells.records, graph, cache=cache).complete()
    ran.clear()
    again = extract(cells.records, graph, cache=FeatureCache(cache.folder)).complete()
    assert ran == []
    np.testing.assert_array_equal(first, again)
    assert again.dtype == np.float32


def test_testing_a_bundle_on_its_training_images_runs_no_network(
    tmp_path_factory: pytest.TempPathFactory, ran: list[Record]
) -> None:
    fit = trained.fitted(tmp_path_factory, "linear_probe")
    ran.clear()
    answered = predict_dataset(fit.bundle, fit.validation)
    assert ran == []
    assert len(answered.records) == len(fit.validation)


def test_without_a_cache_everything_is_computed(cells: CellDataset, graph: onnx.ModelProto, ran: list[Record]) -> None:
    for _ in range(2):
        extract(cells.records[:3], graph, cache=None)
    assert len(ran) == 6


def test_another_content_under_the_same_name_is_another_entry(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, tmp_path: Path
) -> None:
    file = tmp_path / "cell.png"
    found = []
    for source in cells.records[:2]:
        shutil.copy(source.path, file)
        found.append(extract([Record(file, "", "")], graph, cache=cache).complete()[0])
    np.testing.assert_allclose(found, _colours(cells.records[:2]), atol=1e-5)


def test_another_box_is_another_entry(cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache) -> None:
    whole = cells.records[0]
    boxed = [replace(whole, box=box) for box in ((0, 0, 30, 30), (20, 20, 60, 50))]
    for _ in range(2):  # computed, then found
        found = extract([whole, *boxed], graph, cache=cache).complete()
        np.testing.assert_allclose(found, _colours([whole, *boxed]), atol=1e-5)
    assert len(np.unique(found, axis=0)) == 3


def test_another_graph_is_another_entry(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, ran: list[Record]
) -> None:
    other = onnx.load_model_from_string(graph.SerializeToString())
    for initializer in other.graph.initializer:
        if initializer.name == "c255":
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.array([510.0], np.float32), "c255"))
    first = extract(cells.records[:4], graph, cache=cache).complete()
    ran.clear()
    np.testing.assert_allclose(extract(cells.records[:4], other, cache=cache).complete(), first / 2, rtol=1e-5)
    assert len(ran) == 4


def test_copies_are_computed_once_and_answered_each(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, ran: list[Record], tmp_path: Path
) -> None:
    copies = [Record(Path(shutil.copy(cells.records[0].path, tmp_path / f"{i}.png")), "", "") for i in range(3)]
    given = [copies[0], cells.records[1], copies[1], copies[2], cells.records[0]]
    for store in (None, cache):
        ran.clear()
        found = extract(given, graph, cache=store).complete()
        assert len(ran) == 2
        np.testing.assert_allclose(found, _colours(given), atol=1e-5)


def test_unreadable_images_are_reported_by_their_index(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken, missing = Record(tmp_path / "broken.png", "", ""), Record(tmp_path / "missing.png", "", "")
    given = [broken, cells.records[0], missing, cells.records[1], broken]
    for _ in range(2):  # a failure is not kept: the file may be repaired
        found = extract(given, graph, cache=cache)
        assert found.readable.tolist() == [1, 3]
        assert sorted(found.errors) == [0, 2, 4]
        assert "broken.png" in found.errors[0]
        assert "missing.png" in found.errors[2]
        np.testing.assert_allclose(found.embeddings, _colours(cells.records[:2]), atol=1e-5)
        with pytest.raises(ImageError, match=r"3 image\(s\) cannot be read, first: .*(broken|missing)\.png"):
            found.complete()
    shutil.copy(cells.records[2].path, tmp_path / "broken.png")
    assert sorted(extract(given, graph, cache=cache).errors) == [2]


def test_progress_counts_every_record_once(cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache) -> None:
    for given in (cells.records[:5], cells.records[:9], (*cells.records[:3], cells.records[0])):
        steps: list[int] = []
        extract(given, graph, cache=cache, progress=steps.append)
        assert sum(steps) == len(given)


def test_no_record_is_no_embedding(graph: onnx.ModelProto, cache: FeatureCache) -> None:
    found = extract([], graph, cache=cache)
    assert found.embeddings.shape[0] == 0
    assert found.errors == {}


def test_more_contents_than_one_question_holds(cache: FeatureCache) -> None:
    """SQLite takes a bounded number of marks in a question."""
    vectors = {f"{i:064x}": np.full(3, i, np.float32) for i in range(1203)}
    cache.put("graph", vectors)
    found = cache.get("graph", [*vectors, "unknown"])
    assert found.keys() == vectors.keys()
    assert all(np.array_equal(found[key], vectors[key]) for key in vectors)


def test_an_entry_that_is_there_stays(cache: FeatureCache) -> None:
    cache.put("graph", {"a": np.zeros(2, np.float32)})
    cache.put("graph", {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})
    found = cache.get("graph", ["a", "b"])
    assert (found["a"].tolist(), found["b"].tolist()) == ([0, 0], [1, 1])
    assert cache.get("another graph", ["a"]) == {}


def test_what_was_computed_before_a_stop_is_kept(
    cells: CellDataset, graph: onnx.ModelProto, cache: FeatureCache, ran: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 vectors at a time: a stop loses fewer."""
    image = cells.records[0].read()
    records = [replace(cells.records[0], box=(0, 0, 8 + i % 60, 8 + i // 60)) for i in range(300)]
    assert image.shape[0] >= 8 + 5
    calls = 0

    def stopped(n: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 290:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(records, graph, cache=cache, progress=stopped)
    ran.clear()
    extract(records, graph, cache=cache)
    assert len(ran) == 300 - 256


WRITE = """
import sys
from pathlib import Path
import numpy as np
from hemalens.cache import FeatureCache
cache, start = FeatureCache(Path(sys.argv[1])), int(sys.argv[2])
for i in range(start, start + 60):
    cache.put("graph", {f"{i:03d}": np.full(4, i, np.float32), "shared": np.full(4, 7, np.float32)})
"""


def test_two_processes_may_write_at_once(cache: FeatureCache) -> None:
    command = [sys.executable, "-c", WRITE, str(cache.folder)]
    writers = [subprocess.Popen([*command, str(start)], stderr=subprocess.PIPE) for start in (0, 60)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    found = cache.get("graph", [*(f"{i:03d}" for i in range(120)), "shared"])
    assert len(found) == 121
    assert all(np.array_equal(found[f"{i:03d}"], np.full(4, i)) for i in range(120))


def test_work_goes_on_without_a_full_or_locked_cache(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: object, **more: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("hemalens.progress._noted", set())
    monkeypatch.setattr("hemalens.progress._quiet", False)
    monkeypatch.setattr(sqlite3, "connect", full)
    cache.put("graph", {"a": np.zeros(2, np.float32)})
    assert cache.get("graph", ["a"]) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: going on without the cache: the feature cache '")
    assert "got database or disk is full. Free space" in line


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("HEMALENS_CACHE")
    assert default_cache_dir().name == "hemalens"
