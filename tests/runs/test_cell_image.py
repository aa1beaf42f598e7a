"""Cells cut out before the graph: what a method learns from so, every later job repeats."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

import trained
from bench import benchmark
from fakes import FAKES
from hemalens import evaluate, open_bundle, predict, train
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.segmenter import TrainedSegmenter, cell_image_stages
from hemalens.bundle.stages import CellImageStage, CentredCropEntry, ClassicalSegmenter
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.base import Record
from hemalens.datasets.splits import k_fold, seeded
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, ConfigError, InputError, OutputError
from hemalens.imaging.centred_crop import CentredCropConfig, centred_crop
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.methods import METHODS, find_method
from hemalens.report import read_report
from hemalens.runs.train import TrainOptions

pytestmark = pytest.mark.usefixtures("undrawn")

Cut = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
EPOCH = {"epochs": 1}
AUTOENCODER = [
    "autoencoder.mmd=none",
    "autoencoder.epochs=1",
    "autoencoder.batch_size=8",
    "autoencoder.side_px=32",
    "autoencoder.decoder_width=0.05",
    "autoencoder.precision=fp32",
    "autoencoder.optimiser.warmup_steps=1",
]
SMALLEST = {
    "linear_probe": trained.settings(trained.PROBE),
    "finetune": trained.settings({**trained.FINETUNE, **EPOCH}),
    "bloodshot": trained.settings({**trained.BLOODSHOT, **EPOCH}),
    "mobilevit": trained.settings({**trained.MOBILEVIT, **EPOCH}),
    "robust": trained.settings({**trained.ROBUST, **EPOCH}),
    "mask_augmentation": [*trained.settings({**trained.FINETUNE, **EPOCH}), "masks.copies=0"],
    "combined_network": [
        *trained.settings({**trained.FINETUNE, **EPOCH}),
        *(f"pretraining.{key}={value}" for key, value in trained.PRETRAINING.items()),
        *(f"autoencoder.{key}={value}" for key, value in trained.COMBINED_NETWORK["autoencoder"].items()),
    ],
    "bc_sam": [
        *trained.settings({**trained.PROBE, "image_size_px": 96}),
        "features=timm",
        "segmenter=classical",
        "head=lr",
        *AUTOENCODER,
    ],
}

TWO_KINDS = ("linear_probe", "bc_sam")
"""One that learns from embeddings and one with an encoder of its own; the jobs go by the manifest, of which each method's
is tested.
"""


def _by_hand() -> CellImageStage:
    """The published cell image by the classical segmenter, apart from any bundle."""
    return CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=128, margin_px=10, background=128))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory's 32 cells in class folders, one of them cut by the image's border and one field without a cell."""
    folder = tmp_path_factory.mktemp("home") / "home"
    shutil.copytree(trained.cells(tmp_path_factory) / "lab_a" / "images", folder)
    first, second = sorted((folder / "monocyte").iterdir())[:2]
    whole = Image.open(first)
    whole.crop((whole.width // 2, 0, whole.width, whole.height)).save(first)
    Image.fromarray(np.full((60, 60, 3), 230, np.uint8)).save(second)
    return folder


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells a class of another laboratory."""
    folder = tmp_path_factory.mktemp("away") / "away"
    for kind in trained.CELL_TYPES:
        (folder / kind).mkdir(parents=True)
        for image in sorted((trained.cells(tmp_path_factory) / "lab_b" / "images" / kind).iterdir())[:3]:
            shutil.copy(image, folder / kind / image.name)
    return folder


class Runs:
    """Each method trained once on cell images of `home`."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.said: dict[str, list[str]] = {}

    def __call__(self, method: str) -> Path:
        out = self.folder / method
        if method not in self.said:
            said = self.said.setdefault(method, [])
            spec = f"folder:{self.home}"
            settings = SMALLEST[method]
            roles = [role.name for role in find_method(method).roles if role.required]
            more = [(role, FAKES[role](self.folder / f"{method} {role}", n_per_class=4)) for role in roles]
            options = TrainOptions(test_fraction=0.25, cell_image="classical", auxiliary_specs=more)
            train(method, spec, out=out, options=options, settings=settings, say=said.append)
        return out


@pytest.fixture(scope="module")
def runs(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(home, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> TrainedSegmenter:
    return trained.segmenter(tmp_path_factory)


def _answers(bundle: Bundle, paths: list[Path], stage: Cut, output: str = "probabilities") -> np.ndarray:
    """What a bundle's graph says of cell images cut by hand."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    cut = [stage(np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    return np.concatenate([session.run([output], {"image": cell[None]})[0] for cell in cut])


def _predicted(bundle: Path, source: Path, out: Path) -> tuple[Any, np.ndarray]:
    """The summary, and the probabilities of the CSV, NaN for an image without a cell."""
    found = predict(bundle, str(source), out=out)
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return found, np.array([[float(row[name] or "nan") for name in row if name.startswith("p_")] for row in rows])


def _assert_predicted(said: np.ndarray, answers: np.ndarray, found: Any) -> None:
    """The probabilities agree, but of an image without a cell, which has none."""
    predicted = ~np.isnan(said).any(axis=1)
    assert np.count_nonzero(~predicted) == found.cell_found.get("none", 0)
    np.testing.assert_allclose(said[predicted], answers[predicted], atol=2e-6)


def _confusion(bundle: Bundle, cells: CellDataset, stage: Cut) -> tuple[tuple[int, ...], ...]:
    labels = bundle.manifest.labels
    best = _answers(bundle, [record.path for record in cells.records], stage).argmax(axis=1)
    counts = np.zeros((len(labels),) * 2, int)
    np.add.at(counts, ([labels.index(str(record.label)) for record in cells.records], best), 1)
    return tuple(map(tuple, counts.tolist()))


# ------------------------------------------------------------------------------------------------- over all the methods


def test_every_method_has_its_smallest_settings() -> None:
    assert set(SMALLEST) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_manifest_says_how_the_cells_are_cut_out(runs: Runs, method: str) -> None:
    bundle = open_bundle(runs(method) / "bundle")
    (entry,) = bundle.manifest.before_graph
    assert (entry.kind, entry.segmenter) == ("cell_image", "classical")
    assert entry.config == CellImageConfig(size_px=128, margin_px=10, background=128)
    assert "segmenter.onnx" not in bundle.manifest.files
    assert bundle.stages[0].digest == _by_hand().digest
    assert bundle.manifest.parity <= 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_prediction_cuts_the_cells_out_again(runs: Runs, home: Path, away: Path, tmp_path: Path, method: str) -> None:
    bundle = open_bundle(runs(method) / "bundle")
    stage = _by_hand()
    for source in (home / "monocyte", away):
        found, said = _predicted(bundle.path, source, tmp_path / f"{source.name}.csv")
        paths = walk_files(source)
        _assert_predicted(said, _answers(bundle, paths, stage), found)
        outcomes = Counter(stage.make(np.asarray(Image.open(p).convert("RGB"))).outcome for p in paths)
        assert found.cell_found["found"] == outcomes["cell"]
        assert sum(found.cell_found.values()) == found.n_rows
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    (uncut,) = session.run(["embedding"], {"image": np.asarray(Image.open(paths[0]).convert("RGB"))[None]})
    assert np.abs(uncut[0] - _answers(bundle, paths[:1], stage, "embedding")[0]).max() > 1e-4, (
        "the whole image is another one"
    )


@pytest.mark.parametrize("method", TWO_KINDS)
def test_evaluation_cuts_the_cells_out_again(runs: Runs, away: Path, tmp_path: Path, method: str) -> None:
    bundle = open_bundle(runs(method) / "bundle")
    report = evaluate(bundle.path, f"folder:{away}", out=tmp_path / "report")
    (evaluation,) = report.evaluations
    assert evaluation.confusion == _confusion(bundle, open_dataset(f"folder:{away}"), _by_hand())
    assert evaluation.n_images == 12


@pytest.mark.parametrize("method", TWO_KINDS)
def test_the_tested_part_of_a_training_is_cut_out_too(runs: Runs, home: Path, method: str) -> None:
    out = runs(method)
    bundle, report = open_bundle(out / "bundle"), read_report(out / "report.json")
    cells = open_dataset(f"folder:{home}")
    tested = cells.subset([i for i, content in enumerate(cells.contents) if content not in bundle.seen])
    (evaluation,) = report.evaluations
    assert evaluation.n_images == len(tested) == 8
    assert evaluation.confusion == _confusion(bundle, tested, _by_hand())


@pytest.mark.parametrize("method", TWO_KINDS)
def test_an_adapted_bundle_cuts_the_cells_out_as_its_base_does(
    runs: Runs, home: Path, away: Path, tmp_path: Path, method: str
) -> None:
    """Classes by the mean latent of the support's cell images, compared by the cosine."""
    base = open_bundle(runs(method) / "bundle")
    adapted = adapt(
        base.path, out=tmp_path / "adapted", support=f"folder:{away}", options=AdaptOptions(few_shot=["rule=prototype"])
    )
    assert adapted.manifest.before_graph == base.manifest.before_graph
    stage, paths = _by_hand(), walk_files(home / "lymphocyte")
    _, said = _predicted(adapted.path, home / "lymphocyte", tmp_path / "answers.csv")
    np.testing.assert_allclose(said, _answers(adapted, paths, stage), atol=2e-6)
    support = open_dataset(f"folder:{away}")
    learned = _answers(base, [record.path for record in support.records], stage, "embedding").astype(np.float64)
    means = np.stack([learned[support.targets == i].mean(axis=0) for i in range(4)])
    queries = _answers(base, paths, stage, "embedding").astype(np.float64)
    cosine = (queries @ means.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    powers = np.exp(64 * cosine / adapted.manifest.temperature)
    np.testing.assert_allclose(said, powers / powers.sum(axis=1, keepdims=True), atol=5e-3)


# ----------------------------------------------------------------------------------------------------- what is counted


def test_the_card_and_the_terminal_count_how_the_cells_came_out(runs: Runs, home: Path) -> None:
    out = runs("linear_probe")
    stage = _by_hand()
    counts = Counter(stage.make(np.asarray(Image.open(path).convert("RGB"))).outcome for path in walk_files(home))
    assert counts["no white cell"] >= 1
    assert counts["touches border"] >= 1
    (card,) = read_report(out / "report.json").data
    (note,) = (note for note in card.notes if note.startswith("cells cut out (classical): 32"))
    assert f"{counts['touches border']} in doubt, touches border {counts['touches border']}" in note
    assert f"no cell found in {counts['no white cell']} image(s)" in note
    assert f"home: {note}" in runs.said["linear_probe"]


def test_an_unreadable_image_is_a_row_and_no_cell(runs: Runs, away: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    shutil.copytree(away / "monocyte", folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = predict(runs("linear_probe") / "bundle", str(folder), out=tmp_path / "answers.csv")
    assert (found.n_rows, found.n_unreadable, sum(found.cell_found.values())) == (4, 1, 3)


def test_a_bundle_of_whole_images_counts_no_cells(
    away: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = trained.colour_bundle(tmp_path / "bundle", trained.laboratory(tmp_path_factory))
    assert bundle.stages == ()
    assert predict(bundle.path, str(away), out=tmp_path / "answers.csv").cell_found == {}


def test_validation_and_auxiliary_images_are_cut_out_as_well(
    home: Path, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the reverse: what the autoencoder is to draw is cut out of the image on disk, not of a cell image."""
    import hemalens.methods.bc_sam as method

    read: list[tuple[Record, ...]] = []
    honest = method.feature_maps

    def spy(records: Any, *given: Any) -> np.ndarray:
        read.append(tuple(records))
        return honest(records, *given)

    monkeypatch.setattr(method, "feature_maps", spy)
    train(
        "bc_sam",
        f"folder:{home}",
        out=tmp_path / "run",
        options=TrainOptions(test_fraction=0.0, auxiliary_specs=[("unlabelled", f"folder:{away}")], cell_image="classical"),
        settings=SMALLEST["bc_sam"],
    )
    learned, held = read[:2]
    assert len({record.domain for record in learned}) == 2
    assert len(learned) + len(held) == 32 + 12
    assert all(len(record.before) == 1 for record in (*learned, *held))


# ------------------------------------------------------------------------------------------------------------ benchmark


def _bench(home: Path, out: Path, protocol: Any, **more: Any) -> Any:
    return benchmark(
        ["linear_probe"],
        f"folder:{home}",
        protocol=protocol,
        out=out,
        settings=SMALLEST["linear_probe"],
        **({"folds": 2, "cell_image": "classical"} | more),
    )


def _home_in_folds(home: Path, out: Path) -> tuple[tuple[int, ...], ...]:
    """Each fold's bundle on cell images cut by hand, added up."""
    cells = open_dataset(f"folder:{home}")
    total = np.zeros((4, 4), int)
    for number, (_, test) in enumerate(k_fold(cells, 2, seeded(0, "k_fold"))):
        bundle = open_bundle(out / "fits" / "linear_probe" / home.name / f"fold_{number}" / "bundle")
        assert bundle.manifest.before_graph[0].segmenter == "classical"
        assert bundle.seen.isdisjoint(test.contents)
        total += np.array(_confusion(bundle, test, _by_hand()))
    return tuple(map(tuple, total.tolist()))


def test_k_fold_and_cross_domain_cut_the_cells_out(home: Path, away: Path, tmp_path: Path) -> None:
    report = _bench(home, tmp_path / "run", "cross-domain", target_specs=[f"folder:{away}"])
    at_home, abroad = report.evaluations
    assert at_home.confusion == _home_in_folds(home, tmp_path / "run")
    total = np.zeros((4, 4), int)
    for number in range(2):
        bundle = open_bundle(tmp_path / "run" / "fits" / "linear_probe" / home.name / f"fold_{number}" / "bundle")
        total += np.array(_confusion(bundle, open_dataset(f"folder:{away}"), _by_hand()))
    assert abroad.confusion == tuple(map(tuple, total.tolist()))
    for card, n in zip(report.data, (32, 12), strict=True):
        assert any(f"cells cut out (classical): {n}" in note for note in card.notes), card.role


def test_k_shot_memorises_cell_images(home: Path, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hemalens.benchmark.protocols.laboratory as job

    seen: list[tuple[CellDataset, np.ndarray]] = []
    honest = job.embed

    def spy(encoder: Any, dataset: CellDataset) -> Any:
        found = honest(encoder, dataset)
        seen.append((dataset, found.embeddings))
        return found

    monkeypatch.setattr(job, "embed", spy)
    plan = KShotProtocol(shots=(1,), repeats=2)
    _bench(home, tmp_path / "run", "k-shot", target_specs=[f"folder:{away}"], plan=plan)
    bundle = open_bundle(tmp_path / "run" / "fits" / "linear_probe" / home.name / "whole" / "bundle")
    ((target, embeddings),) = seen
    wanted = _answers(bundle, [record.path for record in target.records], _by_hand(), "embedding")
    np.testing.assert_allclose(embeddings, wanted, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_bundles_that_want_other_images_do_not_stand_side_by_side(
    runs: Runs, home: Path, away: Path, tmp_path: Path
) -> None:
    cut = runs("linear_probe") / "bundle"
    train("linear_probe", f"folder:{home}", out=tmp_path / "whole", settings=SMALLEST["linear_probe"])
    with pytest.raises(ConfigError, match="prepare their images differently"):
        adapt(
            cut,
            out=tmp_path / "adapted",
            support=f"folder:{away}",
            options=AdaptOptions(beside=[tmp_path / "whole" / "bundle"]),
        )
    assert not (tmp_path / "adapted").exists()
    joined = adapt(
        cut, out=tmp_path / "joined", support=f"folder:{away}", options=AdaptOptions(beside=[runs("finetune") / "bundle"])
    )
    assert joined.manifest.before_graph == open_bundle(cut).manifest.before_graph


def test_an_unknown_segmenter_is_told_first(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no segmenter 'clasical'.*hemalens train bc_sam_segmenter"):
        benchmark(["linear_probe"], f"folder:{home}", protocol="k-fold", out=tmp_path / "b", cell_image="clasical")
    with pytest.raises(InputError, match="there is no segmenter 'clasical'"):
        train("linear_probe", f"folder:{home}", out=tmp_path / "run", options=TrainOptions(cell_image="clasical"))
    with pytest.raises(BundleError, match="segmenter"):
        train("linear_probe", f"folder:{home}", out=tmp_path / "run", options=TrainOptions(cell_image=str(home)))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "b").exists()


def test_a_run_with_another_segmenter_is_another_run(
    runs: Runs, home: Path, segmenter: TrainedSegmenter, tmp_path: Path
) -> None:
    for name in (None, str(segmenter.path)):
        with pytest.raises(OutputError, match="holds another run"):
            train(
                "linear_probe",
                f"folder:{home}",
                out=runs("linear_probe"),
                options=TrainOptions(test_fraction=0.25, cell_image=name),
                settings=SMALLEST["linear_probe"],
            )


# --------------------------------------------------------------------------------------------- with the centred crop


def _centred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return centred_crop(image, trained.finder().nucleus_of(image).spread, CentredCropConfig(extent=2.0)).pixels


@pytest.fixture(scope="module")
def centred(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run trained on centred crops of `home`, and what it said."""
    out, said = tmp_path_factory.mktemp("centred") / "run", list[str]()
    options = TrainOptions(test_fraction=0.25, cell_image="centred")
    smallest = SMALLEST["linear_probe"]
    with pytest.MonkeyPatch.context() as patch:
        trained.stand_in_detector(patch)
        train("linear_probe", f"folder:{home}", out=out, options=options, settings=smallest, say=said.append)
    return out, said


def test_a_bundle_trained_on_centred_crops_crops_wherever_it_is_used(
    centred: tuple[Path, list[str]], home: Path, away: Path, tmp_path: Path
) -> None:
    out, said = centred
    bundle = open_bundle(out / "bundle")
    assert bundle.manifest.before_graph == (CentredCropEntry(detector="detector.onnx", config=CentredCropConfig()),)
    outcomes = Counter(
        bundle.stages[0].make(image).outcome
        for image in (np.asarray(Image.open(path).convert("RGB")) for path in walk_files(home))
    )
    assert outcomes["no white cell"] >= 1
    (note,) = (text for text in said if text.startswith("home: cells cut out (centred): 32"))
    assert f"no cell found in {outcomes['no white cell']} image(s)" in note
    found, answers = _predicted(bundle.path, home, tmp_path / "answers.csv")
    _assert_predicted(answers, _answers(bundle, walk_files(home), _centred), found)
    assert found.cell_found["none"] == outcomes["no white cell"]
    assert found.cell_found["found"] == outcomes["cell"]
    (evaluation,) = evaluate(bundle.path, f"folder:{away}", out=tmp_path / "report").evaluations
    assert evaluation.confusion == _confusion(bundle, open_dataset(f"folder:{away}"), _centred)
    adapted = adapt(bundle.path, out=tmp_path / "adapted", support=f"folder:{away}")
    assert adapted.manifest.before_graph == bundle.manifest.before_graph
    _, answers = _predicted(adapted.path, away, tmp_path / "adapted.csv")
    np.testing.assert_allclose(answers, _answers(adapted, walk_files(away), _centred), atol=2e-6)


def test_a_benchmark_crops_too_and_an_adapted_bundle_stands_beside_no_other(
    centred: tuple[Path, list[str]], runs: Runs, home: Path, away: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        trained.stand_in_detector(patch)
        report = _bench(home, tmp_path / "run", "cross-domain", target_specs=[f"folder:{away}"], cell_image="centred")
    total = np.zeros((4, 4), int)
    for number in range(2):
        bundle = open_bundle(tmp_path / "run" / "fits" / "linear_probe" / home.name / f"fold_{number}" / "bundle")
        total += np.array(_confusion(bundle, open_dataset(f"folder:{away}"), _centred))
    assert report.evaluations[1].confusion == tuple(map(tuple, total.tolist()))
    with pytest.raises(ConfigError, match="prepare their images differently"):
        adapt(
            centred[0] / "bundle",
            out=tmp_path / "adapted",
            support=f"folder:{away}",
            options=AdaptOptions(beside=[runs("linear_probe") / "bundle"]),
        )


# ------------------------------------------------------------------------------------------- with a trained segmenter


def test_a_trained_segmenter_goes_along_in_the_bundle(
    home: Path, away: Path, segmenter: TrainedSegmenter, tmp_path: Path
) -> None:
    """Its folder may go: prediction and adaptation have it from the bundle."""
    folder = tmp_path / "segmenter"
    shutil.copytree(segmenter.path, folder)
    settings = SMALLEST["linear_probe"]
    train(
        "linear_probe",
        f"folder:{away}",
        out=tmp_path / "run",
        options=TrainOptions(test_fraction=0.0, cell_image=str(folder)),
        settings=settings,
    )
    (stage,) = cell_image_stages(str(segmenter.path))
    shutil.rmtree(folder)
    bundle = open_bundle(tmp_path / "run" / "bundle")
    assert bundle.manifest.before_graph[0].segmenter == "segmenter.onnx"
    assert "segmenter.onnx" in bundle.manifest.files
    assert bundle.stages[0].digest == stage.digest, "what is kept of its cell images is found again"
    found, said = _predicted(bundle.path, home / "monocyte", tmp_path / "answers.csv")
    _assert_predicted(said, _answers(bundle, walk_files(home / "monocyte"), stage), found)
    adapted = adapt(bundle.path, out=tmp_path / "adapted", support=f"folder:{away}")
    shutil.rmtree(tmp_path / "run")
    found, said = _predicted(adapted.path, home / "monocyte", tmp_path / "adapted.csv")
    _assert_predicted(said, _answers(adapted, walk_files(home / "monocyte"), stage), found)
