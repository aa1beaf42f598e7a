"""What an embedding goes through the cache for: damaged rows never change it, and NaN is an image's error."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import trained
from hemalens.bundle.bundle import MODEL, Bundle
from hemalens.cache import FeatureCache, damage_notes, forget_damage
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.graphs.build import cut, digest
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import GraphRunner


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, cells: CellDataset) -> Bundle:
    return trained.colour_bundle(tmp_path_factory.mktemp("damaged values") / "bundle", cells)


HARM = (
    "UPDATE arrays SET vector = zeroblob(12)",
    "UPDATE arrays SET vector = zeroblob(4)",
    "UPDATE arrays SET checksum = zeroblob(16) WHERE rowid % 2",
    "UPDATE arrays SET vector = (SELECT vector FROM arrays AS other WHERE other.rowid = 1)",
)


@pytest.mark.parametrize("statement", HARM)
def test_damaged_rows_change_no_embedding(bundle: Bundle, cells: CellDataset, tmp_path: Path, statement: str) -> None:
    encoder, cache = cut(bundle.graph, ["image"], ["embedding"]), FeatureCache(tmp_path)
    first = extract(cells.records, encoder, cache=cache).complete()
    with closing(sqlite3.connect(tmp_path / "features" / f"{digest(encoder)}.sqlite")) as connection, connection:
        connection.execute(statement)
    forget_damage()
    np.testing.assert_array_equal(extract(cells.records, encoder, cache=cache).complete(), first)
    (note,) = damage_notes()
    assert "computed anew" in note
    forget_damage()
    np.testing.assert_array_equal(extract(cells.records, encoder, cache=cache).complete(), first)
    assert damage_notes() == [], "what was damaged is replaced"


def _nan_where_bright(bundle: Bundle) -> onnx.ModelProto:
    """The bundle's graph with an embedding of NaN for images of a mean above 0.6: log of a negative number."""
    model = bundle.graph.__class__()
    model.CopyFrom(bundle.graph)
    for node in model.graph.node:
        node.output[:] = ["embedding_inner" if name == "embedding" else name for name in node.output]
    place = next(i for i, node in enumerate(model.graph.node) if "embedding_inner" in node.output)
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    more = [
        helper.make_node("Sub", ["limit", "embedding_inner"], ["below"]),
        helper.make_node("Log", ["below"], ["embedding"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*rest[: place + 1], *more, *rest[place + 1 :]])
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.95], np.float32), "limit"))
    return model


def test_an_image_with_nan_is_an_error_of_the_image_and_not_kept(
    bundle: Bundle, cells: CellDataset, tmp_path: Path
) -> None:
    """The bundle passes its own test; a white image gives NaN."""
    odd = bundle.derive(tmp_path / "odd", bundle.manifest, _nan_where_bright(bundle).SerializeToString())
    white = tmp_path / "white.png"
    trained.Image.fromarray(np.full((20, 20, 3), 255, np.uint8)).save(white)
    records = (*cells.records[:4], replace(cells.records[0], path=white), *cells.records[4:])
    found = predict_dataset(odd, replace(cells, records=records))
    assert found.unreadable == {str(white): f"the network gives NaN or infinity for '{white}'"}
    assert len(found.probabilities) == len(cells)
    assert np.isfinite(found.embeddings).all()


def test_a_graph_that_fails_on_an_image_is_one_error(bundle: Bundle) -> None:
    runner = GraphRunner(bundle.graph_bytes, ["probabilities"], n_workers=1)
    with pytest.raises(BundleError, match=r"the graph cannot be run on an image of 5 x 4 pixels; got "):
        runner.run(np.zeros((4, 5, 2), np.float32))  # type: ignore[arg-type]
    assert (bundle.path / MODEL).is_file()
