"""What is particular to `robust`: its switches, weights averaged and resumed, views and finer types in the graph."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

import trained
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.bundle import FINE, Bundle
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, ConfigError
from hemalens.graphs.build import cut, kind_of
from hemalens.graphs.cost import count_graph
from hemalens.inference.predictor import Predictor
from hemalens.methods import find_method
from hemalens.methods.robust import METHOD, RobustConfig, RobustModule
from hemalens.models.backbone import preprocessing_of
from hemalens.models.outline import OutlineNetwork, WithOutline, outline
from hemalens.runs.quantize import QuantizeOptions, quantize
from hemalens.training.checkpoints import SafetensorsCheckpointIO
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import resized_images
from hemalens.training.laboratory_augmentation import LaboratoryConfig
from hemalens.training.subclass_labels import FineLabels
from trained import Fitted

STILL = {"flip": False, "rotation_deg": 0.0, "zoom": 0.0}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Two epochs without an interruption."""
    return trained.fitted(tmp_path_factory, "robust")


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def _fit(unbroken: Fitted, run_dir: Path, train: CellDataset | None = None, **changes: Any) -> Bundle:
    """Trained on the same cells with changed settings, as three steps of eight images unless they say otherwise."""
    config = METHOD.config.from_mapping({**trained.ROBUST, **changes})
    given = {"validation": unbroken.validation, "auxiliary": {}, "config": config, "run_dir": run_dir}
    return METHOD.fit(train or unbroken.train, rng=np.random.default_rng(1), **given)


def _module(**changes: Any) -> RobustModule:
    config = RobustConfig.from_mapping({**trained.ROBUST, **changes})
    labels = FineLabels.none(("a", "b", "c"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=3)
    return RobustModule(network, preprocessing_of(config), config=config, labels=labels, seed=0)


def _run(bundle: Bundle, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), {"image": images}))


def _images(unbroken: Fitted, n: int = 3) -> np.ndarray:
    """Square images at the network's size, so that a turn of an image is a turn of what the network sees."""
    return np.stack([record.read()[:32, :32] for record in unbroken.validation.records[:n]])


