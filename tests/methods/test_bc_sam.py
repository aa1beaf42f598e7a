"""BC-SAM: what it needs, what its latents are, what it has seen without labels, and every head that goes on top."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from sklearn.ensemble import RandomForestClassifier

import trained
from hemalens import predict, train
from hemalens.adaptation.adapt import adapt
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.bundle.segmenter import TrainedSegmenter
from hemalens.bundle.stages import CellImageStage, ClassicalSegmenter
from hemalens.classifiers.heads import HEADS, HeadKind, make_head
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.errors import BundleError, ConfigError, InputError, SplitError
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import Evaluation
from hemalens.imaging.segmentation import CellImageConfig, cell_image, cut_source, segment_cell
from hemalens.inference.predictor import Predictor
from hemalens.methods.bc_sam import METHOD, BCSamConfig, cell_images, feature_graph
from hemalens.models.autoencoder import CellAutoencoder
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.runs.evaluate import evaluate as evaluate_job
from hemalens.runs.train import TrainOptions

SMALL_AUTOENCODER = (
    "autoencoder.epochs=1",
    "autoencoder.batch_size=8",
    "autoencoder.side_px=32",
    "autoencoder.decoder_width=0.05",
    "autoencoder.precision=fp32",
    "autoencoder.optimiser.warmup_steps=1",
)
BACKBONE = ("backbone=test_resnet", "weights=none", "image_size_px=96")
TIMM = ("features=timm", "segmenter=classical", "head=lr", *BACKBONE, *SMALL_AUTOENCODER)
LATENT = 50


@pytest.fixture(scope="module")
def lab_a(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory, "lab_a")


@pytest.fixture(scope="module")
def lab_b(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory, "lab_b")


@pytest.fixture(scope="module")
def parts(lab_a: CellDataset) -> tuple[CellDataset, CellDataset]:
    """24 images for training, 8 for calibration, two of each class."""
    held = np.arange(len(lab_a)) % 4 == 0
    return lab_a.subset(np.flatnonzero(~held)), lab_a.subset(np.flatnonzero(held))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Other cells of lab_a, seen by no model."""
    folder = tmp_path_factory.mktemp("fresh")
    synthesize(folder / "cells", n_per_class=2, seed=77, laboratories=("lab_a",), cell_types=trained.CELL_TYPES)
    return f"synthetic:{folder / 'cells' / 'lab_a'}"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> TrainedSegmenter:
    return trained.segmenter(tmp_path_factory)


def _fit(
    train_part: CellDataset,
    validation: CellDataset | None,
    run_dir: Path,
    *settings: str,
    auxiliary: Mapping[str, CellDataset] | None = None,
) -> Bundle:
    config = BCSamConfig.load(None, settings)
    rng = np.random.default_rng(1)
    return METHOD.fit(train_part, validation=validation, auxiliary=auxiliary or {}, config=config, rng=rng, run_dir=run_dir)


