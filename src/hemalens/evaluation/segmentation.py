"""Evaluation of segmenters: agreement with true masks, and pictures of the outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.stages import Segmenter
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.masks import read_cell_mask
from hemalens.datasets.splits import units
from hemalens.evaluation.results import ComparisonTable, Picture, PictureTable
from hemalens.evaluation.thumbnails import outlined, thumbnail
from hemalens.imaging.segmentation import dice, intersection_over_union
from hemalens.progress import track

N_REPEATS = 2000
N_SHOWN = 24
SHOWN_PX = 160


@dataclass(frozen=True, slots=True)
class MaskScores:
    """IoU and Dice (n,) of the whole cell in each image of a dataset."""

    dataset: CellDataset
    iou: NDArray[np.float64]
    dice: NDArray[np.float64]


def score_masks(segmenter: Segmenter, dataset: CellDataset) -> MaskScores:
    """Compare a segmenter with the masks of a dataset; raises `ImageError` for a bad image or mask."""
    iou, overlap = np.empty(len(dataset)), np.empty(len(dataset))
    with track(f"masks of {dataset.name}", len(dataset)) as progress:
        for i, record in enumerate(dataset.records):
            image = record.unstaged().read()
            truth, found = read_cell_mask(record, image), segmenter(image)
            iou[i], overlap[i] = intersection_over_union(found, truth), dice(found, truth)
            progress(1)
    return MaskScores(dataset, iou, overlap)


def mask_table(title: str, scores: Mapping[str, MaskScores], *, seed: int, note: str = "") -> ComparisonTable:
    """Mean IoU and Dice by segmenter and domain, IoU with a 95 % bootstrap interval over images (or groups)."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for name, found in scores.items():
        domains = np.array([record.domain for record in found.dataset.records])
        for domain in dict.fromkeys(domains.tolist()):
            here = np.flatnonzero(domains == domain)
            low, high = mean_interval(found.iou[here], units(found.dataset)[here], seed=seed)
            iou, overlap = float(found.iou[here].mean()), float(found.dice[here].mean())
            worst = float((found.iou[here] < 0.5).mean())
            rows.append((name, domain, len(here), iou, f"{low:.3f}–{high:.3f}", overlap, worst))
    return ComparisonTable(
        title=title,
        columns=("segmenter", "domain", "images", "mean IoU", "95 %", "mean Dice", "IoU below 0.5"),
        rows=tuple(rows),
        note=f"Whole cell against the given mask, at the image's own size. {note}".strip(),
    )


def mean_interval(values: NDArray[np.float64], unit: NDArray[np.int64], *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of values (n,) over resampled units (n,)."""
    _, place = np.unique(unit, return_inverse=True)
    n_units = int(place.max()) + 1
    sums, counts = np.bincount(place, values), np.bincount(place)
    rng = np.random.default_rng(seed)
    means = np.empty(N_REPEATS)
    for i in range(N_REPEATS):
        drawn = rng.integers(n_units, size=n_units)
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def shown_records(records: Sequence[Record]) -> list[int]:
    """Indices of the images that a report shows, spread evenly."""
    spread = np.linspace(0, len(records) - 1, min(N_SHOWN, len(records))).astype(int)
    return sorted({int(place) for place in spread})


def outlines(title: str, records: Sequence[Record], segmenters: Mapping[str, Segmenter], note: str = "") -> PictureTable:
    """Some cells with the outline of each segmenter, and the true one where there is one."""
    rows = []
    with_truth = any(record.mask_path is not None for record in records)
    for record in records:
        image = record.unstaged().read()
        truth = read_cell_mask(record, image) if record.mask_path is not None else None
        pictures = []
        if with_truth:
            pictures.append("" if truth is None else thumbnail(outlined(image, truth), SHOWN_PX))
        captions = []
        for name, segmenter in segmenters.items():
            found = segmenter(image)
            pictures.append(thumbnail(outlined(image, found), SHOWN_PX))
            if truth is not None:
                captions.append(f"{name} IoU {intersection_over_union(found, truth):.2f}")
        rows.append(Picture(name=record.file_name, caption=", ".join(captions), pictures=tuple(pictures)))
    columns = (*(("true outline",) if with_truth else ()), *segmenters)
    return PictureTable(title=title, columns=columns, rows=tuple(rows), note=note)
