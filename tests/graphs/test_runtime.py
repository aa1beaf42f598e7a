"""Rows of arrays through a graph, part by part."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from hemalens.graphs.build import float_value, make_model
from hemalens.graphs.runtime import ROWS_AT_ONCE, run_rows


@pytest.mark.parametrize("n", [0, 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 2 * ROWS_AT_ONCE + 88])
def test_rows_in_parts_are_all_there_in_order(n: int) -> None:
    doubled = helper.make_node("Add", ["embedding", "embedding"], ["twice"])
    graph = make_model([doubled], [float_value("embedding", ["n", 3])], [float_value("twice", ["n", 3])], [])
    rows = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    found = run_rows(graph.SerializeToString(), {"embedding": rows}, ["twice"])["twice"]
    assert np.array_equal(found, 2 * rows)
