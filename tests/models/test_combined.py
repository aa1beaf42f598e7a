"""Two encoders side by side: both embeddings and a head on them, and nothing of the frozen one that moves."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch
from torch import nn

from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.models.combined import CombinedNetwork
from hemalens.models.freezing import open_last_stages
from hemalens.models.reconstruction import PixelEncoder

SIDE = 32


def _pixels(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _encoder(latent_size: int = 512) -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(SIDE, latent_size=latent_size, width=2)


def _combined(backbone: str = "test_resnet", *, latent_size: int = 512, open_stages: int | None = 1) -> CombinedNetwork:
    network = create_backbone(BackboneConfig(backbone=backbone, weights="none"))
    open_last_stages(network, open_stages)
    return CombinedNetwork(_encoder(latent_size), latent_size, network, n_classes=5, seed=3)


def test_the_published_head_takes_512_and_512_numbers() -> None:
    combined = _combined("resnet18").eval()
    assert (combined.head.in_features, combined.head.out_features) == (1024, 5)
    with torch.no_grad():
        assert combined.embed(_pixels(2)).shape == (2, 1024)


def test_the_embedding_is_the_frozen_encoder_s_and_then_the_network_s() -> None:
    combined = _combined(latent_size=7).eval()
    with torch.no_grad():
        embedding = combined.embed(_pixels())
        torch.testing.assert_close(embedding[:, :7], combined.frozen(_pixels()))
        torch.testing.assert_close(embedding[:, 7:], combined.network(_pixels()))
    assert embedding.shape[1] == 7 + combined.network.num_features == combined.head.in_features


def test_the_head_is_drawn_from_its_seed_and_leaves_the_generator_alone() -> None:
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(11)
        heads.append(CombinedNetwork(nn.Identity(), 4, _Numbers(3), n_classes=2, seed=seed).head.weight)
        assert torch.initial_seed() == 11
        after = torch.rand(1)
        torch.manual_seed(11)
        assert torch.equal(torch.rand(1), after)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


class _Numbers(nn.Module):
    """Stands for a network of so many features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def test_the_frozen_encoder_stays_in_evaluation_mode() -> None:
    combined = _combined()
    for module in (combined.train(), combined.train(True), nn.Sequential(combined).train()):
        assert module.training
        assert combined.network.training
        assert not any(part.training for part in combined.frozen.modules())
    combined.eval()
    assert not any(part.training for part in combined.modules())


@pytest.mark.parametrize("open_stages", [0, 1, None])
def test_steps_of_an_optimiser_move_nothing_of_the_frozen_encoder(open_stages: int | None) -> None:
    combined = _combined(open_stages=open_stages)
    before = {name: tensor.clone() for name, tensor in combined.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in combined.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for step in range(3):
        combined.train()
        loss = nn.functional.cross_entropy(combined.head(combined.embed(_pixels(seed=step))), torch.arange(6) % 5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = {name for name, tensor in combined.state_dict().items() if not torch.equal(before[name], tensor)}
    assert not any(name.startswith("frozen.") for name in moved)
    assert {"head.weight", "head.bias"} <= moved
    assert all(parameter.grad is None for parameter in combined.frozen.parameters())
    learned = {name for name in moved if name in dict(combined.named_parameters())} - {"head.weight", "head.bias"}
    allowed = {f"network.{name}" for name, parameter in combined.network.named_parameters() if parameter.requires_grad}
    assert learned == allowed
    assert bool(allowed) == (open_stages != 0)
