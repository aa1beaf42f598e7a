"""Whether a bundle's answers on new images can be relied on: cell by cell, and as a batch. Pure NumPy, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.trust import accuracy_estimates as label_free
from hemalens.trust.conformal import COVERAGE, PredictionSets, check_coverage
from hemalens.trust.domain_shift import FEWEST, FOREIGN, NOTHING_KEPT, Shift, domain_shift, strangeness
from hemalens.trust.reference import ReferenceStatistics

Floats = NDArray[np.floating[Any]]
MOST_JUDGED = 2000
"""Images that the verdict on a batch rests on; of more, so many are drawn."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What can be said of a batch of `n_images` without a label.

    `shift` is the verdict with its score. `atypical` in [0, 1]: share of images with a typicality below 0.05 (0.05 at
    home). `strangeness`: AUC of new against held-out images by their out-of-distribution score. `home_accuracy` is that on
    held-out home images, None where none are kept. `estimates` of the accuracy by name, with what each takes for granted in
    `assumes`; empty below 20 images on either side.
    """

    n_images: int
    shift: Shift
    atypical: float | None = None
    strangeness: float | None = None
    home_accuracy: float | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    assumes: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdict, the estimated accuracy, and where the images are foreign, what to do."""
        shift = self.shift
        said = f"domain shift: {shift.verdict}"
        if shift.score is not None:
            said += f" (score {shift.score:.2f}, p {shift.p_value:.3f}; {shift.n_compared} images, {shift.n_home} of home)"
        elif shift.verdict != NOTHING_KEPT:
            said += f" ({shift.n_compared} that can be compared, {shift.n_home} of home; at least {FEWEST} are needed)"
        found = [said]
        if self.estimates:
            values = sorted(self.estimates.values())
            spread = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
            found.append(
                f"accuracy estimated without labels: {spread}"
                + (f", at home {self.home_accuracy:.2f}" if self.home_accuracy is not None else "")
                + ("; in a foreign laboratory such estimates are often too high" if shift.verdict == FOREIGN else "")
            )
        if shift.verdict == FOREIGN:
            found.append(
                "to do: label 10 cells of each type and adapt with `hemalens adapt BUNDLE --support folder:CELLS`, or "
                "without labels try `hemalens adapt BUNDLE --unlabelled folder:IMAGES`"
            )
        return tuple(found)


class Monitor:
    """Judges images batch by batch and remembers what the verdict on all of them needs.

    `home` None: how far they lie from home cannot be told, and the verdict says so. `calibrated_confidence`: where there is no
    home, the mean confidence estimates the accuracy. `coverage` of prediction sets in (0, 1), None for none. Of more than
    2,000 images a sample is kept, drawn by `seed`.
    """

    def __init__(
        self,
        home: ReferenceStatistics | None,
        *,
        calibrated_confidence: bool = False,
        coverage: float | None = COVERAGE,
        seed: int = 0,
    ) -> None:
        if coverage is not None:
            check_coverage(coverage)
        self.home = home
        self.calibrated_confidence = calibrated_confidence
        self.sets: PredictionSets | None = None
        if home is not None and coverage is not None and len(home.targets):
            self.sets = PredictionSets.of(home.probabilities, home.targets, coverage=coverage)
        self.n_images = 0
        self._rng = np.random.default_rng(seed)
        self._points: list[NDArray[np.float64]] = []
        self._probabilities: list[NDArray[np.float64]] = []

    @property
    def needs_embeddings(self) -> bool:
        """Whether it judges embeddings, beside probabilities."""
        return self.home is not None and self.home.geometry is not None

    def typicality(self, points: Floats | None) -> NDArray[np.float64] | None:
        """Conformal p-values (n,) of points (n, q); None where the bundle cannot tell."""
        home = self.home
        if home is None or home.geometry is None or points is None or not len(home.targets):
            return None
        return home.typicality(home.geometry.scores(points))

    def see(
        self, embeddings: Floats | None, probabilities: Floats
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None]:
        """(typicality (n,), members of the prediction sets (n, k)) of embeddings (n, d) and probabilities (n, k).

        Either is None where the bundle cannot tell it. The images count in the verdict.
        """
        points = None
        if self.home is not None and self.home.geometry is not None and embeddings is not None:
            points = self.home.geometry.project(embeddings)
        for i, row in enumerate(np.asarray(probabilities, np.float64)):
            self._keep(None if points is None else points[i], row)
        return self.typicality(points), None if self.sets is None else self.sets.members(probabilities)

    def _keep(self, point: NDArray[np.float64] | None, probabilities: NDArray[np.float64]) -> None:
        """Reservoir sampling (Vitter 1985): every image seen so far is kept with the same chance."""
        place = self.n_images
        self.n_images += 1
        if place >= MOST_JUDGED:
            place = int(self._rng.integers(self.n_images))
            if place >= MOST_JUDGED:
                return
            self._probabilities[place] = probabilities
            if point is not None:
                self._points[place] = point
            return
        self._probabilities.append(probabilities)
        if point is not None:
            self._points.append(point)

    def verdict(self) -> Trust:
        """What can be said of all images seen."""
        home = self.home
        if home is None:
            if not self.calibrated_confidence or self.n_images < FEWEST:
                return Trust(self.n_images, Shift(NOTHING_KEPT))
            name, confidence = "mean_confidence", float(np.array(self._probabilities).max(axis=1).mean())
            return Trust(
                self.n_images,
                Shift(NOTHING_KEPT),
                estimates={name: confidence},
                assumes={name: label_free.ASSUMES[name]},
            )
        shift, scores, typicality = Shift(NOTHING_KEPT), None, None
        if home.geometry is not None and home.points is not None:
            points = np.array(self._points).reshape(len(self._points), home.points.shape[1])
            answers = np.array([row.argmax() for row in self._probabilities], np.int64)
            shift = domain_shift(
                home.geometry.whitened(home.points), home.predicted, home.geometry.whitened(points), answers, rng=self._rng
            )
            scores = home.geometry.scores(points)
            typicality = self.typicality(points)
        if min(self.n_images, len(home.targets)) < FEWEST:
            return Trust(self.n_images, shift)
        estimates = _estimates(home, np.array(self._probabilities), typicality)
        return Trust(
            self.n_images,
            shift,
            atypical=None if typicality is None else float((typicality < label_free.ATYPICAL).mean()),
            strangeness=None if scores is None or home.scores is None else strangeness(home.scores, scores),
            home_accuracy=home.accuracy,
            estimates=estimates,
            assumes={name: label_free.ASSUMES[name] for name in estimates},
        )


def _estimates(home: ReferenceStatistics, probabilities: Floats, typicality: Floats | None) -> dict[str, float]:
    """Accuracy on new images by each estimator; what needs the typicality is left out without it."""
    held, new = np.asarray(home.probabilities).max(axis=1), probabilities.max(axis=1)
    right = home.predicted == home.targets
    found = {
        "thresholded_confidence": label_free.thresholded_confidence(held, right, new),
        "difference_of_confidences": label_free.difference_of_confidences(held, right, new),
    }
    if typicality is not None:
        found["typical_cells"] = label_free.typical_cells(held, right, new, typicality, probabilities.shape[1])
    return found
