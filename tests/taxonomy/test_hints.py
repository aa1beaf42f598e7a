"""Hints for unknown labels: by few wrong letters or by a known word in them, and otherwise none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.taxonomy import label_hint
from hemalens.taxonomy.hints import distance, hint


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("neutrofil", "neutrophil"),
        ("monocite", "monocyte"),
        ("limphocyte", "lymphocyte"),
        ("01_neutrophil", "neutrophil"),
        ("toxic neutrophils", "neutrophil"),
        ("2 neutrofils", "neutrophil"),
        ("mature monocytes", "monocyte"),
        ("clumps of platelets", "platelet_clump"),
    ],
)
def test_a_misspelt_name_or_a_known_word_is_proposed(label: str, code: str) -> None:
    assert label_hint(label).startswith(f"did you mean '{code}'")


@pytest.mark.parametrize(
    "label",
    [
        "pmx",
        "Pro-B",
        "stub",
        "test",
        "megakaryocyte",
        "prolymphocyte",
        "not a monocyte",
        "kein Monocyte",
        "normal",
        "",
    ],
)
def test_nothing_is_proposed_where_nothing_is_near(label: str) -> None:
    assert label_hint(label) == ""


@pytest.mark.parametrize(
    ("label", "meaning"), [("mixt", "several cells"), ("PM", "promyelocyte or promonocyte"), ("n", "normoblast")]
)
def test_a_short_code_of_several_meanings_names_them(label: str, meaning: str) -> None:
    assert label_hint(label).startswith("It may mean ")
    assert meaning in label_hint(label)


def test_at_most_three_names_are_proposed() -> None:
    names = {f"monocyt{letter}": letter for letter in "abcdefgh"}
    assert hint("monocytx", names, {}) == "did you mean 'a' or 'b' or 'c'?"


@given(text=st.text(max_size=200))
def test_any_text_gives_one_short_line(text: str) -> None:
    found = label_hint(text)
    assert "\n" not in found
    assert len(found) < 200


def _slow_distance(one: str, other: str) -> int:
    """Levenshtein's recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        _slow_distance(one[1:], other) + 1,
        _slow_distance(one, other[1:]) + 1,
        _slow_distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


@given(one=st.text("abc", max_size=5), other=st.text("abc", max_size=5))
def test_the_distance_is_levenshtein_s(one: str, other: str) -> None:
    assert distance(one, other) == _slow_distance(one, other)
