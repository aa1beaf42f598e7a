"""Losses recomputed in numpy from their formulas, rotation against torchvision's, similarity against torchmetrics'."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.transforms import v2

from hemalens.errors import ConfigError, SplitError
from hemalens.training.losses import (
    AAMSoftmax,
    aam_softmax,
    cosine_logits,
    dice_loss,
    mask_loss,
    maximum_mean_discrepancy,
    rotate_each,
    rotation_consistency,
    structural_similarity,
)

Array = NDArray[np.float64]


def _angles(e: Array, c: Array) -> Array:
    cosines = (e / np.linalg.norm(e, axis=1, keepdims=True)) @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T
    return np.asarray(np.arccos(np.clip(cosines, -1, 1)))


def _arcface(e: Array, c: Array, y: NDArray[np.int64], m: float, s: float) -> float:
    """Equation 3 of Deng et al. 2019, the margin in radians, one embedding at a time."""
    losses = []
    for t, own in zip(_angles(e, c), y, strict=True):
        with_margin = math.cos(t[own] + m) if t[own] <= math.pi - m else math.cos(t[own]) - m * math.sin(m)
        logits = s * np.cos(t)
        logits[own] = s * with_margin
        top = logits.max()
        losses.append(top + math.log(np.exp(logits - top).sum()) - logits[own])
    return float(np.mean(losses))


def _batch(seed: int, n: int = 6, k: int = 4, d: int = 8) -> tuple[Array, Array, NDArray[np.int64]]:
    """Embeddings and centres of lengths far from 1, and targets."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 30, (n, 1))
    return rng.normal(size=(n, d)) * lengths, rng.normal(size=(k, d)) * 3, rng.integers(k, size=n)


def _tensors(e: Array, c: Array, y: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    embeddings, centres = (torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (e, c))
    return embeddings, centres, torch.tensor(y)


# ------------------------------------------------------------------------------------------------------ AAM-softmax


@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(4, 24)),
    margin=st.floats(0, 1.5),
    scale=st.floats(0.5, 64),
)
def test_aam_softmax_is_the_arcface_formula(seed: int, sizes: tuple[int, int, int], margin: float, scale: float) -> None:
    e, c, y = _batch(seed, *sizes)
    embeddings, centres, targets = _tensors(e, c, y)
    loss = aam_softmax(embeddings, centres, targets, margin_rad=margin, scale=scale)
    # in single precision an angle near 0 or pi is known to some 1e-4
    assert loss.item() == pytest.approx(_arcface(e, c, y, margin, scale), rel=1e-4, abs=scale * 2e-4)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.5, 64))
def test_without_a_margin_it_is_the_softmax_of_the_scaled_cosines(seed: int, scale: float) -> None:
    embeddings, centres, targets = _tensors(*_batch(seed))
    loss = aam_softmax(embeddings, centres, targets, margin_rad=0.0, scale=scale)
    expected = torch.nn.functional.cross_entropy(cosine_logits(embeddings, centres, scale=scale), targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-3)


def test_the_margin_is_in_radians() -> None:
    """A right angle to the own centre, none to the other: by hand."""
    embeddings = torch.tensor([[0.0, 5.0]])
    centres = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    loss = aam_softmax(embeddings, centres, torch.tensor([0]), margin_rad=math.pi / 6, scale=2.0)
    assert loss.item() == pytest.approx(math.log(math.exp(2 * -0.5) + math.exp(2)) - 2 * -0.5, rel=1e-6)


