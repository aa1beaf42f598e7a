"""Pictures of a count: crops of white cells by type, and each field with its cells boxed and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hemalens.errors import ImageError
from hemalens.evaluation import formatting
from hemalens.imaging.boxes import KINDS, RED, WHITE, window_around
from hemalens.report.figures import PALETTE
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.slides import Slide, file_names

CROPS, OVERLAYS = "crops", "overlays"
NOT_COUNTED = "not_counted"
"""Folder of the crops of cells that are not counted."""
CROP_AROUND = 1.6
"""Side of a crop, in longer sides of the cell's box."""
COLOURS: Mapping[str, str] = {
    "neutrophil": PALETTE[0],
    "lymphocyte": PALETTE[1],
    "monocyte": PALETTE[2],
    "basophil": PALETTE[3],
    "eosinophil": PALETTE[5],
    "red_cell": "#7a7a7a",
    "platelet": PALETTE[4],
}
"""Colours of the common types, which readers with any colour vision can separate. Labels name the types, too."""
GRAY, INK, PAPER = "#4a4a4a", "#1a1a1a", "#ffffff"
Colour: TypeAlias = str
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def colours_of(codes: Sequence[str]) -> dict[str, Colour]:
    """A colour for each type: its own, or one of the palette that no common type has."""
    free = [colour for colour in (*PALETTE[7:], PALETTE[6]) if colour not in COLOURS.values()]
    others = sorted({code for code in codes if code not in COLOURS})
    return {**COLOURS, **{code: free[i % len(free)] for i, code in enumerate(others)}}


@dataclass(frozen=True, slots=True)
class Painter:
    """Writes the pictures of a slide's fields into `folder`; may be used by many threads.

    `types` are the names of the folders of crops by type, `colours` the colours of the types.
    """

    folder: Path
    slide: Slide
    types: Mapping[str, str]
    colours: Mapping[str, Colour]
    crops: bool
    overlays: bool

    @classmethod
    def of(cls, folder: Path, slide: Slide, labels: Sequence[str], *, crops: bool, overlays: bool) -> Painter:
        """The painter of a slide whose cells may have these `labels`."""
        types = {code: name for code, name in file_names([*labels, NOT_COUNTED]).items() if code != NOT_COUNTED}
        return cls(folder, slide, types, colours_of(labels), crops, overlays)

    def __call__(self, found: FoundField) -> NDArray[np.uint8] | None:
        """Write the pictures of a field; return the overlay, None where the field cannot be read or has none."""
        if found.error is not None or not (self.overlays or (self.crops and any(cell.is_white for cell in found.cells))):
            return None
        try:
            image = found.field.record.read()
        except ImageError:
            # it was readable before: its rows stay, without pictures
            return None
        for cell in found.cells if self.crops else ():
            if cell.is_white:
                cell.crop = self._crop(image, found, cell)
        if not self.overlays:
            return None
        drawn = overlay(image, found.cells, self.colours)
        path = self.folder / overlay_name(self.slide, found)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path, compress_level=4)
        return drawn

    def _crop(self, image: NDArray[np.uint8], found: FoundField, cell: FoundCell) -> str:
        place = NOT_COUNTED if cell.reason else self.types[cell.type]
        name = f"{CROPS}/{place}/{self.slide.file}_{found.field.file}_{cell.number + 1}.png"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(window_around(image, cell.corners, CROP_AROUND)).save(path)
        return name


def overlay_name(slide: Slide, found: FoundField) -> str:
    """The name of a field's overlay in the folder of the count."""
    return f"{OVERLAYS}/{slide.file}/{found.field.file}.png"


