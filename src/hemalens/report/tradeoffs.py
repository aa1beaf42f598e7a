"""The figures of what networks cost: a score against FLOPs with the Pareto front, latency against parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate
from hemalens.report.svg import INK, LINES, MARKERS, PAPER, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 440.0, 370.0
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 58.0, 16.0, 14.0, 46.0
LARGEST = 1.2
MOST_TICKS = 7
NARROWEST = 6.0
"""A logarithmic axis spans at least this factor, so that it has a tick or two."""


@dataclass(frozen=True, slots=True)
class PointStyle:
    """Number of the page's colour, from 1, and marker of a network."""

    colour: int
    marker: str


@dataclass(frozen=True, slots=True)
class Place:
    """One network in a figure: its cost > 0, and what it gets for it with an interval."""

    x: float
    y: Estimate
    style: PointStyle
    hollow: bool = False
    on_front: bool = False


def point_style(number: int) -> PointStyle:
    """The style of a network by its number in the report, from 0; 72 of them differ."""
    return PointStyle(1 + number % len(LINES), MARKERS[number % len(MARKERS)])


def score_figure(places: Sequence[Place], *, name: str, tested_on: str) -> str:
    """Balanced accuracy against FLOPs in 10^9, logarithmic, as SVG; the Pareto front is a dashed line of steps."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        low, high = _score_limits(places)
        axes.set(ylim=(low, high), xlabel="FLOPs, 10⁹ an image", ylabel="balanced accuracy")
        _log_axis(axes, [place.x for place in places], "x")
        front = sorted((place.x, place.y.value) for place in places if place.on_front and place.y.value is not None)
        if front:
            # from each network on, nothing cheaper scores higher until the next one
            xs, ys = [*(x for x, _ in front), axes.get_xlim()[1]], [*(y for _, y in front), front[-1][1]]
            axes.plot(xs, ys, drawstyle="steps-post", color=INK, linewidth=1.1, linestyle=(0, (5, 3)), alpha=0.8)
        _draw_places(axes, places)

    n = formatting.counted(len(places), "network")
    alt = f"Balanced accuracy against FLOPs of {n} on {tested_on}. The numbers are in the tables."
    return draw_svg(draw, WIDTH_PX, HEIGHT_PX, name=name, alt=alt, largest=LARGEST)


def latency_figure(places: Sequence[Place], *, name: str, n_networks: int) -> str:
    """Latency in ms against parameters in 10^6, both logarithmic, as SVG."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        axes.set(xlabel="parameters, 10⁶", ylabel="latency of one image, ms")
        _log_axis(axes, [place.x for place in places], "x")
        _log_axis(axes, [v for place in places for v in _values(place.y)], "y")
        _draw_places(axes, places)

    n = formatting.counted(n_networks, "network")
    alt = f"Latency of one image against parameters of {n}. The numbers are in the tables."
    return draw_svg(draw, WIDTH_PX, HEIGHT_PX, name=name, alt=alt, largest=LARGEST)


def _axes(figure: Figure) -> Axes:
    width, height = (WIDTH_PX - LEFT_PX - RIGHT_PX) / WIDTH_PX, (HEIGHT_PX - TOP_PX - BOTTOM_PX) / HEIGHT_PX
    axes = figure.add_axes((LEFT_PX / WIDTH_PX, BOTTOM_PX / HEIGHT_PX, width, height))
    axes.grid(color=INK, alpha=0.12, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _values(estimate: Estimate) -> list[float]:
    return [value for value in (estimate.value, estimate.low, estimate.high) if value is not None]


def _score_limits(places: Sequence[Place]) -> tuple[float, float]:
    """The range of all values and intervals, widened to tenths."""
    values = [value for place in places for value in _values(place.y)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return max(0.0, math.floor(10 * low - 0.2) / 10), min(1.0, math.ceil(10 * high + 0.1) / 10)


def _log_axis(axes: Axes, values: Sequence[float], which: str) -> None:
    """A logarithmic axis around values > 0 with plain numbers at 1, 2 and 5 of each decade, or at decades alone."""
    low, high = min(values), max(values)
    margin = max(1.25, math.sqrt(NARROWEST * low / high))
    limits = low / margin, high * margin
    ticks = log_ticks(*limits)
    words = [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks]
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        axes.set_xticks(ticks, words)
    else:
        axes.set_yscale("log")
        axes.set_ylim(*limits)
        axes.set_yticks(ticks, words)
    axes.minorticks_off()


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range > 0 for a logarithmic axis, at most seven."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) <= MOST_TICKS:
            return ticks
    return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]


def _draw_places(axes: Axes, places: Sequence[Place]) -> None:
    for place in places:
        if place.y.value is None:
            continue
        colour = LINES[place.style.colour - 1]
        if place.y.low is not None and place.y.high is not None:
            axes.vlines(place.x, place.y.low, place.y.high, color=colour, linewidth=1.3, alpha=0.55)
        axes.plot(
            place.x, place.y.value, color=colour, marker=place.style.marker, markersize=5.6, clip_on=False, zorder=4,
            markerfacecolor=PAPER if place.hollow else colour, markeredgewidth=1.1, linestyle="none",
        )  # fmt: skip