def test_a_larger_margin_costs_more_and_the_loss_falls_towards_the_centre_all_the_way() -> None:
    angles = np.linspace(0.01, math.pi - 0.01, 200)
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = []
    for margin in (0.0, 0.3, 0.9):
        rows = [
            aam_softmax(
                torch.tensor([[math.cos(a), math.sin(a), 0.0]]), centres, torch.tensor([0]), margin_rad=margin, scale=4.0
            )
            for a in angles
        ]
        losses.append(torch.stack(rows).numpy())
    none, some, much = losses
    assert (none < some).all()
    assert (some < much).all()
    for values in losses:
        assert (np.diff(values) > -1e-5).all(), "also beyond pi - m, where cos(t + m) rises again"


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gradients_reach_embeddings_and_centres(margin: float) -> None:
    """Against central differences of the formula in double precision."""
    e, c, y = _batch(3)
    embeddings, centres, targets = _tensors(e, c, y)
    aam_softmax(embeddings, centres, targets, margin_rad=margin, scale=8.0).backward()
    step = 1e-6
    for place, tensor in ((e, embeddings), (c, centres)):
        expected = np.empty_like(place)
        for index in np.ndindex(place.shape):
            kept = place[index]
            place[index] = kept + step
            above = _arcface(e, c, y, margin, 8.0)
            place[index] = kept - step
            expected[index] = (above - _arcface(e, c, y, margin, 8.0)) / (2 * step)
            place[index] = kept
        assert tensor.grad is not None
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100))
def test_lengths_do_not_matter(seed: int, factor: float) -> None:
    embeddings, centres, targets = _tensors(*_batch(seed))
    a = aam_softmax(embeddings, centres, targets, margin_rad=0.5, scale=64.0)
    b = aam_softmax(embeddings * factor, centres / factor, targets, margin_rad=0.5, scale=64.0)
    assert a.item() == pytest.approx(b.item(), rel=1e-4, abs=0.02)


def _near_its_centre(angle: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    embedding = torch.zeros(1, 16)
    embedding[0, :2] = 3 * torch.tensor([math.cos(angle), math.sin(angle)])
    return embedding.requires_grad_(), torch.eye(4, 16).requires_grad_(), torch.tensor([0])


@pytest.mark.parametrize("angle", [0.001, 0.03, 0.3])
def test_half_precision_training_keeps_the_angles(angle: float) -> None:
    """In bfloat16 the cosine of 0.06 rad is 1, and the gradient of the angle infinite there."""
    embedding, centres, target = _near_its_centre(angle)
    exact = aam_softmax(embedding, centres, target, margin_rad=0.5, scale=4.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = aam_softmax(embedding, centres, target, margin_rad=0.5, scale=4.0)
        logits = cosine_logits(embedding, centres, scale=64.0)
    loss.backward()
    assert loss.item() == exact.item()
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, cosine_logits(embedding, centres, scale=64.0), rtol=0, atol=0)
    for tensor in (embedding, centres):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@given(seed=st.integers(0, 10_000), scale=st.floats(0.5, 64))
def test_cosine_logits_are_scaled_cosines(seed: int, scale: float) -> None:
    e, c, y = _batch(seed)
    embeddings, centres, _ = _tensors(e, c, y)
    logits = cosine_logits(embeddings, centres, scale=scale).detach().numpy()
    np.testing.assert_allclose(logits, scale * np.cos(_angles(e, c)), atol=scale * 1e-5)


def test_the_head_answers_without_the_margin_and_learns_with_it() -> None:
    e, c, y = _batch(1, n=7, k=3, d=5)
    head = AAMSoftmax(3, 5, margin_rad=0.4, scale=9.0)
    with torch.no_grad():
        head.centres.copy_(torch.tensor(c))
    embeddings, _, targets = _tensors(e, c, y)
    np.testing.assert_allclose(head(embeddings).detach().numpy(), 9 * np.cos(_angles(e, c)), atol=1e-4)
    loss = head.loss(embeddings, targets)
    assert loss.item() == pytest.approx(_arcface(e, c, y, 0.4, 9.0), rel=1e-4)
    loss.backward()
    assert [name for name, _ in head.named_parameters()] == ["centres"]
    assert head.centres.grad is not None
    assert head.centres.grad.abs().min() > 0
    assert (AAMSoftmax(3, 5).margin_rad, AAMSoftmax(3, 5).scale) == (0.5, 64.0)


@pytest.mark.parametrize("margin", [-0.01, math.pi / 2, 28.6, math.nan])
def test_a_margin_out_of_range_is_an_error(margin: float) -> None:
    with pytest.raises(ConfigError, match=rf"the angular margin is out of range; expected 0 to pi/2 rad; got {margin}"):
        AAMSoftmax(3, 5, margin_rad=margin)


# ------------------------------------------------------------------------------------------------------ consistency


def test_consistency_is_the_mean_squared_difference_with_gradients_through_both() -> None:
    e, c, _ = _batch(2, n=4, k=4, d=6)
    a, b, _ = _tensors(e, c, np.zeros(4, np.int64))
    value = rotation_consistency(a, b)
    assert value.item() == pytest.approx(((e - c) ** 2).mean(), rel=1e-5)
    value.backward()
    assert a.grad is not None
    assert b.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), 2 * (e - c) / e.size, rtol=1e-4)
    np.testing.assert_allclose(b.grad.numpy(), -2 * (e - c) / e.size, rtol=1e-4)
    assert rotation_consistency(a, a).item() == 0


