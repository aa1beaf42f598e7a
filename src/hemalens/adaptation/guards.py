"""Which pieces of an adaptation to unlabelled images are used: each is fitted, tested without labels, and kept or left out.

The rule is in `choose`. Its thresholds were chosen on laboratories left out of the training (docs/explanation/adaptation.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hemalens.adaptation.adjustment import Adjustment, Images
from hemalens.adaptation.class_means import ClassMeans, SourceCells
from hemalens.adaptation.mature_types import MatureTypes
from hemalens.adaptation.neighbours import MAX_IMAGES, Neighbours
from hemalens.adaptation.size_evidence import SizeEvidence
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.bundle.bundle import Bundle
from hemalens.datasets.splits import seeded

FEWEST = 8
"""Fewest images to adapt to, and fewest mature cells among them."""
FEW = 32
"""Fewest mature cells for neighbours and class means."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The change of the logits, None where no piece is used, and why pieces were left out, by name."""

    adjustment: Adjustment | None
    left_out: dict[str, str]
    changed: float = 0.0
    """Fraction of the images whose predicted class changes."""


def choose(base: Bundle, images: Images, config: UnlabelledConfig, extent: float | None, seed: int) -> Chosen:
    """Fit the configured pieces, each on the result of the ones before, and leave out those that do not suit the images."""
    mature = MatureTypes.of(base.manifest.labels)
    counts = np.exp(mature.log_mass(images.logits))
    n_cells = float(counts.sum())
    found = Adjustment(mature, min(1.0, base.manifest.temperature))
    if n_cells < FEWEST:
        few = f"about {n_cells:.0f} of {len(counts)} images show a mature cell, and {FEWEST} are needed"
        return Chosen(None, dict.fromkeys(config.pieces, few))
    left_out = {}
    sizes = tuple(base.manifest.nucleus_sizes[c] for c in mature.columns) if base.manifest.nucleus_sizes else ()
    if config.size:
        if not sizes or extent is None or images.log_diameters is None:
            left_out["size"] = "the bundle was trained without nucleus sizes"
        else:
            size = SizeEvidence.fit(sizes, extent, images.log_diameters, found.among(images), counts)
            found = replace(found, size=size)
    if config.neighbours:
        if n_cells < FEW:
            left_out["neighbours"] = f"about {n_cells:.0f} mature cells, and {FEW} are needed"
        else:
            rows = np.sort(seeded(seed, "neighbours").permutation(len(counts))[:MAX_IMAGES])
            fitted = Neighbours.fit(images.embeddings[rows], found.among(images)[rows], counts[rows])
            found = replace(found, neighbours=fitted)
    if config.class_means:
        if n_cells < FEW:
            left_out["class_means"] = f"about {n_cells:.0f} mature cells, and {FEW} are needed"
        else:
            source = SourceCells.of(base.reference, mature.columns)
            means = ClassMeans.fit(images.embeddings, found.among(images), counts, source)
            found = replace(found, class_means=means)
    if not found.pieces:
        return Chosen(None, left_out)
    found = found.as_confident(images)
    changed = found.logits(images).argmax(axis=1) != images.logits.argmax(axis=1)
    return Chosen(found, left_out, float(changed.mean()))
