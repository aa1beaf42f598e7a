"""Answers that lean on those of a laboratory's nearest images: what a bundle says of it and refuses, and what goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import trained
from command import Command
from hemalens.adaptation.adapt_unlabelled import adapt_to_both, adapt_unlabelled
from hemalens.adaptation.few_labels import adapt
from hemalens.adaptation.neighbours import Neighbours
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol
from hemalens.benchmark.saved_bundle import benchmark_bundle
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import open_dataset
from hemalens.errors import BundleError, ConfigError, InputError
from hemalens.inference.predictor import Predictor, list_images
from hemalens.runs.quantize import quantize
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (150, 100, 130), "lymphocyte": (100, 90, 160), "monocyte": (90, 150, 110)}
ALONE = ["batch_norm=false", "size=false", "class_bias=false"]
LEANING = [*ALONE, "neighbours=true"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    )


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_cells(tmp_path_factory.mktemp("laboratory") / "away", AWAY, 15, seed=1, noise=60)


@pytest.fixture(scope="module")
def leaning(base: Bundle, away: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return adapt_unlabelled(base.path, str(away), out=tmp_path_factory.mktemp("leaning") / "bundle", settings=LEANING)


@pytest.fixture
def small_imagenet(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.small_imagenet(monkeypatch, base)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _answered(bundle: Bundle, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, d) and probabilities (n, k)."""
    answers = list(Predictor(bundle, embeddings=True).predict(list_images(folder)))
    return np.array([a.embedding for a in answers], float), np.array([a.probabilities for a in answers], float)


def test_the_bundle_answers_as_the_formula_and_says_so(base: Bundle, leaning: Bundle, away: Path, tmp_path: Path) -> None:
    embeddings, before = _answered(base, away)
    expected = Neighbours.among(embeddings, np.log(before), (3,), 3.0)
    fresh = colour_cells(tmp_path / "fresh", AWAY, 3, seed=5, noise=60)
    asked, alone = _answered(base, fresh)
    logits = expected.logits(asked, np.log(alone))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(_answered(leaning, fresh)[1], powers / powers.sum(axis=1, keepdims=True), atol=1e-3)
    manifest = leaning.manifest
    assert manifest.unlabelled is not None
    assert (manifest.unlabelled.neighbours, manifest.unlabelled.beside) == (5, ())
    assert (manifest.embedding_size, manifest.embedding_parts) == (3, ())
    assert manifest.parity < 1e-3
    assert leaning.seen_unlabelled == set(open_dataset(f"folder:{away}").contents)


@pytest.mark.usefixtures("small_imagenet")
def test_what_stands_beside_makes_neighbours_the_default(base: Bundle, away: Path, tmp_path: Path) -> None:
    made = adapt_unlabelled(base.path, str(away), out=tmp_path / "made", settings=ALONE, beside=["imagenet", base.path])
    manifest = made.manifest
    assert manifest.unlabelled is not None
    assert manifest.unlabelled.settings["neighbours"]
    assert manifest.unlabelled.beside == ("imagenet", base.manifest.method)
    assert (manifest.embedding_size, manifest.embedding_parts) == (9, (3, 3, 3))
    assert [entry.role for entry in manifest.data] == ["train", "train", "unlabelled"]
    assert made.statistics is None, "of an embedding that is wider now nothing is known"
    with pytest.raises(ConfigError, match="--beside helps to find neighbours, which neighbours=false leaves out"):
        adapt_unlabelled(
            base.path, str(away), out=tmp_path / "no", settings=[ALONE[0], "neighbours=false"], beside=[base.path]
        )
    # labelled cells go on from there, each part counting alike
    taught = adapt(made.path, f"folder:{away}", out=tmp_path / "taught")
    assert taught.manifest.embedding_parts == (3, 3, 3)
    both = adapt_to_both(
        base.path, str(away), f"folder:{away}", out=tmp_path / "both", settings=ALONE, beside=["imagenet", base.path]
    )
    np.testing.assert_allclose(_answered(both, away)[1], _answered(taught, away)[1], atol=1e-5)


def test_it_counts_one_laboratory_of_enough_images(base: Bundle, leaning: Bundle, away: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"leans on the images that it was adapted to. Adapt the bundle from before"):
        adapt_unlabelled(leaning.path, str(away), out=tmp_path / "twice", settings=ALONE[:1])
    few = colour_cells(tmp_path / "few", AWAY, 8, seed=3)
    with pytest.raises(InputError, match="'few' has too few images to adapt to; expected at least 32 different"):
        adapt_unlabelled(base.path, str(few), out=tmp_path / "no", settings=LEANING)
    with pytest.raises(ConfigError, match="neighbour_weight goes with neighbours only"):
        adapt_unlabelled(base.path, str(away), out=tmp_path / "no", settings=["neighbour_weight=2"])
    with pytest.raises(BundleError, match="leans on the images that it was adapted to, which int8 cannot take along"):
        quantize(leaning.path, f"folder:{away}", out=tmp_path / "no")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few"]


def test_the_graph_holds_no_more_images_than_it_should(
    base: Bundle, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.adaptation.unlabelled.MOST_IMAGES", 33)
    made = adapt_unlabelled(base.path, str(away), out=tmp_path / "made", settings=LEANING)
    (kept,) = [t for t in made.graph.graph.initializer if t.name.startswith("neighbour_points")]
    assert list(kept.dims) == [3, 33]
    assert made.manifest.unlabelled is not None
    assert made.manifest.unlabelled.n_images == 45


def test_the_protocol_tests_on_other_images(base: Bundle, away: Path, tmp_path: Path) -> None:
    protocol = UnlabelledProtocol(images=(8, 20), pieces=("neighbours",), repeats=2, beside=(str(base.path),))
    report = benchmark_bundle(base.path, [f"folder:{away}"], {"unlabelled": protocol}, out=tmp_path / "report")
    (result,) = report.k_shot
    assert [shots.k for shots in result.shots] == [0, 8, 20]
    assert not result.transductive
    assert f"with {base.path}" in report.protocol


def test_the_command(base: Bundle, away: Path, tmp_path: Path, hemalens: Command) -> None:
    settings = [word for setting in ALONE for word in ("--set", setting)]
    ended = hemalens(
        "adapt", base.path, "--unlabelled", away, "--beside", base.path, *settings[:4], "--out", tmp_path / "made"
    )
    assert ended.code == 0, ended.err
    assert "neighbours: each answer leans on the 5 nearest of the images, found with" in ended.out
    assert "with --beside imagenet" not in ended.out
    ended = hemalens("adapt", base.path, "--unlabelled", away, *settings[:2], "--out", tmp_path / "plain")
    assert "with --beside imagenet answers lean on those of the nearest images too" in ended.out
