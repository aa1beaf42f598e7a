"""Which pieces of an adaptation to unlabelled images are used, and why others are left out.

A laboratory that differs from the source shifts predictions in one direction: one type gains what another loses. Changes
that cancel are noise, and cost accuracy as often as they gain it. So the pieces are used only where the count of a type
changes (docs/explanation/adaptation.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hemalens.adaptation.adjustment import Adjustment, Images
from hemalens.adaptation.class_means import ClassMeans, SourceCells
from hemalens.adaptation.mature_types import AmongMature, Floats
from hemalens.adaptation.neighbours import MAX_IMAGES, Neighbours
from hemalens.adaptation.size_evidence import SizeEvidence
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.bundle.bundle import Bundle
from hemalens.datasets.splits import seeded

FEWEST = 8
"""Fewest images to adapt to, and fewest mature cells among them."""
FEW = 24
"""Fewest mature cells for neighbours and class means."""
FEWEST_MOVED = 2.5
"""The pieces are used where they move at least so many cells from one type to another, opposite moves cancelled."""
ONE_TYPE = 0.75
"""Largest share of one type; above it the other types may all be mistakes, which class means would turn into types."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The change of the logits, None where no piece is used, and why pieces were left out, by name.

    `changed` is the fraction of the images whose predicted class changes.
    """

    adjustment: Adjustment | None
    left_out: dict[str, str]
    changed: float = 0.0


def choose(base: Bundle, images: Images, config: UnlabelledConfig, extent: float | None, seed: int) -> Chosen:
    """Fit the configured pieces, each on the result of the ones before, and leave out those that do not suit the images."""
    mature = AmongMature.of(base.manifest.labels)
    counts = np.exp(mature.log_mass(images.logits))
    n_cells = float(counts.sum())
    if n_cells < FEWEST:
        few = f"about {n_cells:.0f} of {len(counts)} images show a mature cell, and {FEWEST} are needed"
        return Chosen(None, dict.fromkeys(config.pieces, few))
    shares = np.bincount(images.logits.argmax(axis=1), weights=counts, minlength=mature.n_classes) / n_cells
    if shares.max() > ONE_TYPE:
        label = base.manifest.labels[int(shares.argmax())]
        one = f"{shares.max():.0%} of the cells are predicted {label}, and above {ONE_TYPE:.0%} the others may be mistakes"
        return Chosen(None, dict.fromkeys(config.pieces, one))
    few = f"about {n_cells:.0f} mature cells, and {FEW} are needed"
    left_out = {name: few for name in config.pieces if name != "size" and n_cells < FEW}
    used = [name for name in config.pieces if name not in left_out]
    found = _fitted(base, images, counts, used=used, extent=extent or 1.0, seed=seed) if used else Adjustment(mature, 1.0)
    before, after = images.logits.argmax(axis=1), found.logits(images).argmax(axis=1)
    moved = _moved(before, after, counts, mature.n_classes)
    if moved < FEWEST_MOVED:
        reason = f"the count of each type stays within {moved:.0f} cells, so that changes may be chance"
        return Chosen(None, left_out | dict.fromkeys(used, reason))
    return Chosen(found, left_out, float((before != after).mean()))


def _fitted(base: Bundle, images: Images, counts: Floats, *, used: list[str], extent: float, seed: int) -> Adjustment:
    """Fit the pieces `used`, in this order."""
    mature = AmongMature.of(base.manifest.labels)
    found = Adjustment(mature, min(1.0, base.manifest.temperature))
    if "size" in used and images.log_diameters is not None:
        sizes = tuple(base.manifest.nucleus_sizes[c] for c in mature.columns)
        size = SizeEvidence.fit(sizes, extent, images.log_diameters, found.among(images), counts)
        found = replace(found, size=size)
    if "neighbours" in used:
        rows = np.sort(seeded(seed, "neighbours").permutation(len(counts))[:MAX_IMAGES])
        neighbours = Neighbours.fit(images.embeddings[rows], found.among(images)[rows], counts[rows])
        found = replace(found, neighbours=neighbours)
    if "class_means" in used:
        source = SourceCells.of(base.reference, mature.columns)
        means = ClassMeans.fit(images.embeddings, found.among(images), counts, source)
        found = replace(found, class_means=means)
    return found.as_confident(images)


def _moved(before: Floats, after: Floats, counts: Floats, n_classes: int) -> float:
    """How many cells change their class, opposite changes cancelled, by the classes (n,) before and after."""
    shares = [np.bincount(classes, weights=counts, minlength=n_classes) for classes in (before, after)]
    return float(np.abs(shares[1] - shares[0]).sum() / 2)
