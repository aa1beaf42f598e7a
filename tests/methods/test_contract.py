"""What every method keeps, over the table of methods; outputs are recomputed here from the trained parts."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar

import trained
from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, InputError, ParityError
from hemalens.inference.predictor import Predictor
from hemalens.methods import METHODS, Method, find_method
from trained import Fitted

TINY_AUTOENCODER = {
    "mmd": "none",
    "epochs": 1,
    "batch_size": 8,
    "side_px": 32,
    "decoder_width": 0.05,
    "precision": "fp32",
    "optimiser": {"learning_rate": 5e-4, "warmup_steps": 1, "label_smoothing": 0.0, "gradient_clip": None},
}
BC_SAM = {
    **trained.PROBE,
    "image_size_px": 96,
    "features": "timm",
    "segmenter": "classical",
    "head": "lr",
    "autoencoder": TINY_AUTOENCODER,
}
"""The smallest whose feature map, 3x3, the autoencoder can take."""
trained.SETTINGS.setdefault("bc_sam", BC_SAM)


@pytest.fixture(params=list(METHODS))
def fit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, request.param)


def _served(bundle: Bundle, cells: CellDataset) -> np.ndarray:
    return np.stack([p.probabilities for p in Predictor(bundle).predict(cells.records) if p.probabilities is not None])


def _digests(datasets: Iterable[CellDataset]) -> set[str]:
    return {hashlib.sha256(r.path.read_bytes()).hexdigest() for images in datasets for r in images.records}


def _logits(bundle: Bundle, cells: CellDataset) -> np.ndarray:
    """The graph's calibrated logits, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": r.read()[None]})[0] for r in cells.records])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _again(fit: Fitted, run_dir: Path, *, seed: int = 1, **changes: object) -> Bundle:
    config = fit.method.config.from_mapping({**fit.config.model_dump(exclude_defaults=True), **changes})
    rng = np.random.default_rng(seed)
    more = dict(fit.auxiliary)
    return fit.method.fit(fit.train, validation=fit.validation, auxiliary=more, config=config, rng=rng, run_dir=run_dir)


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_of_the_table_is_a_method_of_that_name(name: str) -> None:
    method = find_method(name)
    assert isinstance(method, Method)
    assert method.name == name
    assert method.summary
    assert issubclass(method.config, StrictConfig)
    method.config()  # the defaults are complete


def test_an_unknown_method_shows_the_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown method 'finetun'. did you mean 'finetune'"):
        find_method("finetun")


def test_the_bundle_reopens_where_it_was_asked_to_be(fit: Fitted) -> None:
    again = open_bundle(fit.run_dir / "bundle")
    assert again.manifest == fit.bundle.manifest
    assert again.manifest.method == fit.method.name
    assert again.manifest.schema_version == 2


def test_the_labels_are_the_classes_of_the_training_data_in_their_order(fit: Fitted) -> None:
    assert fit.bundle.manifest.labels == fit.train.classes
    assert fit.bundle.manifest.label_map == fit.train.label_map
    assert len(fit.train.classes) == len(trained.CELL_TYPES)


def test_the_manifest_says_what_it_learned_from(fit: Fitted) -> None:
    labelled = {role.name for role in fit.method.roles if role.labelled}
    learned = {"train": [fit.train], "validation": [fit.validation], "pretraining": [], "auxiliary": []}
    for name, images in fit.auxiliary.items():
        learned["pretraining" if name in labelled else "auxiliary"].append(images)
    expected = [(role, images) for role, datasets in learned.items() for images in datasets]
    assert [entry.role for entry in fit.bundle.manifest.data] == [role for role, _ in expected]
    for entry, (_, images) in zip(fit.bundle.manifest.data, expected, strict=True):
        assert entry.fingerprint == images.fingerprint
        assert entry.class_counts == images.class_counts
        assert entry.synthetic == images.synthetic
        assert entry.licence == images.licence
    without_labels = learned.pop("auxiliary")
    assert fit.bundle.seen == _digests(images for datasets in learned.values() for images in datasets)
    assert fit.bundle.seen_unlabelled == _digests(without_labels)


def test_the_manifest_holds_a_configuration_that_gives_the_same_method_again(fit: Fitted) -> None:
    manifest = fit.bundle.manifest
    assert fit.method.config.model_validate_json(json.dumps(manifest.config)) == fit.config
    assert {"numpy", "onnxruntime", "timm", "torch"} <= set(manifest.versions)
    embedding = next(Predictor(fit.bundle, embeddings=True).predict(fit.train.records[:1])).embedding
    assert embedding is not None
    assert embedding.shape == (manifest.embedding_size,)


def test_parity_is_measured_and_small(fit: Fitted) -> None:
    assert 0 <= fit.bundle.manifest.parity <= 1e-3


