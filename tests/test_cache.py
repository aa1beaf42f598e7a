"""The feature cache: arrays come back as they were stored, and a broken file is one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hemalens.cache import FeatureCache
from hemalens.errors import OutputError


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_arrays_come_back_as_they_were_stored(tmp_path: Path, dtype: type[np.generic]) -> None:
    vectors = {f"image {i}": np.arange(i, i + 4).astype(dtype) for i in range(1200)}
    FeatureCache(tmp_path).put("graph", vectors)
    found = FeatureCache(tmp_path).get("graph", [*vectors, "another image"], dtype)
    assert found.keys() == vectors.keys()
    assert all(np.array_equal(found[name], vectors[name]) for name in vectors)
    assert found["image 0"].dtype == dtype


def test_graphs_do_not_share_entries_and_the_first_value_stays(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("one", {"image": np.zeros(2, np.float32)})
    cache.put("one", {"image": np.ones(2, np.float32)})
    assert cache.get("two", ["image"]) == {}
    assert cache.get("one", ["image"])["image"].tolist() == [0, 0]


def test_a_file_that_is_no_database_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "graph.sqlite").write_text("no database " * 100)
    with pytest.raises(OutputError, match="HEMALENS_CACHE"):
        FeatureCache(tmp_path).get("graph", ["image"])
