"""Calibration of an evaluation: the reliability diagram, and its bins as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, ReliabilityBin
from hemalens.report import figures
from hemalens.report.figures import CORRECT, INK, PAPER, SMALL, WRONG, Drawing, Panel
from hemalens.report.tables import Cell, Table, number_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAD = "Reliability."
N_FEW = 10
"""A bin of fewer images is drawn as a hollow point."""
WIDTH_PX, HEIGHT_PX = 400.0, 470.0


def panel(evaluation: Evaluation, *, name: str) -> Panel:
    """The figure with its caption."""
    note = (
        "Accuracy against confidence, in bins. Points on the dashed diagonal are perfectly calibrated; below it the model "
        f"is overconfident. Orange: the gap. Hollow: fewer than {N_FEW} images. "
        f"ECE {formatting.score(evaluation.scores.ece)}."
    )
    return Panel(figure(evaluation, name=name), HEAD, note)


def figure(evaluation: Evaluation, *, name: str) -> Drawing:
    """Accuracy against confidence, with the diagonal, above a histogram of the bins' counts."""
    bins = [bin_ for bin_ in evaluation.reliability if bin_.n]

    def draw(figure: Figure) -> None:
        upper = figures.axes_px(figure, 50, 8, 10, 140)
        lower = figures.axes_px(figure, 50, HEIGHT_PX - 120, 10, 44)
        _draw_calibration(upper, bins)
        _draw_counts(lower, bins)

    points = "; ".join(f"{bin_.confidence:.2f}: {bin_.accuracy:.2f} of {bin_.n}" for bin_ in bins)
    alt = f"Reliability diagram, confidence: accuracy. {points}."
    return Drawing(draw, (WIDTH_PX, HEIGHT_PX), name, alt)


def _draw_calibration(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
    lows, accuracies = [bin_.low for bin_ in bins], [bin_.accuracy for bin_ in bins]
    widths = [bin_.high - bin_.low for bin_ in bins]
    axes.bar(lows, accuracies, widths, align="edge", color=CORRECT, alpha=0.16, linewidth=0)
    confidences = [bin_.confidence for bin_ in bins]
    axes.vlines(confidences, confidences, accuracies, color=WRONG, linewidth=1.4)
    for face, few in ((PAPER, True), (CORRECT, False)):
        places = [(bin_.confidence, bin_.accuracy) for bin_ in bins if (bin_.n < N_FEW) == few]
        if places:
            axes.plot(
                *zip(*places, strict=True), color=CORRECT, marker="o", markersize=5.5, markerfacecolor=face,
                linestyle="none", clip_on=False, zorder=4,
            )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], [""] * 6)


def _draw_counts(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    most = max((bin_.n for bin_ in bins), default=1)
    lows, widths = [bin_.low for bin_ in bins], [bin_.high - bin_.low for bin_ in bins]
    axes.bar(lows, [bin_.n for bin_ in bins], widths, align="edge", color=INK, alpha=0.3, linewidth=0)
    for bin_ in bins:
        place = (bin_.low + bin_.high) / 2, bin_.n + 0.04 * most
        axes.text(*place, str(bin_.n), ha="center", va="bottom", fontsize=0.8 * SMALL)
    axes.set(xlim=(0, 1), ylim=(0, 1.28 * most), xlabel="confidence (best probability)", ylabel="images")
    axes.set_yticks([])


def table(evaluation: Evaluation, *, where: str) -> Table:
    """The bins that hold images."""
    return Table(
        "Accuracy against the best probability",
        number_columns("Confidence", ("Images", "Mean confidence", "Accuracy")),
        tuple(
            (
                Cell(f"{bin_.low:.2f}{formatting.EN_DASH}{bin_.high:.2f}"),
                Cell(formatting.count(bin_.n)),
                Cell(formatting.score(bin_.confidence)),
                Cell(formatting.score(bin_.accuracy)),
            )
            for bin_ in evaluation.reliability
            if bin_.n
        ),
        where=where,
    )
