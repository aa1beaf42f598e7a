"""Adapting a bundle to a few labelled cells: what the new one answers, says of itself, and refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import trained
from command import Command
from hemalens import evaluate, open_bundle
from hemalens.adaptation.adapt import adapt as run
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.bundle import MODEL, Bundle
from hemalens.classifiers.calibration import fit_temperature
from hemalens.datasets import open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.datasets.walking import walk_files
from hemalens.errors import ConfigError, ImageError, InputError, LabelError, OutputError, SplitError
from hemalens.inference.predictor import Predictor
from hemalens.runs.evaluate import EvaluateOptions
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"monocyte": (90, 160, 60), "lymphocyte": (110, 60, 150), "neutrophil": (190, 110, 90)}
"""The same types in another stain, listed in another order."""


def adapt(bundle: Path, *, options: AdaptOptions = AdaptOptions(), **asked: Any) -> Bundle:  # noqa: B008
    """With class means, which have a closed form, unless another rule is set."""
    return run(bundle, options=replace(options, few_shot=options.few_shot or ["rule=prototype"]), **asked)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nearest mean colour, from the first laboratory's stain."""
    folder = tmp_path_factory.mktemp("base")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    return trained.colour_bundle(folder / "bundle", cells)


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten cells a class of the second laboratory."""
    return colour_cells(tmp_path_factory.mktemp("support") / "away", AWAY, 10, seed=1)


@pytest.fixture(scope="module")
def adapted(base: Bundle, support: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return adapt(base.path, out=tmp_path_factory.mktemp("adapted") / "bundle", support=f"folder:{support}")


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _colour(path: Path) -> np.ndarray:
    """What the bundles here embed: the mean RGB in [0, 1]."""
    return np.asarray(Image.open(path)).mean(axis=(0, 1)) / 255


def _cells(folder: Path) -> tuple[np.ndarray, list[str]]:
    paths = walk_files(folder)
    return np.stack([_colour(path) for path in paths]), [path.parent.name for path in paths]


def _cosines(learned: np.ndarray, labels: list[str], classes: list[str], queries: np.ndarray) -> np.ndarray:
    """(m, k) to the mean of each class."""
    means = [np.mean([x for x, own in zip(learned, labels, strict=True) if own == c], axis=0) for c in classes]
    return np.array([[q @ m / math.hypot(*q) / math.hypot(*m) for m in means] for q in queries])


def _digests(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in walk_files(folder)}


def _answers(bundle: Bundle, folder: Path) -> list[str | None]:
    return [prediction.label for prediction in Predictor(bundle).predict(walk_files(folder))]


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --------------------------------------------------------------------------------------------------------- the bundle


def test_the_adapted_bundle_answers_by_the_class_means_of_the_support(
    adapted: Bundle, support: Path, tmp_path: Path
) -> None:
    fresh = colour_cells(tmp_path / "fresh", AWAY, 5, seed=2)
    labels = list(adapted.manifest.labels)
    cosine = _cosines(*_cells(support), labels, _cells(fresh)[0])
    powers = np.exp(64 * cosine / adapted.manifest.temperature)
    found = list(Predictor(adapted).predict(walk_files(fresh)))
    probabilities = np.stack([p.probabilities for p in found if p.probabilities is not None])
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-3)
    assert [p.label for p in found] == [labels[i] for i in cosine.argmax(axis=1)]
    assert np.mean([p.label == p.record.path.parent.name for p in found]) > 0.9


def test_the_order_of_the_labels_is_the_bundle_s_and_the_embedding_stays(
    base: Bundle, adapted: Bundle, support: Path
) -> None:
    assert adapted.manifest.labels == base.manifest.labels == ("neutrophil", "lymphocyte", "monocyte")
    image = walk_files(support)[0]
    before, after = (next(Predictor(b, embeddings=True).predict([image])).embedding for b in (base, adapted))
    np.testing.assert_array_equal(before, after)
    for key in ("method", "config", "label_map", "preprocessing", "embedding_size", "frozen_backbone"):
        assert getattr(adapted.manifest, key) == getattr(base.manifest, key)


def test_the_manifest_says_how_it_was_adapted(base: Bundle, adapted: Bundle, support: Path) -> None:
    manifest = adapted.manifest
    assert base.manifest.adaptation is None
    assert manifest.adaptation is not None
    assert manifest.adaptation.base_model_sha256 == (hashlib.sha256((base.path / MODEL).read_bytes()).hexdigest(),)
    assert set(manifest.adaptation.support_images) == _digests(support)
    assert len(manifest.adaptation.support_images) == 30
    assert manifest.adaptation.new_classes == ()
    assert manifest.adaptation.few_shot == {
        "rule": "prototype",
        "normalise": False,
        "centre": "none",
        "n_prototypes": 1,
        "c": 1.0,
    }
    *before, entry = manifest.data
    assert tuple(before) == base.manifest.data
    assert (entry.role, entry.name) == ("support", "away")
    assert entry.class_counts == {"neutrophil": 10, "lymphocyte": 10, "monocyte": 10}
    assert manifest.created > base.manifest.created
    assert 0 <= manifest.parity <= 1e-3
    assert adapted.seen == base.seen | _digests(support)
    assert open_bundle(adapted.path).manifest == manifest
    assert not manifest.synthetic


def test_the_expected_accuracy_is_that_of_leaving_each_image_out(base: Bundle, tmp_path: Path) -> None:
    folder = colour_cells(tmp_path / "noisy", AWAY, {"monocyte": 7, "lymphocyte": 9, "neutrophil": 12}, seed=3, noise=35)
    manifest = adapt(base.path, out=tmp_path / "out", support=f"folder:{folder}").manifest
    assert manifest.adaptation is not None
    expected = manifest.adaptation.expected
    colours, labels = _cells(folder)
    classes = list(manifest.labels)
    rows = []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        rows.append(_cosines(colours[others], [labels[j] for j in others], classes, colours[[i]])[0])
    answers = [classes[int(row.argmax())] for row in rows]
    targets = np.array([classes.index(label) for label in labels])
    assert manifest.temperature == pytest.approx(fit_temperature(64 * np.array(rows), targets), rel=1e-3)
    assert abs(manifest.temperature - 1) > 0.01
    right = sum(a == t for a, t in zip(answers, labels, strict=True))
    assert 0 < right < 28, "some of each"
    assert expected.n == 28
    assert expected.accuracy == pytest.approx(right / 28)
    assert expected.low == pytest.approx(stats.beta.ppf(0.025, right, 29 - right))
    assert expected.high == pytest.approx(stats.beta.ppf(0.975, right + 1, 28 - right))
    recalls = [np.mean([a == t for a, t in zip(answers, labels, strict=True) if t == c]) for c in classes]
    assert expected.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert expected.majority_rate == pytest.approx(12 / 28)
    assert expected.verdict.startswith(
        f"expected accuracy {right / 28:.2f} (95 % {expected.low:.2f}-{expected.high:.2f}), leave-one-out over 28 "
    )


def test_a_support_large_and_plain_enough_tells(base: Bundle, adapted: Bundle) -> None:
    assert adapted.manifest.adaptation is not None
    expected = adapted.manifest.adaptation.expected
    assert expected.tells
    assert expected.verdict.startswith("expected accuracy 1.00 (95 % 0.88-1.00)")


def test_a_small_support_says_that_it_tells_nothing(base: Bundle, tmp_path: Path) -> None:
    few = colour_cells(tmp_path / "few", AWAY, {"monocyte": 1, "lymphocyte": 3, "neutrophil": 2}, seed=4)
    manifest = adapt(base.path, out=tmp_path / "few bundle", support=f"folder:{few}").manifest
    assert manifest.adaptation is not None
    expected = manifest.adaptation.expected
    assert (expected.n, expected.tells) == (5, False)
    for reason in ("one image (or group) of monocyte", "interval is wider", "majority rate (0.60)"):
        assert reason in expected.verdict
    lone = colour_cells(tmp_path / "lone", AWAY, 1, seed=5)
    manifest = adapt(base.path, out=tmp_path / "lone bundle", support=f"folder:{lone}").manifest
    assert manifest.adaptation is not None
    nothing = manifest.adaptation.expected
    assert (nothing.n, nothing.accuracy, nothing.low, nothing.high, nothing.tells) == (0, None, None, None, False)
    assert "no class has two images" in nothing.verdict
    assert manifest.temperature == 1.0


def test_images_of_one_patient_do_not_vouch_for_each_other(base: Bundle, tmp_path: Path) -> None:
    """Two patients a class: leaving one out leaves the other; monocytes come from one patient and cannot be told."""
    folder = colour_cells(tmp_path / "cells", AWAY, 4, seed=6)
    with open(tmp_path / "cells.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group"])
        for i, path in enumerate(walk_files(folder)):
            patient = "one" if path.parent.name == "monocyte" else f"{path.parent.name} {i % 2}"
            table.writerow([path.relative_to(tmp_path), path.parent.name, patient])
    manifest = adapt(base.path, out=tmp_path / "out", support=f"csv:{tmp_path / 'cells.csv'}").manifest
    assert manifest.adaptation is not None
    assert manifest.adaptation.expected.n == 8
    assert "one image (or group) of monocyte" in manifest.adaptation.expected.verdict


@pytest.mark.parametrize(
    "settings",
    [
        ["normalise=true", "centre=support"],
        ["rule=nearest_neighbour", "centre=support"],
        ["n_prototypes=3"],
        ["rule=logistic_regression", "c=100.0"],
        ["rule=logistic_regression", "normalise=true"],
    ],
    ids=" ".join,
)
def test_every_way_to_classify_gives_a_bundle_that_serves_it(
    base: Bundle, support: Path, tmp_path: Path, settings: list[str]
) -> None:
    bundle = adapt(base.path, out=tmp_path / "out", support=f"folder:{support}", options=AdaptOptions(few_shot=settings))
    fresh = colour_cells(tmp_path / "fresh", AWAY, 5, seed=7)
    answers = _answers(bundle, fresh)
    assert np.mean([a == path.parent.name for a, path in zip(answers, walk_files(fresh), strict=True)]) > 0.9
    assert bundle.manifest.adaptation is not None
    for setting in settings:
        key, _, value = setting.partition("=")
        assert str(bundle.manifest.adaptation.few_shot[key]).lower() == value


ADAPT_AND_PREDICT = """
import importlib.abc, json, sys
FORBIDDEN = {"torch", "torchvision", "timm", "lightning", "skl2onnx", "xgboost", "matplotlib"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is forbidden here")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
base, support, bundle, images = sys.argv[1:]
from hemalens import predict
from hemalens.adaptation.adapt import adapt
adapt(Path(base), out=Path(bundle), support=f"folder:{support}")
found = predict(Path(bundle), images, out=Path(bundle).parent / "answers.csv")
print(json.dumps(found.by_label))
"""


def test_neither_adapting_nor_predicting_needs_torch(base: Bundle, support: Path, tmp_path: Path) -> None:
    fresh = colour_cells(tmp_path / "fresh", AWAY, 3, seed=8)
    given = [str(path) for path in (base.path, support, tmp_path / "b", fresh)]
    command = [sys.executable, "-W", "error", "-c", ADAPT_AND_PREDICT, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"neutrophil": 3, "lymphocyte": 3, "monocyte": 3}


# -------------------------------------------------------------------------------------------------------- new classes


ODD = {**AWAY, "Blasts": (120, 120, 120), "my odd cell": (30, 120, 220)}
"""A cell type that the five classes leave out, and a word of the laboratory's own."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_cells(tmp_path_factory.mktemp("odd") / "odd", ODD, 4, seed=9)


@pytest.fixture(scope="module")
def enlarged(base: Bundle, odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return adapt(
        base.path,
        out=tmp_path_factory.mktemp("enlarged") / "bundle",
        support=f"folder:{odd}",
        options=AdaptOptions(allow_new=True),
    )


def test_new_classes_are_learned_only_when_asked_for(base: Bundle, odd: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LabelError,
        match=r"label\(s\) unknown to the bundle: 'blast' \(4\), 'my odd cell' \(4\); expected neutrophil, lymphocyte, "
        "monocyte.*--allow-new",
    ):
        adapt(base.path, out=tmp_path / "out", support=f"folder:{odd}")
    assert _names(tmp_path) == set()


def test_new_classes_stand_behind_the_known_ones(enlarged: Bundle, odd: Path) -> None:
    manifest = enlarged.manifest
    assert manifest.labels == ("neutrophil", "lymphocyte", "monocyte", "blast", "my odd cell")
    assert manifest.adaptation is not None
    assert manifest.adaptation.new_classes == ("blast", "my odd cell")
    named = {entry.code: (entry.name, entry.loinc) for entry in manifest.classes}
    assert named["my odd cell"] == ("my odd cell", None)
    assert named["blast"][0] != "blast", "a cell type of the taxonomy has its name"
    answers = _answers(enlarged, odd)
    assert answers.count("my odd cell") == answers.count("blast") == 4


def test_a_user_s_word_for_a_known_class_is_that_class(base: Bundle, tmp_path: Path) -> None:
    words = {"Segmented neutrophils": HOME["neutrophil"], "Lymphocyte": HOME["lymphocyte"]}
    folder = colour_cells(tmp_path / "words", words, 3, seed=10)
    assert adapt(base.path, out=tmp_path / "out", support=f"folder:{folder}").manifest.labels == (
        "neutrophil",
        "lymphocyte",
    )


def test_a_published_set_s_other_cells_are_left_out_as_everywhere(base: Bundle, tmp_path: Path) -> None:
    synthesize(tmp_path / "drawn", n_per_class=2, laboratories=("lab_b",), cell_types=("neutrophil", "lymphocyte", "blast"))
    spec, said = f"synthetic:{tmp_path / 'drawn' / 'lab_b'}", []
    bundle = adapt(base.path, out=tmp_path / "without", support=spec, say=said.append)
    assert bundle.manifest.labels == ("neutrophil", "lymphocyte")
    assert any("2 image(s) outside five_class: " in text for text in said)
    assert bundle.manifest.synthetic
    bundle = adapt(base.path, out=tmp_path / "with", support=spec, options=AdaptOptions(allow_new=True))
    assert bundle.manifest.labels == ("neutrophil", "lymphocyte", "blast")


def test_classes_that_are_not_in_the_support_are_told(base: Bundle, support: Path, tmp_path: Path) -> None:
    shutil.copytree(support, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "lymphocyte")
    said: list[str] = []
    bundle = adapt(base.path, out=tmp_path / "out", support=f"folder:{tmp_path / 'two'}", say=said.append)
    assert bundle.manifest.labels == ("neutrophil", "monocyte")
    assert any("no labelled cell of lymphocyte; the adapted bundle cannot predict" in text for text in said)
    assert set(_answers(bundle, support)) <= {"neutrophil", "monocyte"}


def test_where_nothing_is_asked_what_the_bundle_knew_stays(base: Bundle, support: Path, odd: Path, tmp_path: Path) -> None:
    shutil.copytree(support, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "lymphocyte")
    said: list[str] = []
    bundle = run(base.path, out=tmp_path / "out", support=f"folder:{tmp_path / 'two'}", say=said.append)
    manifest = bundle.manifest
    assert manifest.labels == base.manifest.labels
    assert manifest.adaptation is not None
    assert manifest.adaptation.few_shot["rule"] == "base"
    assert any("no labelled cell of lymphocyte; the prediction of it stays" in text for text in said)
    assert manifest.parity < 1e-3
    assert (
        np.mean([a == path.parent.name for a, path in zip(_answers(bundle, support), walk_files(support), strict=True)])
        > 0.6
    )
    more = run(base.path, out=tmp_path / "more", support=f"folder:{odd}", options=AdaptOptions(allow_new=True))
    assert more.manifest.labels == (*base.manifest.labels, "blast", "my odd cell")
    assert _answers(more, odd).count("my odd cell") >= 3


def test_beside_others_the_first_bundle_s_head_stays(base: Bundle, enlarged: Bundle, support: Path, tmp_path: Path) -> None:
    """The lone class of the head that the support lacks is answered by what the head knew of it."""
    shutil.copytree(support, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "lymphocyte")
    bundle = run(
        base.path, out=tmp_path / "out", support=f"folder:{tmp_path / 'two'}", options=AdaptOptions(beside=[enlarged.path])
    )
    manifest = bundle.manifest
    assert manifest.labels == base.manifest.labels
    assert manifest.adaptation is not None
    assert manifest.adaptation.few_shot["rule"] == "base"
    assert manifest.adaptation.beside == (enlarged.manifest.method,)
    assert manifest.embedding_size == 6
    assert manifest.parity < 1e-3
    home = walk_files(colour_cells(tmp_path / "home", HOME, 4, seed=31))
    lymphocytes = [path for path in home if path.parent.name == "lymphocyte"]
    (first, *_) = Predictor(bundle, embeddings=True).predict(lymphocytes)
    np.testing.assert_allclose(first.embedding, [*(c := _colour(lymphocytes[0])), *(c / np.linalg.norm(c))], atol=1e-5)
    assert all(p.label == "lymphocyte" for p in Predictor(bundle).predict(lymphocytes))
    for rule, out in (("base", "again"), ("prototype", "anew")):
        again = run(
            bundle.path,
            out=tmp_path / out,
            support=f"folder:{support}",
            options=AdaptOptions(beside=[base.path], few_shot=[f"rule={rule}"]),
        )
        assert again.manifest.embedding_size == 9
        assert _answers(again, support) == [path.parent.name for path in walk_files(support)]


# ----------------------------------------------------------------------------------------------- evaluated, and again


def test_the_support_is_no_test_of_the_bundle(adapted: Bundle, support: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"30 image\(s\) of away were trained on, first: "):
        evaluate(adapted.path, f"folder:{support}", out=tmp_path / "report")


def test_new_classes_are_tested(enlarged: Bundle, tmp_path: Path) -> None:
    fresh = colour_cells(tmp_path / "fresh", ODD, 3, seed=11)
    (result,) = evaluate(enlarged.path, f"folder:{fresh}", out=tmp_path / "report").evaluations
    assert result.tested_classes == enlarged.manifest.labels
    assert result.n_images == 15
    assert result.left_out == {}
    assert [row.n for row in result.per_class] == [3] * 5
    assert result.scores.accuracy.value is not None
    assert result.scores.accuracy.value > 0.9
    # a word that this bundle does not know is as unknown as to any other
    (fresh / "my odd cell").rename(fresh / "your odd cell")
    again = evaluate(enlarged.path, f"folder:{fresh}", out=tmp_path / "again")
    assert again.data[0].excluded == {"'your odd cell' is no known cell type": 3}
    assert again.evaluations[0].n_images == 12
    with pytest.raises(LabelError, match="'your odd cell' is no known cell type"):
        evaluate(enlarged.path, f"folder:{fresh}", out=tmp_path / "last", options=EvaluateOptions(strict=True))


def test_an_adapted_bundle_is_adapted_again(enlarged: Bundle, base: Bundle, odd: Path, tmp_path: Path) -> None:
    third = {name: colour[::-1] for name, colour in ODD.items() if name != "monocyte"}
    folder = colour_cells(tmp_path / "third", third, 4, seed=12)
    said: list[str] = []
    again = adapt(enlarged.path, out=tmp_path / "out", support=f"folder:{folder}", say=said.append)
    manifest = again.manifest
    assert manifest.labels == ("neutrophil", "lymphocyte", "blast", "my odd cell"), "known since the first time"
    assert manifest.adaptation is not None
    assert manifest.adaptation.new_classes == ()
    assert set(manifest.adaptation.support_images) == _digests(folder)
    assert manifest.adaptation.base_model_sha256 == (enlarged.manifest.files[MODEL].sha256,)
    assert [entry.role for entry in manifest.data] == ["train", "support", "support"]
    assert again.seen == base.seen | _digests(odd) | _digests(folder)
    assert any("no labelled cell of monocyte" in text for text in said)
    answers = _answers(again, folder)
    assert np.mean([a == path.parent.name for a, path in zip(answers, walk_files(folder), strict=True)]) >= 0.5
    image = walk_files(folder)[0]
    before, after = (next(Predictor(b, embeddings=True).predict([image])).embedding for b in (base, again))
    np.testing.assert_array_equal(before, after)


def test_a_bundle_that_keeps_its_head_is_adapted_again_and_again(base: Bundle, support: Path, tmp_path: Path) -> None:
    made = base
    for i in range(3):
        made = run(made.path, out=tmp_path / f"{i}", support=f"folder:{support}")
    assert made.manifest.labels == base.manifest.labels
    assert (
        np.mean([a == path.parent.name for a, path in zip(_answers(made, support), walk_files(support), strict=True)]) > 0.9
    )


def test_two_embedders_side_by_side_are_as_one(
    base: Bundle, enlarged: Bundle, odd: Path, support: Path, tmp_path: Path
) -> None:
    """Both embed alike here: the same answers as of one embedder at unit length."""
    both = adapt(
        base.path, out=tmp_path / "both", support=f"folder:{support}", options=AdaptOptions(beside=[enlarged.path])
    )
    alone = adapt(
        base.path, out=tmp_path / "alone", support=f"folder:{support}", options=AdaptOptions(few_shot=["normalise=true"])
    )
    fresh = walk_files(colour_cells(tmp_path / "fresh", AWAY, 4, seed=13))
    found, expected = (list(Predictor(b, embeddings=True).predict(fresh)) for b in (both, alone))
    for one, other, path in zip(found, expected, fresh, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
        assert one.embedding is not None
        unit = _colour(path) / np.linalg.norm(_colour(path))
        np.testing.assert_allclose(one.embedding, [*unit, *unit], atol=1e-5)
    manifest = both.manifest
    assert manifest.labels == base.manifest.labels
    assert manifest.embedding_size == 6
    assert manifest.adaptation is not None
    digests = tuple(bundle.manifest.files[MODEL].sha256 for bundle in (base, enlarged))
    assert manifest.adaptation.base_model_sha256 == digests
    assert [entry.role for entry in manifest.data] == ["train", "train", "support", "support"]
    assert both.seen == base.seen | _digests(odd) | _digests(support)
    again = adapt(
        both.path, out=tmp_path / "again", support=f"folder:{odd}", options=AdaptOptions(beside=[base.path], allow_new=True)
    )
    assert again.manifest.embedding_size == 9
    assert len(set(_answers(again, odd))) == 5


def test_a_class_learned_before_keeps_its_place_before_a_newer_one(base: Bundle, odd: Path, tmp_path: Path) -> None:
    first = shutil.copytree(odd, tmp_path / "first")
    shutil.rmtree(first / "Blasts")
    once = adapt(base.path, out=tmp_path / "once", support=f"folder:{first}", options=AdaptOptions(allow_new=True))
    twice = adapt(once.path, out=tmp_path / "twice", support=f"folder:{odd}", options=AdaptOptions(allow_new=True))
    assert twice.manifest.labels == (*once.manifest.labels, "blast") == (*base.manifest.labels, "my odd cell", "blast")
    assert twice.manifest.adaptation is not None
    assert twice.manifest.adaptation.new_classes == ("blast",)
    answers = _answers(twice, odd)
    assert answers.count("my odd cell") == answers.count("blast") == 4


def test_images_that_any_of_the_embedders_learned_from_are_told(
    base: Bundle, enlarged: Bundle, odd: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    adapt(
        base.path,
        out=tmp_path / "out",
        support=f"folder:{odd}",
        options=AdaptOptions(beside=[enlarged.path], allow_new=True),
        say=said.append,
    )
    assert any("20 support image(s) are training images" in text for text in said)


def test_images_of_the_training_data_make_the_expected_accuracy_too_good_and_it_is_told(
    base: Bundle, adapted: Bundle, support: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    adapt(adapted.path, out=tmp_path / "out", support=f"folder:{support}", say=said.append)
    assert any("30 support image(s) are training images" in text for text in said)
    said.clear()
    adapt(base.path, out=tmp_path / "other", support=f"folder:{support}", say=said.append)
    assert not any("training images" in text for text in said)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_support_of_one_class_is_refused(base: Bundle, support: Path, tmp_path: Path) -> None:
    shutil.copytree(support / "monocyte", tmp_path / "one" / "monocyte")
    with pytest.raises(SplitError, match=r"one class only; expected labelled cells of two classes.*got monocyte \(10\)"):
        adapt(base.path, out=tmp_path / "out", support=f"folder:{tmp_path / 'one'}")
    assert _names(tmp_path) == {"one"}


def test_unreadable_support_images_are_refused_or_dropped(base: Bundle, support: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(support, tmp_path / "broken"), tmp_path / "out"
    whole = next((support / "monocyte").iterdir()).read_bytes()
    (folder / "monocyte" / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1 of 31 images cannot be read, first: .*empty\.png.*--drop-unreadable"):
        adapt(base.path, out=out, support=f"folder:{folder}")
    # the header is whole, the pixels are not
    (folder / "monocyte" / "empty.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"1 image\(s\) cannot be read, first: .*empty\.png"):
        adapt(base.path, out=out, support=f"folder:{folder}")
    assert _names(tmp_path) == {"broken"}
    said: list[str] = []
    bundle = adapt(
        base.path, out=out, support=f"folder:{folder}", options=AdaptOptions(drop_unreadable=True), say=said.append
    )
    assert bundle.manifest.data[-1].class_counts["monocyte"] == 10
    assert any("1 unreadable" in text for text in said)


def test_an_output_that_exists_is_refused_and_only_a_bundle_is_replaced(
    base: Bundle, support: Path, tmp_path: Path
) -> None:
    spec, out = f"folder:{support}", tmp_path / "out"
    adapt(base.path, out=out, support=spec)
    before = open_bundle(out).manifest
    with pytest.raises(OutputError, match=r"'.*out' exists already.*--overwrite"):
        adapt(base.path, out=out, support=spec, options=AdaptOptions(few_shot=["normalise=true"]))
    assert open_bundle(out).manifest == before
    adapt(base.path, out=out, overwrite=True, support=spec, options=AdaptOptions(few_shot=["normalise=true"]))
    assert open_bundle(out).manifest != before
    before = open_bundle(out).manifest
    with pytest.raises(OutputError, match=r"would replace the input .*apart from all inputs"):
        adapt(out, out=out, overwrite=True, support=spec)
    assert open_bundle(out).manifest == before
    mine = shutil.copytree(support, tmp_path / "mine")
    for place, message in (
        (mine, "holds something else than a bundle. Choose another folder"),
        (mine / "monocyte", "holds something else than a bundle"),
        (walk_files(mine)[0], "is a file; expected the name of a folder"),
    ):
        with pytest.raises(OutputError, match=message):
            adapt(base.path, out=place, overwrite=True, support=spec)
    assert _digests(mine) == _digests(support)


BAD_SETTINGS: dict[str, tuple[type[InputError], str]] = {
    "centre=target": (ConfigError, "expected centre=none or centre=support"),
    "centr=support": (ConfigError, "unknown key 'centr'. did you mean 'centre'"),
    "rule=nearest": (ConfigError, "key 'rule'; expected 'prototype', 'nearest_neighbour'"),
    "n_prototypes": (ConfigError, "expected key=value"),
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_bad_setting_is_refused_before_anything_is_read(tmp_path: Path, setting: str, hemalens: Command) -> None:
    kind, message = BAD_SETTINGS[setting]
    with pytest.raises(kind, match=message):
        adapt(
            tmp_path / "no bundle", out=tmp_path / "out", support="folder:nothing", options=AdaptOptions(few_shot=[setting])
        )
    ended = hemalens(
        "adapt", tmp_path / "no bundle", "--support", "folder:x", "--out", tmp_path / "o", "--few-shot", setting
    )
    assert (ended.code, ended.out) == (2, "")
    assert ended.error.startswith("error: ")
    assert _names(tmp_path) == set()


def test_what_is_no_bundle_or_no_data_is_refused(base: Bundle, tmp_path: Path, hemalens: Command) -> None:
    for bundle, spec, message in (
        (tmp_path / "gone", "folder:x", "there is no bundle folder"),
        (base.path, "foldr:x", "unknown dataset 'foldr'. did you mean 'folder'?"),
        (base.path, f"folder:{tmp_path / 'gone'}", "there is no folder"),
    ):
        ended = hemalens("adapt", bundle, "--support", spec, "--out", tmp_path / "out")
        assert ended.code == 2
        assert message in ended.error
    assert _names(tmp_path) == set()


# ---------------------------------------------------------------------------------------------------------------- CLI


def test_the_command_says_what_to_expect(base: Bundle, support: Path, tmp_path: Path, hemalens: Command) -> None:
    out = tmp_path / "out"
    ended = hemalens("adapt", base.path, "--support", f"folder:{support}", "--out", out, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "adapted to neutrophil (10), lymphocyte (10), monocyte (10)",
        "expected accuracy 1.00 (95 % 0.88-1.00), leave-one-out over 30 support images",
        f"bundle: {out}",
    ]
    assert hemalens("adapt", base.path, "--support", f"folder:{support}", "--out", out).code == 2


def test_the_command_prints_the_manifest_as_json(base: Bundle, odd: Path, tmp_path: Path, hemalens: Command) -> None:
    call: tuple[Any, ...] = ("adapt", base.path, "--support", f"folder:{odd}", "--out", tmp_path / "out", "--json")
    refused = hemalens(*call)
    assert (refused.code, refused.out) == (2, "")
    assert "--allow-new" in refused.error
    ended = hemalens(*call, "--allow-new", "--few-shot", "rule=nearest_neighbour", "--few-shot", "normalise=true")
    assert ended.code == 0
    printed = json.loads(ended.out)
    assert printed == open_bundle(tmp_path / "out").manifest.model_dump(mode="json")
    assert printed["adaptation"]["few_shot"]["rule"] == "nearest_neighbour"
    assert printed["adaptation"]["few_shot"]["normalise"] is True
    assert printed["adaptation"]["new_classes"] == ["blast", "my odd cell"]


def test_the_command_tells_what_it_left_out(base: Bundle, support: Path, tmp_path: Path, hemalens: Command) -> None:
    folder = shutil.copytree(support, tmp_path / "cells")
    (folder / "monocyte" / "empty.png").write_bytes(b"")
    shutil.rmtree(folder / "neutrophil")
    call = ("adapt", base.path, "--support", f"folder:{folder}", "--out", tmp_path / "out")
    assert "--drop-unreadable" in hemalens(*call).error
    ended = hemalens(*call, "--drop-unreadable")
    assert ended.code == 0
    assert "1 unreadable" in ended.err
    assert "no labelled cell of neutrophil" in ended.err
