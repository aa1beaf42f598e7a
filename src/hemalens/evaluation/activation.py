"""Pictures of the exact evidence behind predictions, for a report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset
from hemalens.evaluation import formatting
from hemalens.evaluation.chosen_cells import chosen_cells, verdict
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.inference.explain import SCALE, Evidence, Explainer
from hemalens.progress import track

N_SHOWN = 12
"""Cells of a table: a map takes little more than a prediction."""
COLUMNS = ("image", "evidence")
REFUSED = (
    "No maps: this model has no exact map, since its logits do not follow from linear outputs of a pooled feature map. "
    "--explain occlusion shows occlusion maps."
)
COLOURS = (
    f"Orange: evidence for the predicted type; blue: against it; plain gray: none. Full colour is {SCALE:g} in log odds."
)

_SHOWN_PX = 160


def drawn(image: NDArray[np.uint8], found: Evidence, size_px: int = _SHOWN_PX) -> str:
    """The map over an image (H, W, 3), as a thumbnail."""
    return thumbnail(found.over(image), size_px)


def activation_table(
    explainer: Explainer, dataset: CellDataset, predictions: DatasetPredictions, *, n: int = N_SHOWN
) -> PictureTable:
    """Exact maps of at most `n` cells of a dataset, each beside the image as the graph receives it.

    The cells are those of `chosen_cells`; `predictions` are the bundle's on the dataset.
    """
    bundle = explainer.bundle
    labels = bundle.manifest.labels
    chosen = chosen_cells(predictions, labels, n)
    rows = []
    places: tuple[tuple[int, int], ...] = ()
    with track("drawing evidence", len(chosen)) as progress:
        for i in chosen:
            record = replace(predictions.records[i], before=bundle.stages)
            image = record.read()
            found = explainer(image)
            places = found.places
            caption = f"{verdict(str(record.label), found.label, found.probability)}; {found}"
            shown = thumbnail(image, _SHOWN_PX), drawn(image, found)
            rows.append(Picture(name=record.file_name, caption=caption, pictures=shown))
            progress(1)
    return PictureTable(
        title=title_of(explainer.bundle.manifest.method, dataset.name),
        columns=COLUMNS,
        rows=tuple(rows),
        note=_note(explainer, places, n),
    )


def refused_table(method: str, dataset: str) -> PictureTable:
    """The table of a bundle without an exact map: no rows, and the reason."""
    return PictureTable(title=title_of(method, dataset), columns=COLUMNS, rows=(), reason=REFUSED)


def title_of(method: str, dataset: str) -> str:
    """The title of a table of maps."""
    return f"{method} on {dataset}: evidence"


def _note(explainer: Explainer, places: tuple[tuple[int, int], ...], n: int) -> str:
    sentences = [
        "The map splits the model's linear outputs into what each place adds (class activation map, Zhou et al. 2016), for "
        "the log odds of the predicted type.",
        COLOURS,
        "The text under each picture gives the means over all places of what is for and what is against.",
        f"The map is coarse ({_places(places)} places, smooth in between), and a place also sees its surroundings.",
        "Occlusion shows finer detail (--explain occlusion).",
        "A sound prediction rests on the white cell, not on red cells or background.",
        f"The table shows at most {n} cells: the most confident correct prediction of each class, then the most confident "
        "wrong one of each pair of classes.",
    ]
    if explainer.bundle.stages:
        sentences.insert(1, "Images are shown as the network receives them, with the cell cut out.")
    if explainer.maps.more_than_places:
        sentences.insert(1, "What the model adds to these outputs, such as the distance to its training cells, has no map.")
    return " ".join(sentences)


def _places(shapes: tuple[tuple[int, int], ...]) -> str:
    """Rows and columns of each feature map: "4 x 4 and 3 x 3"."""
    return formatting.listed([f"{rows} x {columns}" for rows, columns in shapes]) if shapes else "few"
