"""Reports of what networks cost: every number is the report's own, the Pareto front is what its definition says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_efficiency_fakes import NETWORKS, TESTED_ON, make_efficiency, make_efficiency_report
from report_fakes import make_report
from report_page import HOSTILE, Page, check_accessible, check_no_escape, check_self_contained, markdown_rows

from hemalens.cli.report_tables import print_efficiency
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Efficiency, Estimate, Report
from hemalens.report import efficiency, read_report, render_html, render_markdown, summary, write_report
from hemalens.report.compose import Results
from hemalens.report.compose import make_report as make_report_of
from hemalens.report.efficiency import pareto_front

CONVENTION = "FLOPs = 2 \u00d7 MACs of convolutions and matrix products"


@pytest.fixture(scope="module")
def report() -> Report:
    return make_efficiency_report()


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


def _of(*rows: Efficiency) -> Report:
    return make_report(n_evaluations=0).model_copy(update={"efficiency": rows})


def _row(number: int = 0, **changes: Any) -> Efficiency:
    return make_efficiency(number, np.random.default_rng(number)).model_copy(update=changes)


def _amount(value: float) -> str:
    return f"{value:,.3f}" if value >= 0.1 else f"{value:.3g}"


def _measured(value: float) -> str:
    """Three significant digits, from the definition."""
    rounded = float(f"{value:.3g}") if value < 100 else round(value)
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{rounded:,.{decimals}f}"


# -------------------------------------------------------------------------------------------------------- Pareto front

_NUMBERS = st.one_of(st.integers(0, 5).map(float), st.floats(0, 1))


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=12))
def test_the_front_is_what_its_definition_says(points: list[tuple[float, float]]) -> None:
    def beaten(i: int) -> bool:
        cost, score = points[i]
        return any(c <= cost and s >= score and (c < cost or s > score) for c, s in points)

    found = pareto_front([cost for cost, _ in points], [score for _, score in points])
    assert sorted(found) == [i for i in range(len(points)) if not beaten(i)]
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_networks_are_compared_on_the_same_test_alone() -> None:
    best = _row(5, flops=10, balanced_accuracy=Estimate(value=0.9))
    worse = _row(6, flops=20, balanced_accuracy=Estimate(value=0.8))
    (test,) = efficiency.tests([_row(0), best, worse, _row(7, balanced_accuracy=Estimate(value=None))])
    assert (test.name, test.results, test.front) == (TESTED_ON, (best, worse), {0})
    other = worse.model_copy(update={"tested_on": "lab_c, 5 of 8 cell types"})
    assert [t.front for t in efficiency.tests([best, other])] == [{0}, {0}]


# --------------------------------------------------------------------------------------------------------------- tables


def test_every_number_is_printed_and_comes_from_the_json(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["efficiency"]
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for printed in (" ".join(text.split()), markdown):
        assert CONVENTION in printed
        for row in values:
            wanted = [_amount(row[name] / 1e6) for name in ("parameters", "parameters_without_head")]
            wanted += [_amount(row["macs"] / 1e9), _amount(row["flops"] / 1e9), _measured(row["weights_mb"])]
            for timing in row["timings"]:
                wanted.append(_measured(timing["peak_memory_mb"]))
                for e in (timing["latency_ms"], timing["images_per_s"]):
                    wanted += [_measured(e["value"]), f"{_measured(e['low'])}\u2013{_measured(e['high'])}"]
            for e in (row["balanced_accuracy"], row["accuracy"]):
                wanted += [f"{e['value']:.3f}", f"{e['low']:.3f}\u2013{e['high']:.3f}"] if e else []
            assert [text for text in wanted if text not in printed] == []
    sizes = markdown_rows(markdown, "Size of every network")
    wanted_sizes = [
        [
            *(f"{row['name']} ({row['kind']})", str(row["input_px"])),
            *(_amount(row[name] / 1e6) for name in ("parameters", "parameters_without_head")),
            *(_amount(row["macs"] / 1e9), _amount(row["flops"] / 1e9), _measured(row["weights_mb"])),
        ]
        for row in values
    ]
    assert sizes == wanted_sizes


def test_rows_of_times_and_scores_belong_to_their_network(report: Report) -> None:
    markdown = render_markdown(report)
    rows = markdown_rows(markdown, "Time and memory")
    assert [row[:5] for row in rows] == [
        [r.name, t.runtime, t.device, t.precision, str(t.n_threads)] for r in report.efficiency for t in r.timings
    ]
    scored = sorted((r for r in report.efficiency if r.accuracy), key=lambda r: r.flops)
    best = 0.0
    for row, result in zip(markdown_rows(markdown, "Scores of every network"), scored, strict=True):
        value = efficiency.balanced_accuracy(result) or 0.0
        assert row[:3] == [TESTED_ON, result.name, _amount(result.flops / 1e9)]
        assert row[3].startswith(f"{value:.3f} (")
        assert row[5:] == ["0.288", f"{result.n_images:,}", "yes" if value > best else "no"]
        best = max(best, value)


@pytest.mark.parametrize(
    ("value", "amount", "measured"),
    [
        (None, "n/a", "n/a"),
        (0.0, "0", "0"),
        (0.0123456, "0.0123", "0.0123"),
        (0.43064, "0.431", "0.431"),
        (1.0, "1.000", "1.00"),
        (23.508032, "23.508", "23.5"),
        (99.96, "99.960", "100"),
        (123.456, "123.456", "123"),
        (12345.6, "12,345.600", "12,346"),
    ],
)
def test_costs_are_printed_as(value: float | None, amount: str, measured: str) -> None:
    assert (formatting.amount(value), formatting.measured(value)) == (amount, measured)


def test_missing_values_are_named() -> None:
    bare = Estimate(value=12.34)
    timing = _row().timings[0].model_copy(update={"latency_ms": bare, "peak_memory_mb": None})
    rows = (_row(0, parameters_without_head=None, timings=(timing,)), _row(5, timings=(), accuracy=None))
    report = _of(*rows)
    markdown = render_markdown(report)
    assert markdown_rows(markdown, "Size of every network")[0][3] == "n/a"
    assert markdown_rows(markdown, "Time and memory")[0][5] == "12.3"
    assert markdown_rows(markdown, "Time and memory")[0][-1] == "n/a"
    assert markdown_rows(markdown, "Scores of every network")[0][4] == "n/a"
    html = render_html(report)
    check_accessible(html)
    for text in (Page(html).text, markdown):
        assert not re.search(r"\b(None|nan|inf)\b", text)
    counted_only = render_markdown(_of(_row(0, timings=())))
    assert "Time and memory" not in counted_only
    assert "Scores of every" not in counted_only


# ----------------------------------------------------------------------------------------------------------------- page


def test_page_is_accessible_self_contained_and_goes_with_other_parts(report: Report, html: str) -> None:
    check_accessible(html)
    check_self_contained(html)
    both = report.model_copy(update={"evaluations": make_report(n_evaluations=1, n_points=10).evaluations})
    page = render_html(both)
    check_accessible(page)
    check_self_contained(page)
    links = [str(a["href"]) for tag, a in Page(page).tags if tag == "a"]
    assert links[1:4] == ["#overview", "#efficiency", "#evaluation-1"]


def test_no_section_without_networks() -> None:
    for text in (render_html(_of()), render_markdown(_of())):
        assert "Size of every network" not in text


def test_hostile_names_stay_text() -> None:
    rows = [_row(number, name=HOSTILE, tested_on=HOSTILE) for number in (0, 5, 6)]
    timing = rows[0].timings[0].model_copy(update={"device": HOSTILE})
    report = _of(rows[0].model_copy(update={"timings": (timing,)}), *rows[1:])
    report = report.model_copy(update={"summary": tuple(summary.summarise_efficiency(report.efficiency))})
    html = render_html(report)
    check_no_escape(html, render_markdown(report))
    check_self_contained(html)


def test_figures_show_scores_only_where_they_are_known(report: Report) -> None:
    score, latency = efficiency.figures(report.efficiency)
    assert score.note.startswith("Balanced accuracy against FLOPs")
    assert latency.note.startswith("Latency of one image")
    assert f"of 3 networks on {TESTED_ON}." in score.drawing.svg()
    assert "of 8 networks." in latency.drawing.svg()
    (panel,) = efficiency.figures(report.efficiency[:5])
    assert panel.note.startswith("Latency of one image on the processor against parameters")
    assert efficiency.figures([_row(0, timings=())]) == ()


def test_what_cannot_be_drawn_on_a_logarithmic_axis_is_named() -> None:
    flat = _row(5, name="nearest colour", flops=0, macs=0, parameters=0)
    first, second = (panel.note for panel in efficiency.figures([_row(6), flat]))
    assert first.endswith("Not shown, no FLOPs to draw: nearest colour.")
    assert second.endswith("Not shown, no parameters or no time to draw: nearest colour.")
    assert efficiency.figures([flat]) == ()
    on_gpu = _row(1, timings=tuple(t.model_copy(update={"device": "NVIDIA"}) for t in _row(1).timings))
    (panel,) = efficiency.figures([_row(0), on_gpu])
    assert panel.note.endswith("no time to draw: densenet121.")
    assert "of 1 network." in panel.drawing.alt


def test_every_network_has_a_key_of_its_own(report: Report, html: str) -> None:
    legend = re.search(r'<ul class="legend" aria-label="Networks">.*?</ul>', html, re.DOTALL)
    assert legend is not None
    drawn = re.findall(r'var\(--line-(\d)\);.*?d="([^"]*)"/></svg><span>(.*?)</span>', legend[0], re.DOTALL)
    assert [name for *_, name in drawn] == list(NETWORKS)
    assert len({(colour, path) for colour, path, _ in drawn}) == len(NETWORKS)


@pytest.mark.parametrize(("low", "factor"), [(0.03, 1.0), (0.4, 30.0), (5.0, 4000.0), (1e-3, 1e6)])
def test_ticks_are_round_few_and_inside(low: float, factor: float) -> None:
    rows = [_row(i, flops=round(1e9 * low * factor**i), balanced_accuracy=Estimate(value=0.8), timings=()) for i in (0, 1)]
    tested = [row.model_copy(update={"tested_on": "lab_b"}) for row in rows]
    (panel,) = efficiency.figures(tested)
    texts = re.findall(r">([^<>]+)</text>", panel.drawing.svg())
    ticks = [float(text.replace(",", "")) for text in texts[: texts.index("FLOPs, 10\u2079 an image")]]
    assert len(ticks) <= 8
    assert ticks
    assert all(low / 3 <= tick <= 3 * low * factor for tick in ticks)
    assert all(f"{tick:e}"[0] in "125" for tick in ticks)


# -------------------------------------------------------------------------------------------------------------- summary


def test_summary_tells_the_range_and_the_front() -> None:
    dear = _row(5, flops=8_174_000_000, balanced_accuracy=Estimate(value=0.9, low=0.88, high=0.92), tested_on="lab_b")
    cheap = _row(6, flops=430_000_000, balanced_accuracy=Estimate(value=0.8), tested_on="lab_b")
    beaten = _row(7, flops=900_000_000, balanced_accuracy=Estimate(value=0.7), tested_on="lab_b", timings=())
    timed = [row.model_copy(update={"timings": row.timings[:1]}) for row in (dear, cheap)]
    slow, fast = sorted(timed, key=lambda row: -(row.timings[0].latency_ms.value or 0))
    names = {row.name: f"{_measured(row.timings[0].latency_ms.value or 0)} ms ({row.name}, int8)" for row in timed}
    found = summary.summarise_efficiency([*timed, beaten])
    assert found[:2] == [
        f"3 networks: an image costs from 0.430 GFLOPs ({cheap.name}) to 8.174 GFLOPs ({dear.name}).",
        f"On 2 threads of the processor one image takes from {names[fast.name]} to {names[slow.name]}.",
    ]
    for words in (
        "Pareto front",
        "2 of 3",
        f"{cheap.name} with 0.800 for 0.430",
        f"{dear.name} with 0.900 (0.880\u20130.920)",
    ):
        assert words in found[2]
    assert found[2].endswith("0.288.")


def test_summary_of_one_network_or_none() -> None:
    assert summary.summarise_efficiency([]) == []
    (sentence,) = summary.summarise_efficiency([_row(0, flops=8_174_000_000, timings=())])
    assert sentence == "1 network: an image costs 8.174 GFLOPs (resnet50)."
    assert summary.summarise_efficiency([_row(0, timings=_row(0).timings[:1])])[1].endswith("ms (resnet50, fp32).")


def test_a_job_hands_its_rows_on() -> None:
    rows = (_row(0), _row(5))
    made = make_report_of("a", "b", Results(efficiency=rows, remarks=["last"]), data=(), methods={}, seed=0)
    assert made.efficiency == rows
    assert made.summary == (*summary.summarise_efficiency(rows), "last")


# ------------------------------------------------------------------------------------------------------------- terminal


def test_terminal_shows_every_row_in_80_columns(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_efficiency(report)
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert CONVENTION in " ".join(lines)
    for row in report.efficiency:
        sizes = [str(row.input_px), _amount(row.parameters / 1e6), _amount((row.parameters_without_head or 0) / 1e6)]
        sizes += [_amount(row.macs / 1e9), _amount(row.flops / 1e9), _measured(row.weights_mb)]
        assert any(line.endswith(" ".join(sizes)) for line in lines)
        for t in row.timings:
            values = (t.latency_ms.value, t.images_per_s.value, t.peak_memory_mb)
            wanted = [t.runtime, "cpu", t.precision, "2", *(_measured(value or 0) for value in values)]
            assert " ".join(wanted) in lines
        if row.balanced_accuracy and row.accuracy:
            wanted = [f"{row.balanced_accuracy.value:.3f}", f"{row.accuracy.value:.3f}", "0.288", f"{row.n_images:,}"]
            assert any(" ".join(wanted) in line for line in lines)


def test_terminal_keeps_hostile_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_efficiency(_of(_row(5, name="a [red]b[/]", tested_on="[bold]c\x1b[31m")))
    shown = "".join(capsys.readouterr().out.split())
    assert "a[red]b[/]" in shown
    assert r"[bold]c\x1b[31m" in shown