# --------------------------------------------------------------------------------------------------------- rotation


def _images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(32, 32), (33, 33), (24, 40), (41, 23)])
def test_rotation_is_torchvision_s(size: tuple[int, int]) -> None:
    degrees = [-170.0, -90.0, -31.0, 0.0, 7.3, 45.0, 90.0, 123.4, 180.0]
    images = _images(len(degrees), *size)
    fill = torch.rand(len(degrees), 3, generator=torch.Generator().manual_seed(1))
    turned = rotate_each(images, torch.tensor(degrees).deg2rad(), fill)
    assert turned.shape == images.shape
    for image, angle, colour, ours in zip(images, degrees, fill, turned, strict=True):
        theirs = v2.functional.rotate(image, angle, v2.InterpolationMode.NEAREST, fill=colour.tolist())
        # a pixel half way between two may take either
        same = (ours - theirs).abs().amax(dim=0) < 1e-5
        assert same.float().mean() > 0.98, f"{angle} degrees"
        inside = v2.functional.rotate(torch.ones(1, *size), angle, v2.InterpolationMode.NEAREST)[0] > 0
        assert (same[inside]).float().mean() > 0.98


@pytest.mark.parametrize(("quarters", "size"), [(1, (32, 32)), (2, (24, 40)), (3, (31, 31))])
def test_quarter_turns_are_exact_and_counter_clockwise(quarters: int, size: tuple[int, int]) -> None:
    images = _images(3, *size)
    turned = rotate_each(images, torch.full((3,), quarters * math.pi / 2), torch.zeros(1, 3))
    torch.testing.assert_close(turned, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000), height=st.integers(4, 20), width=st.integers(4, 20), fill=st.floats(-3, 3))
def test_no_turn_and_a_full_turn_change_nothing(seed: int, height: int, width: int, fill: float) -> None:
    images = _images(2, height, width, seed)
    turned = rotate_each(images, torch.tensor([0.0, 2 * math.pi]), torch.full((1, 3), fill))
    torch.testing.assert_close(turned, images, rtol=0, atol=1e-5)


@given(seed=st.integers(0, 1000), height=st.integers(6, 20), width=st.integers(6, 20))
def test_every_pixel_is_one_of_the_image_or_the_fill(seed: int, height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = _images(2, height, width, seed)
    fill = torch.full((2, 3), 5.0)
    for image, ours in zip(images, rotate_each(images, torch.rand(2, generator=rng) * 7, fill), strict=True):
        colours = torch.cat([image.flatten(1), torch.full((3, 1), 5.0)], dim=1)  # (3, h * w + 1)
        distance = (ours.flatten(1)[:, :, None] - colours[:, None, :]).abs().amax(dim=0).amin(dim=1)
        assert distance.max() < 1e-5, "nearest neighbour mixes no colours"


def test_corners_take_the_fill_of_their_image_and_channel() -> None:
    angles = torch.full((2,), math.pi / 4)
    fill = torch.tensor([[0.1, 0.2, 0.3], [-4.0, -5.0, -6.0]])
    each = rotate_each(torch.ones(2, 3, 20, 20), angles, fill)
    torch.testing.assert_close(each[:, :, 0, 0], fill)
    torch.testing.assert_close(each[:, :, -1, 0], fill)
    torch.testing.assert_close(each[:, :, 10, 10], torch.ones(2, 3))
    shared = rotate_each(torch.ones(2, 3, 20, 20), angles, fill[:1])
    torch.testing.assert_close(shared[:, :, 0, -1], fill[:1].expand(2, 3))


def test_rotation_passes_gradients_to_the_pixels_it_shows() -> None:
    images = _images(2, 16, 16).requires_grad_()
    turned = rotate_each(images, torch.tensor([0.0, math.pi / 4]), torch.full((1, 3), -1.0))
    turned.sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad[0], torch.ones(3, 16, 16))
    assert (images.grad[1, :, 0, 0] == 0).all(), "a corner is turned out of the image"
    assert float(images.grad[1].sum()) == (turned[1] >= 0).sum(), "one for every place where a pixel is shown"


