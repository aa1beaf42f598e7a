"""Cells of tables: nothing begins like a formula, nothing is invisible, and every text comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.table_text import cell, free_names, html_table, plain

ODD = st.text(st.sampled_from(list("'=+-@\\x1b9nrtu\t\r\n\x1b\x00a.")) | st.characters(), max_size=12)


@given(ODD)
def test_every_text_comes_back(text: str) -> None:
    assert plain(cell(text)) == text


@given(ODD, ODD)
def test_no_two_texts_share_a_cell(one: str, other: str) -> None:
    assert (cell(one) == cell(other)) == (one == other)


@given(ODD)
def test_a_cell_is_no_formula_and_has_no_control_character(text: str) -> None:
    written = cell(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in written)
    if written[:1] in ("=", "+", "-", "@"):
        float(written)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("cell 1.png", "cell 1.png"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1.5", "+1.5"),
        ("-2e3", "-2e3"),
        ("-cell.png", "'-cell.png"),
        ("@a", "'@a"),
        ("\t=1", r"'\t=1"),
        ("\r", r"'\r"),
        ("a\x1b[31m.png", r"'a\x1b[31m.png"),
        ("bad \udcff.png", r"'bad \udcff.png"),
        ("C:\\cells\\1.png", "C:\\cells\\1.png"),
        ("=a\\b", r"'=a\\b"),
        ("'quoted' is whole", "'quoted' is whole"),
        ("'=1", "''=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\u65e5\u672c\u3000\u8a9e", "\u65e5\u672c\u3000\u8a9e"),
    ],
)
def test_what_is_written(text: str, written: str) -> None:
    assert cell(text) == written
    assert plain(written) == text


def test_a_users_own_apostrophe_stays() -> None:
    assert plain("'t Hooft.png") == "'t Hooft.png"


def test_names_in_use_are_renamed_until_they_are_free() -> None:
    assert free_names(["age", "label", "source_label", "age"], ["label"]) == [
        "age",
        "source_label",
        "source_source_label",
        "source_age",
    ]


def test_a_table_of_html_is_escaped() -> None:
    made = html_table("<b>", [("<script>", "a\x1b<i>")])
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    assert "a\\x1b&lt;i&gt;" in made
