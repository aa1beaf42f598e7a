"""Embeddings on a plane as SVG, by cell type and by domain: written point by point, in a tenth of the usual bytes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Scatter, ScatterPoint
from hemalens.report.svg import MARKER_OUTLINES, MARKERS, PALETTE, element

WIDTH_PX, HEIGHT_PX = 540.0, 430.0
LEFT_PX, BOTTOM_PX, MARGIN_PX = 26.0, 28.0, 14.0
LARGEST_PX = 620
N_LAYERS = 3
"""Types and domains are drawn in turns, a third of each at a time, so that none lies on top of all others."""
_POINTS = {
    "o": "h0",
    "^": "m0-3.6l3.3 5.8h-6.6z",
    "s": "m-2.7-2.7h5.4v5.4h-5.4z",
    "D": "m0-3.6l3.6 3.6l-3.6 3.6l-3.6-3.6z",
    "v": "m0 3.6l3.3-5.8h-6.6z",
    "P": "m-1.2-3.4h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2v-2.4h2.2z",
    "X": "m0-1.4l2-2l1.4 1.4l-2 2l2 2l-1.4 1.4l-2-2l-2 2l-1.4-1.4l2-2l-2-2l1.4-1.4z",
    "<": "m-3.6 0l5.8-3.3v6.6z",
    ">": "m3.6 0l-5.8-3.3v6.6z",
}
"""Every marker from its centre; the disc is the round end of a line without length."""
_RING = "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0"
_PLANES = {
    "PCA": "on the first two principal components of their embeddings",
    "UMAP": "in a UMAP of their embeddings, in which near means alike and far means nothing",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """Colour of each label, and colour and marker of each domain, in the order in which the legend lists them."""

    labels: dict[str, str]
    domains: dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a legend; a label has a number and a colour, a domain a colour and the outline of its marker."""

    text: str
    colour: str
    number: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One scatter as an SVG element; `head`, `tag` and `note` stand over it."""

    head: str
    tag: str
    note: str
    svg: str


@dataclass(frozen=True, slots=True)
class Plane:
    """The panels that share a caption and a legend; domains are in the legend where there are several."""

    caption: str
    panels: tuple[Panel, ...]
    labels: tuple[LegendEntry, ...]
    domains: tuple[LegendEntry, ...]
    has_wrong: bool


def keys_of(scatters: Iterable[Scatter]) -> Keys:
    """The keys of scatters that share a legend."""
    points = [point for scatter in scatters for point in scatter.points]
    labels, domains = sorted({point.label for point in points}), sorted({point.domain for point in points})
    return Keys(
        {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(labels)},
        {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(domains)},
    )


def plane(named: Sequence[tuple[str, str, Scatter]], *, name: str, cells: str, n_points: int) -> Plane | None:
    """The scatters, each with its head and tag, by type, and by domain too where there are several of them.

    At most `n_points` of each are drawn. `name` makes ids unique on the page; `cells` says whose they are: "of lab_b".
    None where no scatter has points.
    """
    shown = [(head, tag, _thinned(scatter, n_points)) for head, tag, scatter in named if scatter.points]
    if not shown:
        return None
    keys = keys_of(scatter for _, _, scatter in shown)
    panels = []
    for i, (head, tag, scatter) in enumerate(shown, start=1):
        drawing = _Drawing(scatter, keys, f"{name}-{i}")
        n = f"{formatting.count(len(scatter.points))} of {formatting.counted(scatter.n_total, 'cell')}"
        panels.append(Panel(head, tag, f"{n}, by cell type", drawing.by_label()))
        if len(keys.domains) > 1:
            panels.append(Panel(head, tag, "the same cells, by domain", drawing.by_domain()))
    has_wrong = any(point.predicted != point.label for _, _, scatter in shown for point in scatter.points)
    return Plane(
        _caption([scatter for _, _, scatter in shown], keys, cells=cells, has_wrong=has_wrong),
        tuple(panels),
        tuple(
            LegendEntry(formatting.label(code), colour, number=str(i))
            for i, (code, colour) in enumerate(keys.labels.items(), start=1)
        ),
        tuple(
            LegendEntry(formatting.visible(domain), colour, path=MARKER_OUTLINES[marker])
            for domain, (colour, marker) in keys.domains.items()
        ),
        has_wrong,
    )


def _thinned(scatter: Scatter, n_points: int) -> Scatter:
    """The same scatter with at most `n_points`, evenly from all over their order."""
    n = len(scatter.points)
    if n <= n_points:
        return scatter
    points = tuple(scatter.points[i * n // n_points] for i in range(n_points))
    return scatter.model_copy(update={"points": points})


def _caption(scatters: Sequence[Scatter], keys: Keys, *, cells: str, has_wrong: bool) -> str:
    where = " or ".join(dict.fromkeys(_PLANES[scatter.projection] for scatter in scatters))
    parts = [
        f"Cells {cells} {where}. By cell type: colour and number are the true type, the number at the median of its cells."
    ]
    if len(keys.domains) > 1:
        parts.append("By domain: colour and shape are the domain.")
    if has_wrong:
        parts.append("Ring: a wrong prediction.")
    return " ".join(parts)


class _Drawing:
    """The points of one scatter as paths, which the panel by type defines and the one by domain refers to."""

    def __init__(self, scatter: Scatter, keys: Keys, name: str) -> None:
        self.scatter, self.keys, self.name = scatter, keys, name
        self._places = _places(scatter.points)
        layers: dict[tuple[int, str, str], list[int]] = {}
        for i, point in enumerate(scatter.points):
            layers.setdefault((i % N_LAYERS, point.label, point.domain), []).append(i)
        self._layers = sorted(layers.items())
        self._wrong = [i for i, point in enumerate(scatter.points) if point.predicted != point.label]

    def by_label(self) -> str:
        """Colour and number are the true label, the marker is the domain."""
        paths = "".join(
            f'<path id="{self.name}-{i}" d="{self._path(points, _POINTS[self.keys.domains[domain][1]])}"/>'
            for i, ((_, _, domain), points) in enumerate(self._layers)
        )
        rings = f'<path id="{self.name}-rings" d="{self._path(self._wrong, _RING)}"/>'
        drawn = self._drawn([self.keys.labels[label] for (_, label, _), _ in self._layers])
        n_labels = len({point.label for point in self.scatter.points})
        return self._element(
            f"<defs>{paths}{rings}</defs>{drawn}{self._numbers()}",
            f"by cell type: {formatting.counted(n_labels, 'cell type')}; "
            f"{formatting.counted(len(self._wrong), 'wrong prediction is ringed', 'wrong predictions are ringed')}",
        )

    def by_domain(self) -> str:
        """Colour and marker are the domain; the points are those that `by_label` has defined."""
        drawn = self._drawn([self.keys.domains[domain][0] for (_, _, domain), _ in self._layers])
        counts = {domain: sum(p.domain == domain for p in self.scatter.points) for domain in self.keys.domains}
        told = ", ".join(f"{formatting.visible(domain)} {n}" for domain, n in counts.items() if n)
        return self._element(drawn, f"by domain: {told}")

    def _path(self, points: Iterable[int], marker: str) -> str:
        return "".join(f"M{self._places[i][0]:.1f} {self._places[i][1]:.1f}{marker}" for i in points)

    def _drawn(self, colours: Sequence[str]) -> str:
        """Every layer in its colour; discs are lines, whose dark rim is a thicker line beneath."""
        parts = []
        for i, (colour, ((_, _, domain), _)) in enumerate(zip(colours, self._layers, strict=True)):
            href = f'<use href="#{self.name}-{i}"'
            if self.keys.domains[domain][1] == "o":
                parts.append(f'{href} class="rim"/>{href} class="disc" stroke="{colour}"/>')
            else:
                parts.append(f'{href} class="mark" fill="{colour}"/>')
        return "".join(parts) + f'<use href="#{self.name}-rings" class="ring"/>'

    def _numbers(self) -> str:
        """Each label's number at the median of its points, moved up or down until the numbers are apart."""
        placed: list[tuple[float, float]] = []
        parts = []
        for number, (code, colour) in enumerate(self.keys.labels.items(), start=1):
            here = [place for place, point in zip(self._places, self.scatter.points, strict=True) if point.label == code]
            if not here:
                continue
            x, y = statistics.median(x for x, _ in here), statistics.median(y for _, y in here)
            shifts = sorted(range(-200, 201, 4), key=abs)
            y = next((y + s for s in shifts if all(abs(x - a) > 24 or abs(y + s - b) > 20 for a, b in placed)), y)
            placed.append((x, y))
            half = 7.0 + 3.5 * len(str(number))
            parts.append(
                f'<rect class="badge" x="{x - half:.1f}" y="{y - 9:.1f}" width="{2 * half:.1f}" height="18" rx="4" '
                f'stroke="{colour}"/><text class="number" x="{x:.1f}" y="{y + 4.5:.1f}">{number}</text>'
            )
        return "".join(parts)

    def _element(self, body: str, told: str) -> str:
        left, bottom = LEFT_PX, HEIGHT_PX - BOTTOM_PX
        names = ["UMAP 1", "UMAP 2"]
        if self.scatter.explained is not None:
            shares = map(formatting.share, self.scatter.explained)
            names = [f"component {i} ({share} of the variance)" for i, share in enumerate(shares, start=1)]
        frame = (
            f'<path class="axis" d="M{left} 4V{bottom}H{WIDTH_PX - 4}"/>'
            f'<text class="axis-name" x="{(left + WIDTH_PX) / 2}" y="{HEIGHT_PX - 9}">{names[0]}</text>'
            f'<text class="axis-name" transform="translate(16 {bottom / 2}) rotate(-90)">{names[1]}</text>'
        )
        alt = f"Scatter of {formatting.counted(len(self.scatter.points), 'cell')} {told}."
        style = f"max-width:{LARGEST_PX}px"
        return element(f'<g class="scatter">{frame}{body}</g>', (WIDTH_PX, HEIGHT_PX), alt=alt, style=style)


def _places(points: Sequence[ScatterPoint]) -> list[tuple[float, float]]:
    """Where the points stand in the figure, in px from its upper left corner."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    left, right = LEFT_PX + MARGIN_PX, WIDTH_PX - MARGIN_PX
    lower, upper = HEIGHT_PX - BOTTOM_PX - MARGIN_PX, MARGIN_PX
    across = [left + (right - left) * share for share in _shares(xs)]
    return list(zip(across, [lower - (lower - upper) * share for share in _shares(ys)], strict=True))


def _shares(values: Sequence[float]) -> list[float]:
    """Where each value stands between the smallest and the largest one; halfway where all are alike."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