def test_half_precision_training_rotates_the_same() -> None:
    images, angles = _images(3, 64, 64), torch.tensor([0.3, 1.1, 4.0])
    exact = rotate_each(images, angles, torch.zeros(1, 3))
    with torch.autocast("cpu", torch.bfloat16):
        turned = rotate_each(images, angles, torch.zeros(1, 3))
    torch.testing.assert_close(turned, exact, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------- structural similarity


def _pictures(seed: int, shape: tuple[int, int, int, int], noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures in [0, 1] and the same with noise."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(shape[0], shape[1], 4, 4, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear")
    return smooth, (smooth + noise * torch.randn(shape, generator=rng)).clamp(0, 1)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(11, 40), st.integers(11, 40)),
    noise=st.floats(0, 1),
)
def test_structural_similarity_is_torchmetrics(seed: int, shape: tuple[int, int, int, int], noise: float) -> None:
    images, others = _pictures(seed, shape, noise)
    _, every = structural_similarity_index_measure(
        images, others, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
    )
    # torchmetrics mirrors the image at its borders; ours takes the windows that lie within it
    expected = every[..., 5:-5, 5:-5].mean()
    found = structural_similarity(images, others)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert structural_similarity(others, images).item() == pytest.approx(found.item(), abs=1e-5)


def test_structural_similarity_by_its_formula_where_one_window_fits() -> None:
    """Equation 13 of Wang et al. 2004 in double precision, each channel one window of 11x11."""
    images, others = _pictures(3, (2, 3, 11, 11), 0.2)
    offset = np.arange(11) - 5
    g = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    w = g / g.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for x, y in zip(images.double().numpy().reshape(-1, 11, 11), others.double().numpy().reshape(-1, 11, 11), strict=True):
        mx, my = (w * x).sum(), (w * y).sum()
        vx, vy, vxy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert structural_similarity(images, others).item() == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (24, 30), (7, 5)])
def test_with_zeros_beyond_the_border_there_is_a_window_for_every_pixel(height: int, width: int) -> None:
    """Wang et al. 2004, equation 13, for images with a black frame of 5 px, in double precision."""
    images, others = _pictures(5, (2, 3, height, width), 0.2)
    framed = [np.pad(x.double().numpy(), ((0, 0), (0, 0), (5, 5), (5, 5))) for x in (images, others)]
    offset = np.arange(11) - 5
    g = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    w = g / g.sum()
    x, y = (np.lib.stride_tricks.sliding_window_view(each, (11, 11), axis=(2, 3)) for each in framed)
    assert x.shape[2:4] == (height, width)

    def mean(values: Array) -> Array:
        return np.asarray((w * values).sum(axis=(-2, -1)))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    found = structural_similarity(images, others, padding="zeros")
    assert found.item() == pytest.approx(expected.mean(), abs=1e-5)
    if min(height, width) >= 11:
        inner = structural_similarity(images, others).item()
        assert inner == pytest.approx(expected[..., 5 : height - 5, 5 : width - 5].mean(), abs=1e-5)


def test_equal_images_are_alike_and_a_negative_is_not() -> None:
    images, _ = _pictures(0, (2, 3, 32, 32), 0.0)
    assert structural_similarity(images, images).item() == pytest.approx(1, abs=1e-5)
    assert structural_similarity(images, 1 - images).item() < 0
    for value in (0.0, 0.5, 1.0):
        even = torch.full((1, 3, 16, 16), value)
        assert structural_similarity(even, even).item() == pytest.approx(1, abs=1e-5)


