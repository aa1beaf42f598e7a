"""The figures of k-shot results: a score against the number of labelled images a class, one line for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hemalens.evaluation.report import formatting
from hemalens.evaluation.report.canvas import INK, LINES, MARKERS, PAPER, POINTS_PER_PX, draw_svg
from hemalens.evaluation.report.k_shot import Line, Target
from hemalens.evaluation.results import Estimate, Shots, Supervised

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
    """Number of the page's colour, from 1, and marker of a line; `hollow` for a transductive one."""

    colour: int
    marker: str
    hollow: bool


@dataclass(frozen=True, slots=True)
class _Label:
    """Words at the right edge, at the height `y`; with the marker of a line where they are about one."""

    y: float
    text: str
    style: LineStyle | None = None


@dataclass(frozen=True, slots=True)
class _Panel:
    """One score: its name, where to find it, and what guessing gives, as lines over k."""

    score: str
    of_shots: Callable[[Shots], Estimate]
    of_reference: Callable[[Supervised], Estimate]
    guessing: str
    guesses: tuple[tuple[tuple[int, float], ...], ...]


def line_styles(target: Target) -> tuple[LineStyle, ...]:
    """How each line of a target is drawn, in the same order."""
    return tuple(
        LineStyle(1 + i % len(LINES), MARKERS[i % len(MARKERS)], line.result.transductive)
        for i, line in enumerate(target.lines)
    )


def k_shot_figures(target: Target, *, name: str) -> tuple[str, str]:
    """Balanced accuracy and accuracy against k as two SVGs with the same scales.

    Points are means with their intervals; methods stand side by side at each k. Dashed: with all labels; dotted: guessing.
    """
    results = [line.result for line in target.lines]
    chances = tuple(dict.fromkeys(tuple((k, 1 / len(r.classes)) for k in target.ks) for r in results if r.classes))
    majorities = tuple(
        dict.fromkeys(tuple((shots.k, shots.majority_rate) for shots in r.shots) for r in results if r.shots)
    )
    panels = (
        _Panel("balanced accuracy", lambda s: s.balanced_accuracy, lambda s: s.balanced_accuracy, "chance", chances),
        _Panel("accuracy", lambda s: s.accuracy, lambda s: s.accuracy, "majority rate", majorities),
    )
    limits = _limits(target, panels)
    first, second = (
        draw_svg(
            lambda figure, panel=panel: _draw(figure, target, panel, limits),  # type: ignore[misc]
            WIDTH_PX,
            HEIGHT_PX,
            name=f"{name}-{panel.score.replace(' ', '-')}",
            alt=_alt(target, panel),
            largest=LARGEST,
        )
        for panel in panels
    )
    return first, second


def _alt(target: Target, panel: _Panel) -> str:
    ks = formatting.listed([formatting.count(k) for k in target.ks]) if target.ks else formatting.MISSING
    methods = formatting.counted(len(target.lines), "method")
    return (
        f"{panel.score.capitalize()} on {target.name} against the number k of labelled images of each cell type, k = {ks}, "
        f"{methods}. The numbers follow as a table."
    )


def _limits(target: Target, panels: Sequence[_Panel]) -> tuple[float, float]:
    """The range of all panels, widened to tenths."""
    values: list[float | None] = []
    for panel in panels:
        values += [rate for guess in panel.guesses for _, rate in guess]
        for line in target.lines:
            estimates = [panel.of_shots(shots) for shots in line.result.shots]
            estimates += [panel.of_reference(line.result.supervised)] if line.result.supervised else []
            values += [value for e in estimates for value in (e.value, e.low, e.high)]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return max(0.0, math.floor(10 * low - 0.2) / 10), min(1.0, math.ceil(10 * high) / 10)


def k_positions(ks: Sequence[int]) -> dict[int, float]:
    """Where each k stands in [0, 1]: by its logarithm, but no closer to its neighbour than a reader can tell apart."""
    if len(ks) < 2:
        return dict.fromkeys(ks, 0.5)
    smallest = 0.08 * math.log(ks[-1] / ks[0])
    position, positions = 0.0, {ks[0]: 0.0}
    for a, b in pairwise(ks):
        position += max(math.log(b / a), smallest)
        positions[b] = position
    return {k: value / position for k, value in positions.items()}