@pytest.fixture(scope="module")
def across(parts: tuple[CellDataset, CellDataset], lab_b: CellDataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Learned from lab_a with labels and from lab_b without them, under the published discrepancy."""
    return _fit(*parts, tmp_path_factory.mktemp("across"), *TIMM, auxiliary={"unlabelled": lab_b})


def _embedded(bundle: Bundle, cells: CellDataset) -> np.ndarray:
    found = list(Predictor(bundle, embeddings=True).predict(cells.records))
    return np.stack([p.embedding for p in found if p.embedding is not None])


def _tested(bundle: Bundle, cells: CellDataset) -> Evaluation:
    return evaluate([bundle], [cells], target=cells, source_name="lab_a", seed=0)


def _encoder(bundle: Bundle, channels: int) -> Callable[[np.ndarray], np.ndarray]:
    """Feature maps (n, c, h, w) to latents by torch, with the weights that the bundle keeps."""
    weights = load((bundle.path / "weights.safetensors").read_bytes())
    network = CellAutoencoder(channels, latent_size=LATENT, side_px=32, decoder_width=0.05)
    network.load_state_dict(weights, strict=True)
    network.eval()

    def encode(maps: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network.encoder(torch.from_numpy(maps.astype(np.float16).astype(np.float32))).numpy()

    return encode


# ---------------------------------------------------------------------------------------------------- what it asks for


def test_the_published_settings_are_the_default() -> None:
    config = BCSamConfig()
    assert (config.features, config.head, config.margin_px, config.background) == ("segmenter", "ann", 10, 128)
    autoencoder, optimiser = config.autoencoder, config.autoencoder.optimiser
    assert (autoencoder.latent_size, autoencoder.side_px, autoencoder.decoder_width) == (50, 128, 1.0)
    assert (autoencoder.mmd, autoencoder.mmd_weight) == ("linear", 5.0)
    assert (autoencoder.epochs, autoencoder.batch_size) == (10, 128)
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.warmup_steps) == (5e-4, 0.05, 500)
    changed = BCSamConfig.load(None, ["autoencoder.optimiser.warmup_steps=1"]).autoencoder.optimiser
    assert (changed.learning_rate, changed.warmup_steps) == (5e-4, 1), "a setting leaves the others as they are"


def test_the_cell_image_is_as_large_as_what_the_autoencoder_draws() -> None:
    config = BCSamConfig.load(None, ["autoencoder.side_px=64", "margin_px=3", "background=7"])
    way = {"cut_from": "resized", "connectivity": 4, "resampling": "spline"}
    assert config.cell_image == CellImageConfig(size_px=64, margin_px=3, background=7, **way)
    ours = BCSamConfig.load(None, ["cut_from=original", "connectivity=8", "resampling=bicubic"])
    assert ours.cell_image == CellImageConfig()


@pytest.mark.parametrize("settings", [(), ("segmenter=classical",), ("features=timm",)], ids=["none", "no map", "no cells"])
def test_without_a_segmenter_one_line_names_both_ways_out(
    parts: tuple[CellDataset, CellDataset], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """The published features need a trained one; the cell images need any."""
    with pytest.raises(ConfigError) as raised:
        _fit(*parts, tmp_path / "run", *BACKBONE, *SMALL_AUTOENCODER, "autoencoder.mmd=none", *settings)
    text = str(raised.value)
    assert text.startswith("bc_sam needs a segmenter; expected the folder of a fine-tuned Segment Anything")
    assert "`hemalens train bc_sam_segmenter`" in text
    assert "--set segmenter=FOLDER" in text
    assert "--set features=timm --set segmenter=classical" in text
    assert "\n" not in text
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_segmenter_that_is_not_there_is_named(parts: tuple[CellDataset, CellDataset], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(BundleError, match=r"there is no segmenter folder '.*gone'"):
        _fit(*parts, tmp_path / "run", *TIMM, "autoencoder.mmd=none", "features=segmenter", f"segmenter={gone}")
    with pytest.raises(InputError, match=r"there is no segmenter '.*gone'; .*known: classical"):
        _fit(*parts, tmp_path / "run", *TIMM, "autoencoder.mmd=none", f"segmenter={gone}")


@pytest.mark.parametrize("mmd", ["linear", "rbf"])
def test_a_discrepancy_needs_a_second_domain(
    parts: tuple[CellDataset, CellDataset], tmp_path: Path, mmd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.methods.bc_sam.feature_maps", _never)
    with pytest.raises(ConfigError, match=r"needs images of two domains or more; got one: '?lab_a'?") as raised:
        _fit(*parts, tmp_path / "run", *TIMM, f"autoencoder.mmd={mmd}")
    assert "--aux unlabelled=SPEC" in str(raised.value)
    assert "--set autoencoder.mmd=none" in str(raised.value)


def _never(*given: object, **more: object) -> None:
    raise AssertionError("this was to be found out before")


@pytest.mark.parametrize(
    ("settings", "auxiliary", "message"),
    [
        ((), ("unlabeled",), r"one kind of auxiliary data; expected unlabelled; got unlabeled"),
        ((), ("unlabelled", "generic"), r"got generic"),
        (("head=anm",), (), r"unknown head 'anm'. did you mean 'ann'"),
    ],
)
def test_an_unknown_role_or_head_is_told_before_anything_is_computed(
    parts: tuple[CellDataset, CellDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    settings: tuple[str, ...],
    auxiliary: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("hemalens.methods.bc_sam.feature_maps", _never)
    more = dict.fromkeys(auxiliary, parts[1])
    with pytest.raises(ConfigError, match=message):
        _fit(*parts, tmp_path / "run", *TIMM, *settings, auxiliary=more)


def test_a_feature_map_too_small_says_what_to_do(parts: tuple[CellDataset, CellDataset], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"feature map is too small .*got 2x2.*image_size_px"):
        _fit(*parts, tmp_path / "run", *TIMM, "autoencoder.mmd=none", "image_size_px=64")


# --------------------------------------------------------------------------------------- what was seen without labels


def test_the_bundle_says_what_it_saw_without_labels(
    across: Bundle, parts: tuple[CellDataset, CellDataset], lab_b: CellDataset
) -> None:
    assert [(entry.role, entry.name) for entry in across.manifest.data] == [
        ("train", "lab_a"),
        ("validation", "lab_a"),
        ("auxiliary", "lab_b"),
    ]
    assert across.manifest.data[-1].fingerprint == lab_b.fingerprint
    assert across.seen_unlabelled == set(lab_b.contents)
    assert across.seen == {*parts[0].contents, *parts[1].contents}
    assert across.manifest.labels == parts[0].classes
    assert across.manifest.config["autoencoder"]["mmd"] == "linear"


@pytest.mark.usefixtures("undrawn")
def test_a_test_on_images_seen_without_labels_is_transductive(
    across: Bundle, lab_b: CellDataset, fresh: str, tmp_path: Path
) -> None:
    seen = _tested(across, lab_b)
    assert seen.transductive
    assert seen.name == "bc_sam: lab_a -> lab_b (transductive)"
    other = _tested(across, open_dataset(fresh))
    assert not other.transductive
    assert other.name == "bc_sam: lab_a -> lab_a"
    one = _tested(across, lab_b.subset(range(0, 32, 3)))
    assert one.transductive, "one such image is enough"
    report = evaluate_job(across.path, fresh, out=tmp_path / "report")
    assert "(transductive)" not in (tmp_path / "report" / "report.md").read_text()
    assert not report.evaluations[0].transductive


@pytest.mark.usefixtures("undrawn")
def test_the_report_of_a_saved_bundle_says_transductive(
    across: Bundle, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    report = evaluate_job(across.path, spec, out=tmp_path / "report")
    assert report.evaluations[0].name.endswith("(transductive)")
    for name in ("report.md", "report.html"):
        assert "(transductive)" in (tmp_path / "report" / name).read_text(), name


def test_an_adapted_bundle_has_still_seen_what_its_base_saw(
    across: Bundle, fresh: str, lab_b: CellDataset, tmp_path: Path
) -> None:
    adapted = adapt(across.path, out=tmp_path / "adapted", support=fresh)
    assert adapted.seen_unlabelled == across.seen_unlabelled
    assert _tested(adapted, lab_b).transductive


def test_labels_of_the_unlabelled_images_are_never_looked_at(
    across: Bundle, parts: tuple[CellDataset, CellDataset], lab_b: CellDataset, tmp_path: Path
) -> None:
    """Gone or shuffled: the same graph, and so a second run gives the first one's."""
    order = np.random.default_rng(3).permutation(len(lab_b))
    said = [(lab_b.records[i].label, lab_b.records[i].source_label) for i in order]
    cases = {
        "gone": tuple(replace(r, label=None, source_label="", cell_type=None) for r in lab_b.records),
        "shuffled": tuple(
            replace(r, label=label, source_label=source) for r, (label, source) in zip(lab_b.records, said, strict=True)
        ),
    }
    for name, records in cases.items():
        classes = () if name == "gone" else lab_b.classes
        other = replace(lab_b, records=records, classes=classes)
        bundle = _fit(*parts, tmp_path / name, *TIMM, auxiliary={"unlabelled": other})
        assert bundle.graph == across.graph, name


def test_what_it_saw_without_labels_does_change_the_latents(
    across: Bundle, parts: tuple[CellDataset, CellDataset], lab_b: CellDataset, tmp_path: Path
) -> None:
    alone = _fit(*parts, tmp_path / "alone", *TIMM, "autoencoder.mmd=none")
    assert alone.seen_unlabelled == frozenset()
    assert not _tested(alone, lab_b).transductive
    assert np.abs(_embedded(alone, parts[1]) - _embedded(across, parts[1])).max() > 1e-4


@pytest.mark.usefixtures("undrawn")
def test_train_takes_unlabelled_sets_by_role(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, fresh: str, lab_b: CellDataset
) -> None:
    """Several in one role are one; where tested images are among them, the report says so."""
    cells = trained.cells(tmp_path_factory)
    spec = f"synthetic:{cells / 'lab_a'}"
    both = [("unlabelled", f"synthetic:{cells / 'lab_b'}"), ("unlabelled", fresh)]
    report = train("bc_sam", spec, out=tmp_path / "run", options=TrainOptions(auxiliary_specs=both), settings=TIMM)
    bundle = open_bundle(tmp_path / "run" / "bundle")
    assert bundle.seen_unlabelled == {*lab_b.contents, *open_dataset(fresh).contents}
    assert [entry.name for entry in bundle.manifest.data if entry.role == "auxiliary"] == ["lab_b", "lab_a"]
    assert [(card.role, card.n_images) for card in report.data] == [
        ("train, validation and test", 32),
        ("auxiliary, unlabelled", 40),
    ]
    assert not report.evaluations[0].transductive
    told = train(
        "bc_sam",
        spec,
        out=tmp_path / "told",
        options=TrainOptions(auxiliary_specs=[("unlabelled", spec)]),
        settings=[*TIMM, "autoencoder.mmd=none"],
    )
    assert told.evaluations[0].transductive
    assert told.evaluations[0].name.endswith("(transductive)")


# -------------------------------------------------------------------------------------------------------- the latents


def _maps_by_timm(cells: CellDataset) -> np.ndarray:
    """Feature maps by timm and Pillow, without any graph of the package."""
    import timm

    network = create_backbone(BackboneConfig(backbone="test_resnet", weights="none", image_size_px=96)).eval()
    stated = timm.get_pretrained_cfg("test_resnet")
    rows = []
    for record in cells.records:
        small = Image.open(record.path).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
        pixels = (np.asarray(small, np.float32) / 255 - stated.mean) / stated.std
        with torch.no_grad():
            found = network.forward_features(torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None])
        rows.append(found.numpy()[0])
    return np.stack(rows)


