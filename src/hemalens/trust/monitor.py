"""Monitor a bundle's predictions without labels: typicality and prediction set of each image, and a report on all of them.

Pure NumPy, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemalens.trust.accuracy_estimates import (
    ASSUMES,
    ATYPICAL,
    difference_of_confidences,
    thresholded_confidence,
    typical_cells,
)
from hemalens.trust.conformal import COVERAGE, PredictionSets, check_coverage
from hemalens.trust.domain_shift import (
    DETECTED,
    FEWEST,
    NO_REFERENCE,
    NOT_DETECTED,
    TOO_FEW,
    Shift,
    Verdict,
    domain_shift,
    ood_auroc,
)
from hemalens.trust.guarantee import Basis, SetGuarantee
from hemalens.trust.laboratory_sets import LaboratorySets
from hemalens.trust.reference import ReferenceStatistics
from hemalens.trust.review import Reviewer

Floats = NDArray[np.floating[Any]]
MOST_KEPT = 2000
"""Images that the report on a batch rests on; of more, a sample of this size is drawn."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What `n_images` images show without labels: domain shift and estimated accuracy.

    `atypical` in [0, 1]: fraction of images with a typicality below 0.05; 0.05 is expected without a shift. `ood_auroc`:
    AUROC of new against held-out images by their out-of-distribution score. `reference_accuracy`: accuracy on the
    held-out images. All three are None without reference statistics. `estimates` of the accuracy by name, with the
    assumption of each in `assumes`; empty below 20 images on either side.
    """

    n_images: int
    shift: Shift
    atypical: float | None = None
    ood_auroc: float | None = None
    reference_accuracy: float | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    assumes: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdict, the estimated accuracy and, where a shift is detected, the next step."""
        shift = self.shift
        verdict = f"domain shift {shift.verdict}"
        compared = f"{shift.n_compared} images compared with {shift.n_reference} held-out images"
        if shift.score is not None:
            verdict += f" (score {shift.score:.2f}, p {shift.p_value:.3f}; {compared})"
        elif shift.verdict != NO_REFERENCE:
            given = f"{self.n_images} images" if shift.verdict == TOO_FEW else f"{compared}, {self.n_images} given"
            verdict += f" ({given}; at least {FEWEST} are needed)"
        found = [verdict]
        if self.estimates:
            values = sorted({f"{value:.2f}" for value in (min(self.estimates.values()), max(self.estimates.values()))})
            estimate = f"estimated accuracy (without labels): {' to '.join(values)}"
            if self.reference_accuracy is not None:
                estimate += f"; on held-out training data {self.reference_accuracy:.2f}"
            found.append(estimate + ("; often too high under domain shift" if shift.verdict == DETECTED else ""))
        if shift.verdict == DETECTED:
            found.append(
                "next: label 10 cells of each type, then hemalens adapt BUNDLE --support folder:CELLS --out NEW; or, "
                "without labels, hemalens adapt BUNDLE --unlabelled folder:IMAGES --out NEW"
            )
        return tuple(found)


class Observation(NamedTuple):
    """What a monitor finds of n images: typicality (n,) and members (n, k) of the prediction sets; each may be None.

    `members` hold for the bundle's own laboratory, `members_elsewhere` for laboratories like the imitated ones.
    """

    typicality: NDArray[np.float64] | None
    members: NDArray[np.bool_] | None
    members_elsewhere: NDArray[np.bool_] | None


class Kept(NamedTuple):
    """Images that a monitor keeps, in their order: points (m, q), None without a geometry, and probabilities (m, k)."""

    points: NDArray[np.float64] | None
    probabilities: NDArray[np.float64]


