"""What a protocol promises: nothing tested was trained on, everything is tested once, and the scores are those said."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import trained
from hemalens.benchmark.protocols.folds import cross_domain
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import clean, seeded
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation.evaluate import evaluate, plan_test

N_FOLDS = 3
VALIDATION = 0.45
"""So much that a whole group of two fits in of every class."""


class Fits:
    """The stub as a fold's fit; remembers what each fold was given."""

    def __init__(self) -> None:
        self.given: list[tuple[CellDataset, CellDataset, Path]] = []
        self.bundles: list[Bundle] = []

    def __call__(self, train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        self.given.append((train, validation, run_dir))
        self.bundles.append(trained.colour_bundle(run_dir / "bundle", train, validation=validation, scale=20.0))
        return self.bundles[-1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """lab_a with a group for every two cells."""
    cells = trained.laboratory(tmp_path_factory)
    records = tuple(replace(record, group=f"smear {i // 2}") for i, record in enumerate(cells.records))
    return replace(cells, records=records)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """lab_b without its monocytes, and with three eosinophils only."""
    cells = trained.laboratory(tmp_path_factory, "lab_b")
    few = [i for i, r in enumerate(cells.records) if r.label == "eosinophil"][3:]
    kept = [i for i, r in enumerate(cells.records) if r.label != "monocyte" and i not in few]
    return clean(cells.subset(kept).only_classes(["neutrophil", "eosinophil", "lymphocyte"]))[0]


def _contents(cells: CellDataset) -> set[str]:
    return {record.content_id() for record in cells.records}


def _probabilities(bundle: Bundle, records: tuple[Record, ...]) -> np.ndarray:
    """By ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["probabilities"], {"image": r.read()[None]})[0] for r in records])


def _recalls(truth: list[str], answers: list[str]) -> dict[str, float]:
    right = Counter(t for t, a in zip(truth, answers, strict=True) if t == a)
    return {label: right[label] / n for label, n in Counter(truth).items()}


# ------------------------------------------------------------------------------------------------------------ splits


@pytest.fixture(scope="module")
def run(home: CellDataset, away: CellDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fits, list]:
    fits = Fits()
    folder = tmp_path_factory.mktemp("run")
    results = cross_domain(fits, home, [away], n_folds=N_FOLDS, seed=3, run_dir=folder, validation_fraction=VALIDATION)
    return fits, results


def _tests(fits: Fits, home: CellDataset) -> list[set[str]]:
    """What each fold did not get: its test part."""
    return [_contents(home) - _contents(train) - _contents(held) for train, held, _ in fits.given]


def test_every_source_image_is_tested_exactly_once(run: tuple[Fits, list], home: CellDataset) -> None:
    fits, (own, _) = run
    tested = _tests(fits, home)
    assert Counter(content for part in tested for content in part) == Counter(_contents(home))
    assert own.n_images == len(home) == sum(map(sum, own.confusion))
    assert own.n_folds == N_FOLDS == len(fits.given)


def test_training_validation_and_test_share_no_image_and_no_group(run: tuple[Fits, list], home: CellDataset) -> None:
    fits, _ = run
    group_of = {record.content_id(): record.group for record in home.records}
    for (train, held, _), tested in zip(fits.given, _tests(fits, home), strict=True):
        parts = [_contents(train), _contents(held), tested]
        assert sum(map(len, parts)) == len(home)
        assert all(parts)
        groups = [{group_of[content] for content in part} for part in parts]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]
        assert held.classes == train.classes == home.classes
        assert all(n > 0 for n in (*train.class_counts.values(), *held.class_counts.values()))


def test_each_fold_has_a_folder_of_its_own(run: tuple[Fits, list]) -> None:
    fits, _ = run
    assert [folder.name for _, _, folder in fits.given] == [f"fold_{i}" for i in range(N_FOLDS)]


def test_folds_depend_on_the_seed_and_on_nothing_else(home: CellDataset, tmp_path: Path, run: tuple[Fits, list]) -> None:
    def parts(seed: int, name: str) -> list[set[str]]:
        fits = Fits()
        folder = tmp_path / name
        cross_domain(fits, home, [], n_folds=N_FOLDS, seed=seed, run_dir=folder, validation_fraction=VALIDATION)
        return [part for train, held, _ in fits.given for part in (_contents(train), _contents(held))]

    first, _ = run
    expected = [part for train, held, _ in first.given for part in (_contents(train), _contents(held))]
    assert parts(3, "same") == expected, "a target changes no fold of the source"
    assert parts(4, "other") != expected


def test_generators_of_unlike_purposes_are_unlike() -> None:
    draws = {name: seeded(0, *name).integers(2**62) for name in (("fit", "0"), ("fit", "1"), ("k_fold",), ("fit0",))}
    assert len(set(draws.values())) == 4
    assert seeded(0, "fit").integers(2**62) == seeded(0, "fit").integers(2**62)
    assert seeded(1, "fit").integers(2**62) != seeded(0, "fit").integers(2**62)


def test_an_image_of_the_source_in_a_target_is_refused_before_training(
    home: CellDataset, away: CellDataset, tmp_path: Path
) -> None:
    copy = tmp_path / "under another name.png"
    shutil.copy(home.records[5].path, copy)
    leaking = replace(away, records=(*away.records, replace(away.records[0], path=copy)))
    fits = Fits()
    with pytest.raises(SplitError, match=r"1 image\(s\) of lab_b were trained on, first: '.*under another name.png'"):
        cross_domain(fits, home, [leaking], n_folds=N_FOLDS, seed=0, run_dir=tmp_path / "run")
    assert fits.given == []
    refuse_leaks(_contents(home), away)  # and nothing is refused without reason


def test_a_bundle_that_has_seen_a_test_image_is_not_scored(run: tuple[Fits, list], home: CellDataset) -> None:
    """In training or in validation, under whatever name."""
    fits, _ = run
    bundle, (train, held, _) = fits.bundles[0], fits.given[0]
    fresh = [i for i, record in enumerate(home.records) if record.content_id() not in bundle.seen]
    for part in (train, held):
        leaking = replace(home, records=(*home.subset(fresh).records, part.records[0]))
        message = rf"1 image\(s\) of lab_a were trained on, first: '.*{part.records[0].path.name}'"
        with pytest.raises(SplitError, match=message):
            evaluate([bundle], [leaking], target=home, source_name="lab_a", seed=0)
    clean_part = home.subset(fresh)
    result = evaluate([bundle], [clean_part], target=home, source_name="lab_a", seed=0)
    assert result.n_images == len(fresh)
    with pytest.raises(SplitError, match="were trained on"):
        evaluate(fits.bundles[:2], [clean_part, clean_part], target=home, source_name="lab_a", seed=0)


def test_too_few_images_for_the_folds_are_found_before_training(home: CellDataset, tmp_path: Path) -> None:
    monocytes = [i for i, r in enumerate(home.records) if r.label == "monocyte"]
    small = home.subset([i for i in range(len(home)) if i not in monocytes[4:]])
    fits = Fits()
    with pytest.raises(SplitError, match=r"class 'monocyte' of lab_a is too small for 3 folds; .*at least 3.*got 2"):
        cross_domain(fits, small, [], n_folds=3, seed=0, run_dir=tmp_path)
    with pytest.raises(SplitError, match=r"'monocyte' .* too small for a validation part in every fold"):
        cross_domain(fits, small, [], n_folds=2, seed=0, run_dir=tmp_path)
    assert fits.given == []


def test_a_small_validation_part_takes_a_whole_group_where_no_smaller_one_is(home: CellDataset, tmp_path: Path) -> None:
    fits = Fits()
    cross_domain(fits, home, [], n_folds=N_FOLDS, seed=3, run_dir=tmp_path, validation_fraction=0.15)
    for train, held, _ in fits.given:
        assert set(train.class_counts.values()).isdisjoint({0})
        assert set(held.class_counts.values()).isdisjoint({0})


# ------------------------------------------------------------------------------------------------------------ scores


def test_scores_of_the_source_are_means_over_the_folds(run: tuple[Fits, list], home: CellDataset) -> None:
    fits, (own, _) = run
    accuracies, balanced, nlls, majority = [], [], [], []
    for bundle, tested in zip(fits.bundles, _tests(fits, home), strict=True):
        records = tuple(r for r in home.records if r.content_id() in tested)
        p = _probabilities(bundle, records)
        truth = [str(r.label) for r in records]
        answers = [bundle.manifest.labels[i] for i in p.argmax(axis=1)]
        accuracies.append(np.mean([t == a for t, a in zip(truth, answers, strict=True)]))
        balanced.append(np.mean(list(_recalls(truth, answers).values())))
        majority.append(max(Counter(truth).values()) / len(truth))
        chosen = [row[bundle.manifest.labels.index(t)] for row, t in zip(p, truth, strict=True)]
        nlls.append(-np.mean(np.log(np.maximum(np.array(chosen, np.float64), 1e-12))))
    assert own.scores.accuracy.value == pytest.approx(np.mean(accuracies))
    assert own.scores.accuracy.std == pytest.approx(np.std(accuracies, ddof=1))
    assert own.scores.balanced_accuracy.value == pytest.approx(np.mean(balanced))
    assert own.scores.majority_rate == pytest.approx(np.mean(majority))
    assert own.scores.nll == pytest.approx(np.mean(nlls), rel=1e-4)
    assert own.scores.accuracy.low <= own.scores.accuracy.value <= own.scores.accuracy.high


def test_every_fold_s_model_is_tested_on_the_whole_target(run: tuple[Fits, list], away: CellDataset) -> None:
    fits, (own, abroad) = run
    truth = [str(r.label) for r in away.records]
    labels, tested = abroad.classes, ("neutrophil", "eosinophil", "lymphocyte")
    confusion = np.zeros((3, 4), int)
    balanced, restricted, f1s = [], [], []
    for bundle in fits.bundles:
        p = _probabilities(bundle, away.records)
        answers = [labels[i] for i in p.argmax(axis=1)]
        for t, a in zip(truth, answers, strict=True):
            confusion[tested.index(t), labels.index(a)] += 1
        balanced.append(np.mean(list(_recalls(truth, answers).values())))
        allowed = [labels.index(label) for label in tested]
        bound = [tested[i] for i in p[:, allowed].argmax(axis=1)]
        restricted.append(np.mean(list(_recalls(truth, bound).values())))
        f1 = []
        for label in tested:
            hits = sum(t == a == label for t, a in zip(truth, answers, strict=True))
            f1.append(2 * hits / (truth.count(label) + answers.count(label)))
        f1s.append(np.mean(f1))
    assert abroad.tested_classes == tested
    assert labels == ("neutrophil", "eosinophil", "lymphocyte", "monocyte")
    np.testing.assert_array_equal(abroad.confusion, confusion)
    assert abroad.scores.balanced_accuracy.value == pytest.approx(np.mean(balanced))
    assert abroad.scores.balanced_accuracy_restricted.value == pytest.approx(np.mean(restricted))
    assert abroad.scores.macro_f1.value == pytest.approx(np.mean(f1s))
    assert abroad.n_images == len(away), "an image counts once, however many models answer"
    assert (own.source, own.target, abroad.target) == ("lab_a", "lab_a", "lab_b")


def test_classes_that_are_not_tested_are_named_with_the_reason(run: tuple[Fits, list], away: CellDataset) -> None:
    fits, (own, abroad) = run
    assert own.left_out == {}
    assert abroad.left_out == {"monocyte": "not in the target"}
    more = evaluate(fits.bundles[:1], [away], target=away, source_name="lab_a", seed=0, min_per_class=4)
    assert more.left_out == {
        "monocyte": "not in the target",
        "eosinophil": "3 image(s) in the target, at least 4 requested",
    }
    assert more.n_images == away.class_counts["neutrophil"] + away.class_counts["lymphocyte"]
    assert len(more.confusion) == 2
    assert [row.label for row in more.per_class] == ["neutrophil", "lymphocyte"]


def test_a_class_the_model_does_not_know_is_left_out_and_named(home: CellDataset, away: CellDataset) -> None:
    plan = plan_test(["neutrophil", "lymphocyte"], away)
    assert plan.tested == ("neutrophil", "lymphocyte")
    assert plan.left_out == {"eosinophil": "unknown to the model"}
    with pytest.raises(DatasetError, match=r"lab_b shares too few classes .*expected at least two of a, b; got neutro"):
        plan_test(["a", "b"], away)


def test_per_class_numbers_of_one_model_on_one_set(run: tuple[Fits, list], away: CellDataset) -> None:
    fits, _ = run
    bundle = fits.bundles[0]
    result = evaluate([bundle], [away], target=away, source_name="lab_a", seed=0)
    p = _probabilities(bundle, away.records)
    answers = [bundle.manifest.labels[i] for i in p.argmax(axis=1)]
    truth = [str(r.label) for r in away.records]
    for row in result.per_class:
        hits = sum(t == a == row.label for t, a in zip(truth, answers, strict=True))
        assert (row.n, row.n_answered) == (truth.count(row.label), answers.count(row.label))
        assert row.recall.value == pytest.approx(hits / row.n)
        if row.n_answered:
            assert row.precision.value == pytest.approx(hits / row.n_answered)
            assert row.precision.low <= row.precision.value <= row.precision.high
        else:
            assert row.precision.value is None
    wrong = sum(t != a for t, a in zip(truth, answers, strict=True))
    assert len(result.most_confident_errors) == min(12, wrong)
    assert [cell.probability for cell in result.most_confident_errors] == sorted(
        (cell.probability for cell in result.most_confident_errors), reverse=True
    )
    assert result.scatter is not None
    assert result.scatter.n_total == len(away)
    assert result.scores.accuracy.std is None
    assert result.scores.ece is not None
    assert 0 <= result.scores.ece <= 1
    assert result.scores.nll is not None
    assert 0 < result.scores.nll < math.inf


def test_unreadable_images_are_listed_and_not_counted(run: tuple[Fits, list], away: CellDataset, tmp_path: Path) -> None:
    fits, _ = run
    broken = tmp_path / "broken.png"
    broken.write_bytes(away.records[0].path.read_bytes()[:300])
    more = replace(away, records=(*away.records, replace(away.records[0], path=broken)))
    result = evaluate(fits.bundles[:1], [more], target=more, source_name="lab_a", seed=0)
    whole = evaluate(fits.bundles[:1], [away], target=away, source_name="lab_a", seed=0)
    assert list(result.unreadable) == [str(broken)]
    assert result.n_images == len(away)
    assert result.confusion == whole.confusion
    assert result.scores == whole.scores
    only = replace(away, records=(replace(away.records[0], path=broken), replace(away.records[-1], path=broken)))
    with pytest.raises(DatasetError, match="no image of lab_b can be read"):
        evaluate(fits.bundles[:1], [only], target=only, source_name="lab_a", seed=0)
