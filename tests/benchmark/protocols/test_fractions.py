"""What the protocol fractions promises: fixed tests, nested parts, scores and gains as recomputed, and what is refused."""

from __future__ import annotations

import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import trained
from bench import changed
from hemalens.benchmark.protocols.fractions import (
    PUBLISHED_FRACTIONS,
    FixedParts,
    FractionRun,
    FractionsProtocol,
    balanced_accuracy_gain,
    fraction_runs,
)
from hemalens.bundle.bundle import SEEN_UNLABELLED, Bundle, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation.metrics import Predictions
from hemalens.evaluation.results import Estimate, FractionScores

HOME = {"neutrophil": (160, 110, 110), "lymphocyte": (110, 110, 160), "monocyte": (110, 160, 110)}
AWAY = {"neutrophil": (150, 125, 105), "lymphocyte": (120, 115, 150), "basophil": (90, 90, 90)}
SIZES = {"neutrophil": 40, "lymphocyte": 28, "monocyte": 20}
PLAN = FractionsProtocol(fractions=(0.1, 1.0, 0.3), seeds=3)


class Fits:
    """The stub as a fit; remembers what it was given, the first number of each generator, and the bundles."""

    def __init__(self, *, also_seen: CellDataset | None = None, scale: float = 50.0) -> None:
        self.given: list[tuple[CellDataset, CellDataset, Path]] = []
        self.numbers: list[int] = []
        self.bundles: list[Bundle] = []
        self.also_seen = also_seen
        self.scale = scale

    def __call__(self, train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        self.given.append((train, validation, run_dir))
        self.numbers.append(int(rng.integers(2**62)))
        more = self.also_seen.records if self.also_seen else ()
        seen = replace(validation, records=(*validation.records, *more))
        self.bundles.append(trained.colour_bundle(run_dir / "bundle", train, validation=seen, scale=self.scale))
        return self.bundles[-1]

    def of(self, fraction: float, draw: int) -> CellDataset:
        """What one fit learned from."""
        (found,) = [train for train, _, run_dir in self.given if run_dir.parts[-2:] == (f"{fraction:g}", f"seed_{draw}")]
        return found

    def bundle_of(self, fraction: float, draw: int) -> Bundle:
        (found,) = [b for b in self.bundles if b.path.parts[-3:] == (f"{fraction:g}", f"seed_{draw}", "bundle")]
        return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> FixedParts:
    """Half of overlapping colours to learn from, a quarter each to validate and to test; and another laboratory.

    Every fifth image to learn from has a mask, as far as its record says.
    """
    folder = tmp_path_factory.mktemp("colours")
    home = open_dataset(f"folder:{trained.colour_cells(folder / 'home', HOME, SIZES, seed=0, noise=45)}")
    away = open_dataset(f"folder:{trained.colour_cells(folder / 'away', AWAY, 12, seed=1, noise=45)}")
    train, validation, test = (
        home.subset([i for i in range(len(home)) if i % 4 in chosen]) for chosen in ((0, 1), (2,), (3,))
    )
    records = [replace(r, mask_path=r.path) if i % 5 == 0 else r for i, r in enumerate(train.records)]
    return FixedParts(replace(train, records=tuple(records)), validation, (replace(test, name="home, tested"), away))


@pytest.fixture(scope="module")
def run(parts: FixedParts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fits, list[FractionRun]]:
    fits = Fits()
    return fits, _run(fits, parts, PLAN, tmp_path_factory.mktemp("run"))


def _run(fits: Any, parts: FixedParts, plan: FractionsProtocol, run_dir: Path, seed: int = 4) -> list[FractionRun]:
    return fraction_runs(fits, parts, plan, method="nearest", source="home", run_dir=run_dir, seed=seed)


def _contents(cells: CellDataset) -> set[str]:
    return {record.content_id() for record in cells.records}


def _renamed_copy(record: Record, folder: Path) -> Record:
    """The same image under another name."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace(record, path=Path(shutil.copy(record.path, folder / "under another name.png")))


def _with_one_of(other: CellDataset, cells: CellDataset, folder: Path) -> CellDataset:
    """`cells` and one image of `other`, under another name."""
    return replace(cells, records=(*cells.records, _renamed_copy(other.records[0], folder)))


# ------------------------------------------------------------------------------------------------------------- parts


def test_no_fit_is_shown_a_test_image_and_validation_is_always_the_same(
    run: tuple[Fits, list[FractionRun]], parts: FixedParts
) -> None:
    fits, _ = run
    assert len(fits.given) == 9
    tested = set.union(*map(_contents, parts.tests))
    for train, held, _ in fits.given:
        assert held == parts.validation
        assert _contents(train) <= _contents(parts.train)
        assert not _contents(train) & _contents(held)
        assert not (_contents(train) | _contents(held)) & tested
    for bundle in fits.bundles:
        assert not bundle.seen & tested


def test_every_fraction_and_seed_is_tested_on_the_same_images(
    run: tuple[Fits, list[FractionRun]], parts: FixedParts
) -> None:
    labels = parts.train.classes
    for result, test in zip(run[1], parts.tests, strict=True):
        truth = [labels.index(str(r.label)) for r in test.records if r.label in labels]
        models = [answers for fraction in PLAN.fractions for answers in result.predictions[fraction]]
        assert len(models) == 9
        for answers in models:
            assert answers.target.tolist() == truth
            assert answers.unit.tolist() == models[0].unit.tolist()
        assert result.curve.n_images == len(truth)


def test_smaller_fractions_lie_inside_larger_ones_of_the_same_draw(
    run: tuple[Fits, list[FractionRun]], parts: FixedParts
) -> None:
    fits, _ = run
    for draw in range(3):
        small, middle, whole = (_contents(fits.of(fraction, draw)) for fraction in (0.1, 0.3, 1.0))
        assert small < middle < whole == _contents(parts.train)
    assert parts.train.class_counts == {"neutrophil": 20, "lymphocyte": 14, "monocyte": 10}
    for fraction, sizes in ((0.1, [2, 1, 1]), (0.3, [6, 4, 3])):
        drawn = [fits.of(fraction, draw) for draw in range(3)]
        assert len({frozenset(_contents(part)) for part in drawn}) == 3, "each seed draws anew"
        for part in drawn:
            assert list(part.class_counts.values()) == sizes


def test_each_training_has_a_folder_and_a_generator_of_its_own(run: tuple[Fits, list[FractionRun]]) -> None:
    fits, _ = run
    folders = [run_dir.parts[-2:] for _, _, run_dir in fits.given]
    assert sorted(folders) == [(f, f"seed_{draw}") for f in ("0.1", "0.3", "1") for draw in range(3)]
    assert len(set(fits.numbers)) == 9


def test_draws_and_trainings_follow_the_plan_s_seed_and_not_what_else_is_asked(
    run: tuple[Fits, list[FractionRun]], parts: FixedParts, tmp_path: Path
) -> None:
    fewer = changed(PLAN, fractions=(0.3, 0.1), seeds=2)

    def drawn(name: str, seed: int = 4) -> tuple[list[int], list[set[str]], list[set[str]]]:
        fits = Fits()
        _run(fits, replace(parts, tests=parts.tests[:1]), fewer, tmp_path / name, seed)
        of_first = [_contents(fits.of(0.3, draw)) for draw in range(2)]
        return fits.numbers, of_first, [_contents(fits.of(0.1, 0))]

    first, _ = run
    numbers, of_middle, of_small = drawn("fewer")
    assert set(numbers) < set(first.numbers)
    assert of_middle == [_contents(first.of(0.3, draw)) for draw in range(2)]
    assert of_small == [_contents(first.of(0.1, 0))]
    other_numbers, other, _ = drawn("other", 5)
    assert not set(other_numbers) & set(first.numbers)
    assert other != of_middle


def test_given_subsets_take_the_place_of_drawn_ones(parts: FixedParts, tmp_path: Path) -> None:
    first_of = {c: [i for i, r in enumerate(parts.train.records) if r.label == c] for c in parts.train.classes}
    given = parts.train.subset(sorted(i for members in first_of.values() for i in members[:3]))
    fits = Fits()
    plan = FractionsProtocol(fractions=(1.0, 0.5, 0.25), seeds=2)
    results = _run(fits, replace(parts, given={0.5: given}), plan, tmp_path)
    assert [fits.of(0.5, draw) for draw in range(2)] == [given, given]
    assert fits.of(0.25, 0).class_counts == {"neutrophil": 5, "lymphocyte": 3, "monocyte": 2}
    (scores,) = [s for s in results[0].curve.fractions if s.fraction == 0.5]
    assert (scores.n_train, scores.class_counts) == (9, dict.fromkeys(parts.train.classes, 3))
    assert scores.n_masks == sum(r.mask_path is not None for r in given.records)


def test_the_published_plan_is_four_fractions_three_times() -> None:
    plan = FractionsProtocol()
    assert (plan.fractions, plan.seeds) == ((1.0, 0.5, 0.1, 0.01), 3)
    assert plan.fractions == PUBLISHED_FRACTIONS
    assert (plan.selection, plan.strict) == ("validation", False)


# --------------------------------------------------------------------------------------------------------- selection


def test_published_selection_hands_over_exactly_the_test_images_and_says_so(parts: FixedParts, tmp_path: Path) -> None:
    fits = Fits()
    plan = FractionsProtocol(fractions=(1.0, 0.5), seeds=2, selection="published-selection")
    (result,) = _run(fits, replace(parts, tests=parts.tests[:1]), plan, tmp_path)
    assert [held for _, held, _ in fits.given] == [parts.tests[0]] * 4
    for train, _, _ in fits.given:
        assert not _contents(train) & _contents(parts.tests[0])
    assert (result.curve.selection, result.curve.n_validation) == ("published-selection", 0)


def test_published_selection_takes_one_test_set(parts: FixedParts, tmp_path: Path) -> None:
    fits = Fits()
    message = "published-selection chooses the epoch on the test images; expected one test set; got 2"
    with pytest.raises(SplitError, match=message):
        _run(fits, parts, changed(PLAN, selection="published-selection"), tmp_path)
    assert fits.given == []


# ------------------------------------------------------------------------------------------------------------ scores


def _said(bundle: Bundle, records: Sequence[Record]) -> list[str]:
    """A bundle's answers by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    p = np.concatenate([session.run(["probabilities"], {"image": record.read()[None]})[0] for record in records])
    return [bundle.manifest.labels[i] for i in p.argmax(axis=1)]


def _expected(truth: list[str], said: list[str]) -> dict[str, float]:
    """Scores of one model, in plain counts over the classes that are tested."""
    right = Counter(t for t, s in zip(truth, said, strict=True) if t == s)
    recalls = {label: right[label] / n for label, n in Counter(truth).items()}
    f1 = [2 * right[label] / (n + said.count(label)) for label, n in Counter(truth).items()]
    return {
        "accuracy": sum(right.values()) / len(truth),
        "balanced accuracy": statistics.mean(recalls.values()),
        "macro F1": statistics.mean(f1),
        **{f"recall of {label}": value for label, value in recalls.items()},
    }


def _estimates(scores: FractionScores) -> dict[str, Estimate]:
    named = {"accuracy": scores.accuracy, "balanced accuracy": scores.balanced_accuracy, "macro F1": scores.macro_f1}
    return named | {f"recall of {label}": estimate for label, estimate in scores.recall.items()}


@pytest.mark.parametrize("which", [0, 1], ids=["home", "away"])
def test_scores_are_means_and_spreads_of_the_bundles_answers(
    run: tuple[Fits, list[FractionRun]], parts: FixedParts, which: int
) -> None:
    fits, results = run
    curve = results[which].curve
    records = [r for r in parts.tests[which].records if r.label in curve.classes]
    truth = [str(r.label) for r in records]
    assert [scores.fraction for scores in curve.fractions] == [1.0, 0.3, 0.1]
    spreads = []
    for scores in curve.fractions:
        said = [_said(fits.bundle_of(scores.fraction, draw), records) for draw in range(3)]
        for answers, expected in zip(results[which].predictions[scores.fraction], said, strict=True):
            assert [parts.train.classes[i] for i in answers.predicted] == expected
        models = [_expected(truth, answers) for answers in said]
        assert _estimates(scores).keys() == models[0].keys()
        for name, estimate in _estimates(scores).items():
            values = [model[name] for model in models]
            assert estimate.value == pytest.approx(statistics.mean(values)), name
            assert estimate.std == pytest.approx(statistics.stdev(values)), name
            assert estimate.low is not None
            assert estimate.high is not None
            assert 0 <= estimate.low <= estimate.value + 1e-9
            assert estimate.value - 1e-9 <= estimate.high <= 1
        assert scores.majority_rate == pytest.approx(max(Counter(truth).values()) / len(truth))
        assert scores.n_seeds == 3
        spreads.append(scores.balanced_accuracy.std)
    assert spreads[0] == 0, "the stub draws no numbers: all of the labels give one model"
    assert spreads[-1] > 0


def test_the_curve_says_what_was_done(run: tuple[Fits, list[FractionRun]], parts: FixedParts) -> None:
    home, away = (result.curve for result in run[1])
    assert (home.name, away.name) == ("nearest: home -> home, tested", "nearest: home -> away")
    assert (home.method, home.source, home.target, home.selection) == ("nearest", "home", "home, tested", "validation")
    assert (home.transductive, home.n_validation, home.unreadable) == (False, len(parts.validation), {})
    assert home.classes == parts.train.classes
    assert home.left_out == {}
    assert away.classes == ("neutrophil", "lymphocyte")
    assert away.left_out == {"monocyte": "not in the target", "basophil": "unknown to the model"}
    assert away.n_images == 24
    assert "images (1,000 repeats)" in home.intervals
    for scores in home.fractions:
        part = run[0].of(scores.fraction, 0)
        assert (scores.n_train, scores.class_counts) == (len(part), part.class_counts)
        assert scores.n_masks == sum(record.mask_path is not None for record in part.records)
    assert home.fractions[0].n_masks == 9


def test_groups_of_the_test_are_resampled_whole(parts: FixedParts, tmp_path: Path) -> None:
    test = parts.tests[0]
    grouped = replace(test, records=tuple(replace(r, group=f"patient {i // 5}") for i, r in enumerate(test.records)))
    plan = FractionsProtocol(fractions=(1.0,), seeds=1)
    (whole,) = _run(Fits(), replace(parts, tests=(grouped,)), plan, tmp_path / "grouped")
    (single,) = _run(Fits(), replace(parts, tests=(test,)), plan, tmp_path / "single")
    assert "groups (1,000 repeats)" in whole.curve.intervals
    assert whole.predictions[1.0][0].unit.tolist() == [i // 5 for i in range(len(test))]
    assert whole.curve.fractions[0].accuracy.value == single.curve.fractions[0].accuracy.value
    assert whole.curve.fractions[0].accuracy.low != single.curve.fractions[0].accuracy.low


def test_one_seed_has_no_spread(parts: FixedParts, tmp_path: Path) -> None:
    (result, _) = _run(Fits(), parts, FractionsProtocol(fractions=(0.3,), seeds=1), tmp_path)
    (scores,) = result.curve.fractions
    assert {estimate.std for estimate in _estimates(scores).values()} == {None}
    assert scores.accuracy.low is not None
    assert balanced_accuracy_gain(result, result, 0.3, seed=0).std is None


def test_images_of_an_unreadable_field_are_listed_and_not_counted(parts: FixedParts, tmp_path: Path) -> None:
    """Two boxes of one broken file: one file is listed, two images fall out."""
    test = parts.tests[0]
    broken = tmp_path / "field.png"
    broken.write_bytes(test.records[0].path.read_bytes()[:200])
    boxes = tuple(replace(test.records[0], path=broken, box=(0, 0, 10 + i, 10)) for i in range(2))
    more = replace(test, records=(*test.records, *boxes))
    plan = FractionsProtocol(fractions=(1.0,), seeds=2)
    (found,) = _run(Fits(), replace(parts, tests=(more,)), plan, tmp_path / "more")
    (whole,) = _run(Fits(), replace(parts, tests=(test,)), plan, tmp_path / "whole")
    assert list(found.curve.unreadable) == [str(broken)]
    assert found.curve.n_images == whole.curve.n_images == len(test)
    assert found.curve.fractions == whole.curve.fractions


def test_images_seen_without_their_labels_make_the_test_transductive(parts: FixedParts, tmp_path: Path) -> None:
    class Transductive(Fits):
        def __call__(self, *given: Any) -> Bundle:
            bundle = super().__call__(*given)
            files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
            files[SEEN_UNLABELLED] = seen_images(parts.tests[1].contents[:1])
            return write_bundle(bundle.path, bundle.manifest, files)

    home, away = _run(Transductive(), parts, FractionsProtocol(fractions=(1.0,), seeds=1), tmp_path)
    assert (home.curve.transductive, away.curve.transductive) == (False, True)


# ------------------------------------------------------------------------------------------------------------- gains


def _balanced(answers: Predictions) -> float:
    right = answers.target == answers.predicted
    return statistics.mean(float(right[answers.target == c].mean()) for c in np.unique(answers.target))


def _answering(run: FractionRun, predicted: Sequence[Sequence[int]], target: Sequence[int]) -> FractionRun:
    """A run whose models answer so."""
    truth, unit = np.array(target), np.arange(len(target))
    return replace(run, predictions={1.0: [Predictions(truth, np.array(p), unit) for p in predicted]})


def test_a_run_gains_nothing_over_itself(run: tuple[Fits, list[FractionRun]]) -> None:
    for result in run[1]:
        for fraction in PLAN.fractions:
            gain = balanced_accuracy_gain(result, result, fraction, seed=0)
            assert (gain.value, gain.low, gain.high, gain.std) == (0, 0, 0, 0)


def test_gains_are_differences_seed_by_seed(run: tuple[Fits, list[FractionRun]], parts: FixedParts, tmp_path: Path) -> None:
    """Against the same method trained on other draws."""
    ours = run[1][0]
    theirs, _ = _run(Fits(), parts, PLAN, tmp_path, seed=9)
    for fraction in (0.1, 0.3):
        pairs = zip(ours.predictions[fraction], theirs.predictions[fraction], strict=True)
        expected = [_balanced(a) - _balanced(b) for a, b in pairs]
        gain = balanced_accuracy_gain(ours, theirs, fraction, seed=0)
        back = balanced_accuracy_gain(theirs, ours, fraction, seed=0)
        assert gain.value == pytest.approx(statistics.mean(expected))
        assert gain.std == pytest.approx(statistics.stdev(expected))
        assert gain.low is not None
        assert gain.low <= gain.value <= gain.high
        assert back.value == pytest.approx(-gain.value)


def test_gains_are_paired_by_image(run: tuple[Fits, list[FractionRun]]) -> None:
    """Both models err on the same third of the images; one of them on five more: only these are uncertain."""
    target = np.repeat([0, 1], 150)
    common = np.where(np.arange(300) % 3 == 0, 1 - target, target)
    worse = common.copy()
    worse[[1, 2, 4, 151, 152]] = 1 - target[[1, 2, 4, 151, 152]]
    ours, theirs = (_answering(run[1][0], [p, p], target) for p in (common, worse))
    gain = balanced_accuracy_gain(ours, theirs, 1.0, seed=0)
    assert gain.value == pytest.approx(5 / 300)
    assert gain.std == 0
    assert gain.low is not None
    assert gain.high is not None
    # the five are a Poisson count within limits of about 1 and 10; unpaired scores would add 0.15 of width
    assert 0 < gain.low < gain.value < gain.high < 0.04


# ----------------------------------------------------------------------------------------------------------- refused


def test_an_image_on_two_sides_is_refused_before_training(parts: FixedParts, tmp_path: Path) -> None:
    home, away = parts.tests
    leaking = {
        "train and test": replace(parts, tests=(_with_one_of(parts.train, home, tmp_path / "a"), away)),
        "train and the last test": replace(parts, tests=(home, _with_one_of(parts.train, away, tmp_path / "b"))),
        "train and validation": replace(parts, validation=_with_one_of(parts.train, parts.validation, tmp_path / "c")),
        "validation and test": replace(parts, tests=(home, _with_one_of(parts.validation, away, tmp_path / "d"))),
        "given and test": replace(parts, given={0.3: _with_one_of(away, parts.train, tmp_path / "e")}),
    }
    fits = Fits()
    for name, broken in leaking.items():
        with pytest.raises(SplitError, match=r"1 image\(s\) of .* were trained on, first: '.*\.png'") as error:
            _run(fits, broken, PLAN, tmp_path / "run")
        if name != "given and test":
            assert "under another name.png'" in str(error.value), name
    assert fits.given == []
    assert not (tmp_path / "run").exists()


def test_a_model_that_has_seen_a_test_image_elsewhere_is_not_scored(parts: FixedParts, tmp_path: Path) -> None:
    """In its first weights, for instance, or among further data."""
    leaked = parts.tests[1].subset([3])
    message = rf"1 image\(s\) of away were trained on, first: '.*{leaked.records[0].path.name}'"
    with pytest.raises(SplitError, match=message):
        _run(Fits(also_seen=leaked), parts, PLAN, tmp_path)


def test_fractions_that_cannot_be_drawn_are_refused_before_training(parts: FixedParts, tmp_path: Path) -> None:
    fits = Fits()
    with pytest.raises(SplitError, match=r"0\.01 of class 'neutrophil' is no image; expected at least 100 images; got 20"):
        _run(fits, parts, FractionsProtocol(strict=True), tmp_path)
    for fraction in (0.0, 1.01):
        with pytest.raises(SplitError, match=f"fraction is out of range; .*got {fraction}"):
            _run(fits, parts, FractionsProtocol(fractions=(1.0, fraction)), tmp_path)
    with pytest.raises(SplitError, match="has nothing to train"):
        _run(fits, parts, FractionsProtocol(fractions=()), tmp_path)
    assert fits.given == []
    # and without strict each class keeps an image
    _run(fits, parts, FractionsProtocol(fractions=(0.01,), seeds=1), tmp_path)
    assert fits.of(0.01, 0).class_counts == dict.fromkeys(parts.train.classes, 1)


def test_a_test_that_shares_one_class_is_refused(parts: FixedParts, tmp_path: Path) -> None:
    away = parts.tests[1].only_classes(["neutrophil", "basophil"])
    with pytest.raises(
        DatasetError, match=r"away shares too few classes with the model; .*got neutrophil \(12\), basophil"
    ):
        _run(Fits(), replace(parts, tests=(away,)), PLAN, tmp_path)
