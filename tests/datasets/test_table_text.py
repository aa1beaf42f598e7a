"""Cells of a table that a spreadsheet opens: no formula, and the same text when read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.table_text import cell, plain


@given(text=st.one_of(st.text(max_size=8), st.text("'=+-@\t\ra1", max_size=6)))
def test_a_text_is_read_back_as_it_was_and_begins_no_formula(text: str) -> None:
    written = cell(text)
    assert plain(written) == text
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize(
    ("text", "written"), [("=1+1", "'=1+1"), ("'=1", "''=1"), ("a=1", "a=1"), ("", ""), ("-0.5", "'-0.5")]
)
def test_one_apostrophe_stands_before_what_begins_a_formula(text: str, written: str) -> None:
    assert cell(text) == written


@pytest.mark.parametrize("text", ["'quoted'", "'", "plain"])
def test_an_apostrophe_that_was_not_added_stays(text: str) -> None:
    assert plain(text) == text
