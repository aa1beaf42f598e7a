"""k-shot scores against a recomputation in plain loops; intervals, pools, the supervised line, and what is refused."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trained
from hemalens.benchmark.protocols import k_shot as module
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.k_shot import PUBLISHED_SHOTS, KShotProtocol
from hemalens.benchmark.protocols.laboratory import Embedded, EmbeddedLaboratory, embed, supervised_reference
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.episodes import draw_episodes
from hemalens.datasets.splits import k_fold, seeded
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation.results import Estimate, KShot, Shots, Supervised
from hemalens.graphs import build as graphs

CENTRED = FewShotConfig(centre="target")


@pytest.fixture(autouse=True)
def _content_by_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a record's content be its file's name, so that no files are needed; tests of `embed` take real ones."""
    if "tmp_path" not in request.fixturenames:
        monkeypatch.setattr(Record, "content_id", lambda self: self.path.stem)


def _embedded(
    *sizes: int, seed: int = 0, spread: float = 0.8, groups: Sequence[str | None] = (), name: str = "lab_b", d: int = 4
) -> Embedded:
    """Classes of these sizes in random order, overlapping by `spread`."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    group = groups or [None] * len(index)
    records = tuple(
        Record(Path(f"{name}/{name} {seed} {i}.png"), f"class {c}", name, group=g, label=f"class {c}")
        for i, (c, g) in enumerate(zip(index, group, strict=True))
    )
    classes = tuple(f"class {c}" for c in range(len(sizes)))
    embeddings = 1 + np.eye(len(sizes), d)[index] + rng.normal(0, spread, (len(index), d))
    return Embedded(CellDataset(name, records, classes, "as_labelled", "-", "-"), embeddings)


def _plan(**changes: Any) -> KShotProtocol:
    return KShotProtocol(**{"shots": (2,), "repeats": 6, **changes})


def _score(target: Embedded, plan: KShotProtocol, pool: Embedded | None = None, **more: Any) -> KShot:
    seed = more.pop("seed", 0)
    return plan.score(EmbeddedLaboratory(target, pool, **more), method="m", source="lab_a", seed=seed)


def _answers(
    target: Embedded, pool: Embedded | None, plan: KShotProtocol, k: int, *, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """(true, predicted) of each drawing, by the nearest class mean."""
    source = pool or target
    given = pool.dataset if pool else None
    asked = {"n_repeats": plan.repeats, "seed": seed, "replacement": plan.replacement}
    found = []
    for episode in draw_episodes(target.dataset, given, k_shot=k, **asked):
        tested = np.flatnonzero(episode.query)
        centre = target.embeddings[tested].mean(axis=0) if plan.few_shot.transductive else np.zeros(4)
        means = []
        for c in range(len(target.dataset.classes)):
            members = [source.embeddings[i] for i in episode.support if source.dataset.targets[i] == c]
            means.append(sum(members) / len(members) - centre)
        predicted = []
        for i in tested:
            moved = target.embeddings[i] - centre
            cosine = [moved @ mean / np.sqrt(moved @ moved) / np.sqrt(mean @ mean) for mean in means]
            predicted.append(max(range(len(means)), key=cosine.__getitem__))
        found.append(([int(target.dataset.targets[i]) for i in tested], predicted))
    return found


def _accuracy(truth: list[int], predicted: list[int]) -> float:
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth)


def _balanced(truth: list[int], predicted: list[int]) -> float:
    recalls = []
    for c in set(truth):
        mine = [p for t, p in zip(truth, predicted, strict=True) if t == c]
        recalls.append(mine.count(c) / len(mine))
    return statistics.mean(recalls)


def _f1(truth: list[int], predicted: list[int], c: int) -> float:
    hits = sum(t == p == c for t, p in zip(truth, predicted, strict=True))
    return 2 * hits / (truth.count(c) + predicted.count(c))


def _estimates(shots: Shots) -> dict[str, Estimate]:
    named = {"accuracy": shots.accuracy, "balanced accuracy": shots.balanced_accuracy, "macro F1": shots.macro_f1}
    return named | {f"F1 of {label}": estimate for label, estimate in shots.f1.items()}


# ------------------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("with_pool", [False, True])
@pytest.mark.parametrize("classifier", [FewShotConfig(), CENTRED], ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_scores_are_means_and_spreads_over_the_drawings(
    with_pool: bool, classifier: FewShotConfig, replacement: bool
) -> None:
    target = _embedded(12, 7, 9)
    pool = _embedded(5, 6, 8, seed=1, name="support") if with_pool else None
    plan = _plan(shots=(1, 4), repeats=5, replacement=replacement, few_shot=classifier)
    result = _score(target, plan, pool, seed=3)
    assert [shots.k for shots in result.shots] == [1, 4]
    for shots in result.shots:
        answers = _answers(target, pool, plan, shots.k, seed=3)
        expected = {
            "accuracy": [_accuracy(*a) for a in answers],
            "balanced accuracy": [_balanced(*a) for a in answers],
            "macro F1": [statistics.mean(_f1(*a, c) for c in range(3)) for a in answers],
            **{f"F1 of class {c}": [_f1(*a, c) for a in answers] for c in range(3)},
        }
        assert _estimates(shots).keys() == expected.keys()
        for name, estimate in _estimates(shots).items():
            assert estimate.value == pytest.approx(statistics.mean(expected[name])), name
            assert estimate.std == pytest.approx(statistics.stdev(expected[name])), name
        majority = [max(truth.count(c) for c in range(3)) / len(truth) for truth, _ in answers]
        assert shots.majority_rate == pytest.approx(statistics.mean(majority))
        assert shots.n_repeats == 5


def test_more_labelled_images_help_and_the_plan_s_seed_decides() -> None:
    target = _embedded(30, 30)
    one, many = _score(target, _plan(shots=(1, 20), repeats=20)).shots
    assert one.accuracy.value is not None
    assert many.accuracy.value is not None
    assert many.accuracy.value > one.accuracy.value + 0.03
    again, other = (_score(target, _plan(repeats=5), seed=seed) for seed in (0, 1))
    assert again == _score(target, _plan(repeats=5))
    assert again.shots != other.shots


def test_a_result_says_what_was_done() -> None:
    target, pool = _embedded(6, 6), _embedded(3, 3, seed=1, name="support")
    own = _score(target, _plan(), left_out={"blast": "1 image"})
    assert own.name == "m: lab_a -> lab_b"
    assert (own.method, own.source, own.target, own.n_images) == ("m", "lab_a", "lab_b", 12)
    assert own.support == "lab_b itself, the rest is tested"
    assert own.classifier == "class means, cosine"
    assert (own.replacement, own.transductive, own.classes) == (True, False, ("class 0", "class 1"))
    assert own.left_out == {"blast": "1 image"}
    assert "images (1,000 repeats)" in own.intervals
    assert own.supervised is None
    assert own.scatter is not None
    assert own.scatter.n_total == 12
    line = Supervised(what="all labels", accuracy=Estimate(value=1.0), balanced_accuracy=Estimate(value=1.0))
    apart = _score(target, _plan(replacement=False, few_shot=CENTRED), pool, supervised=line)
    assert (apart.support, apart.replacement, apart.transductive) == ("support", False, True)
    assert apart.classifier == "class means, cosine, centred on the target"
    assert apart.supervised == line
    grouped = _embedded(6, 6, groups=[f"patient {i // 2}" for i in range(12)])
    assert "groups (1,000 repeats)" in _score(grouped, _plan(shots=(1,))).intervals


def test_only_what_is_tested_moves_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    target, given = _embedded(5, 5), []
    fit = module.FewShotConfig().make().__class__.fit

    def spy(self: Any, X: Any, y: Any, unlabelled: Any = None) -> Any:
        given.append((X, y, unlabelled))
        return fit(self, X, y, unlabelled)

    monkeypatch.setattr("hemalens.classifiers.few_shot.PrototypeClassifier.fit", spy)
    plan = _plan(few_shot=CENTRED, repeats=3)
    _score(target, plan)
    episodes = draw_episodes(target.dataset, None, k_shot=2, n_repeats=3, seed=0, replacement=True)
    assert len(given) == 3
    for (X, y, unlabelled), episode in zip(given, episodes, strict=True):
        np.testing.assert_array_equal(X, target.embeddings[episode.support])
        np.testing.assert_array_equal(y, [0, 0, 1, 1])
        np.testing.assert_array_equal(unlabelled, target.embeddings[episode.query])
    given.clear()
    _score(target, _plan(repeats=2))
    assert [unlabelled for _, _, unlabelled in given] == [None, None]


# --------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("sizes", [(30, 30, 30), (50, 40, 6), (60, 4), (25, 25, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_interval_holds_the_mean_however_small_a_class_is(sizes: tuple[int, ...], seed: int) -> None:
    """One image of the smallest class is tested: what a resample has none of is neither passed over nor missed in it."""
    target = _embedded(*sizes, seed=seed)
    # most of the smallest class look like the first one
    index, rng = target.dataset.targets, np.random.default_rng(seed)
    alike = (index == len(sizes) - 1) & (rng.random(len(index)) < 0.7)
    target.embeddings[alike] = 1 + np.eye(4)[0] + rng.normal(0, 0.8, (int(alike.sum()), 4))
    plan = _plan(shots=(min(sizes) - 1,), repeats=60, replacement=False)
    (shots,) = _score(target, plan).shots
    for name, estimate in _estimates(shots).items():
        assert estimate.low is not None, name
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, name
        assert min(estimate.low, 1 - estimate.high) >= 0
    for estimate in (shots.balanced_accuracy, shots.macro_f1):
        assert 0.2 < (estimate.value - estimate.low) / (estimate.high - estimate.low) < 0.8, "in the middle, not at an end"


def test_a_class_whose_only_group_another_class_fills_gives_no_warning_and_no_gap() -> None:
    """Its group falls out of many resamples, and with it the class."""
    target, pool = _embedded(9, 9, 2), _embedded(4, 4, 4, seed=1, name="support")
    rare = {i for i, c in enumerate(target.dataset.targets) if c == 2}
    more = {i for i, c in enumerate(target.dataset.targets) if c == 1}
    # either shares a group with three images of class 1
    group_of = {i: f"patient {n}" for n, i in enumerate(rare)} | {
        i: f"patient {n % 2}" for n, i in enumerate(more) if n < 6
    }
    records = tuple(dataclasses.replace(record, group=group_of.get(i)) for i, record in enumerate(target.dataset.records))
    mixed = Embedded(dataclasses.replace(target.dataset, records=records), target.embeddings)
    (shots,) = _score(mixed, _plan(shots=(1,), repeats=2), pool).shots
    for name, estimate in _estimates(shots).items():
        assert estimate.low is not None, name
        assert np.isfinite([estimate.low, estimate.high]).all(), name


def _width(result: KShot) -> float:
    (shots,) = result.shots
    assert shots.accuracy.low is not None
    assert shots.accuracy.high is not None
    return shots.accuracy.high - shots.accuracy.low


def test_the_interval_shrinks_with_more_images_and_with_more_drawings() -> None:
    few, many = (_score(_embedded(n, n), _plan(repeats=20)) for n in (15, 240))
    assert _width(many) < 0.6 * _width(few)
    rough, fine = (_score(_embedded(150, 150), _plan(shots=(1,), repeats=n)) for n in (4, 80))
    assert _width(fine) < 0.6 * _width(rough)


def test_the_interval_has_the_width_of_two_independent_sources_of_chance() -> None:
    """Near chance and without groups, images add p (1 - p) / n; drawings add var / n_repeats to the variance of a mean."""
    target, plan = _embedded(100, 100, spread=2.0), _plan(shots=(1,), repeats=40)
    (shots,) = _score(target, plan).shots
    values = np.array([_accuracy(*a) for a in _answers(target, None, plan, 1)])
    # the shared part: how often an image is answered right, over the drawings
    right = np.zeros(200)
    episodes = draw_episodes(target.dataset, None, k_shot=1, n_repeats=40, seed=0, replacement=True)
    for episode, (truth, predicted) in zip(episodes, _answers(target, None, plan, 1), strict=True):
        right[np.flatnonzero(episode.query)] += np.equal(truth, predicted)
    share = right / np.sum([episode.query for episode in episodes], axis=0)
    # within the classes, as the images are drawn
    images = np.mean([share[target.dataset.targets == c].var() for c in range(2)]) / 200
    expected = 2 * 1.96 * np.sqrt(images + values.var() / 40)
    assert _width(_score(target, plan)) == pytest.approx(expected, rel=0.25)
    assert shots.accuracy.std == pytest.approx(values.std(ddof=1))


# -------------------------------------------------------------------------------------------------- supervised line


def _line(seed: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed))


def test_the_supervised_line_is_logistic_regression_over_folds_of_the_target() -> None:
    target = _embedded(15, 9, 6)
    found = supervised_reference(target, None, seed=4)
    assert found is not None
    assert found.what == "logistic regression on all labels, 5 folds of lab_b"
    place = {id(record): i for i, record in enumerate(target.dataset.records)}
    truth: list[int] = []
    predicted: list[int] = []
    for train, test in k_fold(target.dataset, 5, seeded(4, "supervised")):
        learn, held = ([place[id(r)] for r in part.records] for part in (train, test))
        head = _line(4).fit(target.embeddings[learn], target.dataset.targets[learn])
        truth += target.dataset.targets[held].tolist()
        predicted += head.predict(target.embeddings[held]).tolist()
    assert len(truth) == 30
    assert found.accuracy.value == pytest.approx(_accuracy(truth, predicted))
    assert found.balanced_accuracy.value == pytest.approx(_balanced(truth, predicted))
    for estimate in (found.accuracy, found.balanced_accuracy):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.std is None


def test_the_supervised_line_learns_from_the_whole_pool() -> None:
    target, pool = _embedded(10, 12), _embedded(20, 9, seed=1, name="support")
    found = supervised_reference(target, pool, seed=0)
    assert found is not None
    assert found.what == "logistic regression on all 29 images of support"
    head = _line(0).fit(pool.embeddings, pool.dataset.targets)
    predicted = head.predict(target.embeddings).tolist()
    assert found.accuracy.value == pytest.approx(_accuracy(target.dataset.targets.tolist(), predicted))


def test_a_small_class_makes_fewer_folds_and_a_single_image_or_group_none() -> None:
    three = supervised_reference(_embedded(8, 3), None, seed=0)
    assert three is not None
    assert "3 folds" in three.what
    assert supervised_reference(_embedded(8, 1), None, seed=0) is None
    one_patient = _embedded(4, 4)
    records = tuple(
        dataclasses.replace(r, group="patient" if r.label == "class 1" else None) for r in one_patient.dataset.records
    )
    grouped = Embedded(dataclasses.replace(one_patient.dataset, records=records), one_patient.embeddings)
    assert supervised_reference(grouped, None, seed=0) is None


# ---------------------------------------------------------------------------------------------------- plans, refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": ()}, r"cannot use these k; expected different whole numbers from 1 on; got \[\]"),
        ({"shots": (0, 1)}, r"got \[0, 1\]"),
        ({"shots": (5, -1)}, r"got \[5, -1\]"),
        ({"shots": (1, 5, 1)}, r"got \[1, 5, 1\]"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        _plan(**changes)


def test_the_default_plan_is_the_published_one() -> None:
    plan = KShotProtocol()
    assert plan.shots == PUBLISHED_SHOTS == (1, 2, 3, 5, 10, 15, 20, 30, 50)
    assert (plan.repeats, plan.replacement, plan.few_shot) == (100, True, FewShotConfig())


def test_what_would_fail_later_is_found_by_the_check() -> None:
    target, pool = _embedded(9, 4).dataset, _embedded(5, 5, seed=1, name="support").dataset
    _plan(shots=(1, 3)).check([NewLaboratory(target, None)], seed=0)
    _plan(shots=(1, 5)).check([NewLaboratory(target, pool)], seed=0)
    for given, k, name in ((None, 4, "lab_b"), (pool, 6, "support")):
        with pytest.raises(SplitError, match=f"k = {k} is larger than class 'class [01]' of {name} allows"):
            _plan(shots=(1, k)).check([NewLaboratory(target, given)], seed=0)
    overlapping = dataclasses.replace(pool, records=(*pool.records[:-1], target.records[0]))
    with pytest.raises(SplitError, match=r"support support and test lab_b overlap in 1 image\(s\).*\(same image\)"):
        _plan().check([NewLaboratory(target, overlapping)], seed=0)
    embedded = Embedded(overlapping, np.ones((10, 4)))
    with pytest.raises(SplitError, match="overlap in 1 image"):
        _score(Embedded(target, np.ones((13, 4))), _plan(), embedded)


# -------------------------------------------------------------------------------------------------------- embeddings


def test_unreadable_images_are_left_out_and_told(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cells = trained.laboratory(tmp_path_factory, "lab_b")
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory))
    encoder = graphs.cut(bundle.graph, ["image"], ["embedding"])
    broken, gone = tmp_path / "broken.png", tmp_path / "gone.png"
    broken.write_bytes(cells.records[0].path.read_bytes()[:300])
    bad = tuple(dataclasses.replace(cells.records[0], path=path) for path in (broken, gone))
    target = dataclasses.replace(cells, records=(bad[0], *cells.records, bad[1]))
    found = embed(encoder, target)
    assert found.dataset.records == cells.records
    assert found.dataset.classes == cells.classes
    expected = np.stack([record.read().mean(axis=(0, 1)) / 255 for record in cells.records])
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    assert found.embeddings.dtype == np.float64
    assert set(found.unreadable) == {str(broken), str(gone)}
    result = _score(found, _plan(), None)
    assert result.unreadable == found.unreadable
    assert result.n_images == len(cells)
    with pytest.raises(DatasetError, match="no image of lab_b can be read; got "):
        embed(encoder, dataclasses.replace(cells, records=bad))


def test_unreadable_images_of_the_pool_are_told_too() -> None:
    target, pool = _embedded(4, 4), _embedded(4, 4, seed=1, name="support")
    a, b = dataclasses.replace(target, unreadable={"a": "x"}), dataclasses.replace(pool, unreadable={"b": "y"})
    assert _score(a, _plan(), b).unreadable == {"a": "x", "b": "y"}


def test_embeddings_that_are_all_alike_are_scored_and_drawn() -> None:
    """An embedder that has collapsed gives a result like any other."""
    target = _embedded(5, 5)
    flat = Embedded(target.dataset, np.ones((10, 4)))
    result = _score(flat, _plan())
    (shots,) = result.shots
    assert shots.balanced_accuracy.value == pytest.approx(0.5)
    assert KShot.model_validate_json(result.model_dump_json()) == result
