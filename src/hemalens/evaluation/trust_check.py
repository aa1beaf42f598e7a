"""Whether a bundle's word on its own reliability was true: judged without labels, then compared with them."""

from __future__ import annotations

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.evaluation.metrics import exact_interval
from hemalens.evaluation.results import AccuracyEstimate, Estimate, TrustCheck
from hemalens.trust.conformal import COVERAGE
from hemalens.trust.monitor import Monitor


def trust_check(bundle: Bundle, answered: DatasetPredictions, *, coverage: float = COVERAGE, seed: int = 0) -> TrustCheck:
    """Monitor the answered images as `predict` would, and set the true figures beside; a `coverage` in (0, 1) is stated.

    The records must bear labels that the bundle knows.
    """
    labels = bundle.manifest.labels
    truth = np.array([labels.index(str(record.label)) for record in answered.records], np.int64)
    judge = Monitor(bundle.home, calibrated_confidence=bundle.manifest.calibrated_confidence, coverage=coverage, seed=seed)
    _, members = judge.see(answered.embeddings, answered.probabilities)
    told = judge.verdict()
    covered, size = Estimate(value=None), None
    if members is not None:
        hits = int(members[np.arange(len(truth)), truth].sum())
        low, high = exact_interval(hits, len(truth))
        covered, size = Estimate(value=hits / len(truth), low=low, high=high), float(members.sum(axis=1).mean())
    return TrustCheck(
        verdict=told.shift.verdict,
        score=told.shift.score,
        p_value=told.shift.p_value,
        n_compared=told.shift.n_compared,
        n_home=told.shift.n_home,
        atypical=told.atypical,
        strangeness=told.strangeness,
        accuracy=float((answered.probabilities.argmax(axis=1) == truth).mean()),
        home_accuracy=told.home_accuracy,
        estimates=tuple(
            AccuracyEstimate(name=name, value=value, assumes=told.assumes[name]) for name, value in told.estimates.items()
        ),
        coverage_stated=coverage,
        coverage=covered,
        set_size=size,
    )
