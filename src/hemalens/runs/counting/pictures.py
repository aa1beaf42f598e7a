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

from hemalens.detection.pixels import ArrayPixels, Pixels, cut_out, open_pixels
from hemalens.errors import ImageError
from hemalens.evaluation import formatting
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.imaging.boxes import KINDS, RED, WHITE
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
LEAST_WIDTH_PX, MOST_OVERLAY_PX = 640, 4096
"""Width below which an overlay is scaled up, and the longer side to which it is reduced."""
LEAST_CELL_PX = 56
"""Side of a white cell in an overlay below which letters of the usual size would hide its neighbours."""
PART_PX = 2048
"""Side of the parts in which a scan is reduced."""
OVERLAY_QUALITY = 90
SHOWN_PX = 420
"""Longer side of an overlay in the report."""
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

    def __call__(self, found: FoundField) -> str | None:
        """Write the pictures of a field; return its small overlay for the report, None where there is none."""
        if found.error is not None or not (self.overlays or (self.crops and any(cell.is_white for cell in found.cells))):
            return None
        try:
            record = found.field.record
            with open_pixels(record.path, page=record.page, bits=record.bits) as pixels:
                for cell in found.cells if self.crops else ():
                    if cell.is_white:
                        cell.crop = self._crop(pixels, found, cell)
                seen = reduced(pixels) if self.overlays else None
        except ImageError:
            # it was readable before: its rows stay, without pictures
            return None
        if seen is None:
            return None
        drawn = overlay(seen[0], found.cells, self.colours, scale=seen[1])
        path = self.folder / overlay_name(self.slide, found)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path, quality=OVERLAY_QUALITY, subsampling=0)
        return thumbnail(drawn, SHOWN_PX)

    def _crop(self, pixels: Pixels, found: FoundField, cell: FoundCell) -> str:
        place = NOT_COUNTED if cell.reason else self.types[cell.type]
        name = f"{CROPS}/{place}/{self.slide.file}_{found.field.file}_{cell.number + 1}.png"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cut_out(pixels, cell.corners, CROP_AROUND)).save(path, compress_level=1)
        return name


def overlay_name(slide: Slide, found: FoundField) -> str:
    """The name of a field's overlay in the folder of the count."""
    return f"{OVERLAYS}/{slide.file}/{found.field.file}.jpg"


def reduced(pixels: Pixels) -> tuple[NDArray[np.uint8], float]:
    """A field (H, W, 3), or a smaller copy with a longer side of `MOST_OVERLAY_PX` at most, and its scale.

    It is read in parts, so that a scan never lies in memory as a whole.
    """
    height, width = pixels.size
    if isinstance(pixels, ArrayPixels) and max(pixels.size) <= MOST_OVERLAY_PX:
        return pixels.image, 1.0
    by = -(-max(pixels.size) // MOST_OVERLAY_PX)
    side = by * (PART_PX // by)
    small = np.empty((-(-height // by), -(-width // by), 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = pixels.read((left, top, min(left + side, width), min(top + side, height)))
            made = np.asarray(Image.fromarray(np.ascontiguousarray(part)).reduce(by))
            small[top // by : top // by + made.shape[0], left // by : left // by + made.shape[1]] = made
    return small, 1 / by


def overlay(
    image: NDArray[np.uint8], cells: Sequence[FoundCell], colours: Mapping[str, Colour], *, scale: float = 1.0
) -> NDArray[np.uint8]:
    """The field (H, W, 3) with a box around each cell, the type of each white cell, and a legend below it.

    `scale`: pixels of `image` for a pixel of the field. White cells that are not counted have a broken gray box and the
    reason. A small field is scaled up, so that its labels can be read.
    """
    larger = max(1.0, LEAST_WIDTH_PX / image.shape[1])
    scale = scale * larger
    size = (round(image.shape[1] * larger), round(image.shape[0] * larger))
    field = Image.fromarray(image) if larger == 1 else Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    unit = _unit(size, cells, scale)
    font = _font(round(13 * unit))
    legend = _legend(cells, colours, size[0], font, unit)
    picture = Image.new("RGB", (size[0], size[1] + legend.height), PAPER)
    picture.paste(field, (0, 0))
    picture.paste(legend, (0, size[1]))
    draw = ImageDraw.Draw(picture)
    for cell in sorted(cells, key=lambda one: (one.kind == WHITE, not one.reason, one.score)):
        _draw_cell(draw, cell, colours, (scale, unit, size), font)
    return np.asarray(picture)


def _unit(size: tuple[int, int], cells: Sequence[FoundCell], scale: float) -> float:
    """Size of lines and letters: that of a picture of 1000 pixels, smaller where many cells are small in it."""
    fits = max(1.0, max(size) / 1000)
    sides = [max(c.corners[2] - c.corners[0], c.corners[3] - c.corners[1]) * scale for c in cells if c.is_white]
    return max(1.0, min(fits, float(np.median(sides)) / LEAST_CELL_PX)) if sides else fits


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
