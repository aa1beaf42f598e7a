"""Reports of trainings on fractions of the labels: every number is the report's own, none that flatters goes unmarked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fakes import make_k_shot_report, make_report
from report_fraction_fakes import FRACTIONS, TRAINED, make_fraction_curve, make_fraction_report
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

from hemalens.cli.report_tables import print_fractions
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate, FractionCurve, FractionScores, Report
from hemalens.report import fractions, read_report, render_html, render_markdown, summary, write_report
from hemalens.report.compose import Results
from hemalens.report.compose import make_report as make_report_of
from hemalens.report.figures import Figures

EPOCH_CHOSEN = "epoch chosen on the tested images"
PERCENT = ["1 %", "10 %", "50 %", "100 %"]


@pytest.fixture(scope="module")
def report() -> Report:
    return make_fraction_report()


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


def _of(*curves: FractionCurve) -> Report:
    return make_report(n_evaluations=0).model_copy(update={"fractions": curves})


def _curve(number: int = 0, *, scores: dict[str, Any] | None = None, **changes: Any) -> FractionCurve:
    """A curve with `changes`, and with `scores` in all its fractions."""
    curve = make_fraction_curve(number, np.random.default_rng(number))
    parts = tuple(part.model_copy(update=scores or {}) for part in curve.fractions)
    return curve.model_copy(update={"fractions": parts, **changes})


def _tagged(curve: FractionCurve) -> str:
    """The name and the tag of a fake curve as Markdown prints them."""
    tags = ["transductive"] * curve.transductive + [EPOCH_CHOSEN] * (curve.selection == "published-selection")
    return curve.method + (f" **{', '.join(tags)}**" if tags else "")


def _printed(curve: dict[str, Any]) -> list[str]:
    """What must be printed of one curve, from its definition."""
    texts = [f"{curve['n_images']:,}", f"{curve['n_validation']:,}", curve["source"], curve["intervals"]]
    for part in curve["fractions"]:
        scores = [part[name] for name in ("balanced_accuracy", "accuracy", "macro_f1")]
        for estimate in [*scores, *part["recall"].values()]:
            texts += [f"{estimate['value']:.3f}", f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"]
            texts.append(f"SD {estimate['std']:.3f}")
        texts += [f"{part['majority_rate']:.3f}", f"{part['n_train']:,}", f"{part['n_masks']:,} mask"]
        texts += [f"{n:,}" for n in part["class_counts"].values()]
    return texts


def test_every_score_is_printed_and_every_number_is_the_reports_own(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for curve in values["fractions"]:
        for wanted in _printed(curve):
            assert wanted in text
            assert wanted in markdown
    known = numbers(values)
    for printed in (text, markdown):
        found = set(THREE_DECIMALS.findall(printed.replace("\u2013", " ")))
        assert len(found) > 100
        assert found <= known


def _ascending(curve: FractionCurve) -> list[FractionScores]:
    return list(reversed(curve.fractions))


def test_rows_belong_to_their_method_and_fraction(report: Report) -> None:
    curves = [c for c in report.fractions if c.target == "lab_c"]
    wanted_scores, wanted_recalls = [], []
    for curve in curves:
        for percent, part in zip(PERCENT, _ascending(curve), strict=True):
            values = (part.balanced_accuracy.value, part.accuracy.value, part.majority_rate, part.macro_f1.value)
            images = f"{part.n_train:,} ({part.n_masks:,} mask{'s' if part.n_masks != 1 else ''})"
            wanted_scores.append([_tagged(curve), percent, images, *(f"{value:.3f}" for value in values)])
            recalls = [f"{part.recall[code].value:.3f}" for code in curve.classes]
            wanted_recalls.append([_tagged(curve), percent, *recalls])
    markdown = render_markdown(report)
    rows = markdown_rows(markdown, "Scores on lab_c")
    assert [[*row[:3], *(cell.split(" ")[0] for cell in row[3:])] for row in rows] == wanted_scores
    rows = markdown_rows(markdown, "Recall of each cell type on lab_c")
    assert [[*row[:2], *(cell.split(" ")[0] for cell in row[2:])] for row in rows] == wanted_recalls


def test_overview_has_a_row_for_each_method_and_a_column_for_each_fraction(report: Report, html: str) -> None:
    lines = render_markdown(report).split("## Overview")[1].split("\n\n")[2].splitlines()
    assert lines[0] == "| Target | Method | 1 % | 10 % | 50 % | 100 % | Chance | Majority rate |"
    assert len(lines) == 2 + len(report.fractions)
    for line, curve in zip(lines[2:], report.fractions, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [curve.target, _tagged(curve)]
        estimates = [part.balanced_accuracy for part in _ascending(curve)]
        assert cells[2:-2] == [f"{e.value:.3f} ({e.low:.3f}\u2013{e.high:.3f})" for e in estimates]
        assert cells[-2:] == [f"{1 / len(curve.classes):.3f}", "0.288"]
    links = [str(a["href"]) for tag, a in Page(html).tags if tag == "a"]
    assert links[1:6] == ["#overview", "#fractions-1", "#fractions-2", "#data", "#making"]


def test_images_trained_on_are_told_once_where_every_method_has_the_same() -> None:
    one, two = _curve(0), _curve(1)
    rows = markdown_rows(render_markdown(_of(one, two)), "Labelled training images")
    counts = [[f"{part.class_counts[code]:,}" for code in one.classes] for part in _ascending(one)]
    assert rows == [["Every method", percent, *n] for percent, n in zip(PERCENT, counts, strict=True)]
    other = _curve(1, scores={"class_counts": {"blast": 7}, "recall": {"blast": Estimate(value=0.5)}})
    rows = markdown_rows(render_markdown(_of(one, other)), "Labelled training images")
    assert [row[0] for row in rows] == [TRAINED[0]] * 4 + [TRAINED[1]] * 4
    assert rows[4][2:] == ["0", "7", "0", "0", "0"]
    rows = markdown_rows(render_markdown(_of(one, other)), "Recall of each cell type")
    assert rows[4][2:] == ["n/a", "0.500", "n/a", "n/a", "n/a"]


def test_page_is_accessible_self_contained_and_goes_with_other_parts(report: Report, html: str) -> None:
    check_accessible(html)
    check_self_contained(html)
    parts = {"evaluations": make_report(n_evaluations=1, n_points=10).evaluations}
    parts["k_shot"] = make_k_shot_report(n_methods=2, n_points=10).k_shot  # type: ignore[assignment]
    both = report.model_copy(update=parts)
    page = render_html(both)
    check_accessible(page)
    check_self_contained(page)
    for text in (Page(page).text, render_markdown(both)):
        for heading in ("Fewer labelled images: lab_b", "Few labelled cells: lab_b", "linear_probe, lab_a to lab_a"):
            assert heading in text


def test_no_section_without_fractions() -> None:
    for text in (render_html(_of()), render_markdown(_of())):
        assert "Fewer labelled images" not in text
        assert "Overview" not in text


def test_flattering_and_transductive_scores_cannot_be_overlooked(report: Report, html: str) -> None:
    markdown, text = render_markdown(report), " ".join(Page(html).text.split())
    notices = {
        EPOCH_CHOSEN: f"Epoch chosen on the tested images: \u201c{TRAINED[3]}\u201d. This method is scored at",
        "transductive": f"Transductive: \u201c{TRAINED[2]}\u201d. This method saw the test images in training",
    }
    for method, (tag, notice) in zip((TRAINED[3], TRAINED[2]), notices.items(), strict=True):
        rows = [line for line in markdown.splitlines() if line.startswith("|") and method in line]
        # by target: overview, scores, recalls
        assert len(rows) == 2 * (1 + 4 + 4)
        assert all(f"{method} **{tag}**" in row for row in rows)
        assert markdown.count(f"> **{notice}") == 2
        assert text.count(notice) == 2
        # by target: overview, legend of the curves, two tables
        assert html.count(f'<strong class="tag">{tag}</strong>') == 2 * 4
    assert html.count('<tbody class="flagged">') == 2 * 2 * 2
    for heading in ("Fewer labelled images: lab_b", "Fewer labelled images: lab_c"):
        section = markdown.split(f"## {heading}")[1]
        assert section.index("> **Epoch chosen") < section.index("- Trained on")


def test_tags_join_and_honest_curves_have_none() -> None:
    worst = _curve(selection="published-selection", transductive=True, n_validation=0)
    assert fractions.tag(worst) == f"transductive, {EPOCH_CHOSEN}"
    markdown = render_markdown(_of(worst))
    assert "The others did not" not in markdown
    assert "The scores of the others" not in markdown
    assert "- Epoch chosen on: the test images: the scores are optimistic\n- Transductive: yes" in markdown
    assert "- Validation: none\n" in markdown
    several = render_markdown(_of(worst, _curve(1, selection="published-selection")))
    assert "These methods are scored at their best epoch" in several
    honest = _of(_curve())
    assert "- Epoch chosen on: the validation images\n- Transductive: no\n" in render_markdown(honest)
    assert 'class="tag"' not in render_html(honest).replace('<span class="tag">synthetic</span>', "")


def test_how_it_was_measured_is_told_in_words(report: Report, html: str) -> None:
    curve = report.fractions[0]
    n_train, n_masks = curve.fractions[0].n_train, curve.fractions[0].n_masks
    for text in (" ".join(Page(html).text.split()), render_markdown(report)):
        for wanted in (
            f"lab_a, training part: {n_train:,} images, {n_masks:,} masks at 100 %",
            "678 images",
            "2,345 images, the same at every fraction",
            "5 at every fraction",
            "bootstrap over the tested images within their classes, and over the seeds",
            "promyelocyte: fewer than 25 images in the target",
            "every cell type is tested",
            "truncated after 2,048 bytes",
        ):
            assert wanted in text
    first, *rest = curve.fractions
    mixed = curve.model_copy(update={"fractions": (first.model_copy(update={"n_seeds": 1}), *rest)})
    assert "- Seeds: 5 at 1 %, 10 % and 50 %, 1 at 100 %\n" in render_markdown(_of(mixed))


@pytest.mark.parametrize(
    ("curves", "names"),
    [
        ((_curve(0), _curve(1)), list(TRAINED[:2])),
        (
            (_curve(0), _curve(0, selection="published-selection")),
            ["resnet18, validation", "resnet18, published-selection"],
        ),
        ((_curve(0, name="x"), _curve(0, name="y")), ["x", "y"]),
        ((_curve(0), _curve(0)), ["resnet18: lab_a -> lab_b (1)", "resnet18: lab_a -> lab_b (2)"]),
        ((_curve(0, method=HOSTILE), _curve(1)), None),
    ],
)
def test_lines_have_names_that_tell_them_apart(curves: tuple[FractionCurve, ...], names: list[str] | None) -> None:
    found = [line.name for target in fractions.targets(curves) for line in target.lines]
    assert found == names or names is None
    assert len(set(found)) == len(curves)
    assert all(name.isprintable() for name in found)


def test_hostile_names_stay_text(report: Report) -> None:
    text = json.dumps(report.model_dump(mode="json"))
    for code in ("lab_b", "blast"):
        text = text.replace(f'"{code}"', json.dumps(HOSTILE))
    values = json.loads(text)
    for curve in values["fractions"]:
        curve.update(name=HOSTILE, method=HOSTILE, source=HOSTILE, intervals=HOSTILE, left_out={HOSTILE: HOSTILE})
        curve.update(unreadable={HOSTILE: HOSTILE})
    values["summary"] = summary.summarise_fractions(Report.model_validate(values).fractions)
    hostile = Report.model_validate(values)
    html = render_html(hostile)
    check_no_escape(html, render_markdown(hostile))
    check_self_contained(html)


def test_missing_values_are_named() -> None:
    none = Estimate(value=None)
    scores = {"accuracy": none, "balanced_accuracy": none, "macro_f1": none, "recall": {}}
    report = _of(_curve(0, scores=scores), _curve(1, classes=(), scores={**scores, "class_counts": {}}))
    html = render_html(report)
    check_accessible(html)
    for text in (Page(html).text, render_markdown(report)):
        assert "n/a" in text
        assert not re.search(r"\b(None|nan)\b", text)
    check_accessible(render_html(_of(_curve(1, classes=(), scores={**scores, "class_counts": {}}))))


def test_missing_intervals_and_single_seeds() -> None:
    bare = Estimate(value=0.7654)
    scores = {"balanced_accuracy": bare, "accuracy": bare, "macro_f1": bare, "recall": {"blast": bare}}
    rows = markdown_rows(render_markdown(_of(_curve(scores=scores))), "Scores on lab_b")
    assert all(row[3] == row[4] == row[6] == "0.765" for row in rows)
    once = make_fraction_report(targets=("lab_b",), n_seeds=1)
    html = render_html(once)
    check_accessible(html)
    for text in (Page(html).text, render_markdown(once)):
        assert "1 at every fraction" in text
        assert "SD" not in text.split("Fewer labelled images: lab_b")[-1].split("Data")[0]
        assert "\u2013" in text
    mixed = _of(once.fractions[0], _curve(1))
    rows = markdown_rows(render_markdown(mixed), "Scores on lab_b")
    assert all(row[3].endswith("; SD n/a)") for row in rows[:4])
    assert all(re.search(r"; SD 0\.\d{3}\)$", row[3]) for row in rows[4:])


@pytest.mark.parametrize("shown", [(1.0,), (0.01,), (1.0, 0.999), FRACTIONS])
@pytest.mark.parametrize("n_methods", [1, 10])
def test_any_number_of_methods_and_fractions(n_methods: int, shown: tuple[float, ...]) -> None:
    report = make_fraction_report(targets=("lab_b",), n_methods=n_methods, fractions=shown)
    html = render_html(report)
    check_accessible(html)
    check_self_contained(html)
    section = fractions.section(fractions.targets(report.fractions)[0])
    curves = next(block for block in section.blocks if isinstance(block, Figures))
    first, second = (panel.drawing.svg() for panel in curves.panels)
    ticks = [f"{100 * fraction:g} %" for fraction in reversed(shown)]
    for svg in (first, second):
        assert [text for text in re.findall(r">([^<>]+ %)<", svg) if text in ticks] == ticks
        assert f"{n_methods} method{'s' if n_methods > 1 else ''}." in svg
    assert ">chance<" in first
    assert ">majority rate<" in second
    keys = re.search(r'<ul class="legend" aria-label="Methods".*?</ul>', html, re.DOTALL)
    assert keys is not None
    drawn = re.findall(r'var\(--line-(\d)\);.*?<path( class="hollow")? transform="[^"]*" d="([^"]*)"', keys[0])
    assert len(set(drawn)) == len(drawn) == n_methods
    assert sum(bool(hollow) for _, hollow, _ in drawn) == min(n_methods, 2)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, "100 %"), (0.5, "50 %"), (0.07, "7 %"), (0.01, "1 %"), (0.005, "0.5 %"), (1 / 3, "33.33 %"), (0.999, "99.9 %")],
)
def test_fractions_are_percentages(fraction: float, text: str) -> None:
    assert formatting.percent(fraction) == text


def test_fractions_stand_in_order_however_they_come() -> None:
    curve = _curve()
    shuffled = curve.model_copy(update={"fractions": tuple(curve.fractions[i] for i in (2, 0, 3, 1))})
    assert render_markdown(_of(curve)) == render_markdown(_of(shuffled))
    assert render_html(_of(curve)) == render_html(_of(shuffled))


def _at(number: int, value: float | None, low: float | None, high: float | None, **changes: Any) -> FractionCurve:
    estimate = Estimate(value=value, low=low, high=high)
    return _curve(number, scores={"balanced_accuracy": estimate}, **changes)


def test_summary_names_the_best_only_where_its_interval_is_above_all_others() -> None:
    curves = [_at(0, 0.6, 0.55, 0.65), _at(1, 0.9, 0.85, 0.95), _at(2, 0.7, 0.6, 0.8)]
    (sentence,) = summary.summarise_fractions(curves)
    wanted = [
        "1 % of the labels (14 images)",
        "best of 3 methods is \u201cresnet18, frozen\u201d",
        "0.900 (0.850\u20130.950)",
    ]
    for words in (*wanted, "worst \u201cresnet18\u201d with 0.600 (0.550\u20130.650)", "0.288"):
        assert words in sentence
    curves[2] = _at(2, 0.7, 0.5, 0.85, selection="published-selection")
    sentence, doubt = summary.summarise_fractions(curves)
    assert "best" not in sentence
    assert "0.600 (0.550\u20130.650) for \u201cresnet18\u201d" in sentence
    assert "0.900 (0.850\u20130.950) for \u201cresnet18, frozen\u201d" in sentence
    assert "from \u201cunet + resnet18\u201d (epoch chosen on the tested images): no interval lies above" in doubt
    curves += [_at(3, 0.8, None, None), _at(4, None, None, None)]
    assert "from \u201cHemSup\u201d and \u201cunet" in summary.summarise_fractions(curves)[1]


def test_summary_is_about_the_smallest_fraction_and_always_tells_the_majority_rate() -> None:
    (sentence,) = summary.summarise_fractions([_curve(0)])
    smallest = _curve(0).fractions[-1]
    assert f"\u201cresnet18\u201d has a balanced accuracy of {smallest.balanced_accuracy.value:.3f} (" in sentence
    assert sentence.endswith("0.288.")
    larger = _curve(1)
    larger = larger.model_copy(update={"fractions": larger.fractions[:2]})
    assert summary.summarise_fractions([_curve(0), larger]) == [sentence]
    (unknown,) = summary.summarise_fractions([_at(0, None, None, None)])
    assert "no balanced accuracy is known" in unknown
    assert [s.split(":")[0] for s in summary.summarise_fractions([_curve(0), _curve(0, target="z")])] == ["lab_b", "z"]
    assert summary.summarise_fractions([]) == []


def test_a_job_hands_its_curves_on() -> None:
    curves = (_curve(0), _curve(1))
    made = make_report_of("a", "b", Results(fractions=curves), data=(), methods={}, seed=0)
    assert made.fractions == curves
    assert made.summary == tuple(summary.summarise_fractions(curves))
    assert make_report_of("a", "b", Results(), data=(), methods={}, seed=0).fractions == ()


def test_terminal_shows_every_row_in_80_columns(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_fractions(report)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for curve in report.fractions:
        for percent, part in zip(PERCENT, _ascending(curve), strict=True):
            balanced = part.balanced_accuracy
            wanted = [percent, f"{part.n_train:,}", f"{balanced.value:.3f}\u00b1{balanced.std:.3f}"]
            wanted += [f"{balanced.low:.3f}\u2013{balanced.high:.3f}", f"{part.accuracy.value:.3f}", "0.288"]
            assert any(" ".join(line.split()).endswith(" ".join(wanted)) for line in lines)
    methods = " ".join(" ".join(line[:17] for line in lines).split())
    assert methods.count("unet + resnet18 (transductive)") == 2
    assert methods.count(f"HemSup ({EPOCH_CHOSEN})") == 2
    assert "lab_b: class promyelocyte left out: fewer than 25 images in the target" in shown


def test_terminal_keeps_hostile_and_missing_words(capsys: pytest.CaptureFixture[str]) -> None:
    none = Estimate(value=None)
    scores = {"accuracy": none, "balanced_accuracy": none}
    curve = _curve(scores=scores, method="a [red]b[/]", target="[bold]c", left_out={"[blast]": "few\x1b[31m"})
    print_fractions(_of(curve.model_copy(update={"fractions": curve.fractions[-1:], "selection": "published-selection"})))
    shown = " ".join(capsys.readouterr().out.split())
    assert "[bold]c: trained on fractions of the labels" in shown
    assert "a [red]b[/] 1 % 14 n/a n/a n/a 0.288" in shown
    assert "(epoch chosen on the tested images)" in shown
    assert r"class [blast] left out: few\x1b[31m" in shown
