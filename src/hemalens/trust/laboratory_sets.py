"""Prediction sets calibrated on several laboratories, with the laboratory as the unit. Pure NumPy.

Images are exchangeable within a laboratory, and laboratories with each other (Dunn, Wasserman & Ramdas 2023). The coverage
is lost in a laboratory that is harder than those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.trust.conformal import COVERAGE, check_coverage, threshold

Floats = NDArray[np.floating[Any]]
LABORATORY_SHARE = 0.75
"""Share of laboratories whose threshold is enough (docs/explanation/monitoring.md)."""
SOFTENING = 3.0
"""Divides the logits of a score. Elsewhere wrong predictions are nearly as confident as right ones: adaptive sets of soft
probabilities are smaller at the same coverage of the worst laboratory (docs/explanation/monitoring.md)."""


LEAST = 1e-12
"""Lower limit of a probability among the classes asked for, so that their sum is not 0."""


@dataclass(frozen=True, slots=True)
class LaboratorySets:
    """A threshold calibrated for laboratories like those calibrated on.

    A set holds each label whose score, the probability of all likelier labels, is at most `threshold`. That lies in [0, 1],
    or is infinite where images or laboratories are too few for the coverage: every set then holds every label. `n_images`
    and `n_laboratories` count what was calibrated on. With `among`, a mask (k,), the coverage is that of images of these
    classes, by their probabilities alone; another label is in a set only where it is the predicted one.
    """

    coverage: float
    threshold: float
    n_images: int
    n_laboratories: int
    among: NDArray[np.bool_] | None = None

    @classmethod
    def calibrate(
        cls,
        probabilities: Floats,
        targets: NDArray[np.int64],
        laboratories: NDArray[np.int64],
        *,
        coverage: float = COVERAGE,
        among: NDArray[np.bool_] | None = None,
    ) -> LaboratorySets:
        """Calibrate on probabilities (m, k) of images of K `laboratories` (m,) and their true classes (m,).

        The miss rate is halved: a laboratory's threshold is the ceil((n + 1) (1 + coverage) / 2)-th smallest of its n
        scores, and the threshold the ceil((K + 1) `LABORATORY_SHARE`)-th smallest of those. All types share it: a type has
        too few images in a laboratory for a quantile of its own. Raises `InputError` for a coverage outside (0, 1).
        """
        check_coverage(coverage)
        if among is not None:
            kept = among[targets]
            probabilities, targets, laboratories = probabilities[kept], targets[kept], laboratories[kept]
        names = np.unique(laboratories)
        scores = adaptive_scores(_among(probabilities, among))[np.arange(len(targets)), targets]
        limits = np.array([threshold(scores[laboratories == name], (1 + coverage) / 2) for name in names])
        return cls(coverage, threshold(limits, LABORATORY_SHARE), len(targets), len(names), among)

    def members(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Members (n, k) of each image's set by its probabilities (n, k); the predicted label is always one."""
        found = np.asarray(adaptive_scores(_among(probabilities, self.among)) <= self.threshold)
        if self.among is not None:
            found[:, ~self.among] = False
        found[np.arange(len(found)), np.argmax(probabilities, axis=1)] = True
        return found


def _among(probabilities: Floats, among: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Probabilities (n, k) given that the class is one of the mask `among`, 0 for others; unchanged without one."""
    wide = np.asarray(probabilities, np.float64)
    if among is None:
        return wide
    kept = np.where(among, np.maximum(wide, LEAST), 0.0)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def adaptive_scores(probabilities: Floats) -> NDArray[np.float64]:
    """Scores (n, k) of labels by probabilities (n, k): the softened probability of all likelier labels.

    These are adaptive prediction sets without randomisation (APS: Romano, Sesia & Candes 2020). Probabilities are taken to
    the power of 1 / `SOFTENING` and scaled to the sum 1.
    """
    soft = np.asarray(probabilities, np.float64) ** (1 / SOFTENING)
    soft /= soft.sum(axis=1, keepdims=True)
    order = np.argsort(-soft, axis=1, kind="stable")
    ranked = np.take_along_axis(soft, order, axis=1)
    scores = np.empty_like(soft)
    np.put_along_axis(scores, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    return np.clip(scores, 0, 1)
