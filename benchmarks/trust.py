"""How often a shift is falsely detected in other mixes of cell types, and coverage of prediction sets after adaptation.

    python benchmarks/trust.py BUNDLE SOURCE_SPEC [TARGET_SPEC ...]

Images that the bundle has seen are left out. Of each target 10 cells a class are drawn 20 times: class means and sets
are fitted to them, and the rest of the target is tested.
"""

import sys
from pathlib import Path

import numpy as np

from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.classifiers.few_shot import FewShotConfig, leave_one_out
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.runs.inputs import open_inputs
from hemalens.trust.conformal import PredictionSets
from hemalens.trust.domain_shift import DETECTED, domain_shift

N_MIXES, N_DRAWINGS, SHOTS = 300, 20, 10


def opened(bundle: Bundle, spec: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), probabilities (n, k) and true classes (n,) of the images that the bundle has not seen."""
    labels = bundle.manifest.labels
    given = open_inputs(spec, labels=bundle.manifest.label_map, role="test", unreadable="keep", stages=bundle.stages)
    found = predict_dataset(bundle, given.unseen(bundle.seen).dataset)
    return found.embeddings, found.probabilities, np.array([labels.index(str(r.label)) for r in found.records])


def source_mixes(bundle: Bundle, spec: str) -> str:
    """The domain shift of source images in mixes of cell types drawn at random."""
    reference = bundle.reference
    embeddings, probabilities, truth = opened(bundle, spec)
    held, points = (reference.geometry.whitened(p) for p in (reference.points, reference.geometry.project(embeddings)))
    answers, rng = probabilities.argmax(axis=1), np.random.default_rng(0)
    k = len(bundle.manifest.labels)
    found = []
    for _ in range(N_MIXES):
        weights = rng.dirichlet(np.full(k, 0.3))[truth] / np.bincount(truth, minlength=k)[truth]
        drawn = np.unique(rng.choice(len(truth), int(rng.integers(25, 200)), p=weights / weights.sum()))
        shift = domain_shift(held, reference.predicted, points[drawn], answers[drawn], rng=rng)
        if shift.score is not None:
            found.append((shift.score, shift.p_value, shift.verdict == DETECTED))
    scores, p_values, detected = np.array(found).T
    return (
        f"source, {len(found)} mixes with 20 or more images: largest score {scores.max():.3f}, "
        f"p <= 0.01 in {np.mean(p_values <= 0.01):.3f}, detected {int(detected.sum())} times"
    )


def after_labels(bundle: Bundle, spec: str) -> str:
    """Coverage of sets calibrated on the source, and on leave-one-out predictions of a few labelled target cells."""
    embeddings, probabilities, truth = opened(bundle, spec)
    config, rng = FewShotConfig(), np.random.default_rng(0)
    classes = [c for c in np.unique(truth) if (truth == c).sum() > SHOTS]
    place = np.flatnonzero(np.isin(truth, classes))
    by_source = PredictionSets.calibrate(bundle.reference.probabilities, bundle.reference.targets).members(
        probabilities[place]
    )
    before = by_source[np.arange(len(place)), truth[place]].mean()
    rows = []
    for _ in range(N_DRAWINGS):
        support = np.concatenate([rng.choice(np.flatnonzero(truth == c), SHOTS, replace=False) for c in classes])
        rest = np.setdiff1d(place, support)
        learned, tested = (np.searchsorted(classes, truth[part]) for part in (support, rest))
        logits = leave_one_out(config, embeddings[support], learned, np.arange(len(support)))
        temperature = fit_temperature(logits, learned)
        sets = PredictionSets.calibrate(np.exp(log_softmax(logits / temperature)), learned)
        fitted = config.make().fit(embeddings[support], learned)
        answers = np.exp(log_softmax(fitted.decision_function(embeddings[rest]) / temperature))
        members = sets.members(answers)
        hit = members[np.arange(len(rest)), tested].mean()
        rows.append((hit, members.sum(axis=1).mean(), (answers.argmax(axis=1) == tested).mean()))
    (covered, size, right), low = np.mean(rows, axis=0), np.min(rows, axis=0)[0]
    return (
        f"{spec.partition(':')[0]}, {len(classes)} classes: coverage {before:.2f} by source thresholds; "
        f"by {SHOTS} cells a class {covered:.2f} (lowest drawing {low:.2f}), {size:.2f} labels a set, accuracy {right:.2f}"
    )


if __name__ == "__main__":
    opened_bundle = open_bundle(Path(sys.argv[1]))
    print(source_mixes(opened_bundle, sys.argv[2]))
    for target in sys.argv[3:]:
        print(after_labels(opened_bundle, target))
