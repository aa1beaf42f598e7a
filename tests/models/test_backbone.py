"""Backbones: weights that are what they are said to be, the preprocessing they want, the same numbers as ONNX."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import trained
from hemalens.cache import damage_notes, forget_damage
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, WeightsError
from hemalens.graphs.build import digest
from hemalens.imaging.reading import Preprocessing
from hemalens.models import backbone as module
from hemalens.models.backbone import (
    WHEELS,
    BackboneConfig,
    create_backbone,
    frozen_graph,
    packaged_weights,
    preprocessing_of,
    weights_digest,
    weights_file,
)
from hemalens.models.export import to_onnx

TINY = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


def _tiny(name: str = "test_resnet", **more: Any) -> BackboneConfig:
    return BackboneConfig.from_mapping({"backbone": name, "weights": "none", **more})


def _weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.float().flatten() for tensor in network.state_dict().values()])


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("backbone", WHEELS)
def test_the_packaged_weights_fill_the_whole_network_in_order(backbone: str) -> None:
    """The wheels have names of their own: what timm's tensors get is checked by shape and by kind of tensor."""
    stored = torch.load(packaged_weights(backbone), map_location="cpu", weights_only=True)
    network = timm.create_model(backbone, pretrained=False)
    ours = create_backbone(BackboneConfig(backbone=backbone), n_classes=0).state_dict()
    names = list(network.state_dict())
    assert len(stored) == len(names)
    for name, (own_name, tensor) in zip(names, stored.items(), strict=True):
        assert name.rpartition(".")[2] == own_name.rpartition(".")[2], "a weight for a weight, a mean for a mean"
        if name in ours:
            assert torch.equal(ours[name], tensor)
    assert set(names) - set(ours) == {"classifier.weight", "classifier.bias"}


def test_the_packaged_weights_are_of_some_backbones_only() -> None:
    with pytest.raises(WeightsError, match=f"weights for 'resnet18'.*{' or '.join(WHEELS)}"):
        packaged_weights("resnet18")


def test_every_packaged_backbone_sees_its_pixels_as_it_was_trained() -> None:
    for backbone, size in (("tf_efficientnet_lite0", 224), ("tf_efficientnet_lite2", 260)):
        wanted = preprocessing_of(BackboneConfig(backbone=backbone))
        assert (wanted.size_px, wanted.mean, wanted.std) == (size, (127.0,) * 3, (128.0,) * 3)


def test_another_head_keeps_the_body_and_is_random_by_the_seed() -> None:
    a, b, c = (create_backbone(BackboneConfig(seed=s), n_classes=5) for s in (0, 0, 1))
    assert torch.equal(_weights(a), _weights(b))
    body = create_backbone(BackboneConfig()).state_dict()
    state, other = a.state_dict(), c.state_dict()
    assert all(torch.equal(state[name], tensor) and torch.equal(other[name], tensor) for name, tensor in body.items())
    assert state["classifier.weight"].shape == (5, 1280)
    assert not torch.equal(state["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize(
    ("name", "suffix", "with_head"),
    [
        *itertools.product(["test_resnet"], [".safetensors", ".pth"], [True, False]),
        *((name, ".safetensors", True) for name in TINY[1:]),
    ],
)
def test_weights_of_a_file_are_loaded_strictly(tmp_path: Path, *, name: str, suffix: str, with_head: bool) -> None:
    torch.manual_seed(11)
    source = timm.create_model(name, num_classes=1000 if with_head else 0)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source.state_dict()}, file)
    else:
        save_file({key: tensor.contiguous() for key, tensor in source.state_dict().items()}, file)
    body = timm.create_model(name, num_classes=0).state_dict()
    for n_classes in (0, 3):
        loaded = create_backbone(_tiny(name, weights=str(file)), n_classes=n_classes)
        state = loaded.state_dict()
        assert all(torch.equal(state[key], source.state_dict()[key]) for key in body)
        assert not loaded.training


def test_a_missing_or_foreign_tensor_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    first = next(iter(state))
    cases = {
        "missing": {key: tensor for key, tensor in state.items() if key != first},
        "shape": {**state, first: torch.zeros(1)},
        "foreign": {**state, "layer9.weight": torch.zeros(1)},
    }
    for case, given in cases.items():
        torch.save(given, tmp_path / f"{case}.pth")
        n_wrong, n_foreign = (0, 1) if case == "foreign" else (1, 0)
        named = "layer9.weight" if case == "foreign" else first
        message = f"{n_wrong} missing or of another shape, {n_foreign} unknown, first: {named}"
        with pytest.raises(WeightsError, match=message):
            create_backbone(_tiny(weights=str(tmp_path / f"{case}.pth")))


