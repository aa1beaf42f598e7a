"""The cells of one field: found by the detector, looked at again one by one, and classified by the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from dataclasses import field as default
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.near_copies import Thumbnail, thumbnail
from hemalens.detection.border import counted, cut_by_border
from hemalens.detection.finder import CellFinder
from hemalens.detection.pixels import ArrayPixels, Pixels, cut_out, open_pixels
from hemalens.errors import ImageError
from hemalens.imaging.boxes import AROUND_CELL, KINDS, WHITE, Boxes
from hemalens.imaging.scans import is_scan
from hemalens.inference.predictor import Prediction, Predictor, monitored
from hemalens.runs.counting.slides import SlideField
from hemalens.trust.monitor import Monitor
from hemalens.trust.review import Reason

N_FOR_SCALE = 9
"""Fields of a slide from which its magnification is found."""
NO_SCALES: Mapping[tuple[int, int], float] = MappingProxyType({})
SMALL_PX = 256
"""Longer side of the gray copy by which overlapping fields are found."""
MOST_CONTRAST = 24
"""Gray levels at which the contrast of that copy is cut."""
SINGLE_PX, SINGLE_CELLS, SINGLE_SHARE = 400, 12, 0.3
"""A field so small, with so few cells, one of them a white cell of this share of it, looks like a single-cell image."""
MIDDLE = 0.2
"""Share of a field's sides, about its middle, in which the centre of the cell of a single-cell image lies."""

NO_LEUKOCYTE = "no leukocyte"
"""Begins the reason why a proposed white cell is none."""


@dataclass(slots=True)
class FoundCell:
    """A cell of a field: kind, corners and score of the detector, and of a white cell what the bundle finds.

    `cell_found` is what the bundle finds where it looks for the cell itself, empty for a bundle of whole images. `review`:
    why a person must look at it, `review_if_foreign` where the slides have a domain shift. `cut`: the
    border of the field cuts it. `reason` says why it is not counted; it is empty for a counted cell. `number` is its place
    in the field.
    """

    number: int
    kind: int
    corners: tuple[float, float, float, float]
    score: float
    cut: bool
    at_border: bool
    cell_found: str = ""
    label: str | None = None
    probability: float | None = None
    fine_label: str | None = None
    typicality: float | None = None
    prediction_set: tuple[str, ...] | None = None
    prediction_set_elsewhere: tuple[str, ...] | None = None
    review: Reason | None = None
    review_if_foreign: Reason | None = None
    error: str | None = None
    reason: str = ""
    crop: str = ""

    @property
    def is_white(self) -> bool:
        """Whether the detector has found it as a white cell."""
        return self.kind == WHITE

    @property
    def type(self) -> str:
        """The type of a white cell; the kind of any other."""
        return (self.label or "") if self.is_white else KINDS[self.kind].replace(" ", "_")

    def elsewhere(self, reason: str) -> None:
        """Another field shows the cell too, which is the reason not to count it: one look at it is enough."""
        self.reason, self.review, self.review_if_foreign = reason, None, None


