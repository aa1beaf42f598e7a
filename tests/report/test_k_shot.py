"""Reports of few labelled cells: every number is the report's own, and what a reader must not overlook is beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fakes import EMBEDDERS, KS, make_k_shot, make_k_shot_report, make_report
from report_page import (
    HOSTILE,
    THREE_DECIMALS,
    Page,
    check_accessible,
    check_no_escape,
    check_self_contained,
    markdown_rows,
    numbers,
)

from hemalens.evaluation.results import ComparisonTable, Estimate, KShot, Report
from hemalens.report import curves, k_shot, read_report, render_html, render_markdown, tables, write_report
from hemalens.report.figures import Figures
from hemalens.report.tables import Fold, Items


@pytest.fixture(scope="module")
def report() -> Report:
    return make_k_shot_report(n_methods=3)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


def _with(report: Report, **changes: Any) -> Report:
    return report.model_copy(update={"k_shot": tuple(r.model_copy(update=changes) for r in report.k_shot)})


def _printed(result: dict[str, Any]) -> list[str]:
    """What must be printed of one result, from its definition."""
    texts = []
    supervised = [result["supervised"][name] for name in ("accuracy", "balanced_accuracy")]
    estimates = [shots[name] for shots in result["shots"] for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    for estimate in [*supervised, *estimates]:
        texts += [f"{estimate['value']:.3f}", f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"]
    texts += [f"SD {estimate['std']:.3f}" for estimate in estimates]
    for shots in result["shots"]:
        texts += [f"{shots['majority_rate']:.3f}", *(f"SD {f1['std']:.3f}" for f1 in shots["f1"].values())]
        texts += [f"{f1['value']:.3f}" for f1 in shots["f1"].values()]
    return texts


@pytest.mark.usefixtures("undrawn")
def test_every_score_is_printed_and_every_number_is_the_reports_own(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for result in values["k_shot"]:
        for wanted in _printed(result):
            assert wanted in text
            assert wanted in markdown
    known = numbers(values)
    for printed in (text, markdown):
        found = set(THREE_DECIMALS.findall(printed.replace("\u2013", " ")))
        assert len(found) > 100
        assert found <= known


def test_rows_belong_to_their_method_and_k(report: Report) -> None:
    rows = markdown_rows(render_markdown(report), "Scores on lab_c")
    results = [r for r in report.k_shot if r.target == "lab_c"]
    wanted = []
    for result in results:
        name = result.method + (" **transductive**" if result.transductive else "")
        for shots in result.shots:
            values = (shots.balanced_accuracy.value, shots.accuracy.value, shots.majority_rate, shots.macro_f1.value)
            wanted.append([name, str(shots.k), "100", *(f"{value:.3f}" for value in values)])
        assert result.supervised is not None
        reference = [f"{e.value:.3f}" for e in (result.supervised.balanced_accuracy, result.supervised.accuracy)]
        wanted.append([name, "all labels", "n/a", *reference, "n/a", "n/a"])
    assert [[*row[:3], *(cell.split(" ")[0] for cell in row[3:])] for row in rows] == wanted


def test_overview_has_a_row_for_each_method_and_a_column_for_each_k(report: Report) -> None:
    lines = render_markdown(report).split("## Overview")[1].split("\n\n")[2].splitlines()
    assert (
        lines[0] == "| Target | Method | " + " | ".join(f"k = {k}" for k in KS) + " | All labels | Chance | Majority rate |"
    )
    assert len(lines) == 2 + len(report.k_shot)
    for line, result in zip(lines[2:], report.k_shot, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [result.target, result.method + (" **transductive**" if result.transductive else "")]
        assert [cell.split(" ")[0] for cell in cells[2:-3]] == [f"{s.balanced_accuracy.value:.3f}" for s in result.shots]
        rates = [s.majority_rate for s in result.shots]
        assert cells[-2:] == [f"{1 / len(result.classes):.3f}", f"{min(rates):.3f}\u2013{max(rates):.3f}"]


def test_a_report_without_evaluations_has_no_empty_section(report: Report, html: str) -> None:
    check_accessible(html)
    check_self_contained(html)
    page = Page(html)
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert links[1:8] == ["#summary", "#tables", "#overview", "#k-shot-1", "#k-shot-2", "#data", "#making"]
    for text in (page.text, render_markdown(report)):
        assert "Every evaluation" not in text
        assert "Trained on" not in text
    assert not re.search(r"## [^\n]*\n\n(##? |$)", render_markdown(report))


@pytest.mark.usefixtures("undrawn")
def test_sections_without_content_are_left_out() -> None:
    only_evaluations = make_report(n_evaluations=1, n_points=10)
    for text in (render_html(only_evaluations), render_markdown(only_evaluations)):
        assert "Few labelled cells" not in text
        assert "## Tables" not in text
        assert 'id="tables"' not in text
    nothing = only_evaluations.model_copy(update={"evaluations": (), "data": ()})
    html = render_html(nothing)
    assert 'id="overview"' not in html
    assert 'id="data"' not in html
    for heading in ("## Overview", "## Data"):
        assert heading not in render_markdown(nothing)


def test_all_parts_go_together(report: Report) -> None:
    both = report.model_copy(update={"evaluations": make_report(n_evaluations=1, n_points=10).evaluations})
    html = render_html(both)
    check_accessible(html)
    check_self_contained(html)
    for text in (Page(html).text, render_markdown(both)):
        assert "Few labelled cells: lab_b" in text
        assert "linear_probe, lab_a to lab_a" in text


def test_transductive_results_cannot_be_overlooked(report: Report, html: str) -> None:
    markdown, name = render_markdown(report), EMBEDDERS[2]
    rows = [line for line in markdown.splitlines() if line.startswith("|") and name in line]
    assert len(rows) == 2 * (1 + len(KS) + 1 + len(KS))
    assert all(f"{name} **transductive**" in row for row in rows)
    warning = f"Transductive: \u201c{name}\u201d. This method saw the test images"
    assert markdown.count(f"> **{warning}") == 2
    assert Page(html).text.count(warning) == 2
    # by target: overview, legend of the curves, two tables, embedding by cell type and by domain
    assert html.count('<strong class="tag">transductive</strong>') == 2 * 6
    assert html.count('<tbody class="flagged">') == 2 * 2
    honest = _with(report, transductive=False)
    assert "**transductive**" not in render_markdown(honest)
    assert "- Transductive: no\n" in render_markdown(honest)
    assert 'class="tag">transductive' not in render_html(honest)


def test_how_it_was_measured_is_told_in_words(report: Report, html: str) -> None:
    text, markdown = " ".join(Page(html).text.split()), render_markdown(report)
    for wanted in (
        "lab_b itself, the rest is tested",
        f"\u201c{EMBEDDERS[2]}\u201d: class means, cosine, centred on the target",
        f"\u201c{EMBEDDERS[0]}\u201d and \u201c{EMBEDDERS[1]}\u201d: class means, cosine",
        "with replacement: an image may be drawn twice",
        "logistic regression on all labels, 5 folds of lab_b",
        "promyelocyte: fewer than 25 images in the target",
        "every cell type is tested",
        "bootstrap of the mean over repeats",
        "truncated after 2,048 bytes",
    ):
        assert wanted in text
        assert wanted in markdown
    assert "without replacement: no image is drawn twice" in render_markdown(_with(report, replacement=False))


def test_most_methods_are_the_others() -> None:
    markdown = render_markdown(make_k_shot_report(targets=("lab_b",), n_methods=4, n_points=0))
    assert "- Classifier: the others: class means, cosine\n" in markdown


def test_unreadable_images_are_listed_once_with_their_methods(report: Report) -> None:
    results = [r for r in report.k_shot if r.target == "lab_b"]
    changed = results[1].model_copy(update={"unreadable": {**results[1].unreadable, "other.png": "empty"}})
    section = k_shot.section(k_shot.targets((results[0], changed))[0], n_points=0)
    fold = section.blocks[-1]
    assert isinstance(fold, Fold)
    assert fold.blocks == (
        Items(
            (
                "images/monocyte/monocyte_0007.png: truncated after 2,048 bytes",
                f"other.png: empty (\u201c{EMBEDDERS[1]}\u201d)",
            ),
            kind="plain files",
        ),
    )


def test_published_tables_are_shown_as_they_are(report: Report, html: str) -> None:
    markdown = render_markdown(report)
    section = markdown.split("## Tables")[1].split("\n## ")[0]
    assert "### Balanced accuracy on lab_b, k = 10" in section
    assert "| Embedder | Published | Ours | Difference | Repeats |\n| --- | ---: | ---: | ---: | ---: |" in section
    assert "| aam, random | 0.813 | 0.801 | -0.011 | 100 |" in section
    assert "| aam, ImageNet | n/a | 0.887 | n/a | 100 |" in section
    assert "| Step | Published | Ours |\n| --- | --- | --- |" in section
    assert "Published: Table 2 of the paper" in section
    assert html.count('<table class="comparison">') == len(report.tables)
    only = make_report(n_evaluations=0).model_copy(update={"tables": report.tables})
    check_accessible(render_html(only))


@pytest.mark.parametrize(
    ("value", "text", "numeric"),
    [(0.5, "0.500", True), (None, "n/a", True), (-0.0001, "0.000", True), ("1,234", "1,234", True),
     ("0.91 \u00b1 0.02", "0.91 \u00b1 0.02", True), ("12 to 40", "12 to 40", False), ("none", "none", False)],
)  # fmt: skip
def test_cells_of_a_published_table(value: str | float | None, text: str, *, numeric: bool) -> None:
    table = tables.study_table(ComparisonTable(title="t", columns=("a", "b"), rows=(("x", value),)))
    assert table.rows[0][1].text == text
    assert table.columns[1].numeric is numeric


def test_an_empty_published_table_is_rendered() -> None:
    table = ComparisonTable(title="Nothing published", columns=("Embedder", "Published"), rows=())
    report = make_report(n_evaluations=0).model_copy(update={"tables": (table,)})
    assert "Nothing published: n/a" in Page(render_html(report)).text
    assert "### Nothing published\n\nn/a\n" in render_markdown(report)


def _result(name: str, method: str, classifier: str = "class means", source: str = "a") -> KShot:
    result = make_k_shot(0, np.random.default_rng(0), n_points=0)
    return result.model_copy(update={"name": name, "method": method, "classifier": classifier, "source": source})


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([_result("x", "m"), _result("x", "n")], ["m", "n"]),
        ([_result("x", "m"), _result("y", "m")], ["x", "y"]),
        ([_result("x", "m"), _result("x", "m", "nearest")], ["m, class means", "m, nearest"]),
        ([_result("x", "m"), _result("x", "m", source="b")], None),
        ([_result("x", "m"), _result("x", "m")], ["x (1)", "x (2)"]),
        ([_result("x", HOSTILE)], None),
    ],
)
def test_lines_have_names_that_tell_them_apart(results: list[KShot], names: list[str] | None) -> None:
    report = make_report(n_evaluations=0).model_copy(update={"k_shot": tuple(results)})
    found = [line.name for target in k_shot.targets(report.k_shot) for line in target.lines]
    assert found == names or names is None
    assert len(set(found)) == len(results)
    assert all(name.isprintable() for name in found)


def test_hostile_names_stay_text(report: Report) -> None:
    text = (
        json.dumps(report.model_dump(mode="json"))
        .replace('"lab_b"', json.dumps(HOSTILE))
        .replace('"blast"', json.dumps(HOSTILE))
    )
    values = json.loads(text)
    for result in values["k_shot"]:
        result.update(name=HOSTILE, method=HOSTILE, support=HOSTILE, intervals=HOSTILE, left_out={HOSTILE: HOSTILE})
        result.update(unreadable={HOSTILE: HOSTILE})
    rows = [[HOSTILE, 0.5], [None, HOSTILE]]
    values["tables"] = [{"title": HOSTILE, "columns": [HOSTILE, "b"], "rows": rows, "note": HOSTILE}]
    hostile = Report.model_validate(values)
    check_no_escape(render_html(hostile), render_markdown(hostile))


@pytest.mark.usefixtures("undrawn")
def test_missing_values_are_named(report: Report) -> None:
    no_value = Estimate(value=None)
    result = report.k_shot[0]
    shots = result.shots[0].model_copy(
        update={"accuracy": no_value, "balanced_accuracy": no_value, "macro_f1": no_value, "f1": {}}
    )
    bare = result.model_copy(update={"shots": (shots,), "supervised": None, "scatter": None, "unreadable": {}})
    none = bare.model_copy(update={"shots": (), "method": "none", "classes": ()})
    small = report.model_copy(update={"k_shot": (bare, none)})
    html = render_html(small)
    check_accessible(html)
    for text in (Page(html).text, render_markdown(small)):
        assert "n/a" in text
        assert not re.search(r"\b(None|nan)\b", text)
        assert "Embeddings" not in text
        assert "All labels |" not in text
    check_accessible(render_html(report.model_copy(update={"k_shot": (none,)})))


def _curves(report: Report) -> tuple[str, str]:
    section = k_shot.section(k_shot.targets(report.k_shot)[0], n_points=10)
    first, second = next(block for block in section.blocks if isinstance(block, Figures)).panels
    return first.drawing.svg(), second.drawing.svg()


def test_same_reference_is_drawn_once(report: Report) -> None:
    for svg in _curves(_with(report, supervised=report.k_shot[0].supervised)):
        assert svg.count("stroke-dasharray: 5.5,3.3") == 1
    for svg in _curves(report):
        assert svg.count("stroke-dasharray: 5.5,3.3") == 3


def test_curves_show_every_k_and_guessing(report: Report) -> None:
    svg, second = _curves(report)
    for k in KS:
        assert f">{k}<" in svg
    assert ">chance<" in svg
    assert ">majority rate<" in second


@pytest.mark.parametrize("ks", [(1,), (1, 50), KS, tuple(range(1, 13)), (1, 2, 1000, 1001)])
def test_ks_stand_in_order_and_apart(ks: tuple[int, ...]) -> None:
    positions = curves.positions(ks)
    assert list(positions) == list(ks)
    gaps = np.diff(list(positions.values()))
    assert all(gaps > 0.04)
    if len(ks) > 1:
        assert (positions[ks[0]], positions[ks[-1]]) == (0, 1)


def test_large_report_stays_small(tmp_path: Path) -> None:
    write_report(make_k_shot_report(targets=("lab_b",), n_methods=8, n_points=1000), tmp_path)
    # leaves room for two more targets below 5 MB
    assert (tmp_path / "report.html").stat().st_size < 1_600_000


def test_same_report_same_html(report: Report, html: str) -> None:
    assert render_html(Report.model_validate_json(report.model_dump_json())) == html


def test_a_figure_of_the_support_set_names_it(report: Report) -> None:
    target = report.k_shot[0].target

    def caption(report: Report) -> str:
        section = k_shot.section(k_shot.targets(report.k_shot)[0], n_points=10)
        return next(b.caption for b in section.blocks if isinstance(b, Figures) and b.caption.startswith("Cells of"))

    assert f"Cells of {target} on the first" in caption(report)
    scatter = report.k_shot[0].scatter
    assert scatter is not None
    changed = _with(report, scatter=scatter.model_copy(update={"cells": "fold_0"}))
    assert "Cells of fold_0 on the first" in caption(changed)
