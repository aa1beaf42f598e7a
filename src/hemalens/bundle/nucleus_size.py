"""How large nuclei are beside the typical one of their laboratory: what a crop at the nucleus's own scale hides. No torch.

A centred crop shows every nucleus equally large, because magnification differs between laboratories. Within one it does
not, and a lymphocyte's nucleus is smaller there than a monocyte's. The side of a crop that has as many pixels as its window
tells the nucleus's diameter in the image; over the laboratory's median it needs no magnification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats
from scipy.special import log_softmax, logsumexp

from hemalens.bundle.artifact import Part
from hemalens.bundle.stages import CentredCropStage, Stage
from hemalens.datasets.base import CellDataset, Record
from hemalens.progress import track

Floats = NDArray[np.floating[Any]]
DEGREES = 4
"""Degrees of freedom of the Student distribution of sizes: a nucleus taken for larger than it is proves little."""
FEWEST = 8
"""With fewer cells of a type its nuclei are taken to lie as those of all types do, which says little."""
LEAST_SPREAD = 0.02
WIDENINGS = np.exp(np.linspace(0, 1.2, 25))
"""How much wider than at home sizes may lie in a new laboratory; beyond three times they tell next to nothing."""


class NucleusSize(Part):
    """The nuclei of one class: centre and scale of a Student distribution with 4 degrees of freedom of the natural log of
    their diameter over the median one of their laboratory.
    """

    centre: float
    scale: float = Field(gt=0)


def extent_of(stages: Sequence[Stage]) -> float | None:
    """The window's side in diameters of the nucleus, where what `stages` show still tells the diameter; otherwise None."""
    last = stages[-1] if stages else None
    return last.config.extent if isinstance(last, CentredCropStage) and last.config.size_px is None else None


def log_diameters(records: Sequence[Record], extent: float) -> NDArray[np.float64]:
    """Natural log of the nucleus's diameter in pixels of each image (n,), from the side of its crop.

    Raises `ImageError` for an image that cannot be read.
    """
    sides = np.empty(len(records))
    with track("nuclei", len(records)) as progress:
        for i, record in enumerate(records):
            sides[i] = record.read().shape[0]
            progress(1)
    return np.log(sides / extent)


def sizes_of(dataset: CellDataset, stages: Sequence[Stage]) -> tuple[NucleusSize, ...]:
    """The nuclei of each class in label order, by labelled images that went through `stages`; each set has its own median.

    A class with fewer than 8 images gets the sizes of all images. None where the stages hide the size, or where there are
    fewer than 8 images in all.
    """
    extent = extent_of(stages)
    if extent is None or len(dataset) < FEWEST:
        return ()
    parts = [(log_diameters(part.records, extent), part.targets) for part in dataset.by_source()]
    beside = np.concatenate([logs - np.median(logs) for logs, _ in parts])
    targets = np.concatenate([targets for _, targets in parts])
    found = []
    for i in range(len(dataset.classes)):
        own = beside[targets == i]
        _, centre, scale = stats.t.fit(own if len(own) >= FEWEST else beside, fdf=DEGREES)
        found.append(NucleusSize(centre=float(centre), scale=max(float(scale), LEAST_SPREAD)))
    return tuple(found)


def log_likelihoods(beside: Floats, sizes: Sequence[NucleusSize], widening: float = 1.0) -> NDArray[np.float64]:
    """Log density (n, k) of log diameters over the typical one (n,) in each class, all scales `widening` times as wide."""
    columns = [stats.t.logpdf(beside, DEGREES, size.centre, size.scale * widening) for size in sizes]
    return np.stack(columns, axis=1)


def widening_of(logits: Floats, beside: Floats, sizes: Sequence[NucleusSize]) -> float:
    """How much wider than at home sizes lie in a laboratory, at least 1: the likeliest value, types known by `logits`
    (n, k).

    Where crops of several magnifications are mixed, size tells little, and this makes it count for little.
    """
    known = log_softmax(np.asarray(logits, np.float64), axis=1)
    fits = [logsumexp(known + log_likelihoods(beside, sizes, w), axis=1).sum() for w in WIDENINGS]
    return float(WIDENINGS[int(np.argmax(fits))])
