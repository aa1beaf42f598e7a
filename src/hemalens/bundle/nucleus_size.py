"""Nucleus sizes relative to the laboratory's median, which a centred crop hides. No torch.

A centred crop shows every nucleus equally large, because magnification differs between laboratories. Within one laboratory
sizes differ by cell type. The side of the crop gives the nucleus's diameter in pixels; over the laboratory's median it is
independent of magnification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import Field

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
WIDENINGS = np.exp(np.linspace(0, 1.2, 9))
"""Candidate factors on the scales in a target laboratory, 1 to 3.3."""
OFFSETS = np.linspace(-0.4, 0.4, 33)
"""Candidate differences of the typical log diameter from the median."""
OFFSET_SPREAD = 0.2
"""Standard deviation of their normal prior."""


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
        _, centre, scale = scipy.stats.t.fit(own if len(own) >= FEWEST else relative, fdf=DEGREES)
        found.append(NucleusSize(centre=float(centre), scale=max(float(scale), LEAST_SPREAD)))
    return tuple(found)


def log_likelihoods(relative: Floats, sizes: Sequence[NucleusSize], widening: float = 1.0) -> NDArray[np.float64]:
    """Log density (n, k) of log diameters over the typical one (n,) in each class, all scales `widening` times as wide."""
    centres = np.array([size.centre for size in sizes])
    scales = np.array([size.scale for size in sizes]) * widening
    z = (np.asarray(relative, np.float64)[:, None] - centres) / scales
    whole = scipy.special.gammaln((DEGREES + 1) / 2) - scipy.special.gammaln(DEGREES / 2) - np.log(DEGREES * np.pi) / 2
    return np.asarray(whole - np.log(scales) - (DEGREES + 1) / 2 * np.log1p(z**2 / DEGREES))


def fit_sizes(logits: Floats, log_diameters: Floats, sizes: Sequence[NucleusSize], counts: Floats) -> tuple[float, float]:
    """Most likely typical log diameter of a target laboratory, and factor, at least 1, on the scales of `sizes`.

    Classes are known by `logits` (n, k), and `counts` (n,) is by how much each image counts. The typical diameter is near
    the median, which a mix of types unlike that of the training data moves: the offset has a normal prior. A large factor
    gives sizes little weight, as where crops of several magnifications are mixed.
    """
    known = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
    middle = _weighted_median(log_diameters, counts)
    best = (-np.inf, middle, 1.0)
    for offset in OFFSETS:
        for widening in WIDENINGS:
            likelihoods = log_likelihoods(log_diameters - middle - offset, sizes, widening)
            fit = scipy.special.logsumexp(known + likelihoods, axis=1)
            value = float((counts * fit).sum()) - (offset / OFFSET_SPREAD) ** 2 / 2
            best = max(best, (value, float(middle + offset), float(widening)))
    return best[1:]


def _weighted_median(values: Floats, counts: Floats) -> float:
    order = np.argsort(values)
    reached = np.cumsum(counts[order])
    return float(np.asarray(values)[order][np.searchsorted(reached, reached[-1] / 2)])
