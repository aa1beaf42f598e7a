"""Pictures of the worst fields: what is annotated and missed, what is found and found wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hemalens.evaluation.detection import KindMatches, TestedField
from hemalens.evaluation.results import Picture
from hemalens.evaluation.thumbnails import Colour, thumbnail
from hemalens.imaging.boxes import KINDS

N_WORST = 6
PICTURE_PX = 320
"""Longer side of a picture in the report."""
DRAWN_PX = 800
"""Longer side at which boxes are drawn."""
RIGHT: Colour = (64, 255, 96)
MISSED: Colour = (255, 64, 64)
FALSE: Colour = (255, 208, 0)
DARK: Colour = (20, 20, 20)


@dataclass(frozen=True, slots=True)
class MatchedField:
    """A tested field with its matches of each kind."""

    tested: TestedField
    matches: tuple[KindMatches, ...]

    @property
    def missed(self) -> list[int]:
        """Annotated cells of each kind that are not found."""
        return [int((~m.seen["centre"]).sum()) for m in self.matches]

    @property
    def false(self) -> list[int]:
        """Found boxes of each kind without a cell, where the kind is boxed completely."""
        return [int((m.above & ~m.hit["centre"]).sum()) if m.complete else 0 for m in self.matches]

    @property
    def share(self) -> float:
        """Errors for each annotated cell."""
        n = sum(len(m.sides) for m in self.matches)
        return (sum(self.missed) + sum(self.false)) / max(n, 1)


def worst_fields(fields: Sequence[MatchedField], *, n: int = N_WORST) -> tuple[Picture, ...]:
    """The fields with most errors for each annotated cell, by centre, of those with an error.

    Each has two pictures: the annotated boxes, of which the missed are red, and the found ones, of which the false are
    yellow.
    """
    wrong = [each for each in fields if each.share > 0]
    ranked = sorted(wrong, key=lambda each: (-each.share, each.tested.field.record.name))
    return tuple(_picture(each) for each in ranked[:n])


def _picture(errors: MatchedField) -> Picture:
    field, found = errors.tested.field, errors.tested.found
    image = field.read()
    annotated: list[tuple[NDArray[np.float64], Colour]] = []
    detected: list[tuple[NDArray[np.float64], Colour]] = []
    for kind, match in enumerate(errors.matches):
        seen = match.seen["centre"]
        annotated += list(zip(field.boxes.of_kind(kind).corners, [RIGHT if s else MISSED for s in seen], strict=True))
        corners, hit = found.of_kind(kind).corners[match.above], match.hit["centre"][match.above]
        wrong = FALSE if match.complete else RIGHT
        detected += list(zip(corners, [RIGHT if h else wrong for h in hit], strict=True))
    pictures = tuple(thumbnail(with_boxes(image, boxes), PICTURE_PX) for boxes in (annotated, detected))
    return Picture(name=field.record.file_name, caption=_caption(errors), pictures=pictures)


def _caption(errors: MatchedField) -> str:
    """The errors by kind: "white cell: 1 missed; red cell: 3 missed, 2 false"."""
    parts = []
    for kind, missed, false in zip(KINDS, errors.missed, errors.false, strict=True):
        named = [f"{count} {what}" for count, what in ((missed, "missed"), (false, "false")) if count]
        parts += [f"{kind}: {', '.join(named)}"] if named else []
    return "; ".join(parts)


def with_boxes(image: NDArray[np.uint8], boxes: Sequence[tuple[NDArray[np.float64], Colour]]) -> NDArray[np.uint8]:
    """The image, scaled to a longer side of `DRAWN_PX`, with boxes (left, top, right, bottom), errors on top."""
    height, width = image.shape[:2]
    scale = DRAWN_PX / max(height, width)
    canvas = Image.fromarray(image).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    draw = ImageDraw.Draw(canvas)
    for corners, colour in sorted(boxes, key=lambda box: box[1] != RIGHT):
        place = [float(value) for value in corners * scale]
        line = 4 if colour == RIGHT else 6
        draw.rectangle(place, outline=DARK, width=line + 3)
        draw.rectangle(
            [place[0] + 1, place[1] + 1, max(place[2] - 1, place[0] + 1), max(place[3] - 1, place[1] + 1)],
            outline=colour,
            width=line,
        )
    return np.asarray(canvas)
