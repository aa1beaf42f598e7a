"""Training curves in a report: every number as it was recorded, one figure a group, on the page and as a file."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError
from report_fakes import make_curve, make_report
from report_page import HOSTILE, Page, check_no_escape, check_self_contained, markdown_rows

from hemalens.evaluation.results import Report, TrainingCurve
from hemalens.files import write_sealed
from hemalens.report import read_report, render_html, render_markdown, training_curves, training_panels, write_report
from hemalens.report.compose import Results
from hemalens.report.compose import make_report as make_report_of
from hemalens.report.figures import DASHED, LINES

NETWORKS = ("mobilevit_xs", "resnet50", "vgg16_bn", "mobilenetv3", "efficientnet_b0")
SVG = "{http://www.w3.org/2000/svg}"


def _with(*curves: TrainingCurve) -> Report:
    return make_report(n_evaluations=0, n_points=10).model_copy(update={"curves": curves})


def _drawn(panel: training_panels.CurvePanel) -> Any:
    """The axes of a panel as matplotlib has them."""
    figure = Figure(figsize=(4.4, 3.2), dpi=100)
    (drawing,) = training_panels.drawings([panel], name="curves", group="")
    drawing.draw(figure)
    return figure.axes[0]


def _panels(*curves: TrainingCurve) -> dict[str, training_panels.CurvePanel]:
    (group,) = training_curves.groups(curves)
    return {panel.title: panel for panel in group.panels}


# -------------------------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_loss": (1.0,)}, "train_loss has 1 values for 4 epochs"),
        ({"further": {"mmd": (1.0, 2.0)}}, "mmd has 2 values for 4 epochs"),
        ({"epoch": (0, 1, 2, 3)}, "do not ascend from 1"),
        ({"epoch": (1, 2, 2, 3)}, "do not ascend from 1"),
        ({"epoch": ()}, "at least 1 item"),
        ({"kept": 9}, "the kept epoch 9 is none of the epochs"),
    ],
)
def test_a_curve_has_a_value_an_epoch(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_curve(**changes)


def test_a_report_without_curves_opens_and_has_no_section(tmp_path: Path) -> None:
    report = _with()
    write_report(report, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values.pop("curves") == []
    write_sealed(tmp_path / "report.json", values)
    assert read_report(tmp_path / "report.json") == report
    assert "Training curves" not in render_html(report) + render_markdown(report)
    assert not (tmp_path / "curves").exists()


def test_results_hand_their_curves_on() -> None:
    curve = make_curve()
    assert make_report_of("a", "b", Results(curves=[curve]), data=(), methods={}, seed=0).curves == (curve,)


# -------------------------------------------------------------------------------------------------------------- panels


def test_one_training_has_its_losses_and_its_scores_side_by_side() -> None:
    curve = make_curve()
    found = _panels(curve)
    assert list(found) == ["loss", "score"]
    expected = {
        "loss": {"training loss": curve.train_loss, "validation loss": curve.val_loss},
        "score": {"validation balanced accuracy": curve.balanced_accuracy, "validation accuracy": curve.accuracy},
    }
    for title, panel in found.items():
        axes = _drawn(panel)
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert {name: tuple(line.get_ydata()) for name, line in lines.items()} == expected[title]
        assert [tuple(line.get_xdata()) for line in lines.values()] == [(1, 2, 3, 4)] * 2
        assert [line.get_color() for line in lines.values()] == [LINES[0], LINES[1]]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(expected[title])
        low, high = axes.get_ylim()
        assert low <= min(map(min, expected[title].values()))
        assert high >= max(map(max, expected[title].values()))
    assert found["score"].limits == (0.2, 0.9)


def test_several_networks_have_a_panel_a_quantity_with_the_same_axes() -> None:
    found = _panels(*(make_curve(name, shift=0.01 * i, part="test") for i, name in enumerate(NETWORKS)))
    assert list(found) == ["training loss", "test loss", "test balanced accuracy", "test accuracy"]
    assert found["training loss"].limits == found["test loss"].limits
    for panel in found.values():
        axes = _drawn(panel)
        assert [line.get_color() for line in axes.get_lines()] == list(LINES[:5])
        assert len({line.get_marker() for line in axes.get_lines()}) == 5
        assert axes.get_legend() is None, "the legend is beside the figure"


def test_seeds_are_thin_lines_about_their_mean_as_far_as_all_go() -> None:
    seeds = [make_curve(n=3, kept=2), make_curve(n=5, shift=0.2, kept=4)]
    (line,) = training_curves.groups(seeds)[0].lines
    means = training_panels.mean_of(line.curves, lambda curve: curve.train_loss)
    assert means == pytest.approx({i: mean([1.5 / i, 1.5 / i + 0.2]) for i in (1, 2, 3)})
    drawn = [each for each in _drawn(_panels(*seeds)["loss"]).get_lines() if len(each.get_xdata()) > 1]
    assert [len(each.get_xdata()) for each in drawn] == [3, 5, 3, 3, 5, 3]
    thin, thick = drawn[0].get_linewidth(), drawn[2].get_linewidth()
    assert thin < thick / 2
    rings = [tuple(each.get_xdata()) for each in _drawn(_panels(*seeds)["loss"]).get_lines() if len(each.get_xdata()) == 1]
    assert rings == [(2,), (4,)] * 2


def test_a_missing_value_is_a_gap() -> None:
    curve = make_curve(train_loss=(1.0, None, 0.5, 0.4))
    assert training_panels.mean_of([curve], lambda curve: curve.train_loss) == {1: 1.0, 2: None, 3: 0.5, 4: 0.4}
    line = _drawn(_panels(curve)["loss"]).get_lines()[0]
    assert np.isfinite(line.get_ydata()).tolist() == [True, False, True, True]
    assert line.get_marker() != "None", "a lone point between two gaps is seen"
    assert "A gap: no finite value." in Page(render_html(_with(curve))).text


def test_nothing_but_gaps_is_drawn() -> None:
    curve = make_curve(train_loss=(None,) * 4, val_loss=())
    assert _drawn(_panels(curve)["training loss"]).get_ylim()[0] < 1
    rows = markdown_rows(render_markdown(_with(curve)).split("## Training curves")[1], "Losses")
    assert rows[0][3] == "n/a"


@pytest.mark.parametrize(("peak", "log"), [(20.0, False), (80.0, True)])
def test_a_peak_makes_the_loss_logarithmic(peak: float, log: bool) -> None:
    axes = _drawn(_panels(make_curve(n=9, train_loss=(peak, *(1.0,) * 8), val_loss=()))["training loss"])
    assert axes.get_yscale() == ("log" if log else "linear")
    assert ("log scale" in axes.get_ylabel()) == log
    assert not any("$" in text.get_text() for text in axes.get_yticklabels())


def test_the_nll_stands_for_a_missing_loss() -> None:
    nll = (0.9, 0.8, 0.7, 0.6)
    assert [q.title for q in _panels(make_curve(val_nll=nll))["loss"].quantities] == ["training loss", "validation loss"]
    panel = _panels(make_curve(val_nll=nll, val_loss=()))["loss"]
    assert [q.title for q in panel.quantities] == ["training loss", "validation NLL"]
    assert tuple(_drawn(panel).get_lines()[1].get_ydata()) == nll


def test_further_quantities_have_axes_of_their_own() -> None:
    curve = TrainingCurve(name="bc_sam", epoch=(1, 2), further={"dissimilarity": (0.5, 0.4), "mask_loss": (30.0, 20.0)})
    found = _panels(curve)
    assert list(found) == ["dissimilarity", "mask loss"]
    assert 0.5 < found["dissimilarity"].limits[1] < 1
    assert found["mask loss"].limits[1] > 30


def test_one_epoch_is_a_point_at_a_whole_number() -> None:
    axes = _drawn(_panels(make_curve(n=1))["loss"])
    assert [line.get_marker() for line in axes.get_lines()] == ["o", "^"]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


# ------------------------------------------------------------------------------------------------------------- section


def test_the_table_has_the_values_of_the_kept_epoch_and_the_best() -> None:
    falling = {"balanced_accuracy": (0.5, 0.9, 0.7, 0.6)}
    curves = [
        make_curve("a", kept=3, **falling),
        make_curve("b", n=2, kept=None),
        make_curve("b", n=4, kept=None, shift=0.1),
    ]
    text = render_markdown(_with(*curves)).split("## Training curves")[1]
    (a, b) = markdown_rows(text, "Losses, and scores on the validation part")
    assert a == ["a", "1", "4", "3", "0.500", "0.600", "0.700", "0.833", "0.900 (2)", "0.875 (4)"]
    loss = mean([1.5 / 2, 1.5 / 4 + 0.1])
    assert b[:5] == ["b", "2", "2\u20134", "n/a", f"{loss:.3f}"]
    assert "or of the last where none is known; means over seeds" in text
    assert "Thick: the mean over seeds" in Page(render_html(_with(*curves))).text


@pytest.mark.parametrize(
    ("kept", "said"), [(4, "The weights of the last epoch were kept."), (2, "Ring: the epoch"), (None, "")]
)
def test_the_caption_says_which_epoch_was_kept(kept: int | None, said: str) -> None:
    text = Page(render_html(_with(make_curve(kept=kept)))).text
    found = [words for words in ("The weights of the last epoch were kept.", "Ring: the epoch") if words in text]
    assert found == ([said] if said else [])


def test_groups_are_figures_in_their_order_and_many_are_folded() -> None:
    few = [make_curve(group=f"{percent} % of the labels") for percent in (10, 100)]
    html = render_html(_with(*few))
    check_self_contained(html)
    assert html.index("<h3>10 % of the labels</h3>") < html.index("<h3>100 % of the labels</h3>")
    many = [make_curve(group=f"group {i}") for i in range(training_curves.N_OPEN + 1)]
    html = render_html(_with(*many))
    assert html.count("<summary>group ") == len(many)
    assert "### group 3" in render_markdown(_with(*many))


def test_a_name_keeps_its_colour_in_every_group() -> None:
    first, second = training_curves.groups(
        [make_curve("a", group="x"), make_curve("b", group="x"), make_curve("b", group="y")]
    )
    assert [line.style.number for line in first.lines] == [0, 1]
    assert [line.style.number for line in second.lines] == [1]


def test_names_break_out_of_nothing() -> None:
    curve = make_curve(HOSTILE, group=HOSTILE, part=HOSTILE, further={HOSTILE: (1.0,) * 4})
    report = _with(curve, curve.model_copy(update={"name": f"{HOSTILE} 2"}))
    check_no_escape(render_html(report), render_markdown(report))
    for name, text in training_curves.files(report.curves).items():
        assert re.fullmatch(r"[a-z0-9.-]+\.svg", name)
        assert not [node for node in ET.fromstring(text).iter() if node.tag == f"{SVG}script"]


# --------------------------------------------------------------------------------------------------------------- files


def test_each_group_is_a_picture_file(tmp_path: Path) -> None:
    labels = ("10 % of the labels", "10 %, of the labels", "", "training", "\u767d")
    report = _with(*(make_curve(name, group=group) for group in labels for name in NETWORKS[:2]))
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "old.svg").write_text("of an earlier run")
    write_report(report, tmp_path)
    names = {path.name for path in (tmp_path / "curves").iterdir()}
    own = {"10-percent-of-the-labels.svg", "10-percent-of-the-labels_2.svg"}
    assert names == own | {"training.svg", "training_2.svg", "training_3.svg"}
    for name in names:
        assert f"curves/{name}" in (tmp_path / "report.html").read_text()
        root = ET.parse(tmp_path / "curves" / name).getroot()
        assert root.tag == f"{SVG}svg"
    text = (tmp_path / "curves" / "training.svg").read_text()
    assert "var(" not in text
    assert not any(stand_in in text for stand_in in (*LINES, "#010203", "#fdfcfb"))
    assert {"#0b7ff0", "#d96a0c", "#ffffff"} <= set(re.findall(r"#[0-9a-f]{6}", text)), "the colours of a light page"
    assert "<text" not in text, "letters are outlines"


def test_the_same_curves_give_the_same_files() -> None:
    curves = [make_curve(name) for name in NETWORKS]
    assert training_curves.files(curves) == training_curves.files(curves)


def test_a_long_training_of_many_networks_stays_small() -> None:
    curves = [make_curve(name, n=200, shift=0.001 * i) for i, name in enumerate(NETWORKS)]
    without, html = render_html(_with()), render_html(_with(*curves))
    assert len(html) - len(without) < 250_000
    assert all(len(text) < 400_000 for text in training_curves.files(curves).values())


def test_dashes_tell_the_second_quantity_of_a_panel() -> None:
    first, second = _drawn(_panels(make_curve())["loss"]).get_lines()
    assert first.get_linestyle() == "-"
    assert second._unscaled_dash_pattern == DASHED
