"""Align pairs of small gray images by rotation, mirror, scale and shift, many pairs at once.

The start is the circular correlation of polar images; the inverse compositional algorithm refines it (Baker and Matthews,
IJCV 2004). Positions are complex numbers x + iy in pixels, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

SIDE_PX = 72
RADIUS_PX = 0.36 * SIDE_PX
"""The disc around the cell that is compared: the corners that an augmentation fills lie outside."""
N_RINGS, N_ANGLES, N_FREQUENCIES = 20, 64, 17
RINGS_PX = np.geomspace(0.05 * SIDE_PX, RADIUS_PX, N_RINGS)
ANGLES = 2 * np.pi * np.arange(N_ANGLES) / N_ANGLES
_RING_STEP = RINGS_PX[1] / RINGS_PX[0]
_MAX_RING_SHIFT = 2
_WEIGHTS = RINGS_PX / RINGS_PX.sum()
_GRID = np.arange(-int(RADIUS_PX), int(RADIUS_PX) + 1, 2.0)
_DISC = (_GRID[None, :] + 1j * _GRID[:, None]).ravel()
DISC = _DISC[np.abs(_DISC) <= RADIUS_PX]
"""Compared positions around the centre, (m,)."""
N_ITERATIONS = 6
_MAX_STEP_PX = 3.0
_SMOOTH_PX, _DETAIL_PX = 0.7, 3.0

Complex = NDArray[np.complex128]
Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Start:
    """The best rotation of each pair: correlation, mirror, angle and scale as alpha, (n,)."""

    correlation: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    alpha: Complex


def polar_spectrum(gray: Float, centre: complex) -> NDArray[np.complex64]:
    """Fourier coefficients over the angle of a normalised image on rings around `centre`, (N_RINGS, N_FREQUENCIES).

    All zeros for an image without structure.
    """
    at = centre + RINGS_PX[:, None] * np.exp(1j * ANGLES)
    rings = scipy.ndimage.map_coordinates(gray, [at.imag, at.real], order=1, mode="nearest")
    rings = rings - (rings.mean(axis=1) * _WEIGHTS).sum()
    spread = np.sqrt(((rings**2).mean(axis=1) * _WEIGHTS).sum())
    spectrum = np.fft.rfft(rings / max(spread, 1e-6), axis=1)[:, :N_FREQUENCIES] / N_ANGLES
    return spectrum.astype(np.complex64) if spread > 1 else np.zeros_like(spectrum, np.complex64)


def descriptor(spectra: NDArray[np.complex64]) -> Float:
    """What rotation and mirror leave as it is: the amplitudes over their spread in the set, (n, rings * frequencies)."""
    amplitudes = np.abs(spectra)
    scaled: Float = (amplitudes / (amplitudes.std(axis=0) + 0.02)).astype(np.float32)
    return scaled.reshape(len(spectra), -1)


def best_rotation(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> Start:
    """The rotation, mirror and scale under which the polar images of each pair correlate best."""
    n = len(first)
    best = Start(np.full(n, -1.0), np.zeros(n, bool), np.ones(n, complex))
    for mirrored in (False, True):
        other: NDArray[np.complex64] = np.conj(second) if mirrored else second
        for shift in range(-_MAX_RING_SHIFT, _MAX_RING_SHIFT + 1):
            inner, outer = slice(max(0, shift), N_RINGS + min(0, shift)), slice(max(0, -shift), N_RINGS + min(0, -shift))
            correlation = _correlation(first[:, inner], other[:, outer], _WEIGHTS[inner])
            angle = correlation.argmax(axis=1)
            value = correlation[np.arange(n), angle]
            better = value > best.correlation
            best.correlation[better] = value[better]
            best.mirrored[better] = mirrored
            rotation = np.exp((1j if mirrored else -1j) * ANGLES[angle[better]])
            best.alpha[better] = rotation * _RING_STEP**-shift
    return best


def _correlation(
    first: NDArray[np.complex64], second: NDArray[np.complex64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation of two stacks of rings under every rotation, (n, N_ANGLES)."""
    weights = weights / weights.sum()
    product = (first * np.conj(second) * weights[:, None]).sum(axis=1)
    means = [(rings[:, :, 0].real * weights).sum(axis=1) for rings in (first, second)]
    energies = []
    for rings, mean in zip((first, second), means, strict=True):
        power = np.abs(rings) ** 2
        energies.append(((power[:, :, 0] + 2 * power[:, :, 1:].sum(axis=2)) * weights).sum(axis=1) - mean**2)
    covariance = np.fft.irfft(product, N_ANGLES, axis=1) * N_ANGLES - (means[0] * means[1])[:, None]
    scale = np.sqrt(np.maximum(energies[0] * energies[1], 1e-12))
    correlation: NDArray[np.float64] = covariance / scale[:, None]
    return correlation


