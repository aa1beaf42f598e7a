"""The figures of results that lie on lines: a score against the number or the share of labels, one line a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate, FractionScores, Shots, Supervised
from hemalens.report.curve_lines import Line
from hemalens.report.svg import INK, LINES, MARKERS, PAPER, POINTS_PER_PX, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 440.0, 370.0
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 44.0, 92.0, 14.0, 46.0
LARGEST = 1.2
DASHED, DOTTED = (0, (5, 3)), (0, (1, 2))
_LABEL_PX = 15.0


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Number of the page's colour, from 1, and marker of a line; `hollow` for one with a warning."""

    colour: int
    marker: str
    hollow: bool


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis: its title, and the words at every x of any line, ascending."""

    title: str
    ticks: Mapping[float, str]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its scores at each x, which are those of `n_classes`; `reference` is what all labels give."""

    style: LineStyle
    points: tuple[tuple[float, Shots | FractionScores], ...]
    n_classes: int
    reference: Supervised | None = None


@dataclass(frozen=True, slots=True)
class _Label:
    """Words at the right edge, at the height `y`; with the marker of a line where they are about one."""

    y: float
    text: str
    style: LineStyle | None = None


@dataclass(frozen=True, slots=True)
class _Panel:
    """One score: its name, where to find it, and what guessing gives, as lines over x."""

    score: str
    of: Callable[[Shots | FractionScores | Supervised], Estimate]
    guessing: str
    guesses: tuple[tuple[tuple[float, float], ...], ...]


def line_styles(lines: Sequence[Line[Any]]) -> tuple[LineStyle, ...]:
    """How each line is drawn, in the same order."""
    return tuple(
        LineStyle(1 + i % len(LINES), MARKERS[i % len(MARKERS)], hollow=bool(line.tag)) for i, line in enumerate(lines)
    )


