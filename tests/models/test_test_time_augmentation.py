"""Views: the symmetries of the square, and means that these do not change."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import pytest
import torch

from hemalens.models.test_time_augmentation import N_VIEWS, Views, mean_over_views, views_of


def _symmetries(image: torch.Tensor) -> list[torch.Tensor]:
    """All eight of an image (c, s, s), by turns and a mirror."""
    return [torch.rot90(side, k, (1, 2)) for side in (image, image.flip(2)) for k in range(4)]


def _images(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 2, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_views", N_VIEWS)
def test_views_are_different_symmetries_the_image_itself_first(n_views: Views) -> None:
    images = _images()
    seen = views_of(images, n_views)
    assert seen.shape == (n_views * 3, 2, 5, 5)
    assert torch.equal(seen[:3], images)
    for i in range(3):
        own = [view[i] for view in seen.view(n_views, 3, 2, 5, 5)]
        which = {next(k for k, s in enumerate(_symmetries(images[i])) if torch.equal(s, view)) for view in own}
        assert len(which) == n_views


def test_two_are_half_turns_and_four_add_their_mirror_images() -> None:
    images = _images(1)
    expected = [images, images.flip(2, 3), images.flip(3), images.flip(2)]
    assert torch.equal(views_of(images, 4), torch.cat(expected))
    assert torch.equal(views_of(images, 2), torch.cat(expected[:2]))


@pytest.mark.parametrize("n_views", N_VIEWS)
def test_the_mean_is_that_of_the_views_one_by_one(n_views: Views) -> None:
    weights = 0.3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    images = _images()
    calls: list[int] = []

    def encode(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return torch.tanh(x.flatten(1) @ weights)

    found = mean_over_views(encode, images, n_views)
    assert calls == [3 * n_views], "one pass"
    views = views_of(images, n_views).view(n_views, 3, 2, 5, 5)
    expected = sum(torch.tanh(view.flatten(1) @ weights) for view in views) / n_views
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("n_views", "unchanged"), [(2, 2), (4, 4), (8, 8)])
def test_the_mean_is_the_same_for_every_member_of_its_group(n_views: Views, unchanged: int) -> None:
    weights = 0.3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    image = _images(1)
    means = [
        mean_over_views(lambda x: torch.tanh(x.flatten(1) @ weights), turned[None], n_views)
        for turned in _symmetries(image[0])
    ]
    same = sum(torch.allclose(mean, means[0], atol=1e-6) for mean in means)
    assert same == unchanged
