"""Where figures are drawn: inline SVG that takes its inks from the page, so that it reads on light, dark and paper."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER = "#010203", "#fdfcfb"
"""Stand for the page's own colours of text and ground."""
N_LINES = 8
LINES = tuple(f"#f0e1d{i}" for i in range(N_LINES))
"""Stand for the page's colours of lines, `--line-1` and so on: others on light than on dark ground."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
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
    "savefig.dpi": 200,
}
_PAGE_COLOURS = {INK: "currentColor", PAPER: "var(--paper, white)"} | {
    colour: f"var(--line-{i})" for i, colour in enumerate(LINES, start=1)
}
_PAGE_COLOUR = re.compile("|".join(_PAGE_COLOURS))
_PNG = re.compile(r'data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)"')
_ID = re.compile(r'(\sid="|url\(#|href="#)')
_DROPPED = re.compile(
    r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->| font-family: '[^']*';", re.DOTALL
)


def draw_svg(
    draw: Callable[[Figure], None], width_px: float, height_px: float, *, name: str, alt: str, largest: float = 1.0
) -> str:
    """Draw a figure and return it as an SVG element that scales with the page and has the ids of `name`.

    It is shown at most `largest` times as wide as it is laid out.
    """
    from markupsafe import escape
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
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = _PNG.sub(lambda match: f'data:image/png;base64,{_smaller_png(match[1])}"', _DROPPED.sub("", body))
    body = _ID.sub(rf"\g<1>{name}-", body)
    body = _PAGE_COLOUR.sub(lambda match: _PAGE_COLOURS[match[0]], body)
    view = f"0 0 {width_px * POINTS_PER_PX:g} {height_px * POINTS_PER_PX:g}"
    widest = f"max-width:{largest * width_px:.0f}px"
    head = f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{view}" style="{widest}">'
    return head + body.strip()


def _smaller_png(encoded: str) -> str:
    """A PNG in base64 with 256 colours instead of all: a quarter of the size, for a difference that nobody sees."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        image.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
