"""The style of all figures, and how matplotlib's SVG is placed in a page: fonts, inks, colours, markers, legends.

Text stays text, ids are stable and nothing is dated, so that the same report gives the same bytes. Inks and line colours
are those of the page, so that figures are legible on light and dark screens and on paper.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Figure], None]

INK, PAPER, MUTED = "#010203", "#fdfcfb", "#898683"
"""Stand for the page's colours of text, background and side notes."""
CORRECT, WRONG = "#0072B2", "#C25500"
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"),
    *("#888888", "#882255", "#44AA99", "#999933", "#AA4499", "#117733", "#DDCC77", "#6699CC", "#661100"),
)
"""Okabe and Ito's colours without black, then those of Tol's muted ones that differ from them."""
LINES = tuple(f"#f0e1d{i}" for i in range(8))
"""Stand for the page's colours of lines, `--line-1` and so on, which differ between light and dark screens."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
_OUTLINES = {
    "o": "M6 1.5A4.5 4.5 0 1 1 6 10.5A4.5 4.5 0 1 1 6 1.5Z",
    "^": "M6 1.2L10.8 10H1.2Z",
    "s": "M2 2H10V10H2Z",
    "D": "M6 .8L11.2 6L6 11.2L.8 6Z",
    "v": "M6 10.8L10.8 2H1.2Z",
    "P": "M4 1H8V4H11V8H8V11H4V8H1V4H4Z",
    "X": "M3.5 1L6 3.5L8.5 1L11 3.5L8.5 6L11 8.5L8.5 11L6 8.5L3.5 11L1 8.5L3.5 6L1 3.5Z",
    "<": "M1.2 6L10 1.2V10.8Z",
    ">": "M10.8 6L2 1.2V10.8Z",
}
"""Outlines of the markers in a box of 12 by 12, for legends."""
DASHED, DOTTED = (0, (5, 3)), (0, (1, 2))
POINTS_PER_PX = 0.72  # figures are laid out at 100 px an inch
SMALL, NORMAL, LARGE = (px * POINTS_PER_PX for px in (11, 12, 16))
"""Sizes of text in points."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hemalens",
    "font.family": "DejaVu Sans",
    "font.size": NORMAL,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "text.parse_math": False,
}
_PAGE_COLOURS = {INK: "currentColor", PAPER: "var(--paper)", MUTED: "var(--muted)"} | {
    colour: f"var(--line-{i})" for i, colour in enumerate(LINES, start=1)
}
_PAGE_COLOUR = re.compile("|".join(_PAGE_COLOURS))
_ID = re.compile(r'\sid="([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|xlink:href="#)([^")]+)')
_TAG = re.compile(r"<[^>]+>")
_LONG_DECIMAL = re.compile(r"(\.\d\d)\d+")
_DROPPED = re.compile(
    r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->| font-family: '[^']*';"
    r'| transform="rotate\(-0 [^"]*"',
    re.DOTALL,
)
_ALONE = re.compile(r"<g>(<text [^>]*>[^<]*</text>)</g>")
_RUN = re.compile(r'<use ([^>]*) style="([^"]*)"/>(?:<use [^>]* style="\2"/>)+')
_LONG_PLACE = re.compile(r'( [xy]="-?\d+\.\d)\d*')


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all figures; around many of them it is applied once."""
    import matplotlib
    from matplotlib.style import context

    if matplotlib.rcParams["svg.hashsalt"] == _STYLE["svg.hashsalt"]:
        yield
    else:
        with context(["default", _STYLE]):
            yield


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that is drawn when `svg` is called, laid out at `size_px` (width, height).

    `name` makes its ids unique on the page, `alt` describes it to those who do not see it. It is shown at most `largest`
    times as wide as it is laid out.
    """

    draw: Draw
    size_px: tuple[float, float]
    name: str
    alt: str
    largest: float = 1.0

    def svg(self) -> str:
        """An SVG element that scales with the page."""
        from markupsafe import escape

        width_px, height_px = self.size_px
        text = _drawn(self.draw, self.size_px)
        body = _tidied(_DROPPED.sub("", text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]), self.name)
        view = f"0 0 {width_px * POINTS_PER_PX:g} {height_px * POINTS_PER_PX:g}"
        wide = f"max-width:{self.largest * width_px:.0f}px"
        return f'<svg class="plot" role="img" aria-label="{escape(self.alt)}" viewBox="{view}" style="{wide}">{body}</svg>'


def svg_file(draw: Draw, size_px: tuple[float, float]) -> str:
    """A figure as the text of an SVG file on white paper, its letters as outlines so that it needs no font."""
    import matplotlib

    with style(), matplotlib.rc_context({"svg.fonttype": "path"}):
        text = _drawn(draw, size_px, patch=True)
    colours = _light_colours()
    return _PAGE_COLOUR.sub(lambda match: colours[match[0]], text)


