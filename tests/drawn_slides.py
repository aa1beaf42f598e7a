"""Drawn slides: coloured discs on a canvas, fields cut out of it, and what finds and classifies them by their colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import open_dataset
from hemalens.detection.pixels import Pixels
from hemalens.imaging.boxes import PLATELET, RED, WHITE, Boxes

BACKGROUND = (236, 228, 232)
TYPES = {"neutrophil": (150, 60, 150), "lymphocyte": (50, 50, 170), "erythroblast": (20, 110, 110)}
RED_CELL, PLATELET_COLOUR = (214, 150, 140), (170, 120, 220)
RADIUS = {"red": 11, "platelet": 4, "white": 22}
NEAR = 26
"""Largest difference of a channel from a kind's colour."""


@dataclass(frozen=True)
class Disc:
    """A cell of a canvas: its kind or the type of a white cell, its centre and its radius in pixels."""

    kind: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Canvas:
    """A drawn slide: pixels (H, W, 3) and its cells."""

    pixels: np.ndarray
    discs: tuple[Disc, ...]

    def field(self, x: int, y: int, width: int = 320, height: int = 240) -> np.ndarray:
        """A field of the slide."""
        return self.pixels[y : y + height, x : x + width]

    def white_in(self, x: int, y: int, width: int = 320, height: int = 240) -> list[Disc]:
        """White cells of which a field shows at least a part."""
        return [
            disc
            for disc in self.discs
            if disc.kind in TYPES
            and x - disc.radius < disc.x < x + width + disc.radius
            and y - disc.radius < disc.y < y + height + disc.radius
        ]


def draw_canvas(
    seed: int, *, white: Sequence[str] = ("neutrophil", "lymphocyte"), size: tuple[int, int] = (960, 720), n_red: int = 170
) -> Canvas:
    """A canvas of (width, height) with the white cells given, red cells and platelets at random places, none touching."""
    rng = np.random.default_rng(seed)
    discs: list[Disc] = []
    wanted = [*white, *["red"] * n_red, *["platelet"] * (n_red // 8)]
    for kind in wanted:
        radius = float(RADIUS.get(kind, RADIUS["white"])) * float(rng.uniform(0.9, 1.1))
        for _ in range(200):
            x, y = rng.uniform(radius + 2, size[0] - radius - 2), rng.uniform(radius + 2, size[1] - radius - 2)
            if all(np.hypot(x - d.x, y - d.y) > radius + d.radius + 4 for d in discs):
                discs.append(Disc(kind, float(x), float(y), radius))
                break
    return draw(discs, size)


def draw(discs: Sequence[Disc], size: tuple[int, int] = (320, 240)) -> Canvas:
    """A canvas of (width, height) with these cells."""
    picture = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(picture)
    colours = {**TYPES, "red": RED_CELL, "platelet": PLATELET_COLOUR}
    for disc in discs:
        box = (disc.x - disc.radius, disc.y - disc.radius, disc.x + disc.radius, disc.y + disc.radius)
        pen.ellipse(box, fill=colours[disc.kind])
    return Canvas(np.asarray(picture), tuple(discs))


def save(pixels: np.ndarray, path: Path, **options: object) -> Path:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


class ColourFinder:
    """Finds the cells of drawn fields by their colours."""

    def scale_of(self, image: np.ndarray) -> float | None:
        """No field is scaled."""
        return None

    def by_tile(self, pixels: Pixels, *, scale: float | None = None) -> Iterator[Boxes]:
        """The boxes of every disc, in one tile."""
        height, width = pixels.size
        image, kinds, corners = pixels.read((0, 0, width, height)), [], []
        for kind, colours in ((WHITE, TYPES.values()), (RED, [RED_CELL]), (PLATELET, [PLATELET_COLOUR])):
            for rows, columns in ndimage.find_objects(ndimage.label(_near(image, colours))[0]):
                if (rows.stop - rows.start) * (columns.stop - columns.start) >= 12:
                    kinds.append(kind)
                    corners.append((columns.start, rows.start, columns.stop, rows.stop))
        yield Boxes.of(kinds, corners, [0.9] * len(kinds)) if kinds else Boxes()


def _near(image: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:  # type: ignore[type-arg]
    wanted = np.array(list(colours), int)[:, None, None]
    return (np.abs(image.astype(int)[None] - wanted) <= NEAR).all(axis=3).any(axis=0)


DETECTOR = SimpleNamespace(finder=ColourFinder(), path=Path("stand-in"))
"""What `default_detector()` gives while `counted_by_colour` holds."""


@contextmanager
def counted_by_colour() -> Iterator[None]:
    """Inside the block the package's detector finds drawn cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.runs.count.default_detector", lambda: DETECTOR)
        yield


def bundle_of(folder: Path, types: Sequence[str] = ("neutrophil", "lymphocyte")) -> Bundle:
    """A bundle that classifies drawn white cells by the mean colour of their window."""
    for number, code in enumerate(types):
        for i in range(6):
            side = 110 + 2 * i
            cell = draw([Disc(code, side / 2, side / 2, 22)], (side, side))
            save(cell.pixels + np.uint8(number), folder / "cells" / code / f"{i}.png")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{folder / 'cells'}", labels="as_labelled"), scale=2000
    )
