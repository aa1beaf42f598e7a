"""The judge of new images: batch by batch as all at once, bounded memory, plain words."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.errors import InputError
from hemalens.trust.domain_shift import FOREIGN, LIKE_HOME, NOTHING_KEPT, TOO_FEW
from hemalens.trust.monitor import MOST_JUDGED, Judge
from hemalens.trust.reference import Geometry, Home, home_of

K, D = 3, 12


def _cells(n: int, seed: int, *, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, d), probabilities (n, k) and classes (n,)."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(K, size=n)
    embeddings = 3 * np.eye(D)[targets] + rng.normal(size=(n, D))
    powers = np.exp(2 * embeddings[:, :K])
    return embeddings + moved, powers / powers.sum(axis=1, keepdims=True), targets


@pytest.fixture(scope="module")
def home() -> Home:
    learned, _, classes = _cells(300, 0)
    embeddings, probabilities, targets = _cells(150, 1)
    return home_of(Geometry.of(learned, classes, K), embeddings, probabilities, targets)


def test_images_like_home_are_said_to_be(home: Home) -> None:
    embeddings, probabilities, targets = _cells(120, 2)
    judge = Judge(home)
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


def test_foreign_images_are_said_to_be_with_what_to_do(home: Home) -> None:
    embeddings, probabilities, _ = _cells(120, 2, moved=1.5)
    judge = Judge(home)
    judge.see(embeddings, probabilities)
    found = judge.verdict()
    assert found.shift.verdict == FOREIGN
    assert found.strangeness is not None
    assert found.strangeness > 0.8
    assert found.estimates["typical_cells"] < found.estimates["thresholded_confidence"]
    said = "\n".join(found.lines)
    assert all(word in said for word in ("foreign", "hemalens adapt", "--support", "--unlabelled", "without labels"))


def test_batches_come_to_the_same_as_all_at_once(home: Home) -> None:
    embeddings, probabilities, _ = _cells(90, 3)
    whole, parts = Judge(home), Judge(home)
    at_once = whole.see(embeddings, probabilities)
    in_parts = [parts.see(embeddings[i : i + 7], probabilities[i : i + 7]) for i in range(0, 90, 7)]
    np.testing.assert_allclose(np.concatenate([typicality for typicality, _ in in_parts]), at_once[0])
    assert whole.verdict() == parts.verdict()


def test_of_many_images_a_sample_is_kept(home: Home) -> None:
    embeddings, probabilities, _ = _cells(3 * MOST_JUDGED, 4)
    judge = Judge(home)
    judge.see(embeddings, probabilities)
    assert len(judge._points) == len(judge._probabilities) == MOST_JUDGED
    found = judge.verdict()
    assert found.n_images == 3 * MOST_JUDGED
    assert found.shift.verdict == LIKE_HOME


def test_few_images_get_no_verdict_and_no_estimate(home: Home) -> None:
    judge = Judge(home)
    judge.see(*_cells(5, 5, moved=9.0)[:2])
    found = judge.verdict()
    assert (found.shift.verdict, found.estimates, found.atypical) == (TOO_FEW, {}, None)
    assert len(found.lines) == 1
    assert "at least 20 are needed" in found.lines[0]
    assert Judge(home).verdict().shift.verdict == TOO_FEW


def test_a_bundle_without_home_images_says_that_it_cannot_tell() -> None:
    judge = Judge(None)
    assert not judge.needs_embeddings
    assert judge.see(None, np.eye(K)) == (None, None)
    found = judge.verdict()
    assert found.shift.verdict == NOTHING_KEPT
    assert found.lines == ("domain shift: cannot tell: the bundle keeps no home images",)


def test_where_answers_are_as_sure_as_right_their_confidence_estimates_the_accuracy() -> None:
    probabilities = _cells(60, 6)[1]
    judge = Judge(None, as_sure_as_right=True)
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
    judge = Judge(None, as_sure_as_right=True)
    judge.see(None, _cells(5, 6)[1])
    assert judge.verdict().estimates == {}


def test_where_there_is_a_home_it_is_asked_instead(home: Home) -> None:
    judge = Judge(home, as_sure_as_right=True)
    judge.see(*_cells(60, 6)[:2])
    assert "mean_confidence" not in judge.verdict().estimates


def test_answers_without_an_embedding_give_sets_and_estimates_alone(home: Home) -> None:
    judge = Judge(Home(home.probabilities, home.targets))
    typicality, members = judge.see(None, _cells(60, 6)[1])
    assert typicality is None
    assert members is not None
    found = judge.verdict()
    assert found.shift.verdict == NOTHING_KEPT
    assert set(found.estimates) == {"thresholded_confidence", "difference_of_confidences"}


def test_no_coverage_means_no_sets_and_a_wrong_one_is_refused(home: Home) -> None:
    assert Judge(home, coverage=None).see(*_cells(5, 5)[:2])[1] is None
    with pytest.raises(InputError, match="coverage"):
        Judge(None, coverage=1.5)