def _same_weights(a: Path, b: Path) -> None:
    first, second = (load_file(p / "bundle" / "weights.safetensors") for p in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


# ---------------------------------------------------------------------------------------------------------- settings


def test_by_default_every_piece_is_on() -> None:
    config = RobustConfig()
    assert (config.backbone, config.weights, config.image_size_px) == ("tf_efficientnet_lite0", "package", 96)
    assert (config.views, config.outline_views) == (2, 4)
    assert (config.fine_labels, config.outline, config.white_balance) == (True, True, True)
    assert (config.optimiser.label_smoothing, config.optimiser.schedule, config.sampling) == (0.1, "cosine", "balanced")
    assert config.patience is None
    assert config.laboratory == LaboratoryConfig()
    assert config.augmentation.zoom == 0.3
    one = RobustConfig.load(overrides=["laboratory.jpeg=0", "augmentation.zoom=0.5"])
    assert one.laboratory == LaboratoryConfig(jpeg=0)
    assert one.augmentation.brightness == 0, "what a part does not name stays as it was"


@pytest.mark.parametrize(
    ("key", "value"),
    [("views", 3), ("min_fine_images", 0), ("norm", "batch"), ("weight_average", 0.9), ("background", 0.0)],
)
def test_a_setting_out_of_range_or_removed_is_an_error(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"key {key!r}"):
        RobustConfig.from_mapping({key: value})


OLD_SETTINGS: dict[str, Any] = {"norm": "batch", "weight_average": 0.99, "background": 0.0}


def test_a_manifest_with_removed_settings_at_their_only_values_is_read() -> None:
    written = RobustConfig.from_mapping(trained.ROBUST)
    assert RobustConfig.of_manifest(written.model_dump(mode="json") | OLD_SETTINGS) == written
    assert RobustConfig.of_manifest(written.model_dump(mode="json")) == written
    older = written.model_dump(mode="json")
    older["optimiser"]["cosine_from"] = older["pretraining"]["optimiser"]["cosine_from"] = "warmup"
    assert RobustConfig.of_manifest(older) == written
    older["optimiser"]["cosine_from"] = "start"
    with pytest.raises(BundleError, match="cosine_from=start"):
        RobustConfig.of_manifest(older)


@pytest.mark.parametrize(("key", "value"), [("norm", "group"), ("weight_average", 0.95), ("background", 0.5)])
def test_a_manifest_with_another_value_of_a_removed_setting_is_refused(key: str, value: object) -> None:
    with pytest.raises(BundleError, match=f"{key}={value}.*expected {key}={OLD_SETTINGS[key]}"):
        RobustConfig.of_manifest(OLD_SETTINGS | {key: value})
    with pytest.raises(ConfigError, match="manifest: unknown key 'normm'"):
        RobustConfig.of_manifest({"normm": "batch"})


def test_images_of_training_are_changed_and_those_of_validation_are_not(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        cells = training.dataset
        first, again, other = (cells[0, seed][0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.dtype == torch.uint8
        assert validation.dataset.augment is None
        raise KilledError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(KilledError):
        _fit(unbroken, tmp_path)


@pytest.mark.parametrize("white_balance", [True, False])
def test_with_white_balance_another_lamp_changes_no_answer(white_balance: bool) -> None:
    module = _module(white_balance=white_balance).eval()
    cell = torch.full((1, 3, 32, 32), 220.0)
    cell[:, :, 10:22, 10:22] = torch.tensor([90.0, 40.0, 120.0]).view(1, 3, 1, 1)
    lamp = torch.tensor([1.0, 0.8, 0.5]).view(1, 3, 1, 1)
    with torch.no_grad():
        plain, other = (module(light.round().to(torch.uint8)) for light in (cell, cell * lamp))
    assert torch.allclose(plain, other, atol=2e-2) == white_balance


# -------------------------------------------------------------------------------------------------- averaged weights


def _recorded(unbroken: Fitted, run_dir: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, Any]]:
    """The state of the learning network after every batch of a training."""
    states: list[dict[str, Any]] = []
    end = RobustModule.on_train_batch_end

    def record(self: RobustModule, *given: Any) -> None:
        end(self, *given)
        states.append({name: tensor.double().numpy().copy() for name, tensor in self.network.state_dict().items()})

    with monkeypatch.context() as patch:
        patch.setattr(RobustModule, "on_train_batch_end", record)
        _fit(unbroken, run_dir, **changes)
    return states


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_exported_weights_are_the_average_over_the_steps(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    # early in a training all steps weigh nearly the same at the default decay
    monkeypatch.setattr(RobustModule.__init__, "__kwdefaults__", {"decay": 0.7})
    changes = {"epochs": 1, "images_per_epoch": 32, "accumulate": accumulate}
    states = _recorded(unbroken, tmp_path, monkeypatch, **changes)[accumulate - 1 :: accumulate]
    assert len(states) == 4 // accumulate
    weights = np.array([0.7 ** (len(states) - 1 - s) for s in range(len(states))])
    weights /= weights.sum()
    exported = load_file(tmp_path / "bundle" / "weights.safetensors")
    assert exported.keys() == states[0].keys(), "by the names of timm's network, nothing else"
    for name, tensor in exported.items():
        if "num_batches" not in name:
            expected = sum(w * state[name] for w, state in zip(weights, states, strict=True))
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert any(np.abs(states[-1][name] - tensor.numpy()).max() > 1e-4 for name, tensor in exported.items())


def test_a_run_killed_within_an_epoch_ends_as_an_unbroken_one(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = RobustModule.on_train_batch_end

    def killed(self: RobustModule, outputs: Any, batch: Any, batch_index: int) -> None:
        if self.current_epoch == 1 and batch_index == 1:
            raise KilledError
        end(self, outputs, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(RobustModule, "on_train_batch_end", killed)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path)
    assert not (tmp_path / "bundle").exists()
    _fit(unbroken, tmp_path)
    _same_weights(tmp_path, unbroken.run_dir)
    ends = [
        SafetensorsCheckpointIO().load_checkpoint(p / "checkpoints" / "last.ckpt") for p in (tmp_path, unbroken.run_dir)
    ]
    first, second = (end["state_dict"] for end in ends)
    assert int(first["n_averaged"]) == int(second["n_averaged"])
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_average_answers_and_the_network_learns() -> None:
    module = _module()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        answered, learning = module.eval()(images), module.train()(images)
        head = module.network.get_classifier()
        torch.testing.assert_close(learning, head(CellClassifier.embed(module, module.pixels(images))))
        module.averaged.get_classifier().bias += 5
        torch.testing.assert_close(module.eval()(images), answered + 5)
    assert all(not parameter.requires_grad for parameter in module.averaged.parameters())


# ------------------------------------------------------------------------------------------------------------- views


@pytest.fixture(scope="module")
def eight(unbroken: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _fit(unbroken, tmp_path_factory.mktemp("eight"), epochs=1, views=8)


def test_with_eight_views_a_turned_or_mirrored_image_has_the_same_answer(unbroken: Fitted, eight: Bundle) -> None:
    images = _images(unbroken)
    logits, embedding = _run(eight, images, "logits", "embedding")
    for mirrored in (images, images[:, :, ::-1]):
        for quarter_turns in range(4):
            turned = np.ascontiguousarray(np.rot90(mirrored, quarter_turns, axes=(1, 2)))
            again, same = _run(eight, turned, "logits", "embedding")
            np.testing.assert_allclose(again, logits, atol=1e-4)
            np.testing.assert_allclose(same, embedding, atol=1e-4)


def test_the_answer_is_the_mean_over_the_views_by_timm_alone(unbroken: Fitted, eight: Bundle) -> None:
    network = timm.create_model("test_resnet", num_classes=4).eval()
    network.load_state_dict(load_file(eight.path / "weights.safetensors"), strict=True)
    stated = timm.get_pretrained_cfg("test_resnet")
    images = _images(unbroken)
    logits, embeddings = [], []
    for image in images:
        pixels = torch.from_numpy(((image / 255 - stated.mean) / stated.std).astype(np.float32)).permute(2, 0, 1)
        views = torch.stack([torch.rot90(side, k, (1, 2)) for side in (pixels, pixels.flip(2)) for k in range(4)])
        with torch.no_grad():
            logits.append(network(views).mean(dim=0).numpy())
            embeddings.append(network.forward_head(network.forward_features(views), pre_logits=True).mean(dim=0).numpy())
    found, embedding = _run(eight, images, "logits", "embedding")
    np.testing.assert_allclose(found * eight.manifest.temperature, logits, atol=1e-4)
    np.testing.assert_allclose(embedding, embeddings, atol=1e-4)


def test_views_cost_work_but_no_weights(unbroken: Fitted, eight: Bundle, tmp_path: Path) -> None:
    def size(bundle: Bundle) -> int:
        large = [numpy_helper.to_array(t).size for t in bundle.graph.graph.initializer]
        return sum(n for n in large if n > 8)

    one = _fit(unbroken, tmp_path, epochs=1, views=1)
    assert size(eight) == size(one)
    _same_weights(one.path.parent, eight.path.parent)
    for output, length in (("logits", 4), ("embedding", eight.manifest.embedding_size)):
        assert kind_of(eight.graph, output) == kind_of(one.graph, output) == (np.float32, (length,))
    counts = [count_graph(bundle.graph, 32) for bundle in (one, eight)]
    assert counts[1].macs == pytest.approx(8 * counts[0].macs, rel=0.01)
    assert counts[1].parameters == counts[0].parameters
    head_only = cut(eight.graph, ["embedding"], ["probabilities"])
    embedding, expected = _run(eight, _images(unbroken), "embedding", "probabilities")
    session = onnxruntime.InferenceSession(head_only.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"embedding": embedding})[0], expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ finer types


def _with_finer_types(dataset: CellDataset) -> CellDataset:
    """Every other neutrophil is banded, the rest segmented."""
    kinds = ("band_neutrophil", "segmented_neutrophil")
    records = tuple(
        replace(record, cell_type=kinds[i % 2]) if record.cell_type == "neutrophil" else record
        for i, record in enumerate(dataset.records)
    )
    finer = replace(dataset, records=records)
    finer.__dict__["contents"] = dataset.contents
    return finer


def _before_the_sum(graph: onnx.ModelProto) -> str:
    """The name of the fine logits: what is split into the types of each class, for the sums and for the shares."""
    (name,) = {str(node.input[0]) for node in graph.graph.node if node.op_type in ("Split", "SplitToSequence")}
    return name


def test_finer_types_are_learned_and_summed_up_in_the_graph(unbroken: Fitted, tmp_path: Path) -> None:
    train = _with_finer_types(unbroken.train)
    bundle = _fit(unbroken, tmp_path, train, epochs=1, min_fine_images=3)
    assert bundle.manifest.labels == unbroken.train.classes
    assert bundle.manifest.parity <= 1e-3
    head = timm.create_model("test_resnet", num_classes=5).get_classifier()
    exported = load_file(bundle.path / "weights.safetensors")
    head.load_state_dict({"weight": exported["fc.weight"], "bias": exported["fc.bias"]})
    embedding, probabilities, given_class = _run(bundle, _images(unbroken), "embedding", "probabilities", FINE)
    with torch.no_grad():
        fine = torch.softmax(head(torch.from_numpy(embedding)).double(), dim=1).numpy()
    labels = FineLabels.of(train, min_images=3)
    assert labels.outputs.count("band_neutrophil") == labels.outputs.count("segmented_neutrophil") == 1
    summed = np.stack([fine[:, labels.class_of_output == k].sum(axis=1) for k in range(4)], axis=1)
    powers = summed ** (1 / bundle.manifest.temperature)
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    assert _before_the_sum(bundle.graph)
    np.testing.assert_allclose(given_class, fine / summed[:, labels.class_of_output], atol=1e-5)
    assert tuple((entry.code, entry.of) for entry in bundle.manifest.fine) == labels.finer
    (band,) = [entry for entry in bundle.manifest.fine if entry.code == "band_neutrophil"]
    assert (band.name, band.of) == ("band neutrophil", "neutrophil")


def test_a_bundle_without_finer_types_does_not_speak_of_them(unbroken: Fitted) -> None:
    assert unbroken.bundle.manifest.fine == ()
    assert FINE not in [value.name for value in unbroken.bundle.graph.graph.output]


def test_classes_are_drawn_equally_often_whatever_their_number_of_types(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        targets = training.dataset.targets
        assert targets.max() == 4, "five outputs"
        classes = module.classes_of(targets)
        shares = [training.sampler.weights[classes == k].sum() for k in range(4)]
        np.testing.assert_allclose(shares, 1 / 4)
        assert validation.dataset.targets.max() == 3
        raise KilledError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(KilledError):
        _fit(unbroken, tmp_path, _with_finer_types(unbroken.train), min_fine_images=3)


def test_without_the_switch_only_the_classes_are_learned(
    unbroken: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(module: Any, training: Any, validation: Any, **more: Any) -> None:
        np.testing.assert_array_equal(training.dataset.targets, unbroken.train.targets)
        assert module.network.get_classifier().out_features == 4
        raise KilledError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    with pytest.raises(KilledError):
        _fit(unbroken, tmp_path, _with_finer_types(unbroken.train), min_fine_images=3, fine_labels=False)


def test_class_weights_weigh_classes_and_not_types() -> None:
    config = RobustConfig.from_mapping({**trained.ROBUST, "optimiser": {"label_smoothing": 0.0}})
    labels = FineLabels(("a", "b"), ("a", "x", "y"), (1, 2))
    network = timm.create_model("test_resnet", num_classes=3)
    module = RobustModule(network, preprocessing_of(config), config=config, labels=labels, seed=0).eval()
    targets = np.array([0, 0, 0, 0, 1, 2])
    module.weigh_classes(module.classes_of(targets))
    assert module.class_weights is not None
    np.testing.assert_allclose(module.class_weights.numpy(), [6 / (2 * 4), 6 / (2 * 2)])
    pixels = torch.rand(6, 3, 32, 32)
    with torch.inference_mode():
        loss = float(module.loss(pixels, torch.from_numpy(targets)))
        logits = CellClassifier.classify(module, module.embed(pixels)).double()
    log_p = torch.log_softmax(logits, dim=1).numpy()[np.arange(6), targets]
    weights = np.array([0.75] * 4 + [1.5] * 2)
    assert loss == pytest.approx(-(weights * log_p).sum() / weights.sum(), rel=1e-4)


# ----------------------------------------------------------------------------------------------------------- outlines

OUTLINED = {"outline": True, "min_fine_images": 3}
N_OUTPUTS = 5
"""Four classes, one of them as two types."""


@pytest.fixture(scope="module")
def outlined(unbroken: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two epochs with the outline network, and with finer types."""
    return _fit(unbroken, tmp_path_factory.mktemp("outlined"), _with_finer_types(unbroken.train), **OUTLINED)


def _state(run_dir: Path) -> dict[str, torch.Tensor]:
    state = SafetensorsCheckpointIO().load_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    assert isinstance(state, dict)
    return state


def _two_networks(bundle: Bundle) -> tuple[Any, OutlineNetwork]:
    """The averaged networks as they were trained, batch norms and all."""
    prefix, state = "averaged.", _state(bundle.path.parent)
    own = timm.create_model("test_resnet", num_classes=N_OUTPUTS)
    other = OutlineNetwork(n_classes=N_OUTPUTS, weights="none", seed=0)
    for name, network in (("network.", own), ("outlined.", other)):
        start = prefix + name
        network.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
    return own.eval(), other.eval()


def test_the_graph_answers_as_both_networks_do_by_themselves(unbroken: Fitted, outlined: Bundle) -> None:
    own, other = _two_networks(outlined)
    stated, images = timm.get_pretrained_cfg("test_resnet"), _images(unbroken)
    light = torch.from_numpy((images / 255).astype(np.float32)).permute(0, 3, 1, 2)
    normal = (light - torch.tensor(stated.mean).view(3, 1, 1)) / torch.tensor(stated.std).view(3, 1, 1)
    first, second = (own.forward_head(own.forward_features(normal), pre_logits=True), other.embed(outline(light)))
    with torch.no_grad():
        turned, mirrored = (normal, normal.flip(-1, -2)), (light, light.flip(-1, -2), light.flip(-1), light.flip(-2))
        colours = torch.stack([own.forward_head(own.forward_features(x), pre_logits=True) for x in turned]).mean(dim=0)
        outlines = torch.stack([other.embed(outline(x)) for x in mirrored]).mean(dim=0)
        logits = (own.get_classifier()(colours) + other.head(outlines)) / 2
        fine = torch.softmax(logits.double(), dim=1).numpy()
    assert first.shape[1] + second.shape[1] == outlined.manifest.embedding_size
    embedding, probabilities, within = _run(outlined, images, "embedding", "probabilities", FINE)
    np.testing.assert_allclose(embedding, torch.cat([colours, outlines], dim=1).numpy(), rtol=1e-3, atol=1e-3)
    labels = FineLabels.of(_with_finer_types(unbroken.train), min_images=3)
    summed = np.stack([fine[:, labels.class_of_output == k].sum(axis=1) for k in range(4)], axis=1)
    powers = summed ** (1 / outlined.manifest.temperature)
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(within, fine / summed[:, labels.class_of_output], atol=1e-3)
    assert outlined.manifest.parity <= 1e-3


def test_both_networks_have_learned(outlined: Bundle) -> None:
    start = OutlineNetwork(n_classes=N_OUTPUTS, weights="none", seed=int(np.random.default_rng(1).integers(2**31)))
    learned = _two_networks(outlined)[1].state_dict()
    for name, tensor in start.state_dict().items():
        if "num_batches" not in name:
            assert not torch.equal(tensor, learned[name]), name


def test_with_outlines_a_killed_run_ends_as_an_unbroken_one(
    unbroken: Fitted, outlined: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, train = RobustModule.on_train_batch_end, _with_finer_types(unbroken.train)

    def killed(self: RobustModule, outputs: Any, batch: Any, batch_index: int) -> None:
        if self.current_epoch == 1 and batch_index == 1:
            raise KilledError
        end(self, outputs, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(RobustModule, "on_train_batch_end", killed)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path, train, **OUTLINED)
    _fit(unbroken, tmp_path, train, **OUTLINED)
    first, second = _state(tmp_path), _state(outlined.path.parent)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_bundle_with_outlines_is_adapted_to_labelled_cells(
    unbroken: Fitted, outlined: Bundle, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    for rule in ("base", "prototype"):
        made = adapt(outlined.path, out=tmp_path / rule, support=spec, options=AdaptOptions(few_shot=[f"rule={rule}"]))
        assert made.manifest.parity <= 1e-3
        assert all(p.error is None for p in Predictor(made).predict(unbroken.validation.records))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_bundle_with_outlines_is_made_smaller(
    outlined: Bundle, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, precision: Any
) -> None:
    spec = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    small = quantize(
        outlined.path, spec, out=tmp_path / precision, precision=precision, options=QuantizeOptions(n_images=12)
    )
    assert len(small.graph_bytes) < 0.7 * len(outlined.graph_bytes)
    told = small.manifest.quantisation
    assert told is not None
    assert told.agreement >= (0.7 if precision == "int8" else 0.99)


@pytest.mark.parametrize("method", ["finetune", "robust"])
def test_another_training_goes_on_from_the_colours_of_a_bundle_with_outlines(
    unbroken: Fitted, outlined: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    expected = load_file(outlined.path / "weights.safetensors")

    def seen(module: Any, *given: Any, **more: Any) -> None:
        network = module.network.network if method == "robust" else module.network
        for name, tensor in network.state_dict().items():
            assert name.startswith("fc.") or torch.equal(tensor, expected[name]), name
        norms = [part for part in module.network.modules() if isinstance(part, nn.BatchNorm2d)]
        assert {part.momentum for part in norms} == {0.1}, "averages that follow within tens of steps"
        raise KilledError

    monkeypatch.setattr("hemalens.training.fit.train", seen)
    small = trained.SETTINGS[method] | ({"outline": True} if method == "robust" else {})
    chosen = find_method(method)
    config = chosen.config.from_mapping({**small, "weights": str(outlined.path)})
    given = {"validation": unbroken.validation, "auxiliary": {}, "config": config, "run_dir": tmp_path}
    with pytest.raises(KilledError):
        chosen.fit(unbroken.train, rng=np.random.default_rng(1), **given)


def _with_outline(decay: float = 0.99, **changes: Any) -> RobustModule:
    config = RobustConfig.from_mapping({**trained.ROBUST, "outline": True, **changes})
    preprocessing, labels = preprocessing_of(config), FineLabels.none(("a", "b", "c"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=3)
    both = WithOutline(network, OutlineNetwork(n_classes=3, weights="none", seed=0), preprocessing)
    return RobustModule(both, preprocessing, config=config, labels=labels, seed=0, decay=decay)


def test_the_loss_is_the_sum_of_both_networks_losses() -> None:
    module = _with_outline(views=1, optimiser={"label_smoothing": 0.0}).eval()
    pixels = module.pixels(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    targets = torch.tensor([0, 1, 2, 1])
    with torch.inference_mode():
        each = module.served.logits_of_each(module.embed(pixels))
        expected = sum(float(nn.functional.cross_entropy(logits, targets)) for logits in each)
        assert float(module.loss(pixels, targets)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_after_training_the_network_that_answers_has_no_batch_norm_for_outlines(decay: float) -> None:
    module = _with_outline(decay=decay).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        before = module(images)
        module.after_training()
        torch.testing.assert_close(module(images), before, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.served.outlined.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in module.served.network.modules())


PREDICTS = """
import sys
from pathlib import Path
from hemalens.bundle.bundle import open_bundle
from hemalens.inference.predictor import Predictor
found = list(Predictor(open_bundle(Path(sys.argv[1]))).predict([Path(p) for p in sys.argv[2:]]))
assert all(p.error is None for p in found), found
print(*sorted({"torch", "torchvision", "timm", "lightning"} & set(sys.modules)))
"""


def test_predicting_with_outlines_needs_no_torch(unbroken: Fitted, outlined: Bundle) -> None:
    paths = [str(record.path) for record in unbroken.validation.records[:2]]
    command = [sys.executable, "-c", PREDICTS, str(outlined.path), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# ------------------------------------------------------------------------------------------------------------ nothing


def test_with_everything_off_the_network_learns_as_in_finetune(unbroken: Fitted, tmp_path: Path) -> None:
    """To the same weights, from the same seed and the same draws; the average beside it changes nothing."""
    shared = {**trained.ROBUST, "epochs": 1, "augmentation": STILL | {"brightness": 0.0, "contrast": 0.0}}
    shared["augmentation"] |= {"saturation": 0.0, "hue": 0.0}
    off = {"views": 1, "fine_labels": False, "laboratory": LaboratoryConfig.none().model_dump()}
    of_robust = ("views", "outline_views", "outline", "white_balance")
    plain = {name: value for name, value in shared.items() if name not in of_robust} | {"patience": 1}
    finetune = find_method("finetune")
    _fit(unbroken, tmp_path / "robust", **{**shared, **off})
    given = {"validation": unbroken.validation, "auxiliary": {}, "config": finetune.config.from_mapping(plain)}
    finetune.fit(unbroken.train, rng=np.random.default_rng(1), run_dir=tmp_path / "finetune", **given)
    learned = _state(tmp_path / "robust")
    exported = load_file(tmp_path / "finetune" / "bundle" / "weights.safetensors")
    for name, tensor in exported.items():
        torch.testing.assert_close(learned[f"network.{name}"], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_the_history_has_a_line_an_epoch(unbroken: Fitted) -> None:
    rows = [json.loads(line) for line in (unbroken.run_dir / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all(0 <= row["val_balanced_accuracy"] <= 1 for row in rows)


def test_the_graph_s_pixels_are_those_of_the_reference(unbroken: Fitted, tmp_path: Path) -> None:
    """Parity over all validation images, not a few training ones only."""
    bundle = unbroken.bundle
    module = _module()
    network = timm.create_model("test_resnet", num_classes=4).eval()
    network.load_state_dict(load_file(bundle.path / "weights.safetensors"))
    module.averaged, module.labels = network, FineLabels.none(unbroken.train.classes)
    resized = resized_images(unbroken.validation, bundle.manifest.preprocessing, tmp_path / "none.npy")
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(resized)).numpy()
    for record, logits in zip(unbroken.validation.records, expected, strict=True):
        found = _run(bundle, record.read()[None], "logits")[0][0] * bundle.manifest.temperature
        np.testing.assert_allclose(found, logits, atol=1e-3)
