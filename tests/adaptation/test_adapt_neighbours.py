"""Answers that lean on those of a laboratory's nearest images: what a bundle says of it and refuses, and what goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import trained
from command import Command
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.neighbours import Neighbours
from hemalens.adaptation.options import AdaptOptions
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol
from hemalens.benchmark.saved_bundle import benchmark_bundle
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, ConfigError, InputError
from hemalens.inference.predictor import Predictor
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
    return adapt(
        base.path,
        out=tmp_path_factory.mktemp("leaning") / "bundle",
        unlabelled=str(away),
        options=AdaptOptions(settings=LEANING),
    )


@pytest.fixture
def small_imagenet(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.small_imagenet(monkeypatch, base)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _answered(bundle: Bundle, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, d) and probabilities (n, k)."""
    answers = list(Predictor(bundle, embeddings=True).predict(walk_files(folder)))
    return np.array([a.embedding for a in answers], float), np.array([a.probabilities for a in answers], float)


def test_the_bundle_answers_as_the_formula_and_says_so(base: Bundle, leaning: Bundle, away: Path, tmp_path: Path) -> None:
    embeddings, before = _answered(base, away)
    expected = Neighbours.fit(embeddings, np.log(before), (3,), 3.0)
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
@pytest.mark.slow
def test_what_stands_beside_makes_neighbours_the_default(base: Bundle, away: Path, tmp_path: Path) -> None:
    made = adapt(
        base.path,
        out=tmp_path / "made",
        unlabelled=str(away),
        options=AdaptOptions(beside=["imagenet", base.path], settings=ALONE),
    )
    manifest = made.manifest
    assert manifest.unlabelled is not None
    assert manifest.unlabelled.settings["neighbours"]
    assert manifest.unlabelled.beside == ("imagenet", base.manifest.method)
    assert (manifest.embedding_size, manifest.embedding_parts) == (9, (3, 3, 3))
    assert [entry.role for entry in manifest.data] == ["train", "train", "unlabelled"]
    with pytest.raises(ConfigError, match="--beside needs neighbours=true"):
        adapt(
            base.path,
            out=tmp_path / "no",
            unlabelled=str(away),
            options=AdaptOptions(beside=[base.path], settings=[ALONE[0], "neighbours=false"]),
        )
    # labelled cells go on from there, each part counting alike
    taught = adapt(made.path, out=tmp_path / "taught", support=f"folder:{away}")
    assert taught.manifest.embedding_parts == (3, 3, 3)
    both = adapt(
        base.path,
        out=tmp_path / "both",
        unlabelled=str(away),
        support=f"folder:{away}",
        options=AdaptOptions(beside=["imagenet", base.path], settings=ALONE),
    )
    np.testing.assert_allclose(_answered(both, away)[1], _answered(taught, away)[1], atol=1e-5)


def test_it_counts_one_laboratory_of_enough_images(base: Bundle, leaning: Bundle, away: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has neighbours from an earlier adaptation"):
        adapt(leaning.path, out=tmp_path / "twice", unlabelled=str(away), options=AdaptOptions(settings=ALONE[:1]))
    few = colour_cells(tmp_path / "few", AWAY, 8, seed=3)
    with pytest.raises(InputError, match="'few' has too few images to adapt to; expected at least 32 different"):
        adapt(base.path, out=tmp_path / "no", unlabelled=str(few), options=AdaptOptions(settings=LEANING))
    with pytest.raises(ConfigError, match="neighbour_weight needs neighbours"):
        adapt(base.path, out=tmp_path / "no", unlabelled=str(away), options=AdaptOptions(settings=["neighbour_weight=2"]))
    with pytest.raises(BundleError, match="int8"):
        quantize(leaning.path, f"folder:{away}", out=tmp_path / "no")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few"]


def test_the_graph_holds_no_more_images_than_it_should(
    base: Bundle, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.adaptation.unlabelled_steps.MAX_IMAGES", 33)
    made = adapt(base.path, out=tmp_path / "made", unlabelled=str(away), options=AdaptOptions(settings=LEANING))
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
    assert "predictions are smoothed over the 5 nearest neighbours, found with" in ended.out
    assert "--beside imagenet" not in ended.out
    ended = hemalens("adapt", base.path, "--unlabelled", away, *settings[:2], "--out", tmp_path / "plain")
    assert "--beside imagenet for nearest-neighbour smoothing" in ended.out
