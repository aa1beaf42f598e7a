"""Figures of curves: a score against the number or the fraction of labels, one line per method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from hemalens.evaluation.results import Estimate, FractionScores, Shots, Supervised
from hemalens.report import figures
from hemalens.report.figures import DASHED, DOTTED, INK, LINES, MARKERS, PAPER, SMALL, Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 440.0, 370.0
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 50.0, 10.0, 14.0, 46.0
LARGEST = 1.2


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Colour and marker of a line, by its number from 0; `hollow` for one with a warning."""

    number: int
    hollow: bool = False

    @property
    def colour(self) -> str:
        """Stands for a colour of the page."""
        return LINES[self.number % len(LINES)]

    @property
    def marker(self) -> str:
        """A marker of matplotlib."""
        return MARKERS[self.number % len(MARKERS)]

    @property
    def face(self) -> str:
        """The colour inside the marker."""
        return PAPER if self.hollow else self.colour


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis: its title, and the tick label of every x, ascending."""

    title: str
    ticks: Mapping[float, str]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its scores at each x, over `n_classes`; `reference` are the scores with all labels."""

    style: LineStyle
    points: tuple[tuple[float, Shots | FractionScores], ...]
    n_classes: int
    reference: Supervised | None = None


@dataclass(frozen=True, slots=True)
class _Panel:
    """One score: its name, how to read it, and the scores of guessing as lines over x."""

    score: str
    of: Callable[[Shots | FractionScores | Supervised], Estimate]
    guessing: str
    guesses: tuple[tuple[tuple[float, float], ...], ...]


def line_figures(curves: Sequence[Curve], axis: Axis, *, name: str, against: str) -> tuple[Drawing, Drawing]:
    """Balanced accuracy and accuracy against x as two figures with the same scales.

    Points are means with their intervals; methods are drawn side by side at each x. Dashed: with all labels; dotted:
    guessing. `against` completes the alternative text: "on lab_b against k, 5 methods".
    """
    chances = tuple(dict.fromkeys(tuple((x, 1 / c.n_classes) for x in axis.ticks) for c in curves if c.n_classes))
    majorities = tuple(
        dict.fromkeys(tuple((x, scores.majority_rate) for x, scores in c.points) for c in curves if c.points)
    )
    panels = (
        _Panel("balanced accuracy", lambda scores: scores.balanced_accuracy, "chance", chances),
        _Panel("accuracy", lambda scores: scores.accuracy, "majority rate", majorities),
    )
    limits = _limits(curves, panels)
    first, second = (
        Drawing(
            partial(_draw, curves=curves, panel=panel, axis=axis, limits=limits),
            (WIDTH_PX, HEIGHT_PX),
            f"{name}-{panel.score.replace(' ', '-')}",
            f"{panel.score.capitalize()} {against}. The numbers follow as a table.",
            LARGEST,
        )
        for panel in panels
    )
    return first, second


def _limits(curves: Sequence[Curve], panels: Sequence[_Panel]) -> tuple[float, float]:
    """The range of all panels, widened to tenths."""
    values: list[float | None] = []
    for panel in panels:
        values += [rate for guess in panel.guesses for _, rate in guess]
        for curve in curves:
            estimates = [panel.of(scores) for _, scores in curve.points]
            estimates += [panel.of(curve.reference)] if curve.reference else []
            values += [value for e in estimates for value in (e.value, e.low, e.high)]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return max(0.0, math.floor(10 * low - 0.2) / 10), min(1.0, math.ceil(10 * high) / 10)


def positions(xs: Sequence[float]) -> dict[float, float]:
    """The position in [0, 1] of each of ascending x: by its logarithm, with a least distance; 0 as half the next."""
    if len(xs) < 2:
        return dict.fromkeys(xs, 0.5)
    if xs[0] == 0:
        return dict(zip(xs, positions((xs[1] / 2, *xs[1:])).values(), strict=True))
    smallest = 0.08 * math.log(xs[-1] / xs[0])
    position, found = 0.0, {xs[0]: 0.0}
    for a, b in pairwise(xs):
        position += max(math.log(b / a), smallest)
        found[b] = position
    return {x: value / position for x, value in found.items()}


def _draw(figure: Figure, *, curves: Sequence[Curve], panel: _Panel, axis: Axis, limits: tuple[float, float]) -> None:
    axes = figures.axes_px(figure, LEFT_PX, TOP_PX, RIGHT_PX, BOTTOM_PX)
    places = positions(tuple(axis.ticks))
    axes.set(xlim=(-0.07, 1.07), ylim=limits, xlabel=axis.title, ylabel=panel.score)
    axes.set_xticks(list(places.values()), list(axis.ticks.values()))
    step = 0.1 if limits[1] - limits[0] < 0.65 else 0.2
    axes.set_yticks([i * step for i in range(round(1 / step) + 1) if limits[0] <= i * step + 1e-9 <= limits[1] + 2e-9])
    axes.grid(axis="y")
    for guess in panel.guesses:
        xs, ys = [places[x] for x, _ in guess], [rate for _, rate in guess]
        axes.plot([-0.07, *xs, 1.07], [ys[0], *ys, ys[-1]], color=INK, linewidth=1.0, linestyle=DOTTED, alpha=0.75)
    if panel.guesses:
        middle = sorted(guess[-1][1] for guess in panel.guesses)[len(panel.guesses) // 2]
        axes.annotate(panel.guessing, (1.06, middle), (0, 2), textcoords="offset points", ha="right", fontsize=SMALL)
    _draw_references(axes, curves, panel)
    _draw_lines(axes, curves, panel, places)


def _draw_references(axes: Axes, curves: Sequence[Curve], panel: _Panel) -> None:
    """Dashed lines with all labels, in the colour of their method; one in ink where all methods have the same."""
    found = [(panel.of(curve.reference).value, curve.style.colour) for curve in curves if curve.reference]
    common = len({value for value, _ in found}) == 1 and (len(found) > 1 or len(curves) == 1)
    for value, colour in found[:1] if common else found:
        if value is not None:
            axes.axhline(value, color=INK if common else colour, linewidth=1.1, linestyle=DASHED, alpha=0.85)


def _draw_lines(axes: Axes, curves: Sequence[Curve], panel: _Panel, places: Mapping[float, float]) -> None:
    gaps = [b - a for a, b in pairwise(places.values())]
    n = len(curves)
    step = min(0.018, 0.75 * min(gaps, default=1.0) / n)
    for i, curve in enumerate(curves):
        _draw_line(axes, curve, panel, {x: place + (i - (n - 1) / 2) * step for x, place in places.items()})


def _draw_line(axes: Axes, curve: Curve, panel: _Panel, places: Mapping[float, float]) -> None:
    colour = curve.style.colour
    found = sorted(((places[x], panel.of(scores)) for x, scores in curve.points), key=lambda point: point[0])
    points = [(x, e.value) for x, e in found if e.value is not None]
    for x, estimate in found:
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, estimate.low, estimate.high, color=colour, linewidth=1.3, alpha=0.55)
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.5, marker=curve.style.marker,
        markersize=4.6, markerfacecolor=curve.style.face, markeredgewidth=1.1, clip_on=False,
        zorder=4,
    )  # fmt: skip
