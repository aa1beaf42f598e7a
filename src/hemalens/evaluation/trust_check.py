"""Compare a bundle's report without labels (domain shift, estimated accuracy, prediction sets) with the labels."""

from __future__ import annotations

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.evaluation.metrics import exact_interval
from hemalens.evaluation.results import AccuracyEstimate, Estimate, TrustCheck
from hemalens.trust.conformal import COVERAGE

OBSERVED_AT_ONCE = 1024
"""Images that the monitor observes at once, so that memory stays flat."""


def trust_check(bundle: Bundle, answered: DatasetPredictions, *, coverage: float = COVERAGE, seed: int = 0) -> TrustCheck:
    """Monitor the predictions as `predict` does, and add the true accuracy and coverage; `coverage` in (0, 1) is nominal.

    Every record must have a label of the bundle.
    """
    labels = bundle.manifest.labels
    truth = np.array([labels.index(str(record.label)) for record in answered.records], np.int64)
    monitor = bundle.monitor(coverage=coverage, seed=seed)
    starts = range(0, len(truth), OBSERVED_AT_ONCE)
    parts = (slice(start, start + OBSERVED_AT_ONCE) for start in starts)
    seen = [monitor.observe(answered.embeddings[part], answered.probabilities[part]) for part in parts]
    report = monitor.report()
    sets = monitor.guarantee(report.shift.verdict)
    known = [each.members if sets is None or sets.at_home else each.members_elsewhere for each in seen]
    members = np.concatenate([each for each in known if each is not None]) if known and known[0] is not None else None
    covered, size = Estimate(value=None), None
    if members is not None:
        hits = int(members[np.arange(len(truth)), truth].sum())
        low, high = exact_interval(hits, len(truth))
        covered, size = Estimate(value=hits / len(truth), low=low, high=high), float(members.sum(axis=1).mean())
    return TrustCheck(
        verdict=report.shift.verdict,
        score=report.shift.score,
        p_value=report.shift.p_value,
        n_compared=report.shift.n_compared,
        n_home=report.shift.n_reference,
        atypical=report.atypical,
        strangeness=report.ood_auroc,
        accuracy=float((answered.probabilities.argmax(axis=1) == truth).mean()),
        home_accuracy=report.reference_accuracy,
        estimates=tuple(
            AccuracyEstimate(name=name, value=value, assumes=report.assumes[name])
            for name, value in report.estimates.items()
        ),
        coverage_stated=coverage,
        coverage=covered,
        set_size=size,
        sets_rest_on="" if sets is None else sets.text,
    )
