"""The figures of an evaluation: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, ReliabilityBin
from hemalens.report.svg import INK, PAPER, POINTS_PER_PX, draw_svg, element, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORRECT, WRONG = "#0072B2", "#C25500"
N_CLASSES_LARGE = 10
"""The confusion matrix of more classes has smaller cells and takes the whole width of a page."""
N_FEW = 10
"""A bin of fewer images is a hollow point in the reliability diagram."""


def confusion_figure(evaluation: Evaluation) -> str:
    """The confusion matrix as SVG: counts in cells, colour is the share of the row; blue is correct, orange wrong."""
    from markupsafe import escape

    rows = [formatting.shortened(formatting.label(code), 26) for code in evaluation.tested_classes]
    columns = [formatting.shortened(formatting.label(code), 26) for code in evaluation.classes]
    cell = 44 if len(columns) <= N_CLASSES_LARGE else 36
    left, top = max(96.0, 14 + 6.6 * _longest(rows)), max(44.0, 18 + 4.7 * _longest(columns))
    right = max(8.0, 4.9 * len(columns[-1]) + 14 - cell / 2)
    size = left + cell * len(columns) + right, top + cell * max(len(rows), 1) + 6
    parts = [
        f'<text class="pale end" x="{left - 8:.1f}" y="{top - 24:.1f}">predicted {formatting.ARROW}</text>',
        f'<text class="pale end" x="{left - 8:.1f}" y="{top - 8:.1f}">true \N{DOWNWARDS ARROW}</text>',
    ]
    for i, (code, name) in enumerate(zip(evaluation.classes, columns, strict=True)):
        kind = "start" if code in evaluation.tested_classes else "pale start"
        place = f"translate({left + cell * (i + 0.5) + 3:.1f} {top - 6:.1f}) rotate(-45)"
        parts.append(f'<text class="{kind}" transform="{place}">{escape(name)}</text>')
    for i, (code, name) in enumerate(zip(evaluation.tested_classes, rows, strict=True)):
        y = top + cell * i
        parts.append(f'<text class="end" x="{left - 8:.1f}" y="{y + cell / 2 + 4:.1f}">{escape(name)}</text>')
        correct = [other == code for other in evaluation.classes]
        parts.append(_confusion_row(evaluation.confusion[i], correct, (left, y), cell))
    body = f'<g class="confusion">{"".join(parts)}</g>'
    return element(body, size, alt=_confusion_alt(evaluation), style=f"max-width:{size[0]:.0f}px")


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


def _confusion_row(counts: Sequence[int], correct: Sequence[bool], place: tuple[float, float], cell: int) -> str:
    """The cells of one row from its upper left corner on."""
    total, parts = sum(counts), []
    x, y = place
    for i, (n, right) in enumerate(zip(counts, correct, strict=True)):
        colour, share = CORRECT if right else WRONG, n / total if total else 0.0
        opacity = 0.08 + 0.92 * share
        at = f'x="{x + cell * i + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2}" height="{cell - 2}"'
        fill = f'fill="{colour}" fill-opacity="{opacity:.2f}"' if n else 'class="none"'
        edge = f' stroke="{colour}"' if right else ""
        parts.append(f"<rect {at} {fill}{edge}/>")
        kinds = ["zero" if not n else "", "long" if len(str(n)) > 4 else ""]
        kinds.append("white" if n and ink_on(colour, opacity) != INK else "")
        kind = " ".join(filter(None, kinds))
        told = f' class="{kind}"' if kind else ""
        parts.append(f'<text{told} x="{x + cell * (i + 0.5):.1f}" y="{y + cell / 2 + 4:.1f}">{n}</text>')
    return "".join(parts)


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
