"""Sealed JSON: what was written comes back, and what was edited does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens import files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text().filter(lambda key: key != files.SEAL), JSON))
def test_a_sealed_object_comes_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("sealed") / "a.json"
    files.write_sealed(path, value)
    assert files.read_sealed(path) == value


def test_a_sealed_object_that_was_edited_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_sealed(path, {"finished": False, 1: (2, 3)})
    assert files.read_sealed(path) == {"finished": False, "1": [2, 3]}
    text = path.read_text()
    for change in (text.replace("false", "true"), text[:-9], "[]", "[" * 100_000, text.replace('"digest"', '"other"')):
        path.write_text(change)
        assert files.read_sealed(path) is None
    path.unlink()
    assert files.read_sealed(path) is None
    path.mkdir()
    assert files.read_sealed(path) is None
