"""The outline of the nucleus by its definition, what changes it and what does not, and the two networks side by side."""

from __future__ import annotations

from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemalens.imaging.reading import Preprocessing
from hemalens.models.outline import N_STAGES, OutlineNetwork, WithOutline, outline, without_batch_norm

SIDE = 48
PREPROCESSING = Preprocessing(size_px=SIDE, mean=(120.0, 110.0, 130.0), std=(60.0, 55.0, 70.0))
NUCLEUS, CYTOPLASM, RED_CELL = (0.35, 0.2, 0.5), (0.75, 0.78, 0.85), (0.85, 0.6, 0.6)
FIELDS = {"white": (0.95, 0.95, 0.95), "yellow": (0.93, 0.86, 0.6), "bluish": (0.8, 0.85, 0.95)}


def _disk(y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.indices((SIDE, SIDE))
    return np.hypot(rows - y, columns - x) < radius


def _cell(field: tuple[float, ...] = FIELDS["white"], *, noise: float = 0.0) -> Tensor:
    """A nucleus in its cytoplasm and a red cell, all as light through stains before a lamp of this colour, (1, 3, h, w)."""
    light = np.ones((SIDE, SIDE, 3))
    for place, colour in ((_disk(9, 9, 7), RED_CELL), (_disk(24, 26, 15), CYTOPLASM), (_disk(24, 28, 9), NUCLEUS)):
        light[place] = colour
    light = light * field + np.random.default_rng(0).normal(0, noise, light.shape)
    return torch.from_numpy(light.clip(0, 1).transpose(2, 0, 1)[None].astype(np.float32))


def _by_definition(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Image (3, h, w) in [0, 1] -> outline (h, w), pixel by pixel."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    tenth = round(0.1 * height * width)
    field = np.sort(smooth.reshape(3, -1), axis=1)[:, -tenth:].mean(axis=1)
    red, green, blue = np.log((field[:, None, None] + 0.02) / (smooth + 0.02))
    chromatin = red + green - blue
    nucleus = max(np.sort(chromatin.ravel())[-tenth:].mean(), 0.05)
    return np.asarray(1 / (1 + np.exp(-12 * (chromatin / nucleus - 0.5))))


@pytest.fixture(scope="module")
def network() -> OutlineNetwork:
    return OutlineNetwork(n_classes=3, weights="none", seed=4)


@pytest.fixture
def both(network: OutlineNetwork) -> WithOutline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WithOutline(timm.create_model("test_resnet", num_classes=3), network, PREPROCESSING).eval()


# --------------------------------------------------------------------------------------------------------- the outline


def test_an_outline_by_its_definition() -> None:
    images = torch.cat([_cell(noise=0.02), torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))])
    found = outline(images)
    assert found.shape == (3, 1, SIDE, SIDE)
    for image, answer in zip(images.double().numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(answer[0], _by_definition(image), atol=1e-4)
    oblong = torch.rand(1, 3, 20, 31)
    np.testing.assert_allclose(outline(oblong)[0, 0].numpy(), _by_definition(oblong[0].double().numpy()), atol=1e-4)


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_nucleus_comes_out_as_it_is_and_nothing_else(field: tuple[float, ...]) -> None:
    found = outline(_cell(field, noise=0.01))[0, 0].numpy()
    assert (found[_disk(24, 28, 7.5)] > 0.8).all()
    assert (found[~_disk(24, 28, 10.5)] < 0.2).all(), "neither cytoplasm nor the red cell nor the field"


@pytest.mark.parametrize("gains", [(0.8, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 0.6), (0.5, 0.5, 0.5), (1.05, 0.9, 0.7)])
def test_another_lamp_or_white_balance_hardly_changes_an_outline(gains: tuple[float, ...]) -> None:
    image = _cell(noise=0.01)
    before, after = outline(image), outline(image * torch.tensor(gains).view(1, 3, 1, 1))
    assert float((before - after).abs().mean()) < 0.01
    assert float((before - after).abs().max()) < 0.2


def test_an_outline_turns_with_its_image() -> None:
    image, (before,) = _cell(noise=0.02), outline(_cell(noise=0.02))
    for k in range(4):
        for mirrored in (False, True):

            def moved(values: Tensor, k: int = k, mirrored: bool = mirrored) -> Tensor:
                return torch.rot90(values.flip(-1) if mirrored else values, k, (-2, -1))

            torch.testing.assert_close(outline(moved(image))[0], moved(before), rtol=0, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.004, 0.5, 1.0])
