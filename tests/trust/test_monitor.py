"""The monitor of new images: batch by batch as all at once, bounded memory, plain words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hemalens.errors import InputError
from hemalens.trust.domain_shift import DETECTED, NO_REFERENCE, NOT_DETECTED, TOO_FEW
from hemalens.trust.laboratory_sets import LaboratorySets
from hemalens.trust.monitor import MOST_KEPT, Monitor
from hemalens.trust.reference import Geometry, ImitatedImages, ReferenceStatistics, fit_reference

K, D = 3, 12


def _cells(n: int, seed: int, *, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), probabilities (n, k) and classes (n,)."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(K, size=n)
    embeddings = 3 * np.eye(D)[targets] + rng.normal(size=(n, D))
    powers = np.exp(2 * embeddings[:, :K])
    return embeddings + moved, powers / powers.sum(axis=1, keepdims=True), targets


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    learned, _, classes = _cells(300, 0)
    embeddings, probabilities, targets = _cells(150, 1)
    return fit_reference(Geometry.fit(learned, classes, K), embeddings, probabilities, targets)


def test_no_shift_is_detected_on_images_like_the_training_data(reference: ReferenceStatistics) -> None:
    embeddings, probabilities, targets = _cells(120, 2)
    monitor = Monitor(reference)
    typicality, members, elsewhere = monitor.observe(embeddings, probabilities)
    assert elsewhere is None
    found = monitor.report()
    assert found.shift.verdict == NOT_DETECTED
    assert typicality is not None
    assert members is not None
    assert found.atypical == pytest.approx((typicality < 0.05).mean())
    assert members[np.arange(120), targets].mean() > 0.8
    accuracy = (probabilities.argmax(axis=1) == targets).mean()
    assert all(abs(value - accuracy) < 0.1 for value in found.estimates.values())
    assert set(found.estimates) == set(found.assumes)
    assert not any("hemalens adapt" in line for line in found.lines)


def test_a_shift_is_detected_and_the_next_step_named(reference: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(120, 2, moved=1.5)
    monitor = Monitor(reference)
    monitor.observe(embeddings, probabilities)
    found = monitor.report()
    assert found.shift.verdict == DETECTED
    assert found.ood_auroc is not None
    assert found.ood_auroc > 0.8
    assert found.estimates["typical_cells"] < found.estimates["thresholded_confidence"]
    said = "\n".join(found.lines)
    assert all(word in said for word in ("detected", "hemalens adapt", "--support", "--unlabelled", "without labels"))


def test_batches_give_the_same_report_as_one_batch(reference: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(90, 3)
    whole, parts = Monitor(reference), Monitor(reference)
    at_once = whole.observe(embeddings, probabilities)
    in_parts = [parts.observe(embeddings[i : i + 7], probabilities[i : i + 7]) for i in range(0, 90, 7)]
    np.testing.assert_allclose(np.concatenate([typicality for typicality, *_ in in_parts]), at_once[0])
    assert whole.report() == parts.report()


def test_of_many_images_a_sample_is_kept(reference: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(3 * MOST_KEPT, 4)
    monitor = Monitor(reference)
    monitor.observe(embeddings, probabilities)
    assert len(monitor._points) == len(monitor._probabilities) == MOST_KEPT
    found = monitor.report()
    assert found.n_images == 3 * MOST_KEPT
    assert found.shift.verdict == NOT_DETECTED


def test_images_that_others_hand_over_count_as_observed(reference: ReferenceStatistics) -> None:
    """Parts observed elsewhere, in their order, give the report of one monitor; also where a sample is drawn."""
    embeddings, probabilities, _ = _cells(MOST_KEPT + 700, 7, moved=0.3)
    alone, together = Monitor(reference), Monitor(reference)
    alone.observe(embeddings, probabilities)
    worker = Monitor(reference).keep_all()
    for first, last in ((0, 900), (900, 900), (900, len(embeddings))):
        if last > first:
            worker.observe(embeddings[first:last], probabilities[first:last])
        kept = worker.hand_over()
        assert len(kept.probabilities) == last - first
        assert (kept.points is None) == (first == last)
        together.take(kept)
    found, expected = together.report(), alone.report()
    assert found.n_images == expected.n_images == MOST_KEPT + 700
    assert found.shift.score == pytest.approx(expected.shift.score)
    assert found.shift.p_value == expected.shift.p_value
    assert found.estimates == pytest.approx(expected.estimates)


def test_few_images_give_no_verdict_and_no_estimate(reference: ReferenceStatistics) -> None:
    monitor = Monitor(reference)
    monitor.observe(*_cells(5, 5, moved=9.0)[:2])
    found = monitor.report()
    assert (found.shift.verdict, found.estimates, found.atypical) == (TOO_FEW, {}, None)
    assert len(found.lines) == 1
    assert found.lines[0] == "domain shift unknown: too few images (5 images; at least 20 are needed)"
    assert Monitor(reference).report().shift.verdict == TOO_FEW


def test_without_reference_statistics_the_shift_is_unknown() -> None:
    monitor = Monitor(None)
    assert not monitor.needs_embeddings
    assert monitor.observe(None, np.eye(K)) == (None, None, None)
    assert monitor.guarantee(NO_REFERENCE) is None
    found = monitor.report()
    assert found.shift.verdict == NO_REFERENCE
    assert len(found.lines) == 1
    assert "no reference statistics" in found.lines[0]


def test_calibrated_confidence_estimates_the_accuracy() -> None:
    probabilities = _cells(60, 6)[1]
    monitor = Monitor(None, calibrated_confidence=True)
    monitor.observe(None, probabilities)
    found = monitor.report()
    assert found.estimates == {"mean_confidence": pytest.approx(sum(max(row) for row in probabilities) / 60)}
    assert set(found.assumes) == {"mean_confidence"}
    assert found.reference_accuracy is None
    assert len(found.lines) == 2
    assert found.lines[1].endswith(f"{found.estimates['mean_confidence']:.2f}")


def test_few_predictions_estimate_nothing() -> None:
    monitor = Monitor(None, calibrated_confidence=True)
    monitor.observe(None, _cells(5, 6)[1])
    assert monitor.report().estimates == {}


def test_reference_statistics_take_precedence_over_confidence(reference: ReferenceStatistics) -> None:
    monitor = Monitor(reference, calibrated_confidence=True)
    monitor.observe(*_cells(60, 6)[:2])
    assert "mean_confidence" not in monitor.report().estimates


def test_without_embeddings_there_are_sets_and_estimates_only(reference: ReferenceStatistics) -> None:
    monitor = Monitor(ReferenceStatistics(reference.probabilities, reference.targets))
    typicality, members, _ = monitor.observe(None, _cells(60, 6)[1])
    assert typicality is None
    assert members is not None
    found = monitor.report()
    assert found.shift.verdict == NO_REFERENCE
    assert set(found.estimates) == {"thresholded_confidence", "difference_of_confidences"}


def test_no_coverage_means_no_sets_and_a_wrong_one_is_refused(reference: ReferenceStatistics) -> None:
    assert Monitor(reference, coverage=None).observe(*_cells(5, 5)[:2])[1] is None
    with pytest.raises(InputError, match="coverage"):
        Monitor(None, coverage=1.5)


@pytest.fixture(scope="module")
def imitated() -> ImitatedImages:
    shown = [_cells(30, 20 + i, moved=0.3 * i) for i in range(8)]
    probabilities, targets = (np.concatenate([part[place] for part in shown]) for place in (1, 2))
    return ImitatedImages(probabilities, targets, np.repeat(np.arange(8), 30))


def test_sets_rest_on_imitated_laboratories_unless_no_shift_is_detected(
    reference: ReferenceStatistics, imitated: ImitatedImages
) -> None:
    monitor = Monitor(replace(reference, imitated=imitated))
    probabilities = _cells(50, 3)[1]
    _, members, elsewhere = monitor.observe(*_cells(50, 3)[:2])
    assert members is not None
    expected = LaboratorySets.calibrate(imitated.probabilities, imitated.targets, imitated.laboratories)
    np.testing.assert_array_equal(elsewhere, expected.members(probabilities))
    for verdict in (DETECTED, TOO_FEW, NO_REFERENCE):
        found = monitor.guarantee(verdict)
        assert found is not None
        assert (found.basis, found.n_images, found.n_laboratories) == ("imitated laboratories", 240, 8)
        assert found.shift == verdict
    found = monitor.guarantee(NOT_DETECTED)
    assert found is not None
    assert (found.basis, found.n_images, found.coverage) == ("held-out images", 150, 0.9)
    assert Monitor(replace(reference, imitated=imitated), coverage=None).guarantee(DETECTED) is None


def test_without_held_out_images_sets_rest_on_the_imitated_laboratories_of_the_base(imitated: ImitatedImages) -> None:
    alone = ReferenceStatistics(np.zeros((0, K)), np.zeros(0, np.int64), imitated=imitated)
    monitor = Monitor(alone, calibrated_confidence=True, elsewhere="imitated laboratories of the base")
    _, members, elsewhere = monitor.observe(None, _cells(30, 3)[1])
    assert members is None
    assert elsewhere is not None
    report = monitor.report()
    assert report.shift.verdict == NO_REFERENCE
    assert set(report.estimates) == {"mean_confidence"}
    for verdict in (NO_REFERENCE, NOT_DETECTED):
        found = monitor.guarantee(verdict)
        assert found is not None
        assert found.basis == "imitated laboratories of the base"


def test_a_bundle_without_imitated_laboratories_keeps_the_sets_of_its_own(reference: ReferenceStatistics) -> None:
    found = Monitor(reference, home="labelled images").guarantee(DETECTED)
    assert found is not None
    assert (found.basis, found.n_laboratories, found.at_home) == ("labelled images", 0, True)