class Payload:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a weights file was run')",)


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"cannot read the weights in '.*evil.pth'"):
        create_backbone(_tiny(weights=str(tmp_path / "evil.pth")))


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = create_backbone(_tiny(), n_classes=4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = create_backbone(_tiny(), n_classes=4)
    assert torch.equal(_weights(a), _weights(b))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    assert not torch.equal(_weights(a), _weights(create_backbone(_tiny(seed=1), n_classes=4)))


def test_an_unknown_backbone_shows_the_near_ones() -> None:
    for call in (create_backbone, preprocessing_of):
        with pytest.raises(ConfigError, match=r"unknown backbone 'tf_efficientnet_lite'.*'tf_efficientnet_lite[0-4]'"):
            call(BackboneConfig(backbone="tf_efficientnet_lite", weights="none"))


def test_the_digest_of_the_weights_changes_with_them(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    digests = {weights_digest(_tiny()), weights_digest(_tiny(seed=1)), weights_digest(BackboneConfig())}
    for fill in (0.0, 1.0):  # the same name, another content
        save_file({"w": torch.full((2,), fill)}, file)
        os.utime(file, (1e9 + fill, 1e9 + fill))  # two writes within one tick of the file system's clock look alike
        digests.add(weights_digest(_tiny(weights=str(file))))
    assert len(digests) == 5
    with pytest.raises(WeightsError, match="there is no weights file"):
        weights_digest(_tiny(weights=str(tmp_path / "gone.pth")))


@pytest.mark.parametrize("method", ["finetune", "bloodshot"])
def test_weights_may_be_a_bundle_whose_head_is_left_behind(tmp_path_factory: pytest.TempPathFactory, method: str) -> None:
    """That of Bloodshot is a loss, with names of its own."""
    folder = trained.fitted(tmp_path_factory, method).bundle.path
    learned = load_file(folder / "weights.safetensors")
    assert any(name.startswith(("fc.", "head.")) for name in learned)
    by_folder, by_file = (_tiny(weights=str(path)) for path in (folder, folder / "weights.safetensors"))
    for n_classes in (0, 7):
        state = create_backbone(by_folder, n_classes=n_classes).state_dict()
        body = {name for name in state if not name.startswith("fc.")}
        assert body < set(learned)
        assert all(torch.equal(state[name], learned[name]) for name in body)
        assert (set(state) - body == {"fc.weight", "fc.bias"}) is (n_classes > 0)
        other = create_backbone(by_file, n_classes=n_classes).state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_a_bundle_of_another_network_or_without_weights_is_refused(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = trained.fitted(tmp_path_factory, "finetune").bundle.path
    with pytest.raises(WeightsError, match=r"the weights in '.*bundle' do not fit 'test_efficientnet'"):
        create_backbone(_tiny("test_efficientnet", weights=str(folder)))
    probe = trained.fitted(tmp_path_factory, "linear_probe").bundle.path
    for call in (create_backbone, weights_digest):
        with pytest.raises(WeightsError, match=r"there is no weights file '.*'; expected FILE, a bundle's folder, package"):
            call(_tiny(weights=str(probe)))
    with pytest.raises(WeightsError, match="there is no weights file"):
        create_backbone(_tiny(weights=str(tmp_path / "nowhere")))


def test_the_file_behind_a_name(tmp_path: Path) -> None:
    assert [weights_file(name) for name in ("package", "hub", "hub:tv_in1k", "none")] == [None] * 4
    assert weights_file(str(tmp_path)) == tmp_path / "weights.safetensors"
    assert weights_file(str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"


def test_a_tag_names_weights_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:

    asked: list[str] = []
    honest = timm.create_model

    def create(name: str, *, pretrained: bool = False, **more: Any) -> Any:
        if pretrained:
            asked.append(name)
        return honest(name.partition(".")[0], **more)

    monkeypatch.setattr(timm, "create_model", create)
    create_backbone(BackboneConfig(backbone="resnet10t", weights="hub"))
    create_backbone(BackboneConfig(backbone="resnet10t", weights="hub:c3_in1k"))
    assert asked == ["resnet10t", "resnet10t.c3_in1k"]
    # another tag, another normalisation
    first, second = (BackboneConfig(backbone="tf_efficientnet_b0", weights=f"hub:{tag}") for tag in ("in1k", "ap_in1k"))
    assert preprocessing_of(first).mean != preprocessing_of(second).mean
    with pytest.raises(ConfigError, match=r"timm has no weights 'tv1k' of 'resnet18'; expected one of a1_in1k"):
        preprocessing_of(BackboneConfig(backbone="resnet18", weights="hub:tv1k"))


def test_a_configuration_is_also_the_content_of_its_weights(tmp_path: Path) -> None:
    for name in ("none", "package", "hub", "hub:tv_in1k"):
        assert BackboneConfig(weights=name).file_digests() == {}, "what the name alone says"
    file = tmp_path / "weights.safetensors"
    found = []
    for fill in (0.0, 1.0):
        save_file({"w": torch.full((2,), fill)}, file)
        os.utime(file, (1e9 + fill, 1e9 + fill))
        digest_of_file = hashlib.sha256(file.read_bytes()).hexdigest()
        for named in (file, tmp_path):
            assert _tiny(weights=str(named)).file_digests() == {"weights": digest_of_file}
        found.append(digest_of_file)
    assert found[0] != found[1]


# ---------------------------------------------------------------------------------------------------- preprocessing


def test_the_packaged_backbone_wants_127_and_128() -> None:
    expected = Preprocessing(size_px=224, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    assert preprocessing_of(BackboneConfig()) == expected
    assert preprocessing_of(BackboneConfig(image_size_px=128)).size_px == 128


@pytest.mark.parametrize("name", [*TINY, "resnet18", "tf_efficientnet_b0"])
def test_the_others_want_what_timm_states(name: str) -> None:
    stated = timm.get_pretrained_cfg(name)
    got = preprocessing_of(BackboneConfig(backbone=name, weights="none"))
    assert got.size_px == stated.input_size[1]
    np.testing.assert_allclose(got.mean, np.array(stated.mean) * 255)
    np.testing.assert_allclose(got.std, np.array(stated.std) * 255)


def test_a_network_of_one_size_says_so() -> None:
    assert preprocessing_of(_tiny("test_vit", image_size_px=160)).size_px == 160
    with pytest.raises(ConfigError, match="'test_vit' takes images of one size only; expected image_size_px=160; got 96"):
        preprocessing_of(_tiny("test_vit", image_size_px=96))


@pytest.mark.parametrize("size", [0, 15, 2049])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"key 'image_size_px'.*got {size}"):
        _tiny(image_size_px=size)


# ------------------------------------------------------------------------------------------------------------ graph


@pytest.mark.parametrize("name", TINY)
def test_embeddings_of_torch_and_onnx_agree(cells: CellDataset, tmp_path: Path, name: str) -> None:
    """Against timm on Pillow's resize, normalised by hand: the whole graph, preprocessing included."""
    config = _tiny(name)
    session = onnxruntime.InferenceSession(
        frozen_graph(config, tmp_path).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    network, wanted = create_backbone(config), preprocessing_of(config)
    for record in cells.records[::11]:
        image = record.read()
        small = np.asarray(Image.fromarray(image).resize((wanted.size_px,) * 2, Image.Resampling.BILINEAR), np.float32)
        pixels = (small - np.array(wanted.mean, np.float32)) / np.array(wanted.std, np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(pixels.transpose(2, 0, 1))[None]).numpy()
        (got,) = session.run(["embedding"], {"image": image[None]})
        assert got.shape == (1, network.num_features)
        # what one gray level in the resize can do
        assert np.abs(got - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("name", TINY)
def test_the_exported_network_is_the_network(name: str) -> None:
    config = _tiny(name)
    network, size = create_backbone(config), preprocessing_of(config).size_px
    graph = to_onnx(network, preprocessing_of(config), ["embedding"])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels).numpy()
    (got,) = session.run(["embedding"], {"pixels": pixels.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-3)


def test_exporting_leaves_the_network_as_it_was() -> None:
    network = create_backbone(_tiny()).train()
    before = _weights(network).clone()
    to_onnx(network, Preprocessing(size_px=32), ["embedding"])
    assert network.training
    assert torch.equal(_weights(network), before)


def test_a_frozen_graph_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = frozen_graph(_tiny(image_size_px=32), tmp_path)
    monkeypatch.setattr(module, "create_backbone", None)  # making it again would fail
    assert digest(frozen_graph(_tiny(image_size_px=32), tmp_path)) == digest(first)


def test_a_frozen_graph_is_kept_under_everything_that_shapes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def n_kept(**more: Any) -> int:
        frozen_graph(_tiny(more.pop("name", "test_resnet"), image_size_px=more.pop("size", 32), **more), tmp_path)
        return len(list((tmp_path / "graphs").iterdir()))

    assert [n_kept(), n_kept(), n_kept(seed=1), n_kept(size=48), n_kept(name="test_efficientnet")] == [1, 1, 2, 3, 4]
    # a release of this program that resizes in another way
    make = module.resize_graph

    def other_resize(preprocessing: Preprocessing) -> onnx.ModelProto:
        model = make(preprocessing)
        (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
        next(a for a in resize.attribute if a.name == "antialias").i = 0
        return model

    monkeypatch.setattr(module, "resize_graph", other_resize)
    assert n_kept() == 5


def _zero_a_weight(file: Path) -> None:
    graph = onnx.load_model(file)
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    onnx.save_model(graph, file)


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(file.read_bytes()[:5000]), _zero_a_weight])
def test_a_damaged_graph_in_the_cache_is_made_anew(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    first = frozen_graph(_tiny(image_size_px=32), tmp_path)
    (file,) = (tmp_path / "graphs").iterdir()
    forget_damage()
    harm(file)
    again = frozen_graph(_tiny(image_size_px=32), tmp_path)
    assert digest(again) == digest(first)
    assert not again.metadata_props, "graphs of other digests can be joined to it"
    assert damage_notes() == [f"a damaged network in the cache was made anew: '{file}'"]
    forget_damage()
    frozen_graph(_tiny(image_size_px=32), tmp_path)
    assert damage_notes() == []
