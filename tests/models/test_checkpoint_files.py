"""Weights in other files: a checkpoint runs no code, torchvision's names become timm's, torchvision's initialisation."""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import pytest
import timm
import torch
import torchvision

from hemalens.errors import ConfigError, WeightsError
from hemalens.models.backbone import BackboneConfig, create_backbone, loss_head
from hemalens.models.checkpoint_files import initialise_as_torchvision, read_state_dict, with_timm_names

RAN: list[str] = []


class Noisy(torch.nn.Module):
    """An object that notices when a file makes it: by its reduction, its constructor, or its state."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, ("made",), {"layer": torch.zeros(1)}

    def __setstate__(self, state: object) -> None:
        RAN.append("state")


def _made(what: str) -> Noisy:
    RAN.append(what)
    return Noisy()


def test_a_lightning_checkpoint_gives_its_tensors_and_runs_nothing(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2)}
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    content = {"state_dict": state, "hyper_parameters": {"noisy": Noisy(), "backbone": network}, "epoch": 5}
    torch.save(content, tmp_path / "last.ckpt")
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    found = read_state_dict(tmp_path / "last.ckpt")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in state.items()}
    assert RAN == []
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert RAN == ["made", "state"], "otherwise it would run"
    assert set(torch.serialization.get_safe_globals()) == allowed, "nothing stays allowed"


def test_other_files_may_not_name_objects(tmp_path: Path) -> None:
    RAN.clear()
    torch.save({"state_dict": {"a": torch.ones(1)}, "noisy": Noisy()}, tmp_path / "last.pth")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK not a checkpoint")
    for name, got in (("last.pth", "other objects than tensors"), ("damaged.ckpt", "ValueError: Expected input")):
        message = rf"cannot read the weights in .*{name}'; expected .* Lightning checkpoint, .ckpt; got {got}"
        with pytest.raises(WeightsError, match=message):
            read_state_dict(tmp_path / name)
    assert RAN == []


def _with_pickle(path: Path, content: bytes) -> Path:
    """A file of torch whose pickle is `content`."""
    torch.save({"state_dict": {"a": torch.ones(1)}}, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, content if name.endswith("/data.pkl") else whole.read(name))
    return path


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
@pytest.mark.parametrize(
    "opcodes",
    {
        "a blocked module": b"cos\nmkdir\nPLACE\x85R.",
        "a builtin": b"c__builtin__\nexec\nCODE\x85R.",
        "a class with a state": b"cevil\nA\n)\x81}PLACEK\x01sb.",
        "a placeholder that is called": b"cevil\nA\n)R)R.",
        "a placeholder of entries": b"cevil\nA\n)RK\x01K\x01s.",
        "a placeholder as tensors": b"}X\x0a\x00\x00\x00state_dictcevil\nA\n)Rs.",
        "a placeholder that rebuilds": b"ctorch._tensor\n_rebuild_from_type_v2\n(cevil\nA\ncevil\nA\n)}tR.",
        "a persistent object": b"PLACEQ.",
        "the opcode of instances": b"(PLACEios\nmkdir\n.",
        "a name from the stack": b"\x8c\x02os\x8c\x05mkdir\x93PLACE\x85R.",
    }.items(),
    ids=lambda item: item[0] if isinstance(item, tuple) else item,
)
def test_no_opcode_runs_anything(
    suffix: str, opcodes: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a pickle names is neither called nor imported: it would make a folder."""
    made, package = tmp_path / "made", tmp_path / "evil.py"
    package.write_text(f"import os; os.mkdir({str(made)!r})\nclass A: pass\n")

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    code = text(f"__import__('os').mkdir({str(made)!r})")
    pickle = opcodes[1].replace(b"PLACE", text(str(made))).replace(b"CODE", code)
    path = _with_pickle(tmp_path / f"bad{suffix}", b"\x80\x02" + pickle)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match="cannot read the weights in"):
        read_state_dict(path)
    assert not made.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_only_plain_numbers_are_taken(suffix: str, tmp_path: Path) -> None:
    """A tensor may repeat one number so often that a copy of it fills the memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantised tensors
        cases = {
            r"strided, \(1000000000000,\)": torch.zeros(1).expand(10**12),
            r"strided, \(4,\)": torch.zeros(4, device="meta"),
            r"sparse_coo, \(3,\)": torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True),
            r"strided, \(3,\)": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        }
        for got, tensor in cases.items():
            torch.save({"state_dict": {"a": torch.ones(1), "b": tensor}}, tmp_path / f"bad{suffix}")
            with pytest.raises(WeightsError, match=f"cannot use the weights in .*; expected dense tensors.*got 'b': {got}"):
                read_state_dict(tmp_path / f"bad{suffix}")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b1"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_torchvision_s_network_embeds_the_same_under_timm_s_names(name: str, prefix: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)().train()
        images = torch.rand(4, 3, 64, 64)
        with torch.no_grad():
            network(images)  # running statistics of its own
    network.eval()
    torch.save({prefix + key: tensor for key, tensor in network.state_dict().items()}, tmp_path / "theirs.pth")
    config = BackboneConfig(backbone=name, weights=str(tmp_path / "theirs.pth"))
    with torch.no_grad():
        expected = torch.flatten(network.avgpool(network.features(images)), 1)
        found = create_backbone(config)(images)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    head = loss_head(config)
    assert torch.equal(head["weight"], network.classifier[1].weight)
    assert torch.equal(head["bias"], network.classifier[1].bias)


def test_weights_of_another_network_keep_their_names() -> None:
    body = timm.create_model("test_resnet", num_classes=0).state_dict()
    for state in (dict(body), torchvision.models.efficientnet_b0().state_dict(), {}):
        assert with_timm_names(state, body) == dict(state)


def test_without_a_file_there_is_no_head() -> None:
    assert loss_head(BackboneConfig(backbone="efficientnet_b0", weights="none")) == {}


def test_initialisation_is_torchvision_s() -> None:
    """Deviations of every layer kind; a depthwise one is smaller than timm's by the root of its channels."""
    network = create_backbone(BackboneConfig(backbone="efficientnet_b0", weights="none"), n_classes=50)
    state = torch.get_rng_state()
    initialise_as_torchvision(network, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    wide = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.numel() > 4000]
    assert any(m.groups > 1 for m in wide)
    for layer in wide:
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (kernel * layer.out_channels)), rel=0.06)
    head = network.get_classifier()  # type: ignore[operator]
    assert head.weight.abs().max().item() == pytest.approx(50**-0.5, rel=0.01)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)
    again = create_backbone(BackboneConfig(backbone="efficientnet_b0", weights="none"), n_classes=50)
    initialise_as_torchvision(again, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_stochastic_depth_rises_to_the_last_block_and_is_refused_where_a_network_has_none() -> None:
    network: Any = create_backbone(BackboneConfig(backbone="efficientnet_b0", weights="none"), stochastic_depth=0.32)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in network.blocks for block in stage]
    assert rates == pytest.approx([0.02 * i for i in range(16)])
    with pytest.raises(ConfigError, match=r"'vgg11' has no stochastic depth; got 0\.2\. Use --set stochastic_"):
        create_backbone(BackboneConfig(backbone="vgg11", weights="none"), stochastic_depth=0.2)
