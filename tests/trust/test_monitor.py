"""The judge of new images: batch by batch as all at once, bounded memory, plain words."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.errors import InputError
from hemalens.trust.domain_shift import FOREIGN, LIKE_HOME, NOTHING_KEPT, TOO_FEW
from hemalens.trust.monitor import MOST_JUDGED, Monitor
from hemalens.trust.reference import Geometry, ReferenceStatistics, fit_reference

K, D = 3, 12


def _cells(n: int, seed: int, *, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), probabilities (n, k) and classes (n,)."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(K, size=n)
    embeddings = 3 * np.eye(D)[targets] + rng.normal(size=(n, D))
    powers = np.exp(2 * embeddings[:, :K])
    return embeddings + moved, powers / powers.sum(axis=1, keepdims=True), targets


@pytest.fixture(scope="module")
def home() -> ReferenceStatistics:
    learned, _, classes = _cells(300, 0)
    embeddings, probabilities, targets = _cells(150, 1)
    return fit_reference(Geometry.of(learned, classes, K), embeddings, probabilities, targets)


def test_images_like_home_are_said_to_be(home: ReferenceStatistics) -> None:
    embeddings, probabilities, targets = _cells(120, 2)
    judge = Monitor(home)
    typicality, members = judge.see(embeddings, probabilities)
    found = judge.verdict()
    assert found.shift.verdict == LIKE_HOME
    assert typicality is not None
    assert members is not None
    assert found.atypical == pytest.approx((typicality < 0.05).mean())
    assert members[np.arange(120), targets].mean() > 0.8
    accuracy = (probabilities.argmax(axis=1) == targets).mean()
    assert all(abs(value - accuracy) < 0.1 for value in found.estimates.values())
    assert set(found.estimates) == set(found.assumes)
    assert not any("to do" in line for line in found.lines)


def test_foreign_images_are_said_to_be_with_what_to_do(home: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(120, 2, moved=1.5)
    judge = Monitor(home)
    judge.see(embeddings, probabilities)
    found = judge.verdict()
    assert found.shift.verdict == FOREIGN
    assert found.strangeness is not None
    assert found.strangeness > 0.8
    assert found.estimates["typical_cells"] < found.estimates["thresholded_confidence"]
    said = "\n".join(found.lines)
    assert all(word in said for word in ("foreign", "hemalens adapt", "--support", "--unlabelled", "without labels"))


def test_batches_come_to_the_same_as_all_at_once(home: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(90, 3)
    whole, parts = Monitor(home), Monitor(home)
    at_once = whole.see(embeddings, probabilities)
    in_parts = [parts.see(embeddings[i : i + 7], probabilities[i : i + 7]) for i in range(0, 90, 7)]
    np.testing.assert_allclose(np.concatenate([typicality for typicality, _ in in_parts]), at_once[0])
    assert whole.verdict() == parts.verdict()


def test_of_many_images_a_sample_is_kept(home: ReferenceStatistics) -> None:
    embeddings, probabilities, _ = _cells(3 * MOST_JUDGED, 4)
    judge = Monitor(home)
    judge.see(embeddings, probabilities)
    assert len(judge._points) == len(judge._probabilities) == MOST_JUDGED
    found = judge.verdict()
    assert found.n_images == 3 * MOST_JUDGED
    assert found.shift.verdict == LIKE_HOME


def test_few_images_get_no_verdict_and_no_estimate(home: ReferenceStatistics) -> None:
    judge = Monitor(home)
    judge.see(*_cells(5, 5, moved=9.0)[:2])
    found = judge.verdict()
    assert (found.shift.verdict, found.estimates, found.atypical) == (TOO_FEW, {}, None)
    assert len(found.lines) == 1
    assert "at least 20 are needed" in found.lines[0]
    assert Monitor(home).verdict().shift.verdict == TOO_FEW


def test_a_bundle_without_home_images_says_that_it_cannot_tell() -> None:
    judge = Monitor(None)
    assert not judge.needs_embeddings
    assert judge.see(None, np.eye(K)) == (None, None)
    found = judge.verdict()
    assert found.shift.verdict == NOTHING_KEPT
    assert found.lines == ("domain shift: cannot tell: the bundle keeps no home images",)


def test_where_answers_are_as_sure_as_right_their_confidence_estimates_the_accuracy() -> None:
    probabilities = _cells(60, 6)[1]
    judge = Monitor(None, calibrated_confidence=True)
    judge.see(None, probabilities)
    found = judge.verdict()
    assert found.estimates == {"mean_confidence": pytest.approx(sum(max(row) for row in probabilities) / 60)}
    assert set(found.assumes) == {"mean_confidence"}
    assert found.home_accuracy is None
    assert found.lines == (
        "domain shift: cannot tell: the bundle keeps no home images",
        f"accuracy estimated without labels: {found.estimates['mean_confidence']:.2f}",
    )


def test_a_few_answers_estimate_nothing() -> None:
    judge = Monitor(None, calibrated_confidence=True)
    judge.see(None, _cells(5, 6)[1])
    assert judge.verdict().estimates == {}


def test_where_there_is_a_home_it_is_asked_instead(home: ReferenceStatistics) -> None:
    judge = Monitor(home, calibrated_confidence=True)
    judge.see(*_cells(60, 6)[:2])
    assert "mean_confidence" not in judge.verdict().estimates


def test_answers_without_an_embedding_give_sets_and_estimates_alone(home: ReferenceStatistics) -> None:
    judge = Monitor(ReferenceStatistics(home.probabilities, home.targets))
    typicality, members = judge.see(None, _cells(60, 6)[1])
    assert typicality is None
    assert members is not None
    found = judge.verdict()
    assert found.shift.verdict == NOTHING_KEPT
    assert set(found.estimates) == {"thresholded_confidence", "difference_of_confidences"}


def test_no_coverage_means_no_sets_and_a_wrong_one_is_refused(home: ReferenceStatistics) -> None:
    assert Monitor(home, coverage=None).see(*_cells(5, 5)[:2])[1] is None
    with pytest.raises(InputError, match="coverage"):
        Monitor(None, coverage=1.5)
