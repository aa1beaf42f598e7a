"""The report of a benchmark: domains, failures, comparisons, chance, audits; every number is that of the JSON."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_benchmark_fakes import DOMAINS, FAILED, METHODS, make_benchmark_report
from report_fakes import make_report
from report_page import HOSTILE, Page, check_accessible, check_no_escape, check_self_contained, markdown_rows

from hemalens.evaluation.results import Estimate, Evaluation, Report
from hemalens.report import (
    comparisons,
    read_report,
    render_html,
    render_markdown,
    transfer_matrix,
    write_report,
)
from hemalens.report.figures import INK, Figures, ink_on
from trained import undrawn


@pytest.fixture(scope="module")
def report() -> Report:
    return make_benchmark_report(n_points=30, n_answers=20, every_part=False)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    with undrawn():
        return render_html(report)


@pytest.fixture(scope="module")
def markdown(report: Report) -> str:
    return render_markdown(report)


def _cells(html: str, caption: str) -> list[list[str]]:
    """The text of the cells of the first table whose caption starts so, without its head."""
    table = re.search(rf"<caption>{re.escape(caption)}.*?</thead>(.*?)</table>", html, re.DOTALL)
    assert table, caption
    rows = re.findall(r"<tr.*?</tr>", table[1], re.DOTALL)
    return [[" ".join(Page(f"{c}").text.split()) for c in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def _words(html: str) -> list[str]:
    """Every word of the page, not of its styles and attributes."""
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split()


# -------------------------------------------------------------------------------------------------- numbers of the JSON


@pytest.mark.usefixtures("undrawn")
def test_every_number_of_the_overview_is_that_of_the_json(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["evaluations"]
    rows = _cells((tmp_path / "report.html").read_text(encoding="utf-8"), "Every evaluation")

    def written(estimate: dict[str, float | None]) -> str:
        text = f"{estimate['value']:.3f} {estimate['low']:.3f}\u2013{estimate['high']:.3f}"
        return text if estimate["std"] is None else f"{text} SD {estimate['std']:.3f}"

    assert len(rows) == len(values) == 25
    for number, (row, value) in enumerate(zip(rows, values, strict=True), start=1):
        scores = value["scores"]
        assert row == [
            str(number),
            value["method"] + (" transductive" if value["transductive"] else ""),
            f"{value['source']} \u2192 {value['target']}",
            written(scores["accuracy"]),
            f"{scores['majority_rate']:.3f}",
            written(scores["balanced_accuracy"]),
            f"{1 / len(value['tested_classes']):.3f}",
            written(scores["macro_f1"]),
            written(scores["balanced_accuracy_restricted"]),
            f"{scores['ece']:.3f}",
            f"{scores['nll']:.3f}",
            f"{value['n_images']:,}",
            str(value["n_folds"]),
        ]


def _with(report: Report, number: int, **scores: Any) -> Report:
    evaluations = list(report.evaluations)
    evaluation = evaluations[number]
    evaluations[number] = evaluation.model_copy(update={"scores": evaluation.scores.model_copy(update=scores)})
    return report.model_copy(update={"evaluations": tuple(evaluations)})


@pytest.mark.usefixtures("undrawn")
def test_a_changed_number_changes_where_it_is_shown_and_nowhere_else(report: Report, html: str) -> None:
    estimate = report.evaluations[1].scores.balanced_accuracy
    other = _with(report, 1, balanced_accuracy=estimate.model_copy(update={"value": 0.8004}))
    before, after = _words(html), _words(render_html(other))
    old = f"{estimate.value:.3f}"
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    # overview, table of transfers, scores of the evaluation
    assert changed == [(old, "0.800")] * 3
    found = transfer_matrix.matrices(other.evaluations)
    assert found is not None
    assert "lab_a to lab_b 0.800" in transfer_matrix.section(found).blocks[0].panels[0].drawing.alt
    ece = _words(render_html(_with(report, 1, ece=0.4567)))
    changed = [(a, b.rstrip(".")) for a, b in zip(before, ece, strict=True) if a != b]
    # overview, scores, caption of the reliability diagram
    assert [b for _, b in changed] == ["0.457"] * 3


def test_answers_are_in_the_json_alone(report: Report, html: str, markdown: str) -> None:
    answers = report.evaluations[0].answers
    assert answers is not None
    for image in answers.images:
        assert image not in html
        assert image not in markdown
    assert "answers=" not in html


# --------------------------------------------------------------------------------------------------------------- domains


def test_a_heat_map_a_method_with_every_cell(report: Report, html: str) -> None:
    found = transfer_matrix.matrices(report.evaluations, report.failures)
    assert found is not None
    assert (found.sources, found.targets) == (DOMAINS, DOMAINS)
    assert [m.method for m in found.matrices] == list(METHODS)
    maps = transfer_matrix.section(found).blocks[0]
    assert isinstance(maps, Figures)
    for method, panel in zip(METHODS, maps.panels, strict=True):
        svg = panel.drawing.svg()
        assert panel.head == method
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        of_method = [e for e in report.evaluations if e.method == method]
        for evaluation in of_method:
            estimate = evaluation.scores.balanced_accuracy
            assert f"{estimate.value:.3f}" in texts
            assert f"{estimate.low:.3f}\u2013{estimate.high:.3f}" in texts
        assert texts.count("in-domain") == 3
        assert texts.count("transductive") == sum(e.transductive for e in of_method)
        assert texts.count("not tested") == (method == "prototypes")
        assert texts.count("failed") == (method == "dann")
        assert re.search(r'role="img" aria-label="Balanced accuracy of \w+: lab_a to lab_a 0\.\d{3}, ', svg)
        assert f'aria-label="Balanced accuracy of {method} as a heat map"' in html


def test_the_table_of_domains_says_the_same(report: Report, html: str, markdown: str) -> None:
    by_pair = {(e.method, e.source, e.target): e for e in report.evaluations}
    rows = markdown_rows(markdown, "Balanced accuracy by source")
    assert [row[:2] for row in rows] == [[m, s] for m in METHODS for s in DOMAINS]
    for row in rows:
        for target, cell in zip(DOMAINS, row[2:], strict=True):
            assert cell == _expected(by_pair.get((row[0], row[1], target)), (row[0], row[1], target))
    shown = [row for row in _cells(html, "Balanced accuracy by source") if len(row) > 1]
    assert [[re.sub(r"\W+", " ", c).strip() for c in row] for row in shown] == [
        [re.sub(r"\W+", " ", _moved(c)).strip() for c in row[1:]] for row in rows
    ]


def _expected(evaluation: Evaluation | None, pair: tuple[str, str, str]) -> str:
    if evaluation is None:
        return "failed" if pair == (FAILED.method, FAILED.source, FAILED.target) else "not tested"
    estimate, chance = evaluation.scores.balanced_accuracy, 1 / len(evaluation.tested_classes)
    notes = [f"{estimate.low:.3f}\u2013{estimate.high:.3f}", f"chance {chance:.3f}, {evaluation.n_images:,} images"]
    notes += ["in-domain"] if evaluation.source == evaluation.target else []
    tag = " **transductive**" if evaluation.transductive else ""
    return f"{estimate.value:.3f} ({'; '.join(notes)}){tag}"


def _moved(cell: str) -> str:
    """The tag of a cell behind its value, where HTML has it."""
    if not cell.endswith(" **transductive**"):
        return cell
    value, _, notes = cell.removesuffix(" **transductive**").partition(" ")
    return f"{value} transductive {notes}"


def test_one_pair_makes_no_matrix_and_a_second_result_another_one(report: Report) -> None:
    first = report.evaluations[0]
    assert transfer_matrix.matrices([first, first.model_copy(update={"method": "other"})]) is None
    assert transfer_matrix.matrices([]) is None
    assert transfer_matrix.HEADING not in render_markdown(make_report(n_evaluations=1, n_points=5))
    found = transfer_matrix.matrices([*report.evaluations[:2], first])
    assert found is not None
    assert [(m.method, len(m.cells)) for m in found.matrices] == [("linear_probe (1)", 2), ("linear_probe (2)", 1)]
    numbers = [number for m in found.matrices for number, _ in m.cells.values()]
    assert numbers == [1, 2, 3]


def test_domains_that_are_both_come_first_and_in_the_same_order(report: Report) -> None:
    one = report.evaluations[0]
    pairs = [("x", "b"), ("a", "y"), ("b", "a"), ("a", "b")]
    found = transfer_matrix.matrices([one.model_copy(update={"source": s, "target": t}) for s, t in pairs])
    assert found is not None
    assert (found.sources, found.targets) == (("a", "b", "x"), ("a", "b", "y"))


@pytest.mark.parametrize(
    ("values", "limits"),
    [((0.72, 0.91), (0.7, 1.0)), ((0.7, 0.9), (0.7, 0.9)), ((0.85,), (0.7, 0.9)), ((1.0,), (0.8, 1.0)), ((), (0.0, 1.0)),
     ((0.0,), (0.0, 0.2)), ((0.05, 0.98), (0.0, 1.0))],
)  # fmt: skip
def test_scale_ends_at_tenths(values: tuple[float, ...], limits: tuple[float, float]) -> None:
    one = make_report(n_evaluations=1, n_points=5).evaluations[0]
    scored = [
        one.model_copy(
            update={"target": f"t{i}", "scores": one.scores.model_copy(update={"balanced_accuracy": Estimate(value=v)})}
        )
        for i, v in enumerate([*values, None, None])
    ]
    found = transfer_matrix.matrices(scored)
    assert found is not None
    assert found.limits == limits
    maps = transfer_matrix.section(found).blocks[0]
    assert isinstance(maps, Figures)
    steps = maps.legends[0].keys[1:]
    assert float(steps[0].text) == limits[0]
    assert all((a.opacity or 0) < (b.opacity or 0) for a, b in pairwise(steps))
    assert "n/a" in maps.panels[0].drawing.svg()


def test_ink_is_read_on_every_shade() -> None:
    assert [ink_on("#0072B2", opacity) for opacity in (0.0, 0.4, 0.7, 0.95)] == [INK, INK, INK, "white"]
    assert ink_on("#ffffff", 1.0) == INK
    assert ink_on("#000000", 1.0) == "white"


# ---------------------------------------------------------------------------------- failures, comparisons, audit, chance


@pytest.mark.usefixtures("undrawn")
def test_failures_stand_before_the_scores(report: Report, html: str, markdown: str) -> None:
    assert html.index('id="failures"') < html.index('id="overview"')
    assert markdown.index("## What failed") < markdown.index("## Overview")
    ((*shown, error),) = _cells(html, "Parts that ended")
    assert (shown, error) == (["dann", "transfer", "lab_c", "lab_a"], FAILED.error)
    assert f"| dann | transfer | lab_c | lab_a | {FAILED.error} |" in markdown
    without = report.model_copy(update={"failures": (), "evaluations": ()})
    assert "What failed" not in render_html(without) + render_markdown(without)


def test_comparisons_follow_the_domains(report: Report, html: str, markdown: str) -> None:
    assert (
        html.index(f'id="{transfer_matrix.ANCHOR}"')
        < html.index(f'id="{comparisons.ANCHOR}"')
        < html.index('id="evaluation-1"')
    )
    rows = _cells(html, "Pairs of methods")
    assert [row[:2] for row in rows] == [["linear_probe", "dann transductive"], ["linear_probe", "prototypes"],
                                         ["dann transductive", "prototypes"]]  # fmt: skip
    assert comparisons.HEADING in markdown


def test_audit_is_in_the_card_of_its_data(html: str, markdown: str) -> None:
    text = " ".join(_words(html))
    assert "Audit not made" in text
    assert "Audit unreadable: none copies under two labels: 3 images near-duplicates: 12 pairs" in text
    for line in ("- Audit: not made", "- Audit: copies under two labels: 3 images"):
        assert line in markdown


def test_chance_is_one_over_the_tested_classes(report: Report, html: str, markdown: str) -> None:
    for number, evaluation in enumerate(report.evaluations, start=1):
        chance = f"{1 / len(evaluation.tested_classes):.3f}"
        section = markdown.split(f"\n## {number}. ")[1]
        assert f"- Chance: {chance}\n" in section
        assert re.search(rf'id="evaluation-{number}".*?<dt>Chance</dt><dd>{chance}</dd>', html, re.DOTALL)


# ------------------------------------------------------------------------------------------------------------ whole page


def test_page_is_accessible_and_whole(html: str) -> None:
    check_accessible(html)
    check_self_contained(html)
    page = Page(html)
    heads = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert heads[0] == 1
    assert heads.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(heads))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("main") == tags.count("nav") == tags.count("header") == tags.count("footer") == 1
    labels = [a["aria-label"] for _, a in page.tags if a.get("role") == "region"]
    assert len(labels) == len(set(labels)), "a reader who jumps from region to region can tell them apart"
    assert all(a.get("tabindex") == "0" for _, a in page.tags if a.get("role") == "region")
    assert "default-src 'none'" in html


@pytest.mark.usefixtures("undrawn")
def test_long_reports_fold_their_evaluations_and_thin_out_their_pictures(report: Report, html: str) -> None:
    assert html.count('<details class="whole">') == len(report.evaluations)
    assert "The 25 evaluations one by one" in html
    short = report.model_copy(update={"evaluations": report.evaluations[:3]})
    assert "<details class=" not in render_html(short)
    many = report.model_copy(update={"evaluations": report.evaluations * 2})
    n_images = render_html(many).count("<img ")
    assert 3 * len(many.evaluations) <= n_images <= 240


@pytest.mark.usefixtures("undrawn")
def test_hostile_names_stay_text(report: Report, tmp_path: Path) -> None:
    values = json.loads(json.dumps(report.model_dump(mode="json")).replace('"lab_b"', json.dumps(HOSTILE)))
    for key, value in {"method": HOSTILE, "error": HOSTILE, "source": HOSTILE}.items():
        values["failures"][0][key] = value
    values["data"][0]["audit"] = {HOSTILE: HOSTILE}
    values["scatters"][0].update(method=HOSTILE, source=HOSTILE)
    hostile = Report.model_validate(values)
    check_no_escape(render_html(hostile), render_markdown(hostile))
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report


def test_of_very_many_evaluations_not_every_figure_is_drawn(
    report: Report, html: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, undrawn():
        patch.setattr("hemalens.report.evaluations.MOST_DRAWN", len(report.evaluations) - 1)
        small = render_html(report)
    n = len(report.evaluations)
    assert (html.count("<b>Reliability.</b>"), small.count("<b>Reliability.</b>")) == (n, 0)
    assert small.count("Reliability bins as a table") == n, "the numbers stay"
    assert small.count("reliability is shown as a table") == n
    assert "reliability is shown as a table" not in html
    assert len(small) < len(html)
