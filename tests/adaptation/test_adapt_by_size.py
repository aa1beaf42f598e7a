"""What the size of nuclei says in a new laboratory: known from training, beside the laboratory's typical one, once only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from command import Command
from hemalens import evaluate, open_bundle, predict, train
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.nucleus_size import sizes_of
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.errors import BundleError, InputError
from hemalens.inference.predictor import Predictor
from hemalens.runs.evaluate import EvaluateOptions
from hemalens.runs.quantize import QuantizeOptions, quantize
from hemalens.runs.train import TrainOptions

pytestmark = pytest.mark.usefixtures("undrawn")

SIZE = ["size=true", "neighbours=false", "class_means=false"]
N = 4 * 12
UNKNOWN = "the bundle was trained without nucleus sizes"
ADAPTED = "is adapted to unlabelled images already"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two laboratories of twelve cells a type; they stain alike, which a network of random weights can follow."""
    folder = tmp_path_factory.mktemp("drawn")
    for seed, name in ((3, "home"), (4, "away")):
        synthesize(folder / name, n_per_class=12, seed=seed, laboratories=("lab_a",), cell_types=trained.CELL_TYPES)
    return folder


def _trained(cells: Path, out: Path, **more: Any) -> Bundle:
    settings = trained.settings(trained.PROBE)
    train(
        "linear_probe",
        f"synthetic:{cells / 'home'}",
        out=out,
        options=TrainOptions(test_fraction=0.0, **more),
        settings=settings,
    )
    return open_bundle(out / "bundle")


@pytest.fixture(scope="module", autouse=True)
def unguarded() -> Iterator[None]:
    """Every piece is used that the images suffice for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
        patch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
        yield


@pytest.fixture(scope="module")
def base(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained on centred crops without an eosinophil's granules; calibration makes its head surer than trained."""
    with trained.undrawn(), pytest.MonkeyPatch.context() as patch:
        trained.stand_in_detector(patch, limit=95)
        found = _trained(cells, tmp_path_factory.mktemp("base") / "run", cell_image="centred")
    assert found.manifest.temperature < 0.8
    return found


