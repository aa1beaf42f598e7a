"""JSON files: read with bounds, and never a traceback in the place of an error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens import files
from hemalens.errors import OutputError
from hemalens.files import optional_cache, output_errors, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=JSON)
def test_what_json_holds_is_read(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    assert read_json(file) == value


@given(content=st.binary(max_size=100))
def test_any_other_bytes_are_a_value_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any bytes.json"
    file.write_bytes(content)
    try:
        expected: object = json.loads(content)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            read_json(file)
    else:
        np.testing.assert_equal(read_json(file), expected)


def test_deep_large_and_irregular_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    (tmp_path / "large.json").write_text("[" + " " * 8 + "]")
    assert read_json(tmp_path / "large.json") == []
    (tmp_path / "large.json").write_text("[" + " " * 9 + "]")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(tmp_path / "large.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="a named pipe"):
        read_json(tmp_path / "pipe.json")


def test_an_error_in_the_cache_names_the_cache_and_an_output_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    cached = r"the cache '.*/cache' cannot be written; got full\. .*HEMALENS_CACHE\.$"
    with pytest.raises(OutputError, match=cached), output_errors(tmp_path / "cache" / "pretrained" / "bundle"):
        raise OSError(5, "full")
    written = r"cannot write '.*/out'; .*Choose another folder"
    with pytest.raises(OutputError, match=written), output_errors(tmp_path / "out"):
        raise OSError(5, "full")


def test_without_its_cache_work_goes_on_with_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hemalens.progress._noted", set())
    monkeypatch.setattr("hemalens.progress._quiet", False)
    for _ in range(3):
        with optional_cache():
            raise OutputError("the cache is full")
    assert capsys.readouterr().err == "note: going on without the cache: the cache is full\n"
    with pytest.raises(KeyError), optional_cache():
        raise KeyError("a fault of ours is no fault of the cache")
