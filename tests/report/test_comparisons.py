"""What a report says of methods that were compared: the table, the sentences, the words that must not be missing."""

from __future__ import annotations

from typing import Any

import pytest
from report_comparison_fakes import CLASSES, NO_VALUE, make_answered
from report_fakes import make_report
from report_page import HOSTILE, markdown_rows

from hemalens.evaluation.results import Comparison, Estimate, Evaluation
from hemalens.report import comparisons
from hemalens.report.markdown import render_markdown


def _pair(first: str = "A", second: str = "B", **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "source": "lab_a",
        "target": "lab_b",
        "n_images": 1234,
        "n_units": 1234,
        "n_models": 1,
        "first_only": 60.0,
        "second_only": 33.0,
        "test": "McNemar, exact",
        "p_accuracy": 0.0068,
        "p_accuracy_holm": 0.0204,
        "difference": Estimate(value=0.0312, low=0.0101, high=0.0528),
        "p_difference": 0.0004,
        "p_difference_holm": 0.0008,
        "better": "A",
    }
    return Comparison(first=first, second=second, **(values | changes))


def _method(name: str, score: float | None, **changes: Any) -> Evaluation:
    """A method with a balanced accuracy of its own, whatever it answered."""
    found = make_answered(name, range(4), range(4), **changes)
    estimate = NO_VALUE if score is None else Estimate(value=score, low=score - 0.02, high=score + 0.02)
    scores = found.scores.model_copy(update={"balanced_accuracy": estimate, "majority_rate": 0.4123})
    return found.model_copy(update={"scores": scores})


def _markdown(*pairs: Comparison) -> str:
    return render_markdown(make_report(n_evaluations=1, n_points=10).model_copy(update={"comparisons": pairs}))


# --------------------------------------------------------------------------------------------------------------- tables


def test_row_holds_what_the_comparison_holds() -> None:
    markdown = _markdown(_pair())
    assert f"## {comparisons.HEADING}" in markdown
    wanted = ["A", "B", "1,234", "60", "33", "0.020", "0.031 (0.010\u20130.053)", "&lt;0.001", "A is better"]
    (heading,) = [line[4:] for line in markdown.splitlines() if line.startswith("### Pairs of methods")]
    assert markdown_rows(markdown, heading) == [wanted]
    assert markdown.index("## Overview") < markdown.index(comparisons.HEADING) < markdown.index("## 1. ")


def test_several_models_groups_and_what_is_not_told_apart() -> None:
    pair = _pair(
        first_only=12.4,
        second_only=10.0 + 1e-12,
        n_units=17,
        test="sign flips, exact",
        p_accuracy_holm=1.0,
        p_difference_holm=0.0499,
        better=None,
    )
    (table,) = comparisons.tables([pair])
    texts = [cell.text for cell in table.rows[0]]
    assert texts[3:6] + texts[7:] == ["12.4", "10", "1.000", "<0.050", "no significant difference"]
    assert table.rows[0][2].notes == ("17 units",)
    assert "exact sign flips" in table.note
    assert "McNemar" not in table.note


def test_a_table_for_each_source_and_target_with_the_tests_it_uses() -> None:
    pairs = [_pair(), _pair(target="lab_c", test="sign flips, exact"), _pair(second="C")]
    first, second = comparisons.tables(pairs)
    assert [[row[1].text for row in table.rows] for table in (first, second)] == [["B", "C"], ["B"]]
    assert first.caption.endswith("lab_a \u2192 lab_b")
    assert second.caption.endswith("lab_a \u2192 lab_c")
    assert all(len(row) == len(table.columns) for table in (first, second) for row in table.rows)
    assert [column.heads for column in first.columns] == [True] + 8 * [False]
    for word in ("Holm", "95 % interval", "these models"):
        assert word in first.note
    assert "McNemar" in first.note
    assert "McNemar" not in second.note


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "<0.001"),
        (0.00099, "<0.001"),
        (0.001, "0.001"),
        (0.0497, "<0.050"),
        (0.05, "0.050"),
        (0.2, "0.200"),
        (1.0, "1.000"),
    ],
)
def test_p_is_printed_as(p: float, text: str) -> None:
    assert comparisons.p_value(p) == text