def test_structural_similarity_leads_a_picture_to_its_target() -> None:
    target, start = _pictures(1, (1, 3, 24, 24), 0.3)
    drawn = start.clone().requires_grad_()
    before = structural_similarity(drawn, target)
    before.backward()
    assert drawn.grad is not None
    assert drawn.grad.isfinite().all()
    step = 1e-3 * drawn.grad / drawn.grad.norm()
    after = structural_similarity((drawn + step).detach(), target)
    assert after.item() - before.item() == pytest.approx(1e-3 * float(drawn.grad.norm()), rel=0.05)


def test_half_precision_training_keeps_the_similarity() -> None:
    """Variances are small differences of large squares: rounded to 8 bits, nothing of them is left."""
    images, others = _pictures(2, (2, 3, 32, 32), 0.05)
    exact = structural_similarity(images, others)
    with torch.autocast("cpu", torch.bfloat16):
        found = structural_similarity(images, others)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), abs=1e-6)


# ------------------------------------------------------------------------------------------ discrepancy of domains

Kernel = Literal["linear", "rbf"]
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")


def _kernel(x: Array, y: Array, width: float) -> Array:
    squared = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
    return np.asarray(np.mean([np.exp(-squared / (scale * width)) for scale in (0.25, 0.5, 1, 2, 4)], axis=0))


def _discrepancy(x: Array, domains: NDArray[np.int64], kernel: str) -> float:
    """Mean squared difference of two mean latents (BC-SAM), or equation 5 of Gretton et al. 2012; the mean over pairs."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    distances = sorted(float(((x[i] - x[j]) ** 2).sum()) for i, j in pairs)
    # torch's median of an even number is the lower of the middle two
    width = max(distances[(len(distances) - 1) // 2], 1e-12)
    found = []
    for a, b in itertools.combinations(np.unique(domains), 2):
        p, q = x[domains == a], x[domains == b]
        if kernel == "linear":
            found.append(float(((p.mean(axis=0) - q.mean(axis=0)) ** 2).sum()) / x.shape[1])
        else:
            found.append(_kernel(p, p, width).mean() + _kernel(q, q, width).mean() - 2 * _kernel(p, q, width).mean())
    return float(np.mean(found))


@st.composite
def _domains(draw: st.DrawFn) -> NDArray[np.int64]:
    """Two to four domains of one to twelve images, mixed; their numbers need not follow one another."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=4))
    numbers = draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes), unique=True))
    order = np.random.default_rng(draw(st.integers(0, 1000))).permutation(sum(sizes))
    return np.repeat(numbers, sizes)[order]


@pytest.mark.parametrize("kernel", KERNELS)
@given(domains=_domains(), seed=st.integers(0, 10_000), d=st.integers(1, 50), shift=st.floats(0, 5))
def test_discrepancy_is_its_definition(kernel: Kernel, domains: NDArray[np.int64], seed: int, d: int, shift: float) -> None:
    x = np.random.default_rng(seed).normal(size=(len(domains), d)).clip(0) + shift * (domains == domains[0])[:, None]
    found = maximum_mean_discrepancy(torch.tensor(x, dtype=torch.float32), torch.tensor(domains), kernel=kernel)
    assert found.item() == pytest.approx(_discrepancy(x, domains, kernel), rel=1e-4, abs=1e-5)
    assert found.item() >= -1e-6


@pytest.mark.parametrize("n_numbers", [1, 10, 50])
def test_the_linear_discrepancy_does_not_grow_with_the_latent(n_numbers: int) -> None:
    """Mean latents of 1 and 4 differ by 3 in every number: 9, not 9 times the numbers."""
    latents = torch.tensor([[0.0], [2.0], [4.0]]).expand(3, n_numbers)
    found = maximum_mean_discrepancy(latents, torch.tensor([0, 0, 1]), kernel="linear")
    assert found.item() == pytest.approx(9)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 10), n_domains=st.integers(2, 4))
