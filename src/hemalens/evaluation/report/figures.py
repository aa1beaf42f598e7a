"""The figures of an evaluation: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemalens.evaluation.report import formatting
from hemalens.evaluation.report.canvas import INK, PAPER, POINTS_PER_PX, draw_svg, ink_on
from hemalens.evaluation.results import Evaluation, ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORRECT, WRONG = "#0072B2", "#C25500"
N_CLASSES_LARGE = 10
"""The confusion matrix of more classes has smaller cells and takes the whole width of a page."""
N_FEW = 10
"""A bin of fewer images is a hollow point in the reliability diagram."""


def confusion_figure(evaluation: Evaluation, *, name: str) -> str:
    """The confusion matrix as SVG: counts in cells, colour is the share of the row; blue is correct, orange wrong.

    `name` makes the ids inside the SVG unique on the page.
    """
    rows = [formatting.shortened(formatting.label(code), 26) for code in evaluation.tested_classes]
    columns = [formatting.shortened(formatting.label(code), 26) for code in evaluation.classes]
    cell_px = 44.0 if len(columns) <= N_CLASSES_LARGE else 36.0
    left_px, top_px = max(96.0, 14 + 6.6 * _longest(rows)), max(44.0, 18 + 4.7 * _longest(columns))
    right_px = max(8.0, 4.9 * len(columns[-1]) + 14 - cell_px / 2)
    width_px = left_px + cell_px * len(columns) + right_px
    height_px = top_px + cell_px * max(len(rows), 1) + 6

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(
            (left_px / width_px, 6 / height_px, cell_px * len(columns) / width_px, 1 - (top_px + 6) / height_px)
        )
        axes.set(xlim=(0, len(columns)), ylim=(max(len(rows), 1), 0))
        axes.xaxis.tick_top()
        axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
        axes.tick_params(length=0, pad=4)
        axes.spines[:].set_visible(False)
        for row, code in enumerate(evaluation.tested_classes):
            _draw_confusion_row(axes, row, code, evaluation)
        for tick, code in zip(axes.get_xticklabels(), evaluation.classes, strict=True):
            tick.set_alpha(1.0 if code in evaluation.tested_classes else 0.6)
        for line, text in enumerate((f"predicted {formatting.ARROW}", "true \N{DOWNWARDS ARROW}")):
            y = 1 - (top_px - 22 + 16 * line) / height_px
            figure.text((left_px - 4) / width_px, y, text, ha="right", va="center", alpha=0.65)

    return draw_svg(draw, width_px, height_px, name=name, alt=_confusion_alt(evaluation))


def _longest(texts: Sequence[str]) -> int:
    return max((len(text) for text in texts), default=0)


def _confusion_alt(evaluation: Evaluation) -> str:
    right = sum(
        counts[evaluation.classes.index(code)]
        for code, counts in zip(evaluation.tested_classes, evaluation.confusion, strict=True)
        if code in evaluation.classes
    )
    n = sum(map(sum, evaluation.confusion))
    shape = f"{len(evaluation.tested_classes)} true by {len(evaluation.classes)} predicted cell types"
    return f"Confusion matrix, {shape}: {right} of {n} images on the diagonal. The counts follow as a table."


def _draw_confusion_row(axes: Axes, row: int, code: str, evaluation: Evaluation) -> None:
    from matplotlib.patches import Rectangle

    counts = evaluation.confusion[row]
    total = sum(counts)
    for column, n in enumerate(counts):
        correct = evaluation.classes[column] == code
        share = n / total if total else 0.0
        colour = CORRECT if correct else WRONG
        inset, edge = (0.04, colour) if correct else (0.02, "none")
        box = (column + inset, row + inset), 1 - 2 * inset, 1 - 2 * inset
        axes.add_patch(Rectangle(*box, facecolor=(INK, 0.05), edgecolor="none"))
        if n:
            axes.add_patch(Rectangle(*box, facecolor=(colour, 0.08 + 0.92 * share), edgecolor="none"))
        if edge != "none":
            axes.add_patch(Rectangle(*box, facecolor="none", edgecolor=edge, linewidth=1.0))
        ink = ink_on(colour, 0.08 + 0.92 * share)
        small = len(str(n)) > 4
        axes.text(
            column + 0.5, row + 0.52, str(n), ha="center", va="center", color=ink, alpha=None if n else 0.45,
            fontsize=(9 if small else 11.5) * POINTS_PER_PX,
        )  # fmt: skip


def reliability_figure(evaluation: Evaluation, *, name: str) -> str:
    """Accuracy against confidence as SVG, with the diagonal, over a histogram with the counts of the bins."""
    bins = [bin_ for bin_ in evaluation.reliability if bin_.n]
    width_px, height_px = 400.0, 470.0

    def draw(figure: Figure) -> None:
        upper = figure.add_axes((50 / width_px, 140 / height_px, 340 / width_px, 322 / height_px))
        lower = figure.add_axes((50 / width_px, 44 / height_px, 340 / width_px, 76 / height_px))
        _draw_calibration(upper, bins)
        _draw_bin_counts(lower, bins)
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlim(0, 1)

    points = "; ".join(f"{bin_.confidence:.2f}: {bin_.accuracy:.2f} of {bin_.n}" for bin_ in bins)
    return draw_svg(draw, width_px, height_px, name=name, alt=f"Reliability diagram, confidence: accuracy. {points}.")


def _draw_calibration(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
    for bin_ in bins:
        axes.bar(bin_.low, bin_.accuracy, bin_.high - bin_.low, align="edge", color=CORRECT, alpha=0.16, linewidth=0)
        axes.plot([bin_.confidence] * 2, [bin_.confidence, bin_.accuracy], color=WRONG, linewidth=1.4)
        face = PAPER if bin_.n < N_FEW else CORRECT
        axes.plot(
            bin_.confidence, bin_.accuracy, color=CORRECT, marker="o", markersize=5.5, markerfacecolor=face,
            clip_on=False, zorder=4,
        )  # fmt: skip
    axes.set(ylim=(0, 1), ylabel="accuracy")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], [""] * 6)


def _draw_bin_counts(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    most = max((bin_.n for bin_ in bins), default=1)
    for bin_ in bins:
        axes.bar(bin_.low, bin_.n, bin_.high - bin_.low, align="edge", color=INK, alpha=0.3, linewidth=0)
        middle = (bin_.low + bin_.high) / 2
        axes.text(middle, bin_.n + 0.04 * most, str(bin_.n), ha="center", va="bottom", fontsize=9 * POINTS_PER_PX)
    axes.set(ylim=(0, 1.28 * most), xlabel="confidence (best probability)", ylabel="images")
    axes.set_yticks([])