class Monitor:
    """Compares predictions with a bundle's reference statistics, batch by batch, and reports on all of them.

    Without a `reference` no shift can be found; with `calibrated_confidence` the mean confidence then estimates the
    accuracy. `coverage` of prediction sets lies in (0, 1), None for no sets. The `reviewer` finds the cells that a person
    must look at. `home` and `elsewhere` name what the prediction sets rest on; those elsewhere are of classes of the mask
    `mature` (k,) alone, where it is given. Of more than 2,000 images a sample is kept,
    drawn by `seed`. Raises `InputError` for a coverage out of range.
    """

    def __init__(
        self,
        reference: ReferenceStatistics | None,
        *,
        calibrated_confidence: bool = False,
        coverage: float | None = COVERAGE,
        reviewer: Reviewer | None = None,
        home: Basis = "held-out images",
        elsewhere: Basis = "imitated laboratories",
        mature: NDArray[np.bool_] | None = None,
        seed: int = 0,
    ) -> None:
        if coverage is not None:
            check_coverage(coverage)
        # a bundle adapted without labels has no held-out image
        self.reference = reference if reference is not None and len(reference.targets) else None
        self.imitated = None if reference is None else reference.imitated
        self.calibrated_confidence = calibrated_confidence
        self.coverage = coverage
        self.reviewer = reviewer
        self.home, self.elsewhere = home, elsewhere
        self.sets: PredictionSets | None = None
        self.sets_elsewhere: LaboratorySets | None = None
        if coverage is not None and self.reference is not None:
            known = self.reference
            self.sets = PredictionSets.calibrate(known.probabilities, known.targets, coverage=coverage)
        if coverage is not None and self.imitated is not None:
            shown = self.imitated
            self.sets_elsewhere = LaboratorySets.calibrate(
                shown.probabilities, shown.targets, shown.laboratories, coverage=coverage, among=mature
            )
        self.n_images = 0
        self._most: float = MOST_KEPT
        self._rng = np.random.default_rng(seed)
        self._points: list[NDArray[np.float64]] = []
        self._probabilities: list[NDArray[np.float64]] = []

    @property
    def needs_embeddings(self) -> bool:
        """Whether `observe` uses embeddings as well as probabilities."""
        return self.reference is not None and self.reference.geometry is not None

    def guarantee(self, verdict: Verdict) -> SetGuarantee | None:
        """The prediction sets in force under a verdict on the domain shift: what they hold for; None without sets.

        Without a detected shift they rest on the bundle's own laboratory; otherwise, and where it is unknown, on the
        imitated ones. Where the bundle lacks one of both, they rest on the other.
        """
        if self.sets_elsewhere is not None and (verdict != NOT_DETECTED or self.sets is None):
            found = self.sets_elsewhere
            of_mature = found.among is not None
            return SetGuarantee(found.coverage, self.elsewhere, found.n_images, found.n_laboratories, verdict, of_mature)
        return None if self.sets is None else SetGuarantee(self.sets.coverage, self.home, self.sets.n, 0, verdict)

    def observe(self, embeddings: Floats | None, probabilities: Floats) -> Observation:
        """Typicality and prediction sets of embeddings (n, d) and probabilities (n, k).

        Each is None where the bundle lacks the statistics. The images count in `report`.
        """
        points = None
        if self.reference is not None and self.reference.geometry is not None and embeddings is not None:
            points = self.reference.geometry.project(embeddings)
        for i, row in enumerate(np.asarray(probabilities, np.float64)):
            self._keep(None if points is None else points[i], row)
        home, elsewhere = (
            None if sets is None else sets.members(probabilities) for sets in (self.sets, self.sets_elsewhere)
        )
        return Observation(self._typicality(points), home, elsewhere)

    def keep_all(self) -> Monitor:
        """Keep every image from here on, for `hand_over`; returns the monitor."""
        self._most = np.inf
        return self

    def hand_over(self) -> Kept:
        """The images kept since the last call, which are forgotten here."""
        points, probabilities = self._points, self._probabilities
        self.n_images, self._points, self._probabilities = 0, [], []
        return Kept(np.array(points) if points else None, np.array(probabilities))

    def take(self, kept: Kept) -> None:
        """Count the images that another monitor of the bundle hands over, as if they were observed here."""
        for i, row in enumerate(kept.probabilities):
            self._keep(None if kept.points is None else kept.points[i], row)

    def report(self) -> BatchReport:
        """The report on all images observed."""
        reference = self.reference
        if reference is None:
            return self._report_without_reference()
        shift, scores, typicality = Shift(NO_REFERENCE), None, None
        if reference.geometry is not None and reference.points is not None:
            points = np.array(self._points).reshape(len(self._points), reference.points.shape[1])
            predicted = np.array([row.argmax() for row in self._probabilities], np.int64)
            held, new = (reference.geometry.whitened(each) for each in (reference.points, points))
            shift = domain_shift(held, reference.predicted, new, predicted, rng=self._rng)
            scores = reference.geometry.scores(points)
            typicality = self._typicality(points)
        if min(self.n_images, len(reference.targets)) < FEWEST:
            return BatchReport(self.n_images, shift)
        estimates = _estimates(reference, np.array(self._probabilities), typicality)
        return BatchReport(
            self.n_images,
            shift,
            atypical=None if typicality is None else float((typicality < ATYPICAL).mean()),
            ood_auroc=None if scores is None or reference.scores is None else ood_auroc(reference.scores, scores),
            reference_accuracy=reference.accuracy,
            estimates=estimates,
            assumes={name: ASSUMES[name] for name in estimates},
        )

    def _typicality(self, points: Floats | None) -> NDArray[np.float64] | None:
        """Conformal p-values (n,) of points (n, q); None without reference points."""
        reference = self.reference
        if reference is None or reference.geometry is None or points is None or not len(reference.targets):
            return None
        return reference.typicality(reference.geometry.scores(points))

    def _keep(self, point: NDArray[np.float64] | None, probabilities: NDArray[np.float64]) -> None:
        """Reservoir sampling (Vitter 1985): keep every image seen so far with the same chance."""
        place = self.n_images
        self.n_images += 1
        if place >= self._most:
            place = int(self._rng.integers(self.n_images))
            if place >= self._most:
                return
            self._probabilities[place] = probabilities
            if point is not None:
                self._points[place] = point
            return
        self._probabilities.append(probabilities)
        if point is not None:
            self._points.append(point)

    def _report_without_reference(self) -> BatchReport:
        if not self.calibrated_confidence or self.n_images < FEWEST:
            return BatchReport(self.n_images, Shift(NO_REFERENCE))
        name, confidence = "mean_confidence", float(np.array(self._probabilities).max(axis=1).mean())
        return BatchReport(self.n_images, Shift(NO_REFERENCE), estimates={name: confidence}, assumes={name: ASSUMES[name]})


def _estimates(reference: ReferenceStatistics, probabilities: Floats, typicality: Floats | None) -> dict[str, float]:
    """Accuracy on new images by each estimator; `typical_cells` needs the typicality."""
    held, new = np.asarray(reference.probabilities).max(axis=1), probabilities.max(axis=1)
    correct = reference.predicted == reference.targets
    found = {
        "thresholded_confidence": thresholded_confidence(held, correct, new),
        "difference_of_confidences": difference_of_confidences(held, correct, new),
    }
    if typicality is not None:
        found["typical_cells"] = typical_cells(held, correct, new, typicality, probabilities.shape[1])
    return found
