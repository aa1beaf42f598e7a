"""Explain predictions: for each image a picture of where the evidence lies, and an index of all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hemalens.bundle.bundle import Bundle, BundleLike, bundle_folder, open_bundle
from hemalens.bundle.stages import cut_by
from hemalens.datasets.base import Record
from hemalens.datasets.open import check_spec, spec_path
from hemalens.datasets.table_text import cell, plain
from hemalens.errors import BundleError, ImageError, one_line, public, visible
from hemalens.files import PathLike, as_path, atomic_dir, open_regular
from hemalens.graphs.activation import ActivationMaps
from hemalens.graphs.runtime import in_order, n_cores, require_probabilities
from hemalens.imaging.evidence import colour_bar, overlay
from hemalens.imaging.exposure import exposure
from hemalens.imaging.nucleus import is_noise
from hemalens.imaging.segmentation import FOUND
from hemalens.inference.predict import open_images
from hemalens.inference.rows import BOX
from hemalens.outputs import check_outside, claim_folder
from hemalens.progress import track

INDEX = "explanations.csv"
COLUMNS = ("path", "picture", "label", "probability", "evidence", "evidence_for", "evidence_against", "error")
OPTION = "--explain"
SCALE = 8.0
"""The evidence of full colour, in log odds: the same for all pictures, so that weak evidence stays pale."""

_SIDE_PX, _GAP_PX, _BAR_PX, _TEXT_PX, _LINE_PX = 224, 8, 10, 13, 20
_PAPER, _INK = (255, 255, 255), (40, 40, 40)

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Explained:
    """Counts of an explanation: images, pictures, and images without one, for an error or for lack of a cell."""

    n_images: int
    n_pictures: int
    n_unreadable: int
    n_without_cell: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for the predicted class of an image, in log odds: `map` (H, W) at its pixels.

    The mean of the map is the evidence of the whole image: `pro` plus `contra`, the means of what is above and below 0.
    `places` are the rows and columns of each feature map behind it.
    """

    label: str
    probability: float
    map: NDArray[np.float64]
    places: tuple[tuple[int, int], ...]

    @property
    def pro(self) -> float:
        """At least 0."""
        return float(self.map.clip(0).mean())

    @property
    def contra(self) -> float:
        """At most 0."""
        return float(self.map.clip(max=0).mean())

    def over(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The map drawn over its image (H, W, 3)."""
        return overlay(image, self.map, SCALE)

    def __str__(self) -> str:
        return f"evidence for {self.pro:.1f}, against {abs(self.contra):.1f}"


class Explainer:
    """Finds the evidence behind predictions of a bundle; raises `BundleError` for a bundle without an exact map."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.maps = ActivationMaps(bundle.tested_graph)

    def __call__(self, image: NDArray[np.uint8]) -> Evidence:
        """The evidence for the predicted class of an image uint8 (H, W, 3), after the bundle's stages."""
        found = self.maps(image)
        probabilities, labels = found.probabilities, self.bundle.manifest.labels
        require_probabilities(probabilities, len(labels), one_line(self.bundle.path))
        shapes = tuple((part.shape[1], part.shape[2]) for part in found.parts)
        return Evidence(labels[found.best], float(probabilities[found.best]), found.map(*image.shape[:2]), places=shapes)


def explainer_of(bundle: Bundle) -> Explainer | None:
    """The explainer of a bundle; None for one without an exact map."""
    try:
        return Explainer(bundle)
    except BundleError:
        return None


@public
def check_explainable(bundle: BundleLike, source: PathLike, *, out: PathLike, overwrite: bool = False) -> None:
    """Raise the error that `explain` would raise for its bundle or folder, before a long prediction rather than after."""
    with _claimed(bundle, as_path(out, "out"), check_spec(source, "the source of the images"), overwrite=overwrite):
        Explainer(open_bundle(bundle))


@public
def explain(bundle: BundleLike, source: PathLike, *, out: PathLike, overwrite: bool = False) -> Explained:
    """Write a picture of the evidence for each image of `source` into the folder `out`, and `explanations.csv`.

    `source` is an image, a folder of images or a dataset ("reader:path"). A picture shows the image as the network
    receives it, and beside it the map: orange is evidence for the predicted class, blue against it. An image without a cell
    has a row without a picture, an unreadable one a row with its error. Raises `BundleError` for a bundle without an exact
    map. The folder appears whole at the end, or not at all.
    """
    out, source = as_path(out, "out"), check_spec(source, "the source of the images")
    with _claimed(bundle, out, source, overwrite=overwrite):
        opened = open_bundle(bundle)
        records = open_images(source, say=lambda text: None)
        explainer = Explainer(opened)
        with atomic_dir(out, explained_files) as folder:
            rows = _written(records, explainer, folder)
            text = io.StringIO()
            boxes = BOX if any(record.box is not None for record in records) else ()
            table = csv.DictWriter(text, (COLUMNS[0], *boxes, *COLUMNS[1:]), restval="")
            table.writeheader()
            table.writerows(rows)
            (folder / INDEX).write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
        n_pictures = sum("picture" in row for row in rows)
        n_unreadable = sum("error" in row for row in rows)
        return Explained(len(rows), n_pictures, n_unreadable, len(rows) - n_pictures - n_unreadable)


@contextmanager
def _claimed(bundle: BundleLike, out: Path, source: str, *, overwrite: bool) -> Iterator[None]:
    """Keep other processes away from the folder of the pictures, once it can be written."""
    check_outside(out, spec_path(source), OPTION)
    inputs = [bundle_folder(bundle), spec_path(source)]
    with claim_folder(out, explained_files, "explanations", overwrite=overwrite, inputs=inputs, option=OPTION):
        yield


def explained_files(folder: Path) -> list[str] | None:
    """The files that `explain` has written in a folder, as its index names them; None for a folder of something else."""
    try:
        with io.TextIOWrapper(open_regular(folder / INDEX), encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            names, rows = table.fieldnames or (), list(table)
    except (OSError, ValueError, csv.Error):
        return None
    if not set(COLUMNS) <= set(names):
        return None
    return [INDEX, *(plain(row["picture"]) for row in rows if row["picture"])]


def _written(records: Sequence[Record], explainer: Explainer, folder: Path) -> list[dict[str, str]]:
    """Write the picture of each record into `folder`, and return its row."""

    def work(numbered: tuple[int, Record]) -> dict[str, str]:
        number, record = numbered
        row = {"path": cell(record.name)}
        row |= dict(zip(BOX, map(str, record.box), strict=True)) if record.box is not None else {}
        try:
            image = window_of(record, explainer.bundle)
        except ImageError as error:
            return row | {"error": cell(str(error))}
        if image is None:
            return row
        found = explainer(image)
        # two folders may hold the same name
        name = f"{number:05d}_{record.path.stem}.png"
        picture(image, found).save(folder / name, compress_level=1)
        return row | {
            "picture": cell(name),
            "label": cell(found.label),
            "probability": f"{found.probability:.6f}",
            "evidence": f"{found.pro + found.contra:.4f}",
            "evidence_for": f"{found.pro:.4f}",
            "evidence_against": f"{found.contra:z.4f}",
        }

    rows = []
    with track("explaining", len(records)) as progress:
        for _, row in in_order(work, enumerate(records), n_cores()):
            rows.append(row)
            progress(1)
    return rows


def window_of(record: Record, bundle: Bundle) -> NDArray[np.uint8] | None:
    """An image as the bundle's graph receives it, where `Predictor` gives it a label; None where it has no cell."""
    image = record.unstaged().read()
    if exposure(image) is not None or (bundle.stages and is_noise(image)):
        return None
    made = cut_by([stage.once() for stage in bundle.stages], image)
    return None if FOUND[made.outcome] == "none" else made.pixels


def picture(image: NDArray[np.uint8], found: Evidence) -> Image.Image:
    """The image, its map beside it, and below them the prediction and the scale of the colours."""
    height, width = image.shape[:2]
    factor = _SIDE_PX / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    panels = [Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) for pixels in (image, found.over(image))]
    sheet = Image.new("RGB", (2 * _SIDE_PX + _GAP_PX, size[1] + _BAR_PX + 2 * _LINE_PX + 2 * _GAP_PX), _PAPER)
    for panel, left in zip(panels, (0, _SIDE_PX + _GAP_PX), strict=True):
        sheet.paste(panel, (left + (_SIDE_PX - size[0]) // 2, 0))
    draw, font = ImageDraw.Draw(sheet), _font(_TEXT_PX)
    top = size[1] + _GAP_PX
    name = visible(found.label).replace("_", " ")
    draw.text((2, top), f"{_shortened(name, 20)} {found.probability:.2f}", fill=_INK, font=font)
    draw.text((2, top + _LINE_PX), str(found), fill=_INK, font=font)
    left = _SIDE_PX + _GAP_PX
    sheet.paste(Image.fromarray(colour_bar(_SIDE_PX, _BAR_PX)), (left, top))
    below = top + _BAR_PX + 2
    for text, anchor, at in (
        (f"against {SCALE:g}", "la", left),
        ("0", "ma", left + _SIDE_PX // 2),
        (f"for {SCALE:g}", "ra", left + _SIDE_PX - 1),
    ):
        draw.text((at, below), text, fill=_INK, font=font, anchor=anchor)
    return sheet


@cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _shortened(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
