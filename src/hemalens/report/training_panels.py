"""Panels of training curves: a loss or a score against the epoch, on the page and as a picture file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hemalens.evaluation import formatting
from hemalens.evaluation.results import TrainingCurve
from hemalens.report import figures
from hemalens.report.curves import LineStyle
from hemalens.report.figures import DASHED, SMALL, Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH_PX, HEIGHT_PX = 440.0, 320.0
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 62.0, 12.0, 14.0, 46.0
LARGEST = 1.2
N_COLUMNS = 2
KEY_PX, LEGEND_PX = 22.0, 14.0
"""Height of a line of the legend of a picture file, and its margin."""
LOG_RATIO = 30.0
"""A loss whose largest value is this many times its median has a logarithmic axis."""
N_MARKERS = 7
N_ALL_MARKED = 12
"""With so many epochs or fewer, each has a marker."""
_STEPS = (1, 2, 5, 10)

Values = tuple[float | None, ...]
Limits = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """The trainings of one name, one a seed, and how they are drawn."""

    name: str
    style: LineStyle
    curves: tuple[TrainingCurve, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One series of a curve: its name with and without its part, and the axis that it shares with others."""

    title: str
    short: str
    axis: str
    of: Callable[[TrainingCurve], Values]

    @property
    def is_score(self) -> bool:
        """Whether its values are in [0, 1]."""
        return self.axis == "score"


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """Quantities on one axis, over the lines of a group; several only where the group has one line."""

    title: str
    quantities: tuple[Quantity, ...]
    lines: tuple[Line, ...]
    limits: Limits
    log: bool = False


def quantities(curves: Sequence[TrainingCurve]) -> list[Quantity]:
    """Every quantity that any curve has: losses, scores, then the further ones; the NLL where there is no other loss."""
    parts = "/".join(dict.fromkeys(formatting.visible(curve.part) for curve in curves))
    further = dict.fromkeys(name for curve in curves for name in curve.further)
    possible = [
        Quantity("training loss", "training loss", "loss", lambda curve: curve.train_loss),
        Quantity(f"{parts} loss", f"{parts} loss", "loss", lambda curve: curve.val_loss),
        Quantity(f"{parts} NLL", f"{parts} NLL", "loss", lambda curve: () if curve.val_loss else curve.val_nll),
        Quantity(f"{parts} balanced accuracy", "balanced accuracy", "score", lambda curve: curve.balanced_accuracy),
        Quantity(f"{parts} accuracy", "accuracy", "score", lambda curve: curve.accuracy),
        *map(_further, further),
    ]
    return [quantity for quantity in possible if any(quantity.of(curve) for curve in curves)]


def _further(name: str) -> Quantity:
    title = formatting.visible(name).replace("_", " ")
    return Quantity(title, title, name, lambda curve: curve.further.get(name, ()))


def rings(lines: Sequence[Line]) -> bool:
    """Whether the kept epochs are marked: somewhere it is known and not the last."""
    return any(curve.kept not in (None, curve.epoch[-1]) for line in lines for curve in line.curves)


def panels(lines: Sequence[Line]) -> list[CurvePanel]:
    """The panels of a group: loss and score of one line, otherwise a panel for each quantity; axes of a kind agree."""
    curves = [curve for line in lines for curve in line.curves]
    found = quantities(curves)
    axes = {
        axis: [quantity for quantity in found if quantity.axis == axis] for axis in dict.fromkeys(q.axis for q in found)
    }
    made = []
    for shared in axes.values():
        values = [value for q in shared for curve in curves for value in q.of(curve) if value is not None]
        log = not shared[0].is_score and _spans_magnitudes(values)
        limits = _limits(values, is_score=shared[0].is_score, log=log)
        if len(lines) == 1 and len(shared) > 1:
            made.append(CurvePanel(shared[0].axis, tuple(shared), tuple(lines), limits, log))
        else:
            made += [CurvePanel(q.title, (q,), tuple(lines), limits, log) for q in shared]
    return made