def test_transductive_methods_carry_the_word() -> None:
    pair = _pair(second_transductive=True, better="B")
    (table,) = comparisons.tables([pair])
    assert [cell.tag for cell in table.rows[0][:2]] == ["", "transductive"]
    assert table.rows[0][-1].text == comparisons.verdict(pair) == "B (transductive) is better"
    assert comparisons.verdict(_pair(second_transductive=True)) == "A is better"
    assert "| B **transductive** |" in _markdown(pair)


def test_nothing_is_said_without_comparisons() -> None:
    assert comparisons.tables(()) == comparisons.sentences((), ()) == ()
    assert comparisons.HEADING not in _markdown()


def test_hostile_names_stay_text() -> None:
    pair = _pair(HOSTILE, f"{HOSTILE} 2", source=HOSTILE, better=HOSTILE)
    methods = [_method(HOSTILE, 0.9, source=HOSTILE), _method(f"{HOSTILE} 2", 0.8, source=HOSTILE)]
    said = comparisons.sentences([pair], methods)
    report = make_report(n_evaluations=1, n_points=10).model_copy(update={"comparisons": (pair,), "summary": said})
    markdown = render_markdown(report)
    assert "<script" not in markdown
    assert "\u202e" not in markdown + "".join(said)
    (row,) = [line for line in markdown.splitlines() if line.endswith("is better |")]
    assert row.replace("\\|", "").count("|") == 10


# ------------------------------------------------------------------------------------------------------------ sentences


def test_best_is_named_with_chance_and_majority_rate() -> None:
    methods = [_method("B", 0.7), _method("A", 0.8, transductive=True), _method("C", 0.6)]
    pairs = [_pair(first_transductive=True), _pair("B", "C", better=None), _pair("A", "C")]
    (sentence,) = comparisons.sentences(pairs, methods)
    assert sentence.startswith(
        "lab_a -> lab_b: \u201cA\u201d (transductive) has the highest balanced accuracy, 0.800 (0.780"
    )
    for words in ("of 3 methods", "significantly the best", "corrected for 3 comparisons", "chance is 0.250"):
        assert words in sentence
    assert sentence.endswith("0.412.")


def test_without_a_significant_difference_others_are_named_highest_first_and_many_are_counted() -> None:
    names = "BCDEF"
    methods = [_method("A", 0.8), *(_method(name, 0.7 + 0.01 * i) for i, name in enumerate(names))]
    pairs = [_pair("A", name, better=None if name in "BCF" else "A") for name in names]
    (said,) = comparisons.sentences(pairs, methods)
    assert "\u201cF\u201d, \u201cC\u201d and \u201cB\u201d is not significant (corrected for 5 comparisons)" in said
    assert "best" not in said
    (said,) = comparisons.sentences([pair.model_copy(update={"better": None}) for pair in pairs], methods)
    assert "\u201cF\u201d, \u201cE\u201d, \u201cD\u201d and 2 others is not significant (corrected" in said


def test_what_is_not_compared_is_named_and_is_not_the_best() -> None:
    methods = [_method("A", 0.8), _method("B", 0.7), _method("C", None, answers=None)]
    first, second = comparisons.sentences([_pair()], methods)
    assert "not compared with \u201cC\u201d" in first
    assert "best" not in first
    assert second.startswith("lab_a -> lab_b: \u201cC\u201d is not compared: ")
    other = [_method("A", 0.8), make_answered("B", [0, 1], [0, 1])]
    (said,) = comparisons.sentences([], other)
    assert said.startswith("lab_a -> lab_b: \u201cA\u201d is not compared with \u201cB\u201d: ")
    assert "4 and 2" in said


def test_each_target_has_its_sentence_and_its_own_chance() -> None:
    methods = [_method(name, score) for name, score in (("A", 0.8), ("B", 0.7))]
    there = [
        m.model_copy(update={"target": "lab_c", "tested_classes": CLASSES[:2], "scores": m.scores.model_copy()})
        for m in methods
    ]
    bare = there[0].scores.model_copy(update={"balanced_accuracy": Estimate(value=0.8), "majority_rate": None})
    there[0] = there[0].model_copy(update={"scores": bare})
    here, elsewhere = comparisons.sentences([_pair(), _pair(target="lab_c", better=None)], [*methods, *there])
    assert "chance is 0.250" in here
    assert elsewhere.startswith("lab_a -> lab_c: \u201cA\u201d has the highest balanced accuracy, 0.800, of 2 methods")
    assert "not significant" in elsewhere
    assert "chance is 0.500" in elsewhere
    assert elsewhere.endswith("n/a.")
