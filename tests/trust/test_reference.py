"""What a bundle keeps of its laboratory: scores by definition, valid p-values, a file that comes back or is refused."""

from __future__ import annotations

import io
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hemalens.errors import BundleError
from hemalens.trust.reference import (
    Geometry,
    ImitatedImages,
    ReferenceStatistics,
    adapt_reference,
    evenly,
    fit_reference,
    read_reference,
    reference_bytes,
)

D, K = 40, 3


def _cells(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = np.arange(n) % K
    return 3 * np.eye(D)[targets] + rng.normal(size=(n, D)) * np.linspace(1, 0.1, D), targets


def _geometry(seed: int = 0, n: int = 200) -> Geometry:
    found = Geometry.fit(*_cells(n, np.random.default_rng(seed)), K)
    assert found is not None
    return found


def _reference(seed: int = 0, n: int = 60) -> ReferenceStatistics:
    rng = np.random.default_rng([seed, 1])
    embeddings, targets = _cells(n, rng)
    return fit_reference(_geometry(seed), embeddings, rng.dirichlet(np.ones(K), n), targets)


def test_points_are_coordinates_on_principal_axes_and_the_length_of_the_rest() -> None:
    learned, _ = _cells(200, np.random.default_rng(0))
    found = _geometry()
    axes = found.axes.astype(float)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=2e-3)
    points = found.project(learned)
    np.testing.assert_allclose(points[:, :-1].std(axis=0), 1, atol=1e-2)
    centred = learned - learned.mean(axis=0)
    left = centred - (centred @ axes.T) @ axes
    np.testing.assert_allclose(points[:, -1], np.log(np.linalg.norm(left, axis=1)), atol=1e-4)