@dataclass(slots=True)
class FoundField:
    """What is found in a field, without its pixels; `error` where it cannot be read.

    `gray` int8 is a small copy without coarse structure, `look` its perceptual hashes, `content` the digest of its file. A
    scan has neither `gray` nor `look`: only its bytes are compared.
    `copy_of` names the field that it is a copy of, `overlaps` those that it overlaps.
    """

    field: SlideField
    cells: list[FoundCell]
    shape: tuple[int, int] = (0, 0)
    gray: NDArray[np.int8] | None = None
    look: Thumbnail | None = None
    portraits: dict[int, NDArray[np.float32]] = default(default_factory=dict)
    content: str = ""
    error: str | None = None
    copy_of: str = ""
    overlaps: tuple[str, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    @property
    def single_cell(self) -> bool:
        """Whether it looks like a single-cell image rather than a field."""
        if self.error is not None or min(self.shape) > SINGLE_PX or len(self.cells) > SINGLE_CELLS:
            return False
        sides = [max(c.corners[2] - c.corners[0], c.corners[3] - c.corners[1]) for c in self.cells if c.is_white]
        return max(sides, default=0.0) >= SINGLE_SHARE * min(self.shape)

    @property
    def one_in_the_middle(self) -> bool:
        """Whether it shows exactly one white cell, in its middle; so does one field in 25 of a smear by chance."""
        white = [cell.corners for cell in self.cells if cell.is_white and not cell.reason.startswith(NO_LEUKOCYTE)]
        if len(white) != 1:
            return False
        (left, top, right, bottom), (height, width) = white[0], self.shape
        off = max(abs((left + right) / width - 1), abs((top + bottom) / height - 1))
        return off <= MIDDLE


class FieldWorker:
    """Reads a field, finds its cells and classifies the white ones; may be used by many threads.

    `scales`: the finder's scale for fields of a size (height, width); it is found for others.
    """

    def __init__(
        self, finder: CellFinder, predictor: Predictor, scales: Mapping[tuple[int, int], float] = NO_SCALES
    ) -> None:
        self.finder = finder
        self.predictor = predictor
        self.scales = scales

    def __call__(self, given: SlideField) -> FoundField:
        """What is found in a field; an unreadable one has an error."""
        try:
            with open_pixels(given.record.path, page=given.record.page, bits=given.record.bits) as pixels:
                return self._found(given, pixels, given.record.content_id())
        except (ImageError, OSError) as error:
            return FoundField(given, [], error=str(error))

    def _found(self, given: SlideField, pixels: Pixels, content: str) -> FoundField:
        cells = self._cells(pixels)
        white = [cell.corners for cell in cells if cell.is_white]
        windows = (cut_out(pixels, corners, AROUND_CELL) for corners in white)
        predictions = tuple(self.predictor.predict(windows)) if white else ()
        found = FoundField(given, cells, shape=pixels.size, content=content, predictions=predictions)
        if isinstance(pixels, ArrayPixels):
            image = Image.fromarray(pixels.image)
            gray = image.convert("L")
            found.gray, found.look = small_gray(gray, white), thumbnail(image)
            made = {cell.number: portrait(gray, cell.corners) for cell in cells if cell.is_white}
            found.portraits = {number: each for number, each in made.items() if each is not None}
        return found

    def _cells(self, pixels: Pixels) -> list[FoundCell]:
        boxes = _in_order(Boxes.joined(self.finder.by_tile(pixels, scale=self.scales.get(pixels.size))))
        cut, counts = cut_by_border(boxes, pixels.size), counted(boxes, pixels.size)
        return [
            FoundCell(
                number=i,
                kind=int(boxes.kinds[i]),
                corners=_corners(boxes.corners[i]),
                score=float(boxes.scores[i]),
                cut=bool(cut[i]),
                at_border=not counts[i],
            )
            for i in range(len(boxes))
        ]


def slide_scales(finder: CellFinder, fields: Sequence[SlideField]) -> dict[tuple[int, int], float]:
    """The finder's scale for fields of each size (height, width): the median of a few fields spread over the slide.

    A slide has one magnification. Its fields of one size are searched alike, more surely than by each of them alone.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for at in sorted({round(place) for place in np.linspace(0, len(fields) - 1, N_FOR_SCALE)}):
        record = fields[at].record
        with suppress(ImageError, OSError):
            if not is_scan(record.path, page=record.page):
                image = record.read()
                scale = finder.scale_of(image)
                if scale is not None:
                    found.setdefault((image.shape[0], image.shape[1]), []).append(scale)
    return {size: float(np.median(scales)) for size, scales in found.items()}


def _in_order(boxes: Boxes) -> Boxes:
    """The boxes by kind, from top to bottom."""
    centres = boxes.centres
    return boxes[np.lexsort((centres[:, 0], centres[:, 1], boxes.kinds))] if len(boxes) else boxes


def _corners(corners: NDArray[np.float64]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in corners)
    return left, top, right, bottom


def small_gray(gray: Image.Image, hidden: Sequence[Sequence[float]] = ()) -> NDArray[np.int8]:
    """A gray image with a longer side of `SMALL_PX`, without what is coarser than a cell, int8.

    The boxes `hidden` are 0, and strong contrast is cut: two fields agree where their backgrounds do, not where each has a
    dark cell.
    """
    from scipy import ndimage

    ratio = min(1.0, SMALL_PX / max(gray.size))
    size = (max(1, round(gray.width * ratio)), max(1, round(gray.height * ratio)))
    levels = np.array(gray.resize(size, Image.Resampling.BOX), np.float32)
    shown = np.ones(levels.shape, bool)
    for corners in hidden:
        left, top, right, bottom = (value * ratio for value in corners)
        shown[max(int(top) - 2, 0) : int(bottom) + 3, max(int(left) - 2, 0) : int(right) + 3] = False
    # before the shade is taken off: a hidden cell must leave no halo
    levels[~shown] = np.median(levels[shown]) if shown.any() else 0.0
    # blurred a little, so that half a pixel between two fields does not matter
    detail = ndimage.gaussian_filter(levels, 0.8) - ndimage.gaussian_filter(levels, SMALL_PX / 16)
    detail[~shown] = 0
    rounded: NDArray[np.int8] = np.clip(np.rint(detail), -MOST_CONTRAST, MOST_CONTRAST).astype(np.int8)
    return rounded


PORTRAIT_PX, PORTRAIT_SHARE = 20, 1 / 3
"""Side of a cell's portrait, and the share of the field's shorter side that it shows."""


def portrait(gray: Image.Image, corners: Sequence[float]) -> NDArray[np.float32] | None:
    """A cell with its surroundings, small and normalised (400,), to find the same cell elsewhere; None near the border."""
    half = PORTRAIT_SHARE * min(gray.size) / 2
    x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    box = (x - half, y - half, x + half, y + half)
    if box[0] < 0 or box[1] < 0 or box[2] > gray.width or box[3] > gray.height:
        return None
    shown = gray.resize((PORTRAIT_PX, PORTRAIT_PX), Image.Resampling.BOX, box=box)
    levels = np.asarray(shown, np.float32).ravel()
    levels = levels - levels.mean()
    length = float(np.linalg.norm(levels))
    return levels / length if length > PORTRAIT_PX else None


def observed(found: FoundField, monitor: Monitor, labels: Sequence[str]) -> FoundField:
    """The field with what its predictions say of its white cells, which the monitor observes."""
    predictions = monitored(found.predictions, monitor, labels)
    white = [cell for cell in found.cells if cell.is_white]
    for cell, each in zip(white, predictions, strict=True):
        cell.label, cell.error = each.label, each.error
        cell.probability = None if each.probabilities is None else float(each.probabilities.max())
        cell.fine_label, cell.typicality, cell.prediction_set = each.fine_label, each.typicality, each.prediction_set
        cell.prediction_set_elsewhere = each.prediction_set_elsewhere
        cell.cell_found = each.cell_found or ""
        cell.review, cell.review_if_foreign = each.review, each.review_if_foreign
        if each.label is None and each.error is None and each.cell_reason is not None:
            cell.reason = f"{NO_LEUKOCYTE}: {each.cell_reason}"
    return replace(found, predictions=())
