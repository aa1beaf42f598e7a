"""The confusion matrix: every count is drawn and listed, empty cells stay empty, hues say correct or wrong."""

from __future__ import annotations

import re

from report_fakes import make_report

from hemalens.evaluation.results import Evaluation
from hemalens.report import confusion_matrix
from hemalens.report.figures import CORRECT, WRONG


def _evaluation() -> Evaluation:
    evaluation = make_report(n_evaluations=1, n_points=5).evaluations[0]
    return evaluation.model_copy(
        update={
            "classes": ("blast", "monocyte", "other_type"),
            "tested_classes": ("blast", "monocyte"),
            "confusion": ((7, 0, 1), (0, 0, 12_345)),
            "left_out": {"other_type": "no images"},
        }
    )


def test_counts_are_drawn_and_empty_cells_stay_empty() -> None:
    svg = confusion_matrix.figure(_evaluation(), name="c").svg()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [text for text in texts if text.isdigit()] == ["7", "1", "12345"]
    assert {"blast", "monocyte", "other type"} <= set(texts)
    assert (CORRECT.lower() in svg, WRONG.lower() in svg) == (True, True)
    assert "7 of 12353 images on the diagonal" in svg


def test_without_errors_nothing_is_orange() -> None:
    perfect = _evaluation().model_copy(update={"confusion": ((7, 0, 0), (0, 3, 0))})
    assert WRONG.lower() not in confusion_matrix.figure(perfect, name="c").svg()


def test_the_caption_explains_columns_that_are_not_tested() -> None:
    panel = confusion_matrix.panel(_evaluation(), name="c", where="evaluation 1")
    assert confusion_matrix.NOT_TESTED_NOTE in panel.note
    whole = _evaluation().model_copy(update={"left_out": {}})
    assert confusion_matrix.NOT_TESTED_NOTE not in confusion_matrix.panel(whole, name="c", where="").note


def test_the_table_has_a_row_per_true_and_a_column_per_predicted_type() -> None:
    table = confusion_matrix.table(_evaluation(), where="evaluation 1")
    assert [column.title for column in table.columns[1:]] == ["blast", "monocyte", "other type"]
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows == [["blast", "7", "0", "1"], ["monocyte", "0", "0", "12345"]]