def _features_by_torch(cells: CellDataset, backbone: str, size_px: int, seed: int) -> np.ndarray:
    """Embeddings by timm and Pillow, without any of the package's own graphs."""
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(backbone, pretrained=False, num_classes=0).eval()
    stated = timm.get_pretrained_cfg(backbone)
    rows = []
    for record in cells.records:
        small = Image.open(record.path).convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR)
        pixels = (np.asarray(small, np.float32) / 255 - stated.mean) / stated.std
        with torch.no_grad():
            rows.append(network(torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]).numpy()[0])
    return np.stack(rows)


def test_linear_probe_serves_what_scikit_learn_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The head is learned here anew, from embeddings by timm and Pillow: within what one gray level changes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = trained.fitted(tmp_path_factory, "linear_probe")
    learn, held = (_features_by_torch(cells, "test_resnet", 64, seed=0) for cells in (fit.train, fit.validation))
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(learn, fit.train.targets)
    p = np.asarray(head.predict_proba(held))
    logits = np.log(p) / fit.bundle.manifest.temperature
    assert np.abs(_served(fit.bundle, fit.validation) - _softmax(logits)).max() < 0.03
    np.testing.assert_array_equal(_served(fit.bundle, fit.validation).argmax(axis=1), p.argmax(axis=1))


def test_linear_probe_serves_what_its_own_head_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same head on the bundle's own embeddings: within 1e-3."""
    from hemalens.classifiers.heads import make_head

    fit = trained.fitted(tmp_path_factory, "linear_probe")
    predictor = Predictor(fit.bundle, embeddings=True)
    learn, held = (np.stack([p.embedding for p in predictor.predict(c.records)]) for c in (fit.train, fit.validation))
    head = make_head("lr", seed=int(np.random.default_rng(1).integers(2**31)))
    head.fit(learn, fit.train.targets)
    logits = np.log(np.asarray(head.predict_proba(held), np.float64)) / fit.bundle.manifest.temperature
    assert np.abs(_served(fit.bundle, fit.validation) - _softmax(logits)).max() <= 1e-3


def test_finetune_serves_what_torch_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    """timm's network with the bundle's weights, on pixels that the resize of the bundle gave: within 1e-3."""
    import timm
    import torch
    from safetensors.torch import load

    from hemalens.training.data import resized_images

    fit = trained.fitted(tmp_path_factory, "finetune")
    network = timm.create_model("test_resnet", num_classes=len(fit.train.classes)).eval()
    network.load_state_dict(load((fit.bundle.path / "weights.safetensors").read_bytes()), strict=True)
    stated = timm.get_pretrained_cfg("test_resnet")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (stated.mean, stated.std))
    resized = resized_images(fit.validation, fit.bundle.manifest.preprocessing, fit.run_dir / "none.npy")
    with torch.no_grad():
        logits = network((torch.from_numpy(resized).float() - mean) / std).numpy()
    expected = _softmax(logits / fit.bundle.manifest.temperature)
    assert np.abs(_served(fit.bundle, fit.validation) - expected).max() <= 1e-3


def test_the_temperature_is_the_one_that_fits_the_validation_part_best(fit: Fitted) -> None:
    fitted_temperature = fit.bundle.manifest.temperature
    assert 0.05 <= fitted_temperature <= 20
    raw = _logits(fit.bundle, fit.validation).astype(np.float64) * fitted_temperature
    rows = np.arange(len(fit.validation))

    def loss(log_t: float) -> float:
        likelihood = np.log(_softmax(raw / np.exp(log_t))[rows, fit.validation.targets] + 1e-300).sum()
        return float(log_t**2 / 2 - likelihood)  # the standard normal prior of log T

    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    assert loss(np.log(fitted_temperature)) <= float(best.fun) + 1e-3


def test_the_same_seed_gives_the_same_predictions(fit: Fitted, tmp_path: Path) -> None:
    again = _again(fit, tmp_path / "run")
    np.testing.assert_allclose(_served(again, fit.validation), _served(fit.bundle, fit.validation), atol=1e-5)