@pytest.fixture(scope="module")
def whole(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same, trained on images as they are."""
    with trained.undrawn():
        return _trained(cells, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def away(cells: Path) -> str:
    return f"synthetic:{cells / 'away'}"


@pytest.fixture(scope="module")
def sized(base: Bundle, away: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Adapted by all pieces."""
    out = tmp_path_factory.mktemp("sized") / "bundle"
    return adapt(base.path, out=out, unlabelled=away, options=AdaptOptions(settings=["size=true"]))


@pytest.fixture(scope="module")
def by_size(base: Bundle, away: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Adapted by the size of the nuclei alone."""
    return adapt(
        base.path, out=tmp_path_factory.mktemp("by size") / "bundle", unlabelled=away, options=AdaptOptions(settings=SIZE)
    )


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _answered(bundle: Bundle, dataset: CellDataset) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, k) and embeddings (n, d)."""
    found = list(Predictor(bundle, embeddings=True).predict([record.path for record in dataset.records]))
    embeddings = np.stack([p.embedding for p in found if p.embedding is not None])
    return np.stack([p.probabilities for p in found if p.probabilities is not None]).astype(np.float64), embeddings


def _diameters(bundle: Bundle, dataset: CellDataset) -> np.ndarray:
    """Of each nucleus in pixels, by the side of its crop of two diameters."""
    return np.array([record.read().shape[0] / 2 for record in dataset.through(bundle.stages).records])


# ------------------------------------------------------------------------------------------------------- what is known


def test_a_bundle_trained_on_centred_crops_knows_how_large_nuclei_are(base: Bundle, whole: Bundle, cells: Path) -> None:
    sizes = base.manifest.nucleus_sizes
    assert len(sizes) == len(base.manifest.labels) == 4
    assert whole.manifest.nucleus_sizes == ()
    home = open_dataset(f"synthetic:{cells / 'home'}")
    learned = home.subset([i for i, content in enumerate(home.contents) if content in base.seen]).through(base.stages)
    centres = dict(zip(base.manifest.labels, [size.centre for size in sizes], strict=True))
    assert max(centres, key=lambda label: centres[label]) == "monocyte"
    # those of the validation part taught nothing, and move the sizes a little
    for size, near in zip(sizes, sizes_of(learned, base.stages), strict=True):
        assert size.centre == pytest.approx(near.centre, abs=0.1)
    written = json.loads((base.path / "manifest.json").read_text())
    assert [(size["centre"], size["scale"]) for size in written["nucleus_sizes"]] == [(s.centre, s.scale) for s in sizes]


def test_a_bundle_of_few_cells_a_type_takes_all_types_to_be_alike(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve cells a type, five go to the validation."""
    trained.stand_in_detector(monkeypatch)
    few = _trained(cells, tmp_path / "few", cell_image="centred", validation_fraction=0.4)
    assert len(few.manifest.nucleus_sizes) == len(few.manifest.labels)
    assert len(set(few.manifest.nucleus_sizes)) == 1


# ------------------------------------------------------------------------------------------------------- what follows


def test_the_manifest_says_how_it_came_to_be(base: Bundle, sized: Bundle, away: str) -> None:
    manifest, how = sized.manifest, sized.manifest.unlabelled
    assert how is not None
    assert how.pieces == ("size", "neighbours", "class_means")
    assert how.left_out == {}
    diameters = _diameters(base, open_dataset(away))
    assert abs(np.log(how.typical_nucleus_px) - np.median(np.log(diameters))) <= 0.41
    assert how.size_widening is not None
    assert how.size_widening >= 1
    assert manifest.embedding_size == base.manifest.embedding_size + 1
    assert manifest.temperature == base.manifest.temperature
    assert manifest.nucleus_sizes == base.manifest.nucleus_sizes
    assert manifest.before_graph == base.manifest.before_graph
    assert manifest.parity <= 1e-3
    assert open_bundle(sized.path).manifest == manifest


def test_the_embedding_ends_with_the_size(base: Bundle, sized: Bundle, away: str) -> None:
    dataset = open_dataset(away)
    embeddings, how = _answered(sized, dataset)[1], sized.manifest.unlabelled
    diameters = _diameters(base, dataset)
    assert how is not None
    assert embeddings.shape == (N, base.manifest.embedding_size + 1)
    np.testing.assert_allclose(embeddings[:, -1], np.log(diameters / how.typical_nucleus_px), atol=1e-5)


def test_sizes_are_weighed_by_student_s_density_on_logits_as_soft_as_they_were_trained(
    base: Bundle, by_size: Bundle, away: str
) -> None:
    dataset, how = open_dataset(away), by_size.manifest.unlabelled
    assert how is not None
    assert how.size_widening is not None
    assert 1 <= how.size_widening < 2, "the laboratory has one magnification"
    before, after = (_answered(bundle, dataset)[0] for bundle in (base, by_size))
    diameters = np.log(_diameters(base, dataset))
    weighed = before**base.manifest.temperature
    for c, size in enumerate(base.manifest.nucleus_sizes):
        scale = size.scale * how.size_widening
        z = (diameters - np.log(how.typical_nucleus_px) - size.centre) / scale
        weighed[:, c] *= (1 + z**2 / 4) ** -2.5 / scale
    np.testing.assert_allclose(after, weighed / weighed.sum(axis=1, keepdims=True), atol=1e-4)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize("factor", [0.7, pytest.param(1.8, marks=pytest.mark.slow)])
def test_a_laboratory_at_another_magnification_is_answered_alike(
    base: Bundle, away: str, tmp_path: Path, factor: float
) -> None:
    """All its images smaller or larger by one factor: up to resampling, the same cells at the same sizes."""
    dataset, folder = open_dataset(away), tmp_path / "scaled"
    for record in dataset.records:
        image = Image.open(record.path)
        (folder / record.source_label).mkdir(parents=True, exist_ok=True)
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / record.source_label / record.path.name)
    scaled = open_dataset(f"folder:{folder}")
    assert [r.path.name for r in scaled.records] == [r.path.name for r in dataset.records]
    options = AdaptOptions(settings=["size=true"])
    made = [
        adapt(base.path, out=tmp_path / str(i), unlabelled=spec, options=options)
        for i, spec in enumerate((away, str(folder)))
    ]
    typical = [bundle.manifest.unlabelled.typical_nucleus_px for bundle in made if bundle.manifest.unlabelled]
    assert typical[1] == pytest.approx(factor * (typical[0] or 0), rel=0.05)
    first, second = (_answered(bundle, images)[0] for bundle, images in zip(made, (dataset, scaled), strict=True))
    assert (first.argmax(axis=1) == second.argmax(axis=1)).mean() >= 0.9
    assert np.median(np.abs(first - second).max(axis=1)) < 0.1
    # beside the typical nucleus of the other images, every one of these is too small or too large
    foreign = _answered(made[0], scaled)[0]
    assert np.abs(foreign - second).max(axis=1).mean() > 2 * np.abs(first - second).max(axis=1).mean()


# ---------------------------------------------------------------------------------------------- where it cannot count


def test_sizes_are_left_out_by_default(base: Bundle, away: str, tmp_path: Path) -> None:
    said: list[str] = []
    made = adapt(base.path, out=tmp_path / "made", unlabelled=away, say=said.append)
    how = made.manifest.unlabelled
    assert how is not None
    assert (how.left_out, how.typical_nucleus_px) == ({}, None)
    assert made.manifest.embedding_size == base.manifest.embedding_size
    assert not any("nucleus" in line for line in said)


def test_a_bundle_that_does_not_know_sizes_is_refused_where_they_are_asked_for(
    whole: Bundle, away: str, tmp_path: Path, hemalens: Command
) -> None:
    call = ("adapt", whole.path, "--unlabelled", away, "--out", tmp_path / "out")
    ended = hemalens(*call, "--set", "size=true")
    assert ended.code == 2
    assert UNKNOWN in ended.error
    assert "Drop --set size=true" in ended.error
    assert not (tmp_path / "out").exists()
    assert hemalens(*call).code == 0


def test_a_bundle_is_adapted_to_images_once(by_size: Bundle, away: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=ADAPTED):
        adapt(by_size.path, out=tmp_path / "no", unlabelled=away)


def _white(folder: Path, n: int) -> Path:
    """Fields without a cell, no two alike."""
    folder.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(236, 244, (90, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"empty_{i}.png")
    return folder


def test_images_without_a_cell_are_left_out_and_counted(base: Bundle, cells: Path, away: str, tmp_path: Path) -> None:
    both = _white(tmp_path / "both", 5)
    for i, record in enumerate(open_dataset(away).records):
        shutil.copy(record.path, both / f"cell_{i}.png")
    said: list[str] = []
    made = adapt(base.path, out=tmp_path / "made", unlabelled=str(both), say=said.append)
    assert "both: left out 5 image(s) without a white cell" in said
    assert made.manifest.unlabelled is not None
    assert made.manifest.unlabelled.n_images == N


def test_images_of_no_cell_at_all_are_refused(base: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few images to adapt to; expected at least 8 images with a white cell; got 0"):
        adapt(base.path, out=tmp_path / "made", unlabelled=str(_white(tmp_path / "empty", 12)))


# ------------------------------------------------------------------------------------------------------ what comes then


def test_a_few_labelled_cells_teach_it_on(sized: Bundle, away: str, tmp_path: Path) -> None:
    for rule in ("base", "prototype"):
        made = adapt(sized.path, out=tmp_path / rule, support=away, options=AdaptOptions(few_shot=[f"rule={rule}"]))
        assert made.manifest.parity <= 1e-3
        assert made.manifest.embedding_size == sized.manifest.embedding_size
        how, before = made.manifest.unlabelled, sized.manifest.unlabelled
        assert how is not None
        assert before is not None
        assert how.typical_nucleus_px == before.typical_nucleus_px
        with pytest.raises(BundleError, match=ADAPTED):
            adapt(made.path, out=tmp_path / "no", unlabelled=away, options=AdaptOptions(settings=["size=true"]))
        answers, dataset = _answered(made, open_dataset(away))[0].argmax(axis=1), open_dataset(away)
        assert (answers == dataset.targets).mean() > 0.5


def test_images_and_labelled_cells_at_once(base: Bundle, by_size: Bundle, away: str, tmp_path: Path) -> None:
    both = adapt(base.path, out=tmp_path / "both", unlabelled=away, support=away, options=AdaptOptions(settings=SIZE))
    assert both.manifest.unlabelled == by_size.manifest.unlabelled
    assert both.graph == adapt(by_size.path, out=tmp_path / "second", support=away).graph


def test_labelled_cells_first_leave_the_sizes_known_while_the_classes_stay(
    base: Bundle, away: str, cells: Path, tmp_path: Path
) -> None:
    learned = adapt(base.path, out=tmp_path / "learned", support=away)
    assert learned.manifest.nucleus_sizes == base.manifest.nucleus_sizes
    made = adapt(
        learned.path,
        out=tmp_path / "made",
        unlabelled=away,
        options=AdaptOptions(settings=["size=true"]),
    )
    assert made.manifest.parity <= 1e-3
    some = f"folder:{_only(cells / 'away' / 'lab_a' / 'images', tmp_path / 'some', ('neutrophil', 'monocyte'))}"
    fewer = adapt(base.path, out=tmp_path / "fewer", support=some, options=AdaptOptions(few_shot=["rule=prototype"]))
    assert fewer.manifest.nucleus_sizes == ()


def _only(images: Path, folder: Path, kinds: tuple[str, ...]) -> Path:
    folder.mkdir()
    for kind in kinds:
        shutil.copytree(images / kind, folder / kind)
    return folder


def test_it_predicts_and_is_evaluated_as_any_other(sized: Bundle, away: str, cells: Path, tmp_path: Path) -> None:
    found = predict(sized.path, str(cells / "away" / "lab_a" / "images"), out=tmp_path / "answers.csv")
    assert (found.n_rows, found.n_unreadable) == (N, 0)
    evaluation = evaluate(sized.path, away, out=tmp_path / "report", options=EvaluateOptions()).evaluations[0]
    dataset = open_dataset(away)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (dataset.targets, _answered(sized, dataset)[0].argmax(axis=1)), 1)
    assert evaluation.confusion == tuple(map(tuple, expected.tolist()))
    assert evaluation.transductive
    assert evaluation.trust is not None
    (estimate,) = evaluation.trust.estimates
    confidence = _answered(sized, dataset)[0].max(axis=1).mean()
    assert (estimate.name, estimate.value) == ("mean_confidence", pytest.approx(confidence, abs=1e-5))


def test_it_is_made_smaller(by_size: Bundle, away: str, tmp_path: Path) -> None:
    small = quantize(by_size.path, away, out=tmp_path / "fp16", precision="fp16", options=QuantizeOptions(n_images=8))
    assert small.manifest.unlabelled == by_size.manifest.unlabelled
    (first, one), (second, other) = (_answered(bundle, open_dataset(away)) for bundle in (by_size, small))
    assert (first.argmax(axis=1) == second.argmax(axis=1)).mean() > 0.8
    np.testing.assert_allclose(other[:, -1], one[:, -1], atol=0.01)


def test_int8_comes_before_the_sizes(by_size: Bundle, away: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="int8 does not support"):
        quantize(by_size.path, away, out=tmp_path / "int8", precision="int8", options=QuantizeOptions(n_images=8))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_smaller_bundle_knows_the_sizes_too(base: Bundle, away: str, tmp_path: Path, precision: Any) -> None:
    small = quantize(base.path, away, out=tmp_path / precision, precision=precision, options=QuantizeOptions(n_images=8))
    made = adapt(small.path, out=tmp_path / "made", unlabelled=away, options=AdaptOptions(settings=["size=true"]))
    assert made.manifest.parity <= 1e-3
    assert made.manifest.embedding_size == base.manifest.embedding_size + 1


# ---------------------------------------------------------------------------------------------------------------- CLI


def test_the_command_says_what_it_did(base: Bundle, away: str, tmp_path: Path, hemalens: Command) -> None:
    call = ("adapt", base.path, "--unlabelled", away, "--set", "size=true")
    ended = hemalens(*call, "--out", tmp_path / "out")
    assert ended.code == 0, ended.error
    first, second, third, fourth, last = ended.out.splitlines()
    assert first == f"adapted to {N} unlabelled images: nucleus size, nearest-neighbour smoothing, class means"
    printed = json.loads(hemalens(*call, "--out", tmp_path / "json", "--json", "--quiet").out)["unlabelled"]
    assert second == f"typical nucleus diameter: {printed['typical_nucleus_px']:.0f} px"
    assert third == "predictions are smoothed over the 5 nearest neighbours"
    assert (
        fourth == f"the predicted type changes for {printed['changed']:.0%} of them; a test on these images is transductive"
    )
    assert last == f"bundle: {tmp_path / 'out'}"
