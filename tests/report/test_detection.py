"""The part of a report on detectors: tables, figures, the mean and worst laboratory, sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_fakes import make_report

from hemalens.evaluation.results import CountAgreement, CurvePoint, Detection, Estimate, KindScores, Report, SizeRecall
from hemalens.imaging.boxes import Kind
from hemalens.report import read_report, render_html, render_markdown, write_report
from hemalens.report.detection import overview, sentences
from hemalens.report.tables import Table

NONE = Estimate(value=None)


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.02, high=value + 0.02)


def scores(kind: Kind, recall: float, error: float = 6.0, **changes: Any) -> KindScores:
    counts = CountAgreement(
        n_fields=3,
        n_percent=3,
        bias=estimate(0.5),
        lower=estimate(-2),
        upper=estimate(3),
        absolute_error=estimate(1),
        absolute_error_percent=estimate(error),
        total_error_percent=estimate(2),
        fields=((10, 11), (20, 20), (20, 20)),
    )
    values: dict[str, Any] = {
        "kind": kind,
        "n_fields": 3,
        "n_complete": 3,
        "n_boxes": 50,
        "n_found": 52,
        "operating_score": 0.1,
        "ap50": estimate(recall - 0.1),
        "recall_centre": estimate(recall),
        "precision_centre": estimate(0.8),
        "recall_iou": estimate(recall - 0.05),
        "precision_iou": estimate(0.75),
        "by_size": (SizeRecall(low_px=5, high_px=20, n_boxes=50, recall=estimate(recall)),),
        "counts": counts,
        "curve": (CurvePoint(score=0.9, recall=0.5, precision=1), CurvePoint(score=0.05, recall=0.9, precision=0.7)),
    }
    return KindScores(**(values | changes))


def empty(kind: Kind) -> KindScores:
    return scores(
        kind, 0.5, n_boxes=0, n_found=0, n_complete=0, by_size=(), counts=None, curve=(),
        **dict.fromkeys(("ap50", "recall_centre", "precision_centre", "recall_iou", "precision_iou"), NONE),
    )  # fmt: skip


def detection(laboratory: str, *kinds: KindScores, **changes: Any) -> Detection:
    values: dict[str, Any] = {
        "name": f"detector: txl -> {laboratory}",
        "detector": "detector",
        "source": "txl",
        "target": "fields",
        "laboratory": laboratory,
        "n_fields": 3,
        "n_units": 2,
        "unit": "slide",
        "seen": "none",
        "kinds": kinds or (scores("white cell", 0.9), scores("red cell", 0.95), empty("platelet")),
        "intervals": "95 %: bootstrap",
    }
    return Detection(**(values | changes))


def report(*detections: Detection) -> Report:
    return make_report(n_evaluations=0).model_copy(update={"detections": detections})


def test_a_report_is_written_and_read_back(tmp_path: Path) -> None:
    made = report(detection("lab_a", unreadable={"broken.png": "truncated"}), detection("lab_b"))
    write_report(made, tmp_path)
    assert read_report(tmp_path / "report.json").detections == made.detections
    html = (tmp_path / "report.html").read_text("utf-8")
    assert 'href="#detection-1"' in html
    assert 'id="detection-2"' in html
    assert html.count('class="plot"') >= 2 * 3, "a curve and two Bland-Altman plots each"
    assert "broken.png" in html


def test_values_that_are_missing_are_named(tmp_path: Path) -> None:
    markdown = render_markdown(report(detection("lab_a")))
    assert "| platelets | 0 | 0 | n/a | n/a |" in markdown
    assert "| white cells | 50 | 52 | 0.800 (0.780\N{EN DASH}0.820) |" in markdown
    only = report(detection("lab_a", empty("white cell")))
    assert "Bland-Altman" not in render_html(only)


def test_the_mean_and_the_worst_laboratory() -> None:
    labs = [detection(name, scores("white cell", r, e)) for name, r, e in (("a", 0.9, 5), ("b", 0.7, 9), ("c", 0.8, 1))]
    every, worst = overview([*labs, detection("all", scores("white cell", 0.1), together=True)])
    assert isinstance(every, Table)
    assert len(every.groups[0].rows) == 4
    rows = {row[1].text: [cell.text for cell in row[2:]] for row in worst.rows}
    assert rows["Recall, centre"] == ["3", "0.800", "0.700", "b"]
    assert rows["Count error, %"] == ["3", "5.0", "9.0", "b"]


def test_one_laboratory_has_no_worst() -> None:
    assert len(overview([detection("a")])) == 1
    assert overview([]) == ()


def test_a_classifier_has_a_row_of_its_own() -> None:
    behind = scores("white cell", 0.9, classifier="robust")
    markdown = render_markdown(report(detection("a", scores("white cell", 0.9), behind)))
    assert "white cells after robust" in markdown


def test_a_laboratory_with_markup_in_its_name_is_text() -> None:
    html = render_html(report(detection("<b>lab</b>")))
    assert "<b>lab</b>" not in html


@pytest.mark.parametrize(("seen", "n"), [("unknown", 2), ("none", 1), ("left out", 1)])
def test_the_summary_says_where_seen_fields_are_not_known(seen: str, n: int) -> None:
    found = sentences([detection("a", seen=seen)])
    assert len(found) == n
    assert "recall 0.900" in found[0]