@dataclass(frozen=True, slots=True)
class Aligned:
    """Correlation of the details of aligned pairs, the share of the disc that both images hold, and alpha, each (n,)."""

    similarity: NDArray[np.float64]
    shared: NDArray[np.float64]
    alpha: Complex


def align(first: Float, second: Float, centres: tuple[Complex, Complex], start: Start) -> Aligned:
    """Refine the alignment of pairs of gray images (n, SIDE_PX, SIDE_PX) around their `centres`.

    A position z from the first centre lies at alpha * z + beta from the second one; mirrored, at alpha * conj(z) + beta.
    """
    a, b = (
        scipy.ndimage.gaussian_filter(stack.astype(np.float32), (0, _SMOOTH_PX, _SMOOTH_PX)) for stack in (first, second)
    )
    at = centres[0][:, None] + DISC
    template, inside = _sample(a, at)
    gradient_y, gradient_x = (_sample(g, at)[0] for g in np.gradient(a, axis=(1, 2)))
    x, y = DISC.real / RADIUS_PX, DISC.imag / RADIUS_PX
    jacobian = np.stack(
        [gradient_x, gradient_y, gradient_x * x + gradient_y * y, gradient_y * x - gradient_x * y], axis=2
    )  # (n, m, 4): shift in x and y, real and imaginary part of alpha
    mirrored = start.mirrored
    alpha, beta = start.alpha.copy(), np.zeros(len(a), complex)
    disc = np.where(mirrored[:, None], np.conj(DISC), DISC)
    for _ in range(N_ITERATIONS):
        values, seen = _sample(b, centres[1][:, None] + alpha[:, None] * disc + beta[:, None])
        step = _step(template, values, inside & seen, jacobian)
        shift, turn = step[:, 0] + 1j * step[:, 1], 1 + (step[:, 2] + 1j * step[:, 3]) / RADIUS_PX
        shift /= np.maximum(np.abs(shift) / _MAX_STEP_PX, 1)
        # the warp after the inverse of the step: z -> (z - shift) / turn
        back, inverse = -shift / turn, 1 / turn
        beta = beta + alpha * np.where(mirrored, np.conj(back), back)
        alpha = alpha * np.where(mirrored, np.conj(inverse), inverse)
    found, _ = _sample(_detail(a), at)
    values, seen = _sample(_detail(b), centres[1][:, None] + alpha[:, None] * disc + beta[:, None])
    both = inside & seen
    return Aligned(_similarity(found, values, both), both.mean(axis=1), alpha)


def _detail(stack: Float) -> Float:
    """The images without their coarse structure, which all cells of a type share."""
    detail: Float = stack - scipy.ndimage.gaussian_filter(stack, (0, _DETAIL_PX, _DETAIL_PX))
    return detail


def _sample(stack: Float, at: Complex) -> tuple[Float, NDArray[np.bool_]]:
    """Bilinear values of each image at its positions, (n, m), and whether these lie inside."""
    side = stack.shape[1]
    x, y = at.real, at.imag
    inside = (x >= 0) & (y >= 0) & (x <= side - 1) & (y <= side - 1)
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    flat = stack.reshape(-1)
    corner = np.arange(len(stack))[:, None] * side * side + top * side + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + side] * (1 - right) + flat[corner + side + 1] * right
    return upper * (1 - down) + lower * down, inside


def _step(template: Float, values: Float, both: NDArray[np.bool_], jacobian: Float) -> NDArray[np.float64]:
    """One Gauss-Newton step, (n, 4), with brightness and contrast of `values` matched to `template`."""
    n = both.sum(axis=1)[:, None] + 1e-6
    centred = [(image - (image * both).sum(axis=1)[:, None] / n) * both for image in (template, values)]
    spread = [np.sqrt((image**2).sum(axis=1)[:, None] / n) + 1e-3 for image in centred]
    error = centred[1] * (spread[0] / spread[1]) - centred[0]
    used = jacobian * both[:, :, None]
    hessian = np.matmul(used.transpose(0, 2, 1), jacobian) + 1e-2 * np.eye(4)
    gain = np.matmul(used.transpose(0, 2, 1), error[:, :, None])
    step: NDArray[np.float64] = np.linalg.solve(hessian.astype(float), gain.astype(float))[:, :, 0]
    return step


def _similarity(first: Float, second: Float, both: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pearson's correlation over the positions that both hold; 0 where one of them has no detail."""
    n = both.sum(axis=1)[:, None] + 1e-6
    a, b = ((image - (image * both).sum(axis=1)[:, None] / n) * both for image in (first, second))
    energies = [(image**2).sum(axis=1) / n[:, 0] for image in (a, b)]
    correlation = (a * b).sum(axis=1) / n[:, 0] / np.sqrt(np.maximum(energies[0] * energies[1], 1e-12))
    return np.where(np.minimum(*energies) > 0.5, correlation, 0.0)