def test_the_score_is_the_mean_of_two_mahalanobis_scores() -> None:
    found = _geometry()
    points = found.project(_cells(5, np.random.default_rng(9))[0])

    def squared(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
        return float((x - mean) @ np.linalg.inv(covariance) @ (x - mean))

    for x, score in zip(points, found.scores(points), strict=True):
        nearest = min(squared(x, mean, found.covariance) for mean in found.class_means)
        relative = nearest - squared(x, found.background_mean, found.background_covariance)
        assert score == pytest.approx((nearest + relative) / 2)


def test_whitened_points_have_the_unit_covariance_within_classes() -> None:
    found = _geometry()
    x, y = found.project(_cells(2, np.random.default_rng(3))[0])
    distance = (x - y) @ np.linalg.inv(found.covariance) @ (x - y)
    assert ((found.whitened(x[None]) - found.whitened(y[None])) ** 2).sum() == pytest.approx(distance)


@hypothesis.given(seed=st.integers(0, 10**6))
def test_p_values_of_images_like_home_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = ReferenceStatistics(np.eye(2)[np.zeros(60, int)], np.zeros(60, np.int64), scores=rng.normal(size=60))
    found = reference.typicality(rng.normal(size=2000))
    # the held-out images are one draw: their own deviation (Dvoretzky-Kiefer-Wolfowitz) is the slack
    slack = np.sqrt(np.log(2 / 1e-6) / (2 * 60)) + 0.04
    for level in (0.05, 0.2, 0.5):
        assert (found <= level).mean() <= level + slack
    assert found.min() >= 1 / 61
    assert found.max() <= 1


def test_the_p_value_counts_held_out_images_as_strange() -> None:
    reference = ReferenceStatistics(np.eye(2)[[0, 1, 0]], np.array([0, 1, 0]), scores=np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(reference.typicality(np.array([0.0, 2.0, 2.5, 9.0])), [1.0, 0.75, 0.5, 0.25])


def test_another_camera_is_strange() -> None:
    reference, (cells, _) = _reference(), _cells(50, np.random.default_rng(7))
    assert reference.geometry is not None
    like, unlike = (
        reference.typicality(reference.geometry.scores(reference.geometry.project(e))) for e in (cells, cells + 0.7)
    )
    assert np.median(like) > 0.2
    assert np.median(unlike) < 0.05


@pytest.mark.parametrize("what", ["no image of a class", "nothing varies", "one image"])
def test_nothing_is_kept_of_an_embedding_that_says_nothing(what: str) -> None:
    embeddings, targets = _cells(30, np.random.default_rng(0))
    if what == "no image of a class":
        embeddings, targets = embeddings[targets > 0], targets[targets > 0]
    elif what == "nothing varies":
        embeddings = np.ones_like(embeddings)
    else:
        embeddings, targets = embeddings[:1], targets[:1]
    assert Geometry.fit(embeddings, targets, K) is None


def test_labelled_cells_move_the_classes_and_are_judged_without_themselves() -> None:
    rng = np.random.default_rng(5)
    embeddings, targets = _cells(30, rng)
    embeddings = embeddings + 0.7
    told = np.arange(30) != 4
    reference = adapt_reference(_geometry(), embeddings, rng.dirichlet(np.ones(K), 30), targets, told)
    assert reference.geometry is not None
    assert reference.points is not None
    assert reference.scores is not None
    assert len(reference.targets) == len(reference.points) == 29
    points = _geometry().project(embeddings)
    np.testing.assert_allclose(reference.geometry.class_means[1], points[targets == 1].mean(axis=0))
    others = (targets == targets[0]) & (np.arange(30) != 0)
    means = reference.geometry.class_means.copy()
    means[targets[0]] = points[others].mean(axis=0)
    expected = replace(reference.geometry, class_means=means).scores(points[:1])[0]
    assert reference.scores[0] == pytest.approx(expected)
    fresh = _cells(60, rng)[0] + 0.7
    assert np.median(reference.typicality(reference.geometry.scores(reference.geometry.project(fresh)))) > 0.05


def test_a_class_without_a_cell_stays_where_it_was() -> None:
    base, rng = _geometry(), np.random.default_rng(5)
    embeddings, targets = _cells(30, rng)
    # one cell of class 0, none of class 1, and a new class behind
    chosen = np.flatnonzero((targets != 1) & ((targets != 0) | (np.arange(30) == np.flatnonzero(targets == 0)[0])))
    embeddings, targets = np.concatenate([embeddings[chosen], [[3.0] * embeddings.shape[1]]]), [*targets[chosen], K]
    targets = np.array(targets)
    reference = adapt_reference(base, embeddings, rng.dirichlet(np.ones(K + 1), len(targets)), targets, targets >= 0)
    assert reference.geometry is not None
    assert reference.scores is not None
    points = base.project(embeddings)
    np.testing.assert_array_equal(reference.geometry.class_means[1], base.class_means[1])
    np.testing.assert_allclose(reference.geometry.class_means[K], points[-1])
    assert np.isfinite(reference.scores).all()
    lone = int(np.flatnonzero(targets == 0)[0])
    means = reference.geometry.class_means.copy()
    means[0] = base.class_means[0]
    expected = replace(reference.geometry, class_means=means).scores(points[lone][None])[0]
    assert reference.scores[lone] == pytest.approx(expected)
    others = replace(reference.geometry, class_means=reference.geometry.class_means[:K])
    assert reference.scores[-1] == pytest.approx(others.scores(points[-1:])[0])
    read_reference(reference_bytes(reference), n_features=embeddings.shape[1], n_classes=K + 1)


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_file_comes_back() -> None:
    reference = _reference()
    found = read_reference(reference_bytes(reference), n_features=D, n_classes=K)
    assert reference.geometry is not None
    assert found.geometry is not None
    np.testing.assert_array_equal(found.targets, reference.targets)
    np.testing.assert_allclose(found.probabilities, reference.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.scores, reference.scores, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.points, reference.points, rtol=1e-3, atol=1e-3)
    fresh = found.geometry.project(_cells(9, np.random.default_rng(1))[0])
    np.testing.assert_allclose(found.geometry.scores(fresh), reference.geometry.scores(fresh), rtol=1e-3, atol=1e-2)


def test_answers_alone_come_back_too() -> None:
    reference = ReferenceStatistics(np.eye(K)[[0, 1, 2]], np.array([0, 1, 2]))
    found = read_reference(reference_bytes(reference), n_features=D, n_classes=K)
    assert found.geometry is None
    assert found.accuracy == 1.0


@pytest.mark.parametrize(("d", "k", "most"), [(3, 5, 60_000), (1280, 5, 150_000), (1280, 13, 170_000), (4096, 5, 150_000)])
def test_the_file_stays_small(d: int, k: int, most: int) -> None:
    rng = np.random.default_rng(0)
    embeddings, targets = rng.normal(size=(520, d)), np.arange(520) % k
    geometry = Geometry.fit(embeddings, targets, k)
    content = reference_bytes(fit_reference(geometry, embeddings[:512], rng.dirichlet(np.ones(k), 512), targets[:512]))
    assert len(content) <= most
    assert read_reference(content, n_features=d, n_classes=k).geometry is not None


def _arrays(content: bytes, **changed: np.ndarray | None) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files} | changed
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue()


def _imitated(content: bytes, n: int, **changed: np.ndarray) -> bytes:
    """The file with n images of imitated laboratories."""
    arrays = {
        "imitated_probabilities": np.full((n, K), 1 / K, np.float32),
        "imitated_targets": np.zeros(n, np.int32),
        "imitated_laboratories": np.zeros(n, np.int32),
    }
    return _arrays(content, **{**arrays, **changed})


def test_images_of_imitated_laboratories_come_back_and_older_files_have_none() -> None:
    rng = np.random.default_rng(3)
    imitated = ImitatedImages(rng.dirichlet(np.ones(K), 40), rng.integers(0, K, 40), np.repeat(np.arange(4), 10))
    for reference in (_reference(), ReferenceStatistics(np.zeros((0, K)), np.zeros(0, np.int64))):
        content = reference_bytes(replace(reference, imitated=imitated))
        found = read_reference(content, n_features=D, n_classes=K)
        assert found.imitated is not None
        np.testing.assert_allclose(found.imitated.probabilities, imitated.probabilities, atol=1e-6)
        np.testing.assert_array_equal(found.imitated.targets, imitated.targets)
        np.testing.assert_array_equal(found.imitated.laboratories, imitated.laboratories)
        assert len(found.targets) == len(reference.targets)
    older = read_reference(_arrays(CONTENT, version=np.array(1)), n_features=D, n_classes=K)
    assert older.imitated is None
    assert len(older.targets) == 60


CONTENT = reference_bytes(_reference())
DAMAGED = {
    "cut off": CONTENT[: len(CONTENT) // 2],
    "empty": b"",
    "text": b"not an archive",
    "NaN": _arrays(CONTENT, scores=np.full(60, np.nan)),
    "another class": _arrays(CONTENT, targets=np.full(60, K)),
    "missing": _arrays(CONTENT, centre=None),
    "more": _arrays(CONTENT, more=np.zeros(3)),
    "shape": _arrays(CONTENT, points=np.zeros((60, 2), np.float16)),
    "no covariance": _arrays(CONTENT, covariance=-np.eye(len(_reference().geometry.class_means[0]))),  # type: ignore[union-attr]
    "pickle": _arrays(CONTENT, scores=np.array([{}] * 60, object)),
    "newer": _arrays(CONTENT, version=np.array(3)),
    "imitated in part": _arrays(CONTENT, imitated_targets=np.zeros(5, np.int32)),
    "imitated of no image": _imitated(CONTENT, 0),
    "imitated of too many": _imitated(CONTENT, 4097),
    "imitated of another class": _imitated(CONTENT, 5, imitated_targets=np.full(5, K)),
    "imitated of other labels": _imitated(CONTENT, 5, imitated_probabilities=np.zeros((5, K + 1), np.float32)),
    "imitated above 1": _imitated(CONTENT, 5, imitated_probabilities=np.full((5, K), 1.5, np.float32)),
    "imitated of NaN": _imitated(CONTENT, 5, imitated_probabilities=np.full((5, K), np.nan, np.float32)),
    "imitated in the old version": _imitated(CONTENT, 5, version=np.array(1)),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_one_clear_line(how: str) -> None:
    with pytest.raises(BundleError, match=r"home\.npz cannot be read") as caught:
        read_reference(DAMAGED[how], n_features=D, n_classes=K)
    assert "\n" not in str(caught.value)


def test_the_file_of_another_network_is_refused() -> None:
    with pytest.raises(BundleError, match="41 features"):
        read_reference(CONTENT, n_features=D + 1, n_classes=K)


@hypothesis.given(n=st.integers(0, 2000), most=st.integers(1, 600))
def test_evenly_spaced_places_are_distinct(n: int, most: int) -> None:
    found = evenly(n, most)
    assert len(set(found.tolist())) == min(n, most)
    assert all(0 <= i < n for i in found)