@pytest.mark.slow
def test_another_seed_gives_another_fine_tuned_network(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    fit = trained.fitted(tmp_path_factory, "finetune")
    other = _again(fit, tmp_path / "run", seed=2, epochs=1)
    same = _again(fit, tmp_path / "again", seed=1, epochs=1)
    assert np.abs(_logits(other, fit.validation) - _logits(same, fit.validation)).max() > 1e-4


def test_nothing_but_the_bundle_and_the_record_of_the_training_is_left(fit: Fitted) -> None:
    left = {entry.name for entry in fit.run_dir.iterdir()}
    trained_network = set() if fit.method.name == "linear_probe" else {"checkpoints", "history.jsonl"}
    uses_masks = fit.method.name in ("combined_network", "mask_augmentation")
    assert left == {"bundle"} | trained_network | ({"masks.json"} if uses_masks else set())
    assert {entry.suffix for entry in fit.run_dir.rglob("*")}.isdisjoint({".pkl", ".pickle", ".joblib", ".pt", ".pth"})
    assert {entry.name for entry in fit.bundle.path.iterdir()} == {MANIFEST, *fit.bundle.manifest.files}


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_is_strict(name: str) -> None:
    config = find_method(name).config
    with pytest.raises(ConfigError, match=r"unknown key 'bacbone'. did you mean 'backbone'"):
        config.from_mapping({"bacbone": "test_resnet"})
    with pytest.raises(ConfigError, match=r"key 'seed'.*got '1'"):
        config.from_mapping({"seed": "1"})


def test_auxiliary_data_of_a_role_it_does_not_know_are_refused(fit: Fitted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auxiliary data"):
        fit.method.fit(
            fit.train,
            validation=fit.validation,
            auxiliary={**fit.auxiliary, "generic": fit.validation},
            config=fit.config,
            rng=np.random.default_rng(0),
            run_dir=tmp_path,
        )


def test_an_export_that_does_not_reproduce_the_model_fails(
    fit: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another temperature in the graph than in the model stands for any fault of the export."""
    from hemalens.graphs.build import temperature_graph

    def faulty(n_classes: int, temperature: float) -> onnx.ModelProto:
        return temperature_graph(n_classes, temperature * 3 + 1)

    for module in ("hemalens.graphs.build", "hemalens.bundle.export"):
        monkeypatch.setattr(f"{module}.temperature_graph", faulty, raising=False)
    changes = {"epochs": 1} if "epochs" in fit.method.config.model_fields else {}
    with pytest.raises(ParityError, match=r"expected probabilities within 0.001; got a difference of 0\.\d+"):
        _again(fit, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "bundle").exists()


def test_linear_probe_without_a_validation_part_is_not_calibrated(tmp_path_factory: pytest.TempPathFactory) -> None:
    fit = trained.fitted(tmp_path_factory, "linear_probe")
    run_dir = tmp_path_factory.mktemp("run")
    bundle = fit.method.fit(
        fit.train, validation=None, auxiliary={}, config=fit.config, rng=np.random.default_rng(1), run_dir=run_dir
    )
    assert bundle.manifest.temperature == 1.0
    assert [entry.role for entry in bundle.manifest.data] == ["train"]


@pytest.mark.parametrize("name", ["linear_probe", "bloodshot"])
def test_a_method_that_learns_from_labels_alone_takes_no_unlabelled_images(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str
) -> None:
    fit = trained.fitted(tmp_path_factory, name)
    with pytest.raises(ConfigError, match="no auxiliary data"):
        fit.method.fit(
            fit.train,
            validation=fit.validation,
            auxiliary={"unlabelled": fit.validation},
            config=fit.config,
            rng=np.random.default_rng(0),
            run_dir=tmp_path,
        )


@pytest.mark.parametrize("name", ["finetune", "bloodshot", "mask_augmentation", "combined_network"])
def test_a_trained_network_without_a_validation_part_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    fit = trained.fitted(tmp_path_factory, name)
    with pytest.raises(ConfigError, match=f"{name} needs a validation part"):
        fit.method.fit(
            fit.train,
            validation=None,
            auxiliary=fit.auxiliary,
            config=fit.config,
            rng=np.random.default_rng(1),
            run_dir=tmp_path_factory.mktemp("run"),
        )


@pytest.mark.parametrize("name", METHODS)
def test_a_further_set_that_a_method_needs_is_asked_for(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    fit = trained.fitted(tmp_path_factory, name)
    needed = [role.name for role in fit.method.roles if role.required]
    assert set(fit.auxiliary) == set(needed)
    for missing in needed:
        with pytest.raises(ConfigError, match=f"got no {missing}"):
            fit.method.fit(
                fit.train,
                validation=fit.validation,
                auxiliary={role: images for role, images in fit.auxiliary.items() if role != missing},
                config=fit.config,
                rng=np.random.default_rng(1),
                run_dir=tmp_path_factory.mktemp("run"),
            )


def test_the_bundle_holds_no_pickle(fit: Fitted) -> None:
    for file in fit.bundle.path.iterdir():
        if file.suffix == ".npz":
            # an object array, the only one that numpy pickles, would be refused
            with np.load(file, allow_pickle=False) as arrays:
                assert all(array.dtype != object for array in arrays.values())
            continue
        start = file.read_bytes()[:4]
        # a pickle of protocol 2 or newer, or a zip as torch writes it
        assert not start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), file.name
    assert io.BytesIO(fit.bundle.graph_bytes).read(1) == b"\x08", "an ONNX model begins with its IR version"