def test_without_a_nucleus_there_is_none(level: float) -> None:
    for image in (torch.full((1, 3, SIDE, SIDE), level), (level + 0.01 * torch.randn(1, 3, SIDE, SIDE)).clamp(0, 1)):
        found = outline(image)
        assert torch.isfinite(found).all()
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
    assert float(outline(torch.full((1, 3, SIDE, SIDE), level)).max()) < 0.01


def test_every_image_has_an_outline_of_its_own() -> None:
    images = torch.cat([_cell(), torch.zeros(1, 3, SIDE, SIDE), _cell(FIELDS["yellow"])])
    torch.testing.assert_close(outline(images), torch.cat([outline(image[None]) for image in images]))


# --------------------------------------------------------------------------------------------------------- the network


def _unlike_at_the_start(network: OutlineNetwork) -> None:
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values, low, high in (
                (module.weight.data, 0.5, 2.0),
                (module.bias.data, -1.0, 1.0),
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.3, 3.0),
            ):
                assert values is not None
                values.uniform_(low, high, generator=generator)


def _norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_folding_leaves_no_batch_norm_and_changes_no_answer() -> None:
    network = OutlineNetwork(n_classes=3, weights="none", seed=4).eval()
    _unlike_at_the_start(network)
    n_norms = len(_norms(network))
    assert n_norms > 10
    images = outline(torch.cat([_cell(noise=0.02), _cell(FIELDS["yellow"])]))
    with torch.no_grad():
        before, plain = network.embed(images), OutlineNetwork(n_classes=3, weights="none", seed=4).eval().embed(images)
        folded = without_batch_norm(network)
        after = folded.embed(images)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before, plain, rtol=1e-2), "or statistics that do nothing would have been folded"
    assert not _norms(folded)
    assert len(_norms(network)) == n_norms, "the network itself stays"
    assert torch.equal(folded.head.weight, network.head.weight)


def test_the_network_is_the_beginning_of_the_packaged_backbone() -> None:
    network = OutlineNetwork(n_classes=3, weights="package", seed=0)
    whole = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    from hemalens.models.backbone import BackboneConfig, create_backbone

    whole.load_state_dict(create_backbone(BackboneConfig(backbone="tf_efficientnet_lite0", weights="package")).state_dict())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = network.eval().features(pixels)
        x: Any = whole.eval().bn1(whole.conv_stem(pixels))
        for stage in whole.blocks[:N_STAGES]:
            x = stage(x)
    torch.testing.assert_close(found, x.mean(dim=(2, 3)))
    assert sum(parameter.numel() for parameter in network.parameters()) < 0.8e6


def test_a_seed_gives_the_same_network_and_leaves_torch_s_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    a, b, c = (OutlineNetwork(n_classes=3, weights="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


# --------------------------------------------------------------------------------------------------------- side by side


def _pixels(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PREPROCESSING.mean, PREPROCESSING.std))
    return (image * 255 - mean) / std


def test_the_embedding_is_one_behind_the_other_and_the_logits_are_the_mean(both: WithOutline) -> None:
    image = torch.cat([_cell(), _cell(FIELDS["yellow"], noise=0.05)])
    pixels = _pixels(image)
    with torch.no_grad():
        embedding = both.forward_head(both.forward_features(pixels), pre_logits=True)
        own = both.network.forward_head(both.network.forward_features(pixels), pre_logits=True)
        seen = both.outlined.embed(outline(image))
        torch.testing.assert_close(embedding, torch.cat([own, seen], dim=1), rtol=1e-3, atol=1e-4)
        expected = both.network(pixels), both.outlined.head(seen)
        for found, logits in zip(both.logits_of_each(embedding), expected, strict=True):
            torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-4)
        mean = torch.stack(expected).mean(dim=0)
        for answer in (both.get_classifier()(embedding), both.forward_head(embedding, pre_logits=False)):
            torch.testing.assert_close(answer, mean, rtol=1e-3, atol=1e-4)


def test_each_network_learns_from_its_own_loss_alone(both: WithOutline) -> None:
    parts = {"network": both.network, "outlined": both.outlined}
    for place, name in enumerate(parts):
        both.train().zero_grad()
        embedding = both.forward_features(_pixels(torch.cat([_cell(), _cell(FIELDS["bluish"], noise=0.05)])))
        logits = both.logits_of_each(embedding)[place]
        nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
        for other, part in parts.items():
            reached = [p.grad is not None and bool(p.grad.any()) for p in part.parameters()]
            assert any(reached) is (other == name)