@cache
def _light_colours() -> dict[str, str]:
    """The colours of a light page by their stand-ins, from the style sheet."""
    css = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    named = dict(re.findall(r"--([a-z]+(?:-\d)?): (#[0-9a-f]{6});", css.partition("}")[0]))
    lines = {colour: named[f"line-{i}"] for i, colour in enumerate(LINES, start=1)}
    return {INK: named["ink"], PAPER: named["paper"], MUTED: named["muted"], **lines}


def _drawn(draw: Draw, size_px: tuple[float, float], *, patch: bool = False) -> str:
    """What matplotlib writes for a figure; with `patch`, on a background in the colour of paper."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    width_px, height_px = size_px
    buffer = io.StringIO()
    with style(), warnings.catch_warnings():
        # the browser has the glyphs that DejaVu Sans, used for the layout only, lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width_px / 100, height_px / 100), dpi=100, facecolor=PAPER)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(patch)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend: words beside a marker, a number in a frame, a swatch of an `opacity`, or a line.

    `stroke` is the kind of the line: "solid", "dashed" or "dotted".
    """

    text: str
    colour: str = "currentColor"
    marker: str = ""
    number: str = ""
    stroke: str = ""
    hollow: bool = False
    tag: str = ""
    opacity: float | None = None

    @property
    def path(self) -> str:
        """The outline of the marker in a box of 12 by 12."""
        return _OUTLINES.get(self.marker, "")


@dataclass(frozen=True, slots=True)
class Legend:
    """The keys of a figure; `title` is read out, not shown."""

    title: str
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure with the words above it; one with a `region` scrolls where it is too wide."""

    drawing: Drawing
    head: str = ""
    note: str = ""
    tag: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Panels that share a caption and legends; `kind` is a CSS class, `width_px` the width of each heat map."""

    panels: tuple[Panel, ...]
    caption: str = ""
    head: str = ""
    legends: tuple[Legend, ...] = ()
    kind: str = "curves"
    heading: str = ""
    width_px: int = 0


def line_colour(number: int) -> str:
    """The colour of a line in the page, by its number from 0."""
    return _PAGE_COLOURS[LINES[number % len(LINES)]]


def _tidied(body: str, name: str) -> str:
    """The same drawing in a third of the bytes: two decimals, short ids where they are needed, the page's colours.

    The style of many equal marks is written once.
    """
    short = f"{zlib.crc32(name.encode()):x}"
    ids = {own: f"{short}-{i}" for i, own in enumerate(dict.fromkeys(own for _, own in _REFERENCE.findall(body)))}
    body = _ID.sub(lambda match: f' id="{ids[match[1]]}"' if match[1] in ids else "", body)
    body = _REFERENCE.sub(lambda match: match[1].removeprefix("xlink:") + ids[match[2]], body)
    body = _TAG.sub(lambda match: " ".join(_LONG_DECIMAL.sub(r"\1", match[0]).split()), body)
    body = _RUN.sub(_shared_style, re.sub(r">\s+<", "><", body.strip()))
    body = _ALONE.sub(r"\1", body)
    return _PAGE_COLOUR.sub(lambda match: _PAGE_COLOURS[match[0]], body)


def _shared_style(match: re.Match[str]) -> str:
    """Equal marks in a row with their style in a group around them."""
    marks = _LONG_PLACE.sub(r"\1", match[0].replace(f' style="{match[2]}"', ""))
    return f'<g style="{match[2]}">{marks}</g>'


def axes_px(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes with these margins in px."""
    width, height = (100 * side for side in figure.get_size_inches())
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )


def grid_of_cells(axes: Axes, colours: Sequence[Sequence[tuple[str, float]]]) -> None:
    """Fill axes with a grid of cells, each of a colour and an opacity; a cell is 1 by 1, the first row on top."""
    from matplotlib.colors import to_rgba

    n_rows, n_columns = len(colours), len(colours[0]) if colours else 0
    axes.set(xlim=(0, max(n_columns, 1)), ylim=(max(n_rows, 1), 0))
    axes.set_axis_off()
    if n_rows and n_columns:
        cells = [[to_rgba(colour, opacity) for colour, opacity in row] for row in colours]
        axes.pcolormesh(range(n_columns + 1), range(n_rows + 1), cells, edgecolors=PAPER, linewidth=1.4, clip_on=False)


def ink_on(colour: str, opacity: float) -> str:
    """White, or the page's ink, whichever is more legible on `colour` ("#rrggbb") over white paper."""
    channels = (1 - opacity * (1 - int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
    return "white" if 1.05 / luminance > luminance / 0.064 else INK