def _spans_magnitudes(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > LOG_RATIO * float(np.median(values))


def _limits(values: Sequence[float], *, is_score: bool, log: bool) -> Limits:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if is_score:
        return max(0.0, math.floor(10 * low - 0.2) / 10), min(1.0, math.ceil(10 * high + 0.2) / 10)
    if log:
        return low / 1.3, high * 1.3
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def mean_of(curves: Sequence[TrainingCurve], of: Callable[[TrainingCurve], Values]) -> dict[int, float | None]:
    """The mean over trainings at each epoch that all of them reached; None where one has no value."""
    found = [dict(zip(curve.epoch, of(curve), strict=True)) for curve in curves if of(curve)]
    means: dict[int, float | None] = {}
    for epoch in sorted(set.intersection(*map(set, found)) if found else ()):
        known = [value for values in found if (value := values[epoch]) is not None]
        means[epoch] = sum(known) / len(known) if len(known) == len(found) else None
    return means


def drawings(shown: Sequence[CurvePanel], *, name: str, group: str) -> Iterator[Drawing]:
    """Each panel as a figure of the page."""
    of = f" of {formatting.listed([line.name for line in shown[0].lines])}" if shown else ""
    where = f", {group}" if group else ""
    for number, panel in enumerate(shown, start=1):
        alt = f"{panel.title.capitalize()}{of} against the epoch{where}. The numbers follow as a table."
        yield Drawing(partial(_draw_alone, panel=panel), (WIDTH_PX, HEIGHT_PX), f"{name}-{number}", alt, LARGEST)


def picture(shown: Sequence[CurvePanel]) -> str:
    """All panels of a group and their legend as the text of an SVG file."""
    n_columns = min(N_COLUMNS, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    lines = shown[0].lines
    legend_px = 0.0
    if len(lines) > 1:
        legend_px = LEGEND_PX + KEY_PX * math.ceil(len(lines) / _keys_abreast(lines, n_columns * WIDTH_PX))
    size = (n_columns * WIDTH_PX, n_rows * HEIGHT_PX + legend_px)
    return figures.svg_file(partial(_draw_together, shown=shown, n_columns=n_columns, legend_px=legend_px), size)


def _keys_abreast(lines: Sequence[Line], width_px: float) -> int:
    widest = 60 + 7.5 * max(len(line.name) for line in lines)
    return max(1, min(len(lines), int((width_px - 20) / widest)))


def _draw_together(figure: Figure, *, shown: Sequence[CurvePanel], n_columns: int, legend_px: float) -> None:
    width, height = (100 * side for side in figure.get_size_inches())
    for i, panel in enumerate(shown):
        row, column = divmod(i, n_columns)
        left, top = column * WIDTH_PX, row * HEIGHT_PX
        axes = figures.axes_px(
            figure,
            left + LEFT_PX,
            top + TOP_PX,
            width - left - WIDTH_PX + RIGHT_PX,
            height - top - HEIGHT_PX + BOTTOM_PX,
        )
        _draw(axes, panel)
    lines = shown[0].lines
    if legend_px:
        figure.legend(
            handles=[_handle(line) for line in lines],
            loc="lower center",
            ncols=_keys_abreast(lines, width),
            frameon=False,
            bbox_to_anchor=(0.5, 2 / height),
        )


def _handle(line: Line) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=line.style.colour, linewidth=1.6, marker=line.style.marker, markersize=4.2, label=line.name)


def _draw_alone(figure: Figure, *, panel: CurvePanel) -> None:
    _draw(figures.axes_px(figure, LEFT_PX, TOP_PX, RIGHT_PX, BOTTOM_PX), panel)


def _draw(axes: Axes, panel: CurvePanel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    epochs = [epoch for line in panel.lines for curve in line.curves for epoch in curve.epoch]
    margin = max(0.5, 0.02 * (max(epochs) - 1))
    axes.set(xlim=(min(epochs) - margin, max(epochs) + margin), xlabel="epoch")
    axes.set_ylabel(panel.title + (" (log scale)" if panel.log else ""))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=_STEPS, min_n_ticks=1))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(9, steps=_STEPS))
    axes.set_ylim(*panel.limits)
    axes.grid(axis="y")
    for quantity, style, dashed, line in _drawn(panel):
        _draw_line(axes, line, quantity, style, dashed=dashed, panel=panel)
    if len(panel.quantities) > 1:
        axes.legend(frameon=False, fontsize=SMALL, handlelength=2.6)


def _drawn(panel: CurvePanel) -> Iterator[tuple[Quantity, LineStyle, bool, Line]]:
    """Each line with its quantity, style, and whether it is dashed: one line's quantities differ in colour and dashes."""
    for number, quantity in enumerate(panel.quantities):
        for line in panel.lines:
            style = LineStyle(number) if len(panel.quantities) > 1 else line.style
            yield quantity, style, number > 0, line


def _draw_line(axes: Axes, line: Line, quantity: Quantity, style: LineStyle, *, dashed: bool, panel: CurvePanel) -> None:
    """The mean over trainings, thin lines of each, and a ring at the kept epoch of each."""
    several = sum(bool(quantity.of(curve)) for curve in line.curves) > 1
    pattern = DASHED if dashed else "solid"
    for curve in line.curves:
        values = dict(zip(curve.epoch, quantity.of(curve), strict=False))
        if several:
            axes.plot(*_points(values), color=style.colour, linewidth=0.6, linestyle=pattern, alpha=0.45)
        kept = [(epoch, value) for epoch, value in values.items() if epoch == curve.kept and value is not None]
        if kept and rings(panel.lines):
            axes.plot(
                *kept[0], color=style.colour, marker="o", markersize=4.5 if several else 7.0,
                markerfacecolor="none", markeredgewidth=1.1, clip_on=False, zorder=5,
            )  # fmt: skip
    xs, ys = _points(mean_of(line.curves, quantity.of))
    drawn = axes.plot(xs, ys, color=style.colour, linewidth=1.6, linestyle=pattern, label=quantity.title, zorder=4)
    if len(xs) <= N_ALL_MARKED or any(map(math.isnan, ys)):
        drawn[0].set(marker=style.marker, markersize=3.4)
    elif len(panel.lines) > 1:
        every = math.ceil(len(xs) / N_MARKERS)
        drawn[0].set(marker=style.marker, markersize=4.2, markevery=(style.number * every // N_MARKERS % every, every))


def _points(values: dict[int, float | None]) -> tuple[list[int], list[float]]:
    """Epochs and values; a missing value is a gap."""
    return list(values), [math.nan if value is None else value for value in values.values()]
