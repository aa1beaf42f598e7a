"""The section of slides, as HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from report_page import check_accessible

from hemalens.differential.rules import CountRules
from hemalens.differential.slides import Analyser, InFields, slide_result
from hemalens.evaluation.results import Estimate, Report, SlideResult
from hemalens.report.compose import Results, make_report
from hemalens.report.html import render_html
from hemalens.report.markdown import render_markdown
from hemalens.report.slides import N_OPEN, section, summarise_slides

CELLS = ["neutrophil"] * 115 + ["lymphocyte"] * 82 + ["blast"] * 3 + ["erythroblast"] * 16


def _slide(name: str = "slide 7", cells: Sequence[str] = CELLS) -> SlideResult:
    fields, analyser = InFields(n_fields=40, red_cells=8000, platelets=400), Analyser(white_count=17.4, red_count=4.5)
    return slide_result(name, cells, fields=fields, analyser=analyser, not_counted={"cut by the border": 3})


def _report(*slides: SlideResult) -> Report:
    return make_report("Slides", "count", Results(slides=slides), data=[], methods={}, seed=0)


def test_every_number_is_on_the_page() -> None:
    report = _report(_slide())
    for text in (render_markdown(report), render_html(report)):
        for words in (
            *("57.5", "50.3–64.4", "16.11 corrected", "about 225 ×", "about 150 ×", "cut by the border: 3"),
            *("blasts: 3 cells, 1.5 % (0.3 to 4.3)", "299 at 1 %, 149 at 2 % and 59 at 5 %", "1.5 % or more with 95 %"),
            *("200 for 400 white cells", "16, 8.0 per 100 white cells", "general adult interval", "Research use"),
        ):
            assert words in text


def test_no_slide_has_no_section() -> None:
    assert section([]).blocks == ()
    assert "Differential counts" not in render_markdown(_report())


@pytest.mark.parametrize("n", [1, N_OPEN, N_OPEN + 1, 60])
def test_many_slides_are_folded(n: int) -> None:
    page = render_html(_report(*(_slide(f"slide {i}") for i in range(n))))
    assert page.count('<details class="whole" open>') == (n if n <= N_OPEN else 0)
    assert ("The five most frequent types" in page) is (n > 1)


def test_columns_of_corrections_are_shown_beside_the_count() -> None:
    slide = _slide()
    assert "Adjusted" not in render_markdown(_report(slide))
    first = slide.types[0].model_copy(update={"adjusted": Estimate(value=0.61, low=0.5, high=0.7)})
    corrected = slide.model_copy(update={"types": (first, *slide.types[1:]), "adjusted_by": "the test part of lab_a"})
    text = render_markdown(_report(corrected))
    assert "61.0 (50.0–70.0)" in text
    assert "57.5 (50.3–64.4)" in text
    assert "confusion of the model on the test part of lab_a" in text


def test_an_empty_slide_and_names_of_markup() -> None:
    report = _report(_slide("<b>x</b>|y"), slide_result("empty", []), slide_result("twelve", ["monocyte"] * 12))
    page = render_html(report)
    assert "<b>x</b>" not in page
    assert "there is no differential" in page
    assert "Only 12 white cells of 100" in page
    check_accessible(page)


def test_sentences() -> None:
    assert summarise_slides([]) == []
    (sentence,) = summarise_slides([_slide()])
    assert sentence.startswith("slide 7: 200 white cells counted: neutrophil 57.5 % (50.3–64.4), lymphocyte 41.0 %")
    many = summarise_slides([_slide(), _slide(), _slide(), slide_result("a", ["monocyte"], CountRules(reference={}))])
    assert many == ["601 white cells counted on 4 slides; 3 slides with a flag."]
