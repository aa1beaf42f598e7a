"""Nucleus sizes relative to the laboratory's median, which a centred crop hides. No torch.

A centred crop shows every nucleus equally large, because magnification differs between laboratories. Within one laboratory
sizes differ by cell type. The side of the crop gives the nucleus's diameter in pixels; over the laboratory's median it is
independent of magnification.
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
from hemalens.taxonomy import is_mature

Floats = NDArray[np.floating[Any]]
DEGREES = 4
"""Degrees of freedom of the Student distribution of sizes: its heavy tails tolerate wrong diameters."""
FEWEST = 8
"""Fewest cells for a distribution of a class's own; below, that of all classes is used."""
LEAST_SPREAD = 0.02
WIDENINGS = np.exp(np.linspace(0, 1.2, 25))
"""Candidate factors on the scales in a target laboratory, 1 to 3.3."""


class NucleusSize(Part):
    """Sizes of one class's nuclei: a Student distribution with 4 degrees of freedom.

    `centre` and `scale` are of the natural log of the diameter over the laboratory's median.
    """

    centre: float
    scale: float = Field(gt=0)


def extent_of(stages: Sequence[Stage]) -> float | None:
    """The window's side in nucleus diameters, where the crop's side gives the diameter; otherwise None."""
    last = stages[-1] if stages else None
    return last.config.extent if isinstance(last, CentredCropStage) else None


def log_diameters(records: Sequence[Record], extent: float) -> NDArray[np.float64]:
    """Natural log (n,) of the nucleus's diameter in pixels, from the side of each crop.

    Raises `ImageError` for an image that cannot be read.
    """
    sides = np.empty(len(records))
    with track("nuclei", len(records)) as progress:
        for i, record in enumerate(records):
            sides[i] = record.read().shape[0]
            progress(1)
    return np.log(sides / extent)


def sizes_of(dataset: CellDataset, stages: Sequence[Stage]) -> tuple[NucleusSize, ...]:
    """Nucleus sizes of each class in label order, from labelled images after `stages`; each source has its own median.

    Under a label map with mature types these alone are measured: what is no white cell has no nucleus, and its crop is the
    whole image. Other classes, and those of fewer than 8 images, get the sizes of all images measured. Empty where the
    stages hide the size, or below 8 images.
    """
    extent = extent_of(stages)
    mature = np.array([is_mature(label) for label in dataset.classes])
    measured = dataset.subset(np.flatnonzero(mature[dataset.targets])) if mature.any() else dataset
    if extent is None or len(measured) < FEWEST:
        return ()
    parts = [(log_diameters(part.records, extent), part.targets) for part in measured.by_source()]
    relative = np.concatenate([logs - np.median(logs) for logs, _ in parts])
    targets = np.concatenate([targets for _, targets in parts])
    found = []
    for i in range(len(dataset.classes)):
        own = relative[targets == i]
        _, centre, scale = stats.t.fit(own if len(own) >= FEWEST else relative, fdf=DEGREES)
        found.append(NucleusSize(centre=float(centre), scale=max(float(scale), LEAST_SPREAD)))
    return tuple(found)


def log_likelihoods(relative: Floats, sizes: Sequence[NucleusSize], widening: float = 1.0) -> NDArray[np.float64]:
    """Log density (n, k) of log diameters over the typical one (n,) in each class, all scales `widening` times as wide."""
    columns = [stats.t.logpdf(relative, DEGREES, size.centre, size.scale * widening) for size in sizes]
    return np.stack(columns, axis=1)


def widening_of(logits: Floats, relative: Floats, sizes: Sequence[NucleusSize]) -> float:
    """Most likely factor, at least 1, on the scales of sizes in a target laboratory, with classes by `logits` (n, k).

    A large factor gives sizes little weight, as where crops of several magnifications are mixed.
    """
    known = log_softmax(np.asarray(logits, np.float64), axis=1)
    fits = [logsumexp(known + log_likelihoods(relative, sizes, w), axis=1).sum() for w in WIDENINGS]
    return float(WIDENINGS[int(np.argmax(fits))])
