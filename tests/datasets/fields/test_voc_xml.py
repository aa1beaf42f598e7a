"""Pascal VOC XML: what is written is read, document types and rubbish are one clear error, and nothing hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_fields import Object, error_of, voc_text
from hemalens.datasets.fields.voc_xml import read_voc
from hemalens.errors import DatasetError

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
NUMBERS = st.floats(-1e6, 1e6)
NAMES = st.text(st.characters(categories=("L", "N", "P")), max_size=12)


def _written(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@SHARED
@given(
    st.lists(st.tuples(NAMES, st.tuples(*[NUMBERS] * 4)), max_size=6),
    st.one_of(st.none(), st.tuples(st.integers(1, 9999), st.integers(1, 9999))),
)
def test_what_is_written_is_read(tmp_path: Path, objects: list[Object], size: tuple[int, int] | None) -> None:
    found = read_voc(_written(tmp_path, voc_text(objects, size, "b.jpg")))
    assert list(found.objects) == objects
    assert (found.tag, found.filename, found.size) == ("annotation", "b.jpg", size)


GOOD = voc_text([("WBC", (1, 2, 3, 4))]).encode()
CUT = st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=4)).map(
    lambda cut: GOOD[: cut[0]] + cut[1] + GOOD[cut[0] + 2 :]
)


@SHARED
@given(st.binary(max_size=80) | CUT)
def test_rubbish_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = _written(tmp_path, content)
    error = error_of(lambda: read_voc(path))
    assert b"<" in content if error is None else ("\n" not in error and "a.xml'" in error)


BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 30))
DTDS = {
    "expanding entities": f'<!DOCTYPE a [<!ENTITY l0 "lol">{BOMB}]><annotation>&l29;</annotation>',
    "a file of this machine": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "a DTD elsewhere": '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>',
    "a plain document type": "<!DOCTYPE annotation><annotation/>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("content", DTDS.values(), ids=DTDS)
def test_a_document_type_is_refused_at_once(tmp_path: Path, content: str, encoding: str) -> None:
    start = time.perf_counter()
    with pytest.raises(DatasetError, match=r"expected Pascal VOC XML; got a document type \(DTD\), which is refused"):
        read_voc(_written(tmp_path, content.encode(encoding)))
    assert time.perf_counter() - start < 2


def test_a_size_of_zero_counts_as_not_stated(tmp_path: Path) -> None:
    assert read_voc(_written(tmp_path, voc_text([], (0, 0)))).size is None


def test_deep_nesting_ends(tmp_path: Path) -> None:
    deep = "<a>" * 20_000 + "</a>" * 20_000
    assert read_voc(_written(tmp_path, deep)).objects == ()