def line_figures(curves: Sequence[Curve], axis: Axis, *, name: str, against: str) -> tuple[str, str]:
    """Balanced accuracy and accuracy against x as two SVGs with the same scales.

    Points are means with their intervals; methods stand side by side at each x. Dashed: with all labels; dotted: guessing.
    `against` completes the words for those who do not see them: "on lab_b against k, 5 methods".
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
        draw_svg(
            lambda figure, panel=panel: _draw(figure, curves, panel, axis, limits),  # type: ignore[misc]
            WIDTH_PX,
            HEIGHT_PX,
            name=f"{name}-{panel.score.replace(' ', '-')}",
            alt=f"{panel.score.capitalize()} {against}. The numbers follow as a table.",
            largest=LARGEST,
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
    """Where each of ascending x stands in [0, 1]: by its logarithm, but apart enough for a reader; 0 as half the next."""
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


def _draw(figure: Figure, curves: Sequence[Curve], panel: _Panel, axis: Axis, limits: tuple[float, float]) -> None:
    width, height = (WIDTH_PX - LEFT_PX - RIGHT_PX) / WIDTH_PX, (HEIGHT_PX - TOP_PX - BOTTOM_PX) / HEIGHT_PX
    axes = figure.add_axes((LEFT_PX / WIDTH_PX, BOTTOM_PX / HEIGHT_PX, width, height))
    places = positions(tuple(axis.ticks))
    axes.set(xlim=(-0.07, 1.07), ylim=limits, xlabel=axis.title, ylabel=panel.score)
    axes.set_xticks(list(places.values()), list(axis.ticks.values()))
    step = 0.1 if limits[1] - limits[0] < 0.65 else 0.2
    axes.set_yticks([i * step for i in range(round(1 / step) + 1) if limits[0] <= i * step + 1e-9 <= limits[1] + 2e-9])
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    labels = [*_draw_guesses(axes, panel, places), *_draw_references(axes, curves, panel)]
    _draw_lines(axes, curves, panel, places)
    _write_labels(axes, labels, limits)


def _draw_guesses(axes: Axes, panel: _Panel, places: Mapping[float, float]) -> list[_Label]:
    for guess in panel.guesses:
        xs, ys = [places[x] for x, _ in guess], [rate for _, rate in guess]
        axes.plot([-0.07, *xs, 1.07], [ys[0], *ys, ys[-1]], color=INK, linewidth=1.0, linestyle=DOTTED, alpha=0.75)
    ends = sorted(guess[-1][1] for guess in panel.guesses)
    return [_Label(ends[len(ends) // 2], panel.guessing)] if ends else []


def _draw_references(axes: Axes, curves: Sequence[Curve], panel: _Panel) -> list[_Label]:
    """Dashed lines, in the colour of their method unless all have the same one."""
    found: list[tuple[float, LineStyle]] = []
    for curve in curves:
        value = panel.of(curve.reference).value if curve.reference else None
        if value is not None:
            found.append((value, curve.style))
    if not found:
        return []
    common = len({value for value, _ in found}) == 1 and (len(found) > 1 or len(curves) == 1)
    labels = [_Label(max(value for value, _ in found) + 1e-6, "all labels")]
    for value, style in found[:1] if common else found:
        colour = INK if common else LINES[style.colour - 1]
        axes.axhline(value, color=colour, linewidth=1.1, linestyle=DASHED, alpha=0.85)
        labels.append(_Label(value, formatting.score(value), None if common else style))
    return labels


def _draw_lines(axes: Axes, curves: Sequence[Curve], panel: _Panel, places: Mapping[float, float]) -> None:
    gaps = [b - a for a, b in pairwise(places.values())]
    n = len(curves)
    step = min(0.018, 0.75 * min(gaps, default=1.0) / n)
    for i, curve in enumerate(curves):
        _draw_line(axes, curve, panel, {x: place + (i - (n - 1) / 2) * step for x, place in places.items()})


def _draw_line(axes: Axes, curve: Curve, panel: _Panel, places: Mapping[float, float]) -> None:
    colour = LINES[curve.style.colour - 1]
    found = sorted(((places[x], panel.of(scores)) for x, scores in curve.points), key=lambda point: point[0])
    points = [(x, e.value) for x, e in found if e.value is not None]
    for x, estimate in found:
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, estimate.low, estimate.high, color=colour, linewidth=1.3, alpha=0.55)
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.5, marker=curve.style.marker,
        markersize=4.6, markerfacecolor=PAPER if curve.style.hollow else colour, markeredgewidth=1.1, clip_on=False,
        zorder=4,
    )  # fmt: skip


def _write_labels(axes: Axes, labels: Sequence[_Label], limits: tuple[float, float]) -> None:
    """Words at the right edge beside their heights, moved apart, with a thin line to where they belong."""
    height_px = HEIGHT_PX - TOP_PX - BOTTOM_PX
    ordered = sorted(labels, key=lambda label: -label.y)
    wanted = [height_px * (label.y - limits[0]) / (limits[1] - limits[0]) for label in ordered]
    # the heading stands above the labels it heads
    wanted = [y + _LABEL_PX if label.text == "all labels" else y for label, y in zip(ordered, wanted, strict=True)]
    placed = apart(wanted, _LABEL_PX, highest=height_px + TOP_PX - 6)
    plot_px = WIDTH_PX - LEFT_PX - RIGHT_PX
    for label, y_px in zip(ordered, placed, strict=True):
        y = y_px / height_px
        x = 1 + (16 if label.style else 6) / plot_px
        if label.style:
            colour = LINES[label.style.colour - 1]
            true = (label.y - limits[0]) / (limits[1] - limits[0])
            axes.plot([1, 1 + 5 / plot_px], [true, y], transform=axes.transAxes, color=colour, linewidth=0.8, clip_on=False)
            axes.plot(
                1 + 10 / plot_px, y, transform=axes.transAxes, color=colour, marker=label.style.marker, markersize=4.2,
                markerfacecolor=PAPER if label.style.hollow else colour, clip_on=False,
            )  # fmt: skip
        axes.text(x, y, label.text, transform=axes.transAxes, va="center", fontsize=11 * POINTS_PER_PX)


def apart(wanted: Sequence[float], gap: float, *, highest: float) -> list[float]:
    """Heights in descending order, at least `gap` apart and at most `highest`, close to the `wanted` ones.

    Those that would overlap become a block around their mean.
    """
    blocks: list[tuple[float, int]] = []  # centre and number of labels
    for y in wanted:
        centre, n = y, 1
        while blocks and blocks[-1][0] - gap * blocks[-1][1] / 2 < centre + gap * n / 2:
            above, m = blocks.pop()
            centre, n = (above * m + centre * n) / (m + n), m + n
        centre = min(centre, highest - gap * (n - 1) / 2)
        blocks.append((centre, n))
    return [centre + gap * ((n - 1) / 2 - i) for centre, n in blocks for i in range(n)]
