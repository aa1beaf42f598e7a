"""Where figures are drawn: inline SVG that takes its inks from the page, so that it reads on light, dark and paper."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER = "#010203", "#fdfcfb"
"""Stand for the page's own colours of text and ground."""
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"),
    *("#888888", "#882255", "#44AA99", "#999933", "#AA4499", "#117733", "#DDCC77", "#6699CC", "#661100"),
)
"""Okabe and Ito's colours without black, then Tol's muted ones that stay apart from them."""

N_LINES = 8
LINES = tuple(f"#f0e1d{i}" for i in range(N_LINES))
"""Stand for the page's colours of lines, `--line-1` and so on: others on light than on dark ground."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
MARKER_OUTLINES = {
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
"""Outlines of the markers in a box of 12 by 12, for the legends."""
POINTS_PER_PX = 0.72  # figures are laid out at 100 px an inch
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hemalens",
    "font.family": "DejaVu Sans",
    "font.size": 12 * POINTS_PER_PX,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "text.parse_math": False,
}
_PAGE_COLOURS = {INK: "currentColor", PAPER: "var(--paper, white)"} | {
    colour: f"var(--line-{i})" for i, colour in enumerate(LINES, start=1)
}
_PAGE_COLOUR = re.compile("|".join(_PAGE_COLOURS))
_ID = re.compile(r'(\sid="|url\(#|href="#)')
_OWN_ID = re.compile(r'\sid="([^"]+)"')
_REFERENCE = re.compile(r'(?:url\(|href=")#([^")]+)')
_TAG = re.compile(r"<[^>]+>")
_LONG_DECIMAL = re.compile(r"(\.\d\d)\d+")
_DROPPED = re.compile(
    r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->| font-family: '[^']*';", re.DOTALL
)


def draw_svg(
    draw: Callable[[Figure], None], width_px: float, height_px: float, *, name: str, alt: str, largest: float = 1.0
) -> str:
    """Draw a figure and return it as an SVG element that scales with the page and has the ids of `name`.

    It is shown at most `largest` times as wide as it is laid out.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # the browser has the glyphs that DejaVu Sans, used for the layout only, lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width_px / 100, height_px / 100), dpi=100)
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = _ID.sub(rf"\g<1>{name}-", _tidied(_DROPPED.sub("", body)))
    body = _PAGE_COLOUR.sub(lambda match: _PAGE_COLOURS[match[0]], body)
    size = width_px * POINTS_PER_PX, height_px * POINTS_PER_PX
    return element(body, size, alt=alt, style=f"max-width:{largest * width_px:.0f}px")


def element(body: str, size: tuple[float, float], *, alt: str, style: str) -> str:
    """An SVG element of `size` (width, height) in its own units; `alt` are the words for those who do not see it."""
    from markupsafe import escape

    view = f"0 0 {size[0]:g} {size[1]:g}"
    return f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{view}" style="{style}">{body}</svg>'


def _tidied(body: str) -> str:
    """The same drawing in half the bytes: two decimals in its tags, no id that nothing refers to, no indentation."""
    referred = set(_REFERENCE.findall(body))
    body = _OWN_ID.sub(lambda match: match[0] if match[1] in referred else "", body)
    body = _TAG.sub(lambda match: " ".join(_LONG_DECIMAL.sub(r"\1", match[0]).split()), body)
    return re.sub(r">\s+<", "><", body.strip())


def ink_on(colour: str, alpha: float) -> str:
    """White, or the page's ink, whichever is read better on `colour` ("#rrggbb") over white paper; either is on dark."""
    channels = (1 - alpha * (1 - int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    ground = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
    return "white" if 1.05 / ground > ground / 0.064 else INK
