"""What learns of a ResNet-18 and what stays as it is, by name, and after real steps of the optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import pytest
import timm
import torch

from hemalens.errors import ConfigError
from hemalens.imaging.reading import Preprocessing
from hemalens.models.freezing import freeze, freeze_first_blocks, open_last_stages
from hemalens.training.classifier import CellClassifier
from hemalens.training.module import OptimiserConfig

BLOCKS = [f"layer{stage}.{block}." for stage in (1, 2, 3, 4) for block in (0, 1)]
STEM, HEAD = ("conv1.", "bn1."), ("fc.",)


@pytest.fixture
def network() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("resnet18", num_classes=3)


def _learning(network: torch.nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def _under(network: torch.nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in network.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("n_blocks", range(8))
def test_the_stem_and_the_first_blocks_are_frozen(network: Any, n_blocks: int) -> None:
    freeze_first_blocks(network, n_blocks)
    everything = _under(network, "")
    frozen = _under(network, *STEM, *BLOCKS[:n_blocks]) if n_blocks else set()
    assert _learning(network) == everything - frozen
    if n_blocks == 1:
        assert {name.rpartition(".")[0] for name in frozen} == {
            *("conv1", "bn1"),
            *(f"layer1.0.{part}" for part in ("conv1", "bn1", "conv2", "bn2")),
        }


@pytest.mark.parametrize("n_stages", range(5))
def test_the_last_stages_and_the_head_are_open(network: Any, n_stages: int) -> None:
    """A stage is two residual blocks; the stem is the first of the five."""
    open_last_stages(network, n_stages)
    stages = [f"layer{stage}." for stage in (1, 2, 3, 4)]
    assert _learning(network) == _under(network, *HEAD, *stages[4 - n_stages :])


def test_nothing_said_freezes_nothing(network: Any) -> None:
    open_last_stages(network, None)
    freeze_first_blocks(network, 0)
    assert _learning(network) == _under(network, "")
    open_last_stages(network, 5)
    assert _learning(network) == _under(network, ""), "the stem is a stage too"


@pytest.mark.parametrize("n_blocks", [8, 9, 100])
def test_to_freeze_all_but_the_head_is_out_of_range(network: Any, n_blocks: int) -> None:
    with pytest.raises(ConfigError, match=f"frozen_blocks is out of range; expected at most 7; got {n_blocks}$"):
        freeze_first_blocks(network, n_blocks)
    assert _learning(network) == _under(network, ""), "nothing was frozen before"


def test_to_open_more_than_there_is_is_out_of_range(network: Any) -> None:
    with pytest.raises(ConfigError, match=r"open_stages is out of range; expected at most 5; got 6$"):
        open_last_stages(network, 6)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_more_frozen_blocks_freeze_more_of_any_backbone(backbone: str) -> None:
    opened = []
    for n_blocks in (0, 1, 2):
        network: Any = timm.create_model(backbone, num_classes=3)
        freeze_first_blocks(network, n_blocks)
        opened.append(_learning(network))
        assert {id(p) for p in network.get_classifier().parameters()} <= {
            id(p) for p in network.parameters() if p.requires_grad
        }
    assert opened[0] > opened[1] > opened[2]


def _three_steps(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The network's state before, then three steps of the optimiser as the trainer would take them."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = OptimiserConfig(learning_rate=0.01, weight_decay=0.1)
    module = CellClassifier(network, Preprocessing(size_px=32), optimiser=optimiser, epochs=1, seed=0)
    module.eval()  # as backbones come
    module.on_train_epoch_start()

    class Trainer:
        estimated_stepping_batches = 3

    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    adamw = module.configure_optimizers()["optimizer"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
        loss = module.loss(module.pixels(images), torch.tensor([0, 1, 2, 0, 1, 2]))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
    return before


def _one_block_frozen(network: torch.nn.Module) -> None:
    freeze_first_blocks(network, 1)


def _one_stage_open(network: torch.nn.Module) -> None:
    open_last_stages(network, 1)


@pytest.mark.parametrize(
    ("limit", "frozen"),
    [(_one_block_frozen, (*STEM, "layer1.0.")), (_one_stage_open, (*STEM, "layer1.", "layer2.", "layer3."))],
)
def test_frozen_parts_are_bit_for_bit_as_before_their_averages_included(
    network: Any, limit: Callable[[torch.nn.Module], None], frozen: tuple[str, ...]
) -> None:
    limit(network)
    before = _three_steps(network)
    after = network.state_dict()
    assert {name.rpartition(".")[2] for name in before} >= {"running_mean", "running_var", "num_batches_tracked"}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) is name.startswith(frozen), name


def test_a_frozen_network_does_not_learn_at_all(network: Any) -> None:
    """Beside a part that learns, as in a network of two encoders."""
    assert freeze(network.train()) is network
    assert not network.training
    assert _learning(network) == set()
    both = torch.nn.Sequential(network, torch.nn.Linear(3, 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    module = CellClassifier(both, Preprocessing(size_px=32), optimiser=OptimiserConfig(), epochs=1, seed=0)
    module.on_train_epoch_start()
    adamw = torch.optim.AdamW([p for p in both.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    both(torch.randn(4, 3, 32, 32)).square().sum().backward()
    adamw.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