def _draw(figure: Figure, target: Target, panel: _Panel, limits: tuple[float, float]) -> None:
    width, height = (WIDTH_PX - LEFT_PX - RIGHT_PX) / WIDTH_PX, (HEIGHT_PX - TOP_PX - BOTTOM_PX) / HEIGHT_PX
    axes = figure.add_axes((LEFT_PX / WIDTH_PX, BOTTOM_PX / HEIGHT_PX, width, height))
    positions = k_positions(target.ks)
    axes.set(xlim=(-0.07, 1.07), ylim=limits, xlabel="labelled images of each cell type, k", ylabel=panel.score)
    axes.set_xticks(list(positions.values()), [formatting.count(k) for k in positions])
    step = 0.1 if limits[1] - limits[0] < 0.65 else 0.2
    axes.set_yticks([i * step for i in range(round(1 / step) + 1) if limits[0] <= i * step + 1e-9 <= limits[1] + 2e-9])
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    labels = [*_draw_guesses(axes, panel, positions), *_draw_references(axes, target, panel)]
    _draw_lines(axes, target, panel, positions)
    _write_labels(axes, labels, limits)


def _draw_guesses(axes: Axes, panel: _Panel, positions: dict[int, float]) -> list[_Label]:
    for guess in panel.guesses:
        xs, ys = [positions[k] for k, _ in guess], [rate for _, rate in guess]
        axes.plot([-0.07, *xs, 1.07], [ys[0], *ys, ys[-1]], color=INK, linewidth=1.0, linestyle=DOTTED, alpha=0.75)
    ends = sorted(guess[-1][1] for guess in panel.guesses)
    return [_Label(ends[len(ends) // 2], panel.guessing)] if ends else []


def _draw_references(axes: Axes, target: Target, panel: _Panel) -> list[_Label]:
    """Dashed lines, in the colour of their method unless all have the same one."""
    found: list[tuple[float, LineStyle]] = []
    for line, style in zip(target.lines, line_styles(target), strict=True):
        value = panel.of_reference(line.result.supervised).value if line.result.supervised else None
        if value is not None:
            found.append((value, style))
    if not found:
        return []
    common = len({value for value, _ in found}) == 1 and (len(found) > 1 or len(target.lines) == 1)
    labels = [_Label(max(value for value, _ in found) + 1e-6, "all labels")]
    for value, style in found[:1] if common else found:
        colour = INK if common else LINES[style.colour - 1]
        axes.axhline(value, color=colour, linewidth=1.1, linestyle=DASHED, alpha=0.85)
        labels.append(_Label(value, formatting.score(value), None if common else style))
    return labels


def _draw_lines(axes: Axes, target: Target, panel: _Panel, positions: dict[int, float]) -> None:
    gaps = [b - a for a, b in pairwise(positions.values())]
    n = len(target.lines)
    step = min(0.018, 0.75 * min(gaps, default=1.0) / n)
    for i, (line, style) in enumerate(zip(target.lines, line_styles(target), strict=True)):
        _draw_line(axes, line, panel, style, {k: x + (i - (n - 1) / 2) * step for k, x in positions.items()})


def _draw_line(axes: Axes, line: Line, panel: _Panel, style: LineStyle, positions: dict[int, float]) -> None:
    colour = LINES[style.colour - 1]
    found = sorted((positions[shots.k], panel.of_shots(shots)) for shots in line.result.shots)
    points = [(x, e.value) for x, e in found if e.value is not None]
    for x, estimate in found:
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, estimate.low, estimate.high, color=colour, linewidth=1.3, alpha=0.55)
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.5, marker=style.marker, markersize=4.6,
        markerfacecolor=PAPER if style.hollow else colour, markeredgewidth=1.1, clip_on=False, zorder=4,
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
