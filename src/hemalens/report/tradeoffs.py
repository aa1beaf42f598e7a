"""Efficiency figures: a score against FLOPs with the Pareto front, and latency against parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate
from hemalens.report import figures
from hemalens.report.curves import LineStyle
from hemalens.report.figures import DASHED, INK, Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 440.0, 370.0
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 58.0, 16.0, 14.0, 46.0
LARGEST = 1.2
MOST_TICKS = 7
MOST_DIVIDED = 100.0
"""An axis that spans a larger factor has ticks at decades alone."""
NARROWEST = 6.0
"""A logarithmic axis spans at least this factor, so that it has a tick or two."""


@dataclass(frozen=True, slots=True)
class Place:
    """One network in a figure: its cost x > 0, and a score or time y with an interval."""

    x: float
    y: Estimate
    style: LineStyle
    on_front: bool = False


def score_figure(places: Sequence[Place], *, name: str, tested_on: str) -> Drawing:
    """Balanced accuracy against FLOPs in 10^9, logarithmic; the Pareto front is a dashed line of steps."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        low, high = _score_limits(places)
        axes.set(ylim=(low, high), xlabel="FLOPs, 10⁹ an image", ylabel="balanced accuracy")
        _log_axis(axes, [place.x for place in places], "x")
        front = sorted((place.x, place.y.value) for place in places if place.on_front and place.y.value is not None)
        if front:
            # from each network on, nothing cheaper scores higher until the next one
            xs, ys = [*(x for x, _ in front), axes.get_xlim()[1]], [*(y for _, y in front), front[-1][1]]
            axes.plot(xs, ys, drawstyle="steps-post", color=INK, linewidth=1.1, linestyle=DASHED, alpha=0.8)
        _draw_places(axes, places)

    n = formatting.counted(len(places), "network")
    alt = f"Balanced accuracy against FLOPs of {n} on {tested_on}. The numbers are in the tables."
    return Drawing(draw, (WIDTH_PX, HEIGHT_PX), name, alt, LARGEST)


def latency_figure(places: Sequence[Place], *, name: str, n_networks: int) -> Drawing:
    """Latency in ms against parameters in 10^6, both logarithmic."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        axes.set(xlabel="parameters, 10⁶", ylabel="latency of one image, ms")
        _log_axis(axes, [place.x for place in places], "x")
        _log_axis(axes, [v for place in places for v in _values(place.y)], "y")
        _draw_places(axes, places)

    n = formatting.counted(n_networks, "network")
    alt = f"Latency of one image against parameters of {n}. The numbers are in the tables."
    return Drawing(draw, (WIDTH_PX, HEIGHT_PX), name, alt, LARGEST)


def _axes(figure: Figure) -> Axes:
    axes = figures.axes_px(figure, LEFT_PX, TOP_PX, RIGHT_PX, BOTTOM_PX)
    axes.grid()
    return axes


def _values(estimate: Estimate) -> list[float]:
    return [value for value in (estimate.value, estimate.low, estimate.high) if value is not None]


def _score_limits(places: Sequence[Place]) -> tuple[float, float]:
    """The range of all values and intervals, widened to tenths."""
    values = [value for place in places for value in _values(place.y)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return max(0.0, math.floor(10 * low - 0.2) / 10), min(1.0, math.ceil(10 * high + 0.1) / 10)


def _log_axis(axes: Axes, values: Sequence[float], which: Literal["x", "y"]) -> None:
    """A logarithmic axis around values > 0 with plain numbers at 1, 2 and 5 of each decade, or at decades alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(values), max(values)
    margin = max(1.25, math.sqrt(NARROWEST * low / high))
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / margin, high * margin)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    digits = (1, 2, 5) if high / low < MOST_DIVIDED else (1,)
    axis.set_major_locator(LogLocator(subs=digits, numticks=MOST_TICKS))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}" if tick >= 1 else f"{tick:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_places(axes: Axes, places: Sequence[Place]) -> None:
    for place in places:
        if place.y.value is None:
            continue
        colour = place.style.colour
        if place.y.low is not None and place.y.high is not None:
            axes.vlines(place.x, place.y.low, place.y.high, color=colour, linewidth=1.3, alpha=0.55)
        axes.plot(
            place.x, place.y.value, color=colour, marker=place.style.marker, markersize=5.6, clip_on=False, zorder=4,
            markerfacecolor=place.style.face, markeredgewidth=1.1, linestyle="none",
        )  # fmt: skip
