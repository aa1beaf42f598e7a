"""Figures of detectors: precision-recall curves by kind, and Bland-Altman plots of the cells in a field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hemalens.evaluation.results import CountAgreement, KindScores
from hemalens.report import figures
from hemalens.report.figures import DASHED, INK, LINES, MARKERS, PAPER, SMALL, Drawing, Figures, Key, Legend, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 360.0, 310.0
MARGINS = (52, 12, 12, 46)
N_TICKS = 6


def curve_figures(kinds: Sequence[tuple[str, KindScores]], *, name: str) -> Figures:
    """Precision against recall, a line a kind, with a point at its operating score."""
    values = "; ".join(f"{title}: AP50 {_text(scores.ap50.value)}" for title, scores in kinds)
    drawing = Drawing(
        partial(_draw_curves, kinds=[scores for _, scores in kinds]),
        (440.0, 340.0),
        name,
        f"Precision against recall by IoU. {values}.",
        1.2,
    )
    keys = tuple(Key(title, figures.line_colour(i), MARKERS[i], stroke="solid") for i, (title, _) in enumerate(kinds))
    caption = "Precision against recall, by IoU. Points: the operating scores."
    return Figures(
        (Panel(drawing),), caption, "Precision and recall.", (Legend("Kinds", keys),), heading="Precision and recall"
    )


def _text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _draw_curves(figure: Figure, *, kinds: Sequence[KindScores]) -> None:
    axes = figures.axes_px(figure, *MARGINS)
    axes.set(xlim=(0, 1), ylim=(0, 1.0), xlabel="recall", ylabel="precision")
    axes.grid()
    for i, scores in enumerate(kinds):
        recall = [0.0, *(point.recall for point in scores.curve)]
        precision = [scores.curve[0].precision, *(point.precision for point in scores.curve)]
        axes.plot(recall, precision, color=LINES[i], linewidth=1.5, clip_on=False)
        above = [point for point in scores.curve if point.score > scores.operating_score]
        if above:
            axes.plot(
                above[-1].recall, above[-1].precision, color=LINES[i], marker=MARKERS[i], markersize=7,
                markerfacecolor=PAPER, markeredgewidth=1.5, clip_on=False, zorder=4,
            )  # fmt: skip


def agreement_figures(kinds: Sequence[tuple[str, CountAgreement]], *, name: str) -> Figures:
    """A Bland-Altman plot for each kind."""
    panels = tuple(
        Panel(
            Drawing(
                partial(_draw_agreement, counts=counts),
                (WIDTH_PX, HEIGHT_PX),
                f"{name}-{i}",
                f"Cells found less cells annotated against their mean, {title}. The numbers follow as a table.",
                1.2,
            ),
            f"{title[:1].upper()}{title[1:]}.",
        )
        for i, (title, counts) in enumerate(kinds)
    )
    caption = (
        "Each point is a field; larger points are several fields. Solid line: bias. Dashed lines: limits of agreement. "
        "Bands: 95 % intervals."
    )
    return Figures(panels, caption, "Difference against mean (Bland-Altman).", heading="Counts of fields")


def _draw_agreement(figure: Figure, *, counts: CountAgreement) -> None:
    axes = figures.axes_px(figure, *MARGINS)
    places = Counter(((annotated + found) / 2, found - annotated) for annotated, found in counts.fields)
    for estimate, line, colour in (
        (counts.bias, "-", LINES[0]),
        (counts.lower, DASHED, LINES[1]),
        (counts.upper, DASHED, LINES[1]),
    ):
        if estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            axes.axhspan(estimate.low, estimate.high, color=colour, alpha=0.14, linewidth=0)
        axes.axhline(estimate.value, color=colour, linewidth=1.4, linestyle=line)
    axes.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
    means, differences = np.array(list(places), float).T
    # an area for each number of fields
    sizes = 22 * np.sqrt(np.array(list(places.values()), float))
    axes.scatter(means, differences, s=sizes, color=INK, alpha=0.45, linewidths=0, zorder=3)
    axes.set(xlabel="mean of found and annotated", ylabel="found less annotated")
    _whole_limits(axes, means, differences, counts)


def _whole_limits(axes: Axes, means: np.ndarray, differences: np.ndarray, counts: CountAgreement) -> None:
    """Room around the points and the limits, and ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ends = [v for e in (counts.lower, counts.upper, counts.bias) for v in (e.value, e.low, e.high) if v is not None]
    low, high = min(*ends, differences.min(), -1), max(*ends, differences.max(), 1)
    margin = 0.06 * (high - low)
    axes.set(ylim=(low - margin, high + margin), xlim=(means.min() - 0.5, means.max() + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(N_TICKS, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(N_TICKS, integer=True))
    for estimate in (counts.upper, counts.bias, counts.lower):
        if estimate.value is not None:
            axes.annotate(
                f"{estimate.value:z.1f}", (1, estimate.value), (-2, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=SMALL,
            )  # fmt: skip
