"""Embeddings on a plane, coloured by cell type and by laboratory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Scatter
from hemalens.report import figures
from hemalens.report.figures import INK, MARKERS, PALETTE, PAPER, Drawing, Figures, Key, Legend, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX, LARGEST = 540.0, 430.0, 1.15
N_LAYERS = 2
"""Cell types are drawn in turns, half at a time, so that none covers all others."""
_PLANES = {
    "PCA": "on the first two principal components of their embeddings",
    "UMAP": "in a UMAP of their embeddings, where near means similar and far means nothing",
}


@dataclass(frozen=True, slots=True)
class NamedScatter:
    """A scatter with the words above it; `tag` is a warning."""

    head: str
    tag: str
    scatter: Scatter


def embedded(
    named: Sequence[NamedScatter], *, name: str, cells: str, n_points: int, heading: str = "Embeddings"
) -> tuple[Figures, ...]:
    """The scatters by type, and by laboratory too where there are several; nothing where no scatter has points.

    At most `n_points` of each are drawn. `name` makes ids unique on the page; `cells` names the laboratory: "of lab_b".
    """
    shown = [NamedScatter(each.head, each.tag, _thinned(each.scatter, n_points)) for each in named if each.scatter.points]
    if not shown:
        return ()
    points = [point for each in shown for point in each.scatter.points]
    labels = sorted({point.label for point in points})
    domains = sorted({point.domain for point in points})
    panels = []
    for i, each in enumerate(shown, start=1):
        n = f"{formatting.count(len(each.scatter.points))} of {formatting.counted(each.scatter.n_total, 'cell')}"
        drawing = _Drawing(each.scatter, labels, domains)
        panels.append(Panel(drawing.by_label(f"{name}-{i}-type"), each.head, f"{n}, by cell type", each.tag))
        if len(domains) > 1:
            by_domain = drawing.by_domain(f"{name}-{i}-domain")
            panels.append(Panel(by_domain, each.head, "the same cells, by laboratory", each.tag))
    has_wrong = any(point.predicted != point.label for point in points)
    where = " or ".join(dict.fromkeys(_PLANES[each.scatter.projection] for each in shown))
    several = " By laboratory: colour and shape are the laboratory." if len(domains) > 1 else ""
    caption = (
        f"Cells {cells} {where}. By cell type: colour and number are the true type; the number is at the median of its "
        f"cells.{several}{' A ring marks a wrong prediction.' if has_wrong else ''}"
    )
    kind = "embedding" if len(panels) == 1 else "embeddings"
    return (Figures(tuple(panels), caption, "", _legends(labels, domains, has_wrong=has_wrong), kind, heading),)


def _legends(labels: Sequence[str], domains: Sequence[str], *, has_wrong: bool) -> tuple[Legend, ...]:
    types = [Key(formatting.label(code), PALETTE[i % len(PALETTE)], number=str(i + 1)) for i, code in enumerate(labels)]
    others = [
        Key(formatting.visible(domain), PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)])
        for i, domain in enumerate(domains)
        if len(domains) > 1
    ]
    if has_wrong:
        others.append(Key("wrong prediction", marker="o", hollow=True))
    laboratories = (Legend("Laboratories" if len(domains) > 1 else "Marks", tuple(others)),) if others else ()
    return (Legend("Cell types", tuple(types)), *laboratories)


def _thinned(scatter: Scatter, n_points: int) -> Scatter:
    """The same scatter with at most `n_points`, evenly spaced in their order."""
    n = len(scatter.points)
    if n <= n_points:
        return scatter
    points = tuple(scatter.points[i * n // n_points] for i in range(n_points))
    return scatter.model_copy(update={"points": points})


@dataclass(frozen=True, slots=True)
class _Drawing:
    scatter: Scatter
    labels: Sequence[str]
    domains: Sequence[str]

    def by_label(self, name: str) -> Drawing:
        """Colour and number are the true label, the marker is the laboratory."""

        def draw(figure: Figure) -> None:
            axes = self._axes(figure)
            self._draw_points(axes, by_label=True)
            self._draw_numbers(axes)

        n_wrong = sum(point.predicted != point.label for point in self.scatter.points)
        n_labels = len({point.label for point in self.scatter.points})
        wrong = formatting.counted(n_wrong, "wrong prediction is ringed", "wrong predictions are ringed")
        return self._svg(draw, name, f"by cell type: {formatting.counted(n_labels, 'cell type')}; {wrong}")

    def by_domain(self, name: str) -> Drawing:
        """Colour and marker are the laboratory."""
        counts = {domain: sum(p.domain == domain for p in self.scatter.points) for domain in self.domains}
        words = ", ".join(f"{formatting.visible(domain)} {n}" for domain, n in counts.items() if n)
        return self._svg(
            lambda figure: self._draw_points(self._axes(figure), by_label=False), name, f"by laboratory: {words}"
        )

    def _svg(self, draw: figures.Draw, name: str, words: str) -> Drawing:
        alt = f"Scatter of {formatting.counted(len(self.scatter.points), 'cell')} {words}."
        return Drawing(draw, (WIDTH_PX, HEIGHT_PX), name, alt, LARGEST)

    def _axes(self, figure: Figure) -> Axes:
        axes = figures.axes_px(figure, 26, 6, 6, 28)
        names = ["UMAP 1", "UMAP 2"]
        if self.scatter.explained is not None:
            shares = map(formatting.share, self.scatter.explained)
            names = [f"component {i} ({share} of the variance)" for i, share in enumerate(shares, start=1)]
        axes.set(xlabel=names[0], ylabel=names[1], xticks=[], yticks=[])
        axes.margins(0.03)
        return axes

    def _draw_points(self, axes: Axes, *, by_label: bool) -> None:
        layers: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
        for i, point in enumerate(self.scatter.points):
            layers.setdefault((i % N_LAYERS, point.label, point.domain), []).append((point.x, point.y))
        for (_, label, domain), places in sorted(layers.items()):
            number = self.labels.index(label) if by_label else self.domains.index(domain)
            marker = MARKERS[self.domains.index(domain) % len(MARKERS)]
            axes.plot(
                *zip(*places, strict=True), linestyle="none", marker=marker, markersize=4.2, clip_on=False,
                color=PALETTE[number % len(PALETTE)], markeredgecolor="#0000007f", markeredgewidth=0.3,
            )  # fmt: skip
        wrong = [(point.x, point.y) for point in self.scatter.points if point.predicted != point.label]
        if wrong:
            axes.plot(
                *zip(*wrong, strict=True), linestyle="none", marker="o", markersize=7.4, clip_on=False,
                markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.8,
            )  # fmt: skip

    def _draw_numbers(self, axes: Axes) -> None:
        """Each label's number at the median of its points, moved up or down until the numbers are apart."""
        to_px = axes.transData
        placed: list[tuple[float, float]] = []
        for number, code in enumerate(self.labels):
            here = [(point.x, point.y) for point in self.scatter.points if point.label == code]
            if not here:
                continue
            x, y = to_px.transform([statistics.median(values) for values in zip(*here, strict=True)])
            shifts = sorted(range(-200, 201, 4), key=abs)
            y = next((y + s for s in shifts if all(abs(x - a) > 24 or abs(y + s - b) > 20 for a, b in placed)), y)
            placed.append((x, y))
            box = {"boxstyle": "round,pad=0.25", "facecolor": PAPER, "edgecolor": PALETTE[number % len(PALETTE)]}
            across, up = to_px.inverted().transform((x, y))
            axes.text(across, up, str(number + 1), ha="center", va="center", weight="bold", bbox=box, zorder=5)