def test_the_same_images_in_every_domain_are_no_discrepancy(kernel: Kernel, seed: int, n: int, n_domains: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(n, 7))
    latents = np.concatenate([one[rng.permutation(n)] for _ in range(n_domains)])
    domains = torch.arange(n_domains).repeat_interleave(n)
    found = maximum_mean_discrepancy(torch.tensor(latents, dtype=torch.float32), domains, kernel=kernel)
    assert found.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "latents",
    [
        torch.zeros(2, 50),
        torch.ones(6, 50),
        torch.cat([torch.zeros(5, 50), torch.ones(1, 50)]),
        torch.cat([torch.zeros(4, 50), torch.full((2, 50), 1e-8)]),
        torch.tensor([[0.0], [1e4]]),
        torch.rand(2, 50, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["none learnt yet", "all equal", "one apart", "nearly equal", "far apart", "one image a domain"],
)
def test_discrepancy_and_its_gradient_are_finite(kernel: Kernel, latents: torch.Tensor) -> None:
    domains = torch.zeros(len(latents), dtype=torch.int64)
    domains[-1] = 1
    given_latents = latents.clone().requires_grad_()
    value = maximum_mean_discrepancy(given_latents, domains, kernel=kernel)
    value.backward()
    assert value.isfinite()
    assert value.item() >= -1e-6
    assert given_latents.grad is not None
    assert given_latents.grad.isfinite().all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_following_the_gradient_brings_the_domains_together(kernel: Kernel) -> None:
    rng = torch.Generator().manual_seed(0)
    latents = torch.rand(20, 5, generator=rng)
    domains = torch.arange(20) % 2
    latents[domains == 1] += 0.5
    values = []
    for _ in range(30):
        latents = latents.detach().requires_grad_()
        value = maximum_mean_discrepancy(latents, domains, kernel=kernel)
        value.backward()
        assert latents.grad is not None
        latents = latents - 2 * latents.grad
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_one_domain_is_an_error_and_not_nan(kernel: Kernel, n: int) -> None:
    with pytest.raises(
        SplitError, match=r"a batch of one domain has no discrepancy between domains; expected two domains or more"
    ):
        maximum_mean_discrepancy(torch.rand(n, 4), torch.full((n,), 3), kernel=kernel)


# ---------------------------------------------------------------------------------------------------------- masks


def _dice(logits: Array, masks: NDArray[np.int64]) -> float:
    """1 - (2 sum(p g) + s) / (sum(p^2) + sum(g^2) + s), the mean over the two classes, over the whole batch."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    losses = []
    for k in range(logits.shape[1]):
        g = (masks == k).astype(float)
        losses.append(1 - (2 * (p[:, k] * g).sum() + 1e-5) / ((p[:, k] ** 2).sum() + (g**2).sum() + 1e-5))
    return float(np.mean(losses))


def _cross_entropy(logits: Array, masks: NDArray[np.int64]) -> float:
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return float(-np.take_along_axis(log_p, masks[:, None], axis=1).mean())


@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), side=st.integers(1, 12), scale=st.floats(0, 20))
def test_mask_losses_are_their_formulas(seed: int, n: int, side: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits, masks = rng.normal(size=(n, 2, side, side)) * scale, rng.integers(2, size=(n, side, side))
    given_logits, truth = torch.tensor(logits, dtype=torch.float32, requires_grad=True), torch.tensor(masks)
    loss = dice_loss(given_logits, truth)
    assert loss.item() == pytest.approx(_dice(logits, masks), abs=1e-5)
    both = mask_loss(given_logits, truth)
    assert both.item() == pytest.approx(0.2 * _cross_entropy(logits, masks) + 0.8 * _dice(logits, masks), abs=1e-4)
    other = mask_loss(given_logits, truth, ce_weight=1.5, dice_weight=0.0)
    assert other.item() == pytest.approx(1.5 * _cross_entropy(logits, masks), rel=1e-4, abs=1e-5)
    both.backward()
    assert given_logits.grad is not None
    assert given_logits.grad.isfinite().all()


def test_the_right_mask_costs_nothing_and_the_wrong_one_all() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    masks[:, 2:6, 3:7] = 1
    sure = 40 * (torch.nn.functional.one_hot(masks, 2).movedim(-1, 1) - 0.5)
    assert dice_loss(sure, masks).item() == pytest.approx(0, abs=1e-6)
    assert mask_loss(sure, masks).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, masks).item() == pytest.approx(1, abs=1e-6)
    nothing = torch.zeros_like(masks)
    assert dice_loss(40 * (torch.eye(2)[nothing].movedim(-1, 1) - 0.5), nothing).item() == pytest.approx(0, abs=1e-6)
