"""Reports: what is written is what was measured, in all three files; nothing a user named can break out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_fakes import CLASSES, make_report
from report_page import HOSTILE, Page, check_accessible, check_self_contained, markdown_rows

from hemalens.errors import HemalensError, InputError, OutputError
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate, Report
from hemalens.report import confusion_matrix, read_report, render_html, render_markdown, write_report
from hemalens.report.markdown import escape


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(n_evaluations=2, n_points=60)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


@pytest.fixture(scope="module")
def hostile() -> Report:
    report = make_report(n_evaluations=2, n_points=40, domain=HOSTILE, file_name=HOSTILE, title=HOSTILE)
    values = json.loads(json.dumps(report.model_dump(mode="json")).replace('"monocyte"', json.dumps(HOSTILE)))
    for key in ("command", "protocol", "created"):
        values[key] = HOSTILE
    values["summary"] = [HOSTILE]
    values["methods"] = {HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}}}
    values["environment"] = {HOSTILE: HOSTILE}
    for card in values["data"]:
        card.update(role=HOSTILE, licence=HOSTILE, citation=HOSTILE, notes=[HOSTILE], excluded={HOSTILE: 1})
    return Report.model_validate(values)


def _estimates(value: Any) -> list[dict[str, float | None]]:
    if isinstance(value, dict):
        if {"value", "low", "high"} <= set(value):
            return [value]
        return [e for part in value.values() for e in _estimates(part)]
    return [e for part in value for e in _estimates(part)] if isinstance(value, list) else []


def _printed_scores(path: Path) -> list[str]:
    """Every score, interval and spread in a `report.json`, printed here from its definition."""
    values = json.loads(path.read_text(encoding="utf-8"))
    texts = []
    for estimate in _estimates(values):
        texts += [f"{estimate['value']:.3f}", f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"]
        texts += [f"SD {estimate['std']:.3f}"] if estimate["std"] is not None else []
    for evaluation in values["evaluations"]:
        texts += [f"{evaluation['scores'][name]:.3f}" for name in ("majority_rate", "ece", "nll")]
        texts += [f"{scores['f1']:.3f}" for scores in evaluation["per_class"]]
        texts += [f"{b[name]:.3f}" for b in evaluation["reliability"] if b["n"] for name in ("accuracy", "confidence")]
        texts += [str(n) for row in evaluation["confusion"] for n in row]
    return texts


@pytest.mark.usefixtures("undrawn")
def test_json_comes_back_as_it_was(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    path = tmp_path / "new" / "folder" / "report.json"
    assert read_report(path) == report
    assert path.read_text(encoding="utf-8").startswith('{\n  "kind": "hemalens-report"')


@pytest.mark.usefixtures("undrawn")
def test_every_score_is_printed(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    cells = re.findall(r"[\d.\u2013,]+", Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for text in _printed_scores(tmp_path / "report.json"):
        assert text.removeprefix("SD ") in cells
        assert text in markdown


def test_overview_row_belongs_to_its_evaluation(report: Report) -> None:
    rows = markdown_rows(render_markdown(report), "Every evaluation")
    for cells, evaluation in zip(rows, report.evaluations, strict=True):
        scores = evaluation.scores
        assert cells[1:3] == [evaluation.method, f"{evaluation.source} \u2192 {evaluation.target}"]
        assert [cell.split(" ")[0] for cell in cells[3:-2]] == [
            f"{value:.3f}"
            for value in (
                scores.accuracy.value, scores.majority_rate, scores.balanced_accuracy.value,
                1 / len(evaluation.tested_classes), scores.macro_f1.value, scores.balanced_accuracy_restricted.value,
                scores.ece, scores.nll,
            )
        ]  # fmt: skip
        assert cells[-2:] == [f"{evaluation.n_images:,}", str(evaluation.n_folds)]


def test_html_is_well_formed_and_accessible(html: str) -> None:
    check_accessible(html)


def test_html_is_whole_and_fetches_nothing(html: str) -> None:
    check_self_contained(html)


def test_hostile_names_stay_text(hostile: Report) -> None:
    html = render_html(hostile)
    page = Page(html)
    assert page.open == []
    assert "<script" not in html.lower()
    assert "\u202e" not in html
    assert "{{ 7*7 }}" in page.text
    assert r"\u202egnp" in page.text
    shown = [tag for tag, _ in page.tags if tag == "text"]
    assert shown, "the figures draw their text as text"


def test_markdown_tables_are_well_formed(report: Report, hostile: Report) -> None:
    for text in (render_markdown(report), render_markdown(hostile)):
        # the command is code, which Markdown prints as it is
        markdown = re.sub(r"^```\n.*\n```$", "", text, flags=re.MULTILINE)
        assert "<script" not in markdown
        tables = re.findall(r"(?:^\|.*\|$\n?)+", markdown, flags=re.MULTILINE)
        assert len(tables) >= 8
        for table in tables:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1
        stray = [line for line in markdown.splitlines() if line.startswith((" ", "<"))]
        assert not stray


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("a\nb", r"a\\nb"),
        ("img_0_1.png", "img_0_1.png"),
        ("_a_", r"\_a\_"),
        ("# a", r"\# a"),
        ("-0.5", "-0.5"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("0.934", "0.934"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_markdown_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_notice(*, synthetic: bool) -> None:
    report = make_report(n_evaluations=1, n_points=10, synthetic=synthetic)
    notice = "These images are synthetic: drawn by the program, not photographed"
    assert (notice in render_html(report)) is synthetic
    assert (notice in render_markdown(report)) is synthetic


@pytest.mark.usefixtures("undrawn")
def test_missing_values_are_named() -> None:
    report = make_report(n_evaluations=1, n_points=10, missing=True)
    evaluation = report.evaluations[0]
    n_missing = 7 + 3 * len(evaluation.per_class)
    html = Page(render_html(report)).text
    # the overall scores are in the overview and in the section of the evaluation
    assert html.replace("n/a: not available", "").count("n/a") == n_missing + 7 + 1  # the caption names the ECE again
    markdown = render_markdown(report)
    assert markdown.replace("n/a: not available", "").count("n/a") == n_missing + 7
    for text in (html, markdown):
        assert not re.search(r"\b(None|nan)\b", text)


def test_a_bare_evaluation_is_rendered() -> None:
    report = make_report(n_evaluations=1, n_points=0)
    bare = report.evaluations[0].model_copy(
        update={"scatter": None, "most_confident_errors": (), "reliability": (), "per_class": (), "tested_classes": (),
                "confusion": (), "n_images": 0}
    )  # fmt: skip
    report = report.model_copy(update={"evaluations": (bare,), "summary": (), "data": (), "methods": {}})
    assert Page(render_html(report)).open == []
    assert render_markdown(report).endswith("\n")
    empty = report.model_copy(update={"evaluations": ()})
    assert formatting.RESEARCH_USE in render_html(empty)
    assert formatting.RESEARCH_USE in render_markdown(empty)


def test_what_a_reader_needs_is_there(report: Report, html: str) -> None:
    text = " ".join(Page(html).text.split())
    markdown = render_markdown(report)
    for wanted in (
        "segmented neutrophil",
        "true basophil, predicted blast, >0.99",
        "blast and promyelocyte: fewer than 5 images in the target",
        "truncated after 2,048 bytes",
        "drawn by hemalens",
        "backbone.weights",
        report.command,
        "Research use: a morphologist confirms every result.",
        "9f86d081884c",
    ):
        assert wanted in text
        assert wanted.replace(">", "&gt;") in markdown
    assert "segmented_neutrophil" not in text


def test_same_report_same_files(report: Report, html: str) -> None:
    again = Report.model_validate_json(report.model_dump_json())
    assert render_html(again) == html
    assert render_markdown(again) == render_markdown(report)


def test_large_report_stays_small(tmp_path: Path) -> None:
    write_report(make_report(n_evaluations=2, n_points=1000), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 600_000


def test_many_classes_and_foreign_names_are_drawn() -> None:
    report = make_report(n_evaluations=1, n_points=30)
    values = report.model_dump(mode="json")
    evaluation = values["evaluations"][0]
    classes = [f"{code} $_{i}_$" for i in range(3) for code in (*CLASSES, "\u767d\u8840\u7403")][:21]
    evaluation.update(classes=classes, tested_classes=classes, confusion=[[i + j for j in range(21)] for i in range(21)])
    for i, point in enumerate(evaluation["scatter"]["points"]):
        point["label"] = classes[i % 21]
    svg = confusion_matrix.figure(Report.model_validate(values).evaluations[0], name="c").svg()
    assert "\u767d\u8840\u7403 $ 0 $" in svg
    assert Page(render_html(Report.model_validate(values))).open == []


def test_not_a_number_is_refused_before_anything_is_written(report: Report, tmp_path: Path) -> None:
    evaluation = report.evaluations[0]
    scores = evaluation.scores.model_copy(update={"accuracy": Estimate(value=float("nan"))})
    bad = report.model_copy(update={"evaluations": (evaluation.model_copy(update={"scores": scores}),)})
    with pytest.raises(HemalensError, match=r"evaluations\[0\]\.scores\.accuracy\.value"):
        write_report(bad, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "hemalens-report"}', "\udcff"])
def test_damaged_report_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"report\.json"):
        read_report(path)


def test_newer_schema_and_unknown_keys_are_refused(report: Report, tmp_path: Path) -> None:
    for change in ({"schema_version": 2}, {"more": 1}, {"kind": "other"}):
        path = tmp_path / "report.json"
        path.write_text(json.dumps({**report.model_dump(mode="json"), **change}), encoding="utf-8")
        with pytest.raises(InputError, match=next(iter(change))):
            read_report(path)


@pytest.mark.usefixtures("undrawn")
def test_an_edited_report_is_refused(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    path = tmp_path / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["evaluations"][0]["scores"]["accuracy"]["value"] = 1.0
    for change in (content, {**content, "digest": ""}, {k: v for k, v in content.items() if k != "digest"}):
        path.write_text(json.dumps(change), encoding="utf-8")
        with pytest.raises(
            InputError, match=r"report\.json' was edited or written by another program; expected the digest"
        ):
            read_report(path)


def test_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_report(tmp_path / "report.json")


@pytest.mark.usefixtures("undrawn")
def test_unwritable_folder_is_an_output_error(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError):
        write_report(report, tmp_path / "file")


@pytest.mark.parametrize(("value", "text"), [(0.98, "0.98"), (0.996, ">0.99"), (1.0, "1.00"), (0.5, "0.50")])
def test_probability(value: float, text: str) -> None:
    assert formatting.probability(value) == text


def test_import_is_light() -> None:
    code = "import sys, hemalens.report as r; print({'matplotlib', 'jinja2', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