def test_the_embedding_is_the_latent_of_the_trained_encoder(across: Bundle, parts: tuple[CellDataset, CellDataset]) -> None:
    """Recomputed with timm, Pillow and torch: within what one gray level and 16 bits change."""
    found = _embedded(across, parts[1])
    assert across.manifest.embedding_size == LATENT
    assert found.shape == (8, LATENT)
    assert (found >= 0).all()
    assert found.std(axis=0).max() > 1e-3, "not the same for every image"
    maps = _maps_by_timm(parts[1])
    wanted = _encoder(across, maps.shape[1])(maps)
    assert np.abs(found - wanted).max() < 0.01 * float(wanted.max())


@pytest.fixture
def trained_before(across: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoencoder of `across` in the place of training one."""
    weights = load((across.path / "weights.safetensors").read_bytes())

    def known(pairs: Any, config: Any, run_dir: Path) -> CellAutoencoder:
        channels = pairs.maps.shape[1]
        network = CellAutoencoder(channels, latent_size=LATENT, side_px=32, decoder_width=0.05)
        network.load_state_dict(weights, strict=True)
        return network.eval()

    monkeypatch.setattr("hemalens.methods.bc_sam.fit_autoencoder", known)


@pytest.fixture(scope="module")
def embedded_once(across: Bundle, lab_a: CellDataset) -> np.ndarray:
    """The latents of lab_a, which are the same under every head."""
    return _embedded(across, lab_a)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_served_as_it_was_learned(
    lab_a: CellDataset,
    lab_b: CellDataset,
    trained_before: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    embedded_once: np.ndarray,
    head: str,
) -> None:
    """The same head on the bundle's own embeddings, and its parity as the manifest has it."""
    # the published forest, exported in tests of the heads, is as slow as all the rest
    small = HeadKind(lambda seed: RandomForestClassifier(10, max_depth=16, random_state=seed), "a small forest")
    monkeypatch.setitem(HEADS, "rf", small)
    bundle = _fit(lab_a, None, tmp_path, *TIMM, f"head={head}", auxiliary={"unlabelled": lab_b})
    assert bundle.manifest.parity <= 1e-3
    assert bundle.manifest.temperature == 1.0
    assert bundle.manifest.config["head"] == head
    few = lab_b.subset(range(0, 32, 4))
    again = make_head(head, seed=int(np.random.default_rng(1).integers(2**31)))
    again.fit(embedded_once, lab_a.targets)
    found = list(Predictor(bundle, embeddings=True).predict(few.records))
    expected = np.asarray(again.predict_proba(np.stack([p.embedding for p in found])))
    assert np.abs(np.stack([p.probabilities for p in found]) - expected).max() <= 2e-3


def test_a_head_that_needs_more_images_says_so(
    parts: tuple[CellDataset, CellDataset], lab_b: CellDataset, trained_before: None, tmp_path: Path
) -> None:
    """Three inner folds of two images a class."""
    few = parts[1]
    with pytest.raises(
        SplitError, match=r"the head 'svm_rbf' cannot learn from 8 images of 4 classes; got .*--set head=lr"
    ):
        _fit(few, None, tmp_path / "run", *TIMM, "head=svm_rbf", auxiliary={"unlabelled": lab_b})
    assert not (tmp_path / "run" / "bundle").exists()


def test_prediction_and_evaluation_say_the_same(across: Bundle, fresh: str, tmp_path: Path) -> None:
    predict(across.path, fresh, out=tmp_path / "answers.csv")
    cells = open_dataset(fresh)
    labels = across.manifest.labels
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        said = [row["label"] for row in csv.DictReader(file)]
    counts = np.zeros((4, 4), int)
    for record, label in zip(cells.records, said, strict=True):
        counts[labels.index(str(record.label)), labels.index(label)] += 1
    assert _tested(across, cells).confusion == tuple(map(tuple, counts.tolist()))


def test_nothing_of_the_feature_maps_stays_behind(
    parts: tuple[CellDataset, CellDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large sets lie in files while it learns; gigabytes of them are not to stay beside the bundle."""
    monkeypatch.setattr("hemalens.files.MAX_RAM_BYTES", 0)
    _fit(*parts, tmp_path, *TIMM, "autoencoder.mmd=none")
    assert {entry.name for entry in tmp_path.iterdir()} == {"bundle", "checkpoints", "history.jsonl"}


def test_what_is_drawn_are_cells_cut_out_of_the_images_on_disk(lab_a: CellDataset) -> None:
    """Also where the images themselves are read through a stage."""
    config = BCSamConfig.load(None, [*TIMM, "margin_px=4", "background=9"]).cell_image
    stage = CellImageStage(ClassicalSegmenter(), config)
    records = lab_a.subset([0, 11]).through((stage,)).records
    cut, outcomes = cell_images(records, stage)
    assert sum(outcomes.values()) == len(records)
    assert cell_images(records, stage)[1] == outcomes, "from the cache"
    for row, record in zip(cut, records, strict=True):
        image = np.asarray(Image.open(record.path).convert("RGB"))
        source = cut_source(image, config)
        assert source.shape == (224, 224, 3)
        np.testing.assert_array_equal(row, cell_image(source, segment_cell(source).cell, config).pixels)


# --------------------------------------------------------------------------------------- with a segmenter of one's own


def test_the_features_of_a_trained_segmenter(
    segmenter: TrainedSegmenter, parts: tuple[CellDataset, CellDataset], lab_b: CellDataset, fresh: str, tmp_path: Path
) -> None:
    """From end to end as published; the bundle needs the segmenter's folder no more."""
    folder = tmp_path / "segmenter"
    shutil.copytree(segmenter.path, folder)
    few = lab_b.subset(range(0, 32, 4))
    settings = (f"segmenter={folder}", "head=lr", *SMALL_AUTOENCODER)
    bundle = _fit(parts[1], None, tmp_path / "run", *settings, auxiliary={"unlabelled": few})
    assert bundle.manifest.config["features"] == "segmenter"
    shutil.rmtree(folder)
    bundle = open_bundle(bundle.path)
    assert bundle.manifest.preprocessing == segmenter.manifest.preprocessing
    assert bundle.manifest.before_graph == ()
    assert "segmenter.onnx" not in bundle.manifest.files
    found = predict(bundle.path, fresh, out=tmp_path / "answers.csv")
    assert (found.n_rows, found.n_unreadable, found.cell_found) == (8, 0, {})
    session = onnxruntime.InferenceSession(segmenter.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = np.concatenate([session.run(["full_map"], {"image": record.read()[None]})[0] for record in few.records])
    assert maps.shape[1:] == (96, 4, 4)
    embedded = _embedded(bundle, few)
    np.testing.assert_allclose(embedded, _encoder(bundle, 96)(maps), atol=1e-3)
    assert (embedded >= 0).all()


def test_a_feature_map_is_kept_in_16_bits(segmenter: TrainedSegmenter, lab_a: CellDataset) -> None:
    config = BCSamConfig.load(None, [f"segmenter={segmenter.path}"])
    session = onnxruntime.InferenceSession(feature_graph(config).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["feature_map"], {"image": lab_a.records[0].read()[None]})
    assert (found.dtype, found.shape) == (np.float16, (1, 96, 4, 4))