def overlay(image: NDArray[np.uint8], cells: Sequence[FoundCell], colours: Mapping[str, Colour]) -> NDArray[np.uint8]:
    """The field (H, W, 3) with a box around each cell, the type of each white cell, and a legend below it.

    White cells that are not counted have a broken gray box and the reason. A small field is scaled up, so that its labels
    can be read.
    """
    scale = max(1.0, LEAST_WIDTH_PX / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    field = Image.fromarray(image) if scale == 1 else Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    unit = max(1.0, max(size) / 1000)
    font = _font(round(13 * unit))
    legend = _legend(cells, colours, size[0], font, unit)
    picture = Image.new("RGB", (size[0], size[1] + legend.height), PAPER)
    picture.paste(field, (0, 0))
    picture.paste(legend, (0, size[1]))
    draw = ImageDraw.Draw(picture)
    for cell in sorted(cells, key=lambda one: (one.kind == WHITE, not one.reason, one.score)):
        _draw_cell(draw, cell, colours, (scale, unit, size), font)
    return np.asarray(picture)


LEAST_WIDTH_PX = 640
"""Width below which a field is scaled up."""


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    cell: FoundCell,
    colours: Mapping[str, Colour],
    place: tuple[float, float, tuple[int, int]],
    font: Font,
) -> None:
    scale, unit, (width, height) = place
    left, top, right, bottom = (value * scale for value in cell.corners)
    box = (max(left, 0), max(top, 0), min(right, width - 1), min(bottom, height - 1))
    if box[2] <= box[0] or box[3] <= box[1]:
        return
    if not cell.is_white:
        if not cell.reason:
            draw.rectangle(box, outline=colours[cell.type], width=max(1, round(unit)))
        return
    colour = GRAY if cell.reason else colours[cell.type]
    line = max(2, round(2 * unit))
    if cell.reason:
        _broken(draw, box, colour, line, 7 * unit)
        text = cell.reason.removeprefix("no leukocyte: ")
    else:
        # a white rim separates the line from a cell of a like colour
        draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=PAPER, width=line + 2)
        draw.rectangle(box, outline=colour, width=line)
        text = formatting.label(cell.type) + ("" if cell.probability is None else f" {cell.probability:.2f}")
    _name(draw, text, box[:2], colour, font)


def _name(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: Colour, font: Font) -> None:
    """A label above the upper left corner of a box, or inside it at the upper border of the picture."""
    text = formatting.shortened(formatting.visible(text), 40)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = min(corner[0], max(draw.im.size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 4 - left, y + 3 - top), text, fill=_ink(colour), font=font)


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour: by its relative luminance (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if luminance > 0.179 else PAPER


def _broken(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, line: int, dash: float
) -> None:
    left, top, right, bottom = box
    for start in np.arange(left, right, 2 * dash):
        end = min(start + dash, right)
        draw.line((start, top, end, top), fill=colour, width=line)
        draw.line((start, bottom, end, bottom), fill=colour, width=line)
    for start in np.arange(top, bottom, 2 * dash):
        end = min(start + dash, bottom)
        draw.line((left, start, left, end), fill=colour, width=line)
        draw.line((right, start, right, end), fill=colour, width=line)


def _legend(cells: Sequence[FoundCell], colours: Mapping[str, Colour], width: int, font: Font, unit: float) -> Image.Image:
    """What the colours mean, with the number of cells of each type, as a strip as wide as the field."""
    counts: dict[str, int] = {}
    for cell in cells:
        if cell.is_white or not cell.reason:
            code = "" if cell.reason else cell.type
            counts[code] = counts.get(code, 0) + 1
    last = ("", *(kind.replace(" ", "_") for kind in KINDS[RED:]))
    order = sorted(counts, key=lambda code: (code in last, code))
    entries = [(f"{formatting.label(code) or 'not counted'} {counts[code]}", colours.get(code, GRAY)) for code in order]
    entries = entries or [("no cell found", GRAY)]
    swatch, gap, row = round(14 * unit), round(16 * unit), round(24 * unit)
    places, x, y = [], gap, 0
    for text, _ in entries:
        needed = swatch + round(6 * unit) + round(font.getlength(text)) + gap
        if x + needed > width and x > gap:
            x, y = gap, y + 1
        places.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, row * (y + 1)), PAPER)
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        middle = row * y + row / 2
        draw.rectangle(
            (x, middle - swatch / 2, x + swatch, middle + swatch / 2), outline=colour, width=max(2, round(3 * unit))
        )
        draw.text((x + swatch + round(6 * unit), middle), text, fill=INK, font=font, anchor="lm")
    return strip
