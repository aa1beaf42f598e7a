"""Augmentation that imitates another laboratory: its stain, light, optics and camera."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from hemalens.config import StrictConfig

JPEG_BEST = 95
"""Highest JPEG quality that is drawn; artefacts are invisible above it."""
SRGB_TO_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""Linear sRGB to CIE XYZ; rows sum to the white point (IEC 61966-2-1)."""
WHITE = SRGB_TO_XYZ.sum(dim=1)
"""XYZ of D65."""
DELTA = 6 / 29
HAZE_LIGHT = (0.4, 0.95)
"""Range of the red, green and blue of a haze, as a share of full scale."""
LEAST_LIGHT, LARGEST_ABSORBANCE = 0.01, 5.0
"""Limits of light, as a share of full scale, and of absorbance."""
TIGHTEST = (0.5, 1.05)
"""Least and largest side of a tight crop, as a share of the image's."""
OFF_MIDDLE = 0.08
"""How far a tight crop lies off the middle, at most, as a share of half the side."""


class LaboratoryConfig(StrictConfig):
    """Strengths of the laboratory augmentation; 0 switches a step off.

    A strength s of a factor means: between 1 / (1 + s) and 1 + s, uniform in its logarithm; of a shift: uniform in +- s.

    Stain, in CIE LAB: `lightness_gain` and `colour_gain` are factors on the spread of L, and of a and b, about their mean;
    `lightness_shift` and `colour_shift` move these means (units of LAB); `colour_turn_deg` turns (a, b) about gray. In
    absorbance: `dye_mix`, standard deviation of what is added to each entry of the unit matrix that mixes R, G and B.
    Light: `channel_gain`, a factor on each of R, G and B; `gamma`, an exponent; `gradient`, brighter to one side and
    darker to the other by up to this share; `vignetting`, darker in the corners by up to this share; `haze`, a veil of one
    light colour that takes up to this share of the contrast, on a share `step_share` of the images.
    Optics: `blur_px`, largest standard deviation of a Gaussian in pixels of the network's input; `coarseness`, shrunk by
    a factor of 1 to 1 + s and enlarged again. Camera: `noise` and `shot_noise`, largest standard deviation as a share of
    full scale, the same everywhere and growing with the root of the light. Each step of optics and noise meets a share
    `step_share` of the images. `jpeg`: share of the images that are coded at a quality from `jpeg_quality_min` to 95.
    `tight`: share of the images that look like a detector's crop. A rectangle about the middle, of half to all of the
    image's width and height, keeps its pixels; the rest has the median colour of its rim.
    """

    lightness_gain: float = Field(default=0.35, ge=0, le=2)
    lightness_shift: float = Field(default=15.0, ge=0, le=50)
    colour_gain: float = Field(default=0.6, ge=0, le=2)
    colour_shift: float = Field(default=20.0, ge=0, le=50)
    colour_turn_deg: float = Field(default=20.0, ge=0, le=180)
    dye_mix: float = Field(default=0.08, ge=0, le=0.5)
    channel_gain: float = Field(default=0.2, ge=0, le=1)
    gamma: float = Field(default=0.4, ge=0, le=2)
    gradient: float = Field(default=0.1, ge=0, le=0.9)
    vignetting: float = Field(default=0.15, ge=0, le=0.9)
    haze: float = Field(default=0.5, ge=0, le=0.9)
    blur_px: float = Field(default=1.5, ge=0, le=8)
    coarseness: float = Field(default=2.0, ge=0, le=7)
    noise: float = Field(default=0.03, ge=0, le=0.5)
    shot_noise: float = Field(default=0.02, ge=0, le=0.5)
    step_share: float = Field(default=0.5, ge=0, le=1)
    jpeg: float = Field(default=0.15, ge=0, le=1)
    jpeg_quality_min: int = Field(default=40, ge=1, le=JPEG_BEST)
    tight: float = Field(default=0.5, ge=0, le=1)

    @classmethod
    def none(cls) -> LaboratoryConfig:
        """No augmentation."""
        kept = ("step_share", "jpeg_quality_min")
        return cls(**{name: 0 for name in cls.model_fields if name not in kept})  # type: ignore[arg-type]


class LaboratoryAugmentation:
    """Applies a `LaboratoryConfig` to images uint8 (3, H, W), with torch's global generator."""

    def __init__(self, config: LaboratoryConfig) -> None:
        self.config = config

    def __call__(self, image: Tensor) -> Tensor:
        """A changed copy, uint8 (3, H, W)."""
        if self.config == LaboratoryConfig.none():
            return image.clone()
        changed = self._camera(self._optics(self._light(self._stain(image.float() / 255))))
        coded = (changed.clamp(0, 1) * 255).round().to(torch.uint8)
        if _happens(self.config.jpeg):
            coded = compressed(coded, int(torch.randint(self.config.jpeg_quality_min, JPEG_BEST + 1, ())))
        return self._cropped(coded)

    def _cropped(self, image: Tensor) -> Tensor:
        if not _happens(self.config.tight):
            return image
        half = torch.empty(2).uniform_(*TIGHTEST).tolist()
        middle = torch.empty(2).uniform_(-OFF_MIDDLE, OFF_MIDDLE).tolist()
        edges = [(1 + m - h, 1 + m + h) for m, h in zip(middle, half, strict=True)]
        sides = [
            slice(max(0, round(a * n / 2)), min(n, round(b * n / 2)))
            for (a, b), n in zip(edges, image.shape[1:], strict=True)
        ]
        return tight_crop(image, sides[0], sides[1])

    def _stain(self, image: Tensor) -> Tensor:
        c = self.config
        if any((c.lightness_gain, c.lightness_shift, c.colour_gain, c.colour_shift, c.colour_turn_deg)):
            gains = (_factor(c.lightness_gain), _factor(c.colour_gain), _factor(c.colour_gain))
            shifts = (_shift(c.lightness_shift), _shift(c.colour_shift), _shift(c.colour_shift))
            image = restained(image, gains, shifts, turn_rad=math.radians(_shift(c.colour_turn_deg)))
        return dyes_mixed(image, torch.eye(3) + c.dye_mix * torch.randn(3, 3)) if c.dye_mix else image

    def _light(self, image: Tensor) -> Tensor:
        c = self.config
        if c.channel_gain or c.gradient or c.vignetting:
            gains = torch.tensor([_factor(c.channel_gain) for _ in range(3)])
            slope, direction = _amount(c.gradient), _shift(math.pi) if c.gradient else 0.0
            image = lit(image, gains, slope=slope, direction_rad=direction, vignetting=_amount(c.vignetting))
        if c.haze and _happens(c.step_share):
            image = torch.lerp(image, torch.empty(3, 1, 1).uniform_(*HAZE_LIGHT), _amount(c.haze))
        return image.clamp(0, 1) ** _factor(c.gamma) if c.gamma else image

    def _optics(self, image: Tensor) -> Tensor:
        c = self.config
        if c.blur_px and _happens(c.step_share):
            image = blurred(image, _amount(c.blur_px))
        if c.coarseness and _happens(c.step_share):
            image = coarser(image, math.exp(_amount(math.log1p(c.coarseness))))
        return image

    def _camera(self, image: Tensor) -> Tensor:
        c = self.config
        if (c.noise or c.shot_noise) and _happens(c.step_share):
            return with_noise(image, _amount(c.noise), _amount(c.shot_noise))
        return image


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIE LAB, both (3, ...): L in [0, 100], a and b about +-100.

    The sRGB transfer function (IEC 61966-2-1), then CIE 1976: L = 116 f(Y/Yn) - 16, a = 500 (f(X/Xn) - f(Y/Yn)),
    b = 200 (f(Y/Yn) - f(Z/Zn)), f(t) the cube root of t, straight below (6/29)^3. White point D65.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = torch.tensordot(SRGB_TO_XYZ / WHITE[:, None], linear, dims=1)
    x, y, z = torch.where(t > DELTA**3, t.clamp(min=DELTA**3) ** (1 / 3), t / (3 * DELTA**2) + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lab_to_srgb(lab: Tensor) -> Tensor:
    """CIE LAB to sRGB, both (3, ...), clipped to [0, 1]. The inverse of `srgb_to_lab`."""
    y = (lab[0] + 16) / 116
    f = torch.stack([y + lab[1] / 500, y, y - lab[2] / 200])
    t = torch.where(f > DELTA, f * f * f, 3 * DELTA**2 * (f - 4 / 29))
    linear = torch.tensordot(torch.linalg.inv(SRGB_TO_XYZ / WHITE[:, None]), t, dims=1).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


Three = tuple[float, float, float]


def restained(image: Tensor, gains: Three, shifts: Three, *, turn_rad: float, about: Three | None = None) -> Tensor:
    """An image (3, H, W) in [0, 1] with other means and spreads in LAB: (a, b) turned about gray, then
    (x - mean) * gain + mean + shift of each channel. `about` replaces the image's own mean.

    Source: Reinhard et al., Color transfer between images, 2001, with drawn statistics in place of another image's.
    """
    lightness, a, b = srgb_to_lab(image)
    cos, sin = math.cos(turn_rad), math.sin(turn_rad)
    lab = torch.stack([lightness, cos * a - sin * b, sin * a + cos * b])
    mean = lab.mean(dim=(1, 2), keepdim=True) if about is None else torch.tensor(about).view(3, 1, 1)
    gain, shift = (torch.tensor(values).view(3, 1, 1) for values in (gains, shifts))
    return lab_to_srgb((lab - mean) * gain + mean + shift)


def dyes_mixed(image: Tensor, matrix: Tensor) -> Tensor:
    """An image (3, H, W) in [0, 1] whose natural absorbances of R, G and B are mixed by `matrix` (3, 3).

    Imitates dyes of other colours, or other camera filters (Lambert and Beer: absorbances of dyes add up).
    """
    absorbance = -image.clamp(LEAST_LIGHT, 1).log()
    return torch.exp(-torch.tensordot(matrix, absorbance, dims=1).clamp(0, LARGEST_ABSORBANCE))


def lit(image: Tensor, gains: Tensor, *, slope: float, direction_rad: float, vignetting: float) -> Tensor:
    """An image (3, H, W) times (1 + slope * u) (1 - vignetting * r^2) and a gain of each channel, `gains` (3,).

    u runs from -1 to 1 across the image in the given direction; r is 0 in its middle and 1 in its corners.
    """
    y = torch.linspace(-1, 1, image.shape[1])[:, None]
    x = torch.linspace(-1, 1, image.shape[2])
    cos, sin = math.cos(direction_rad), math.sin(direction_rad)
    u = (x * cos + y * sin) / (abs(cos) + abs(sin))
    light = (1 + slope * u) * (1 - vignetting * (x**2 + y**2) / 2)
    return image * (light * gains.view(3, 1, 1))


def blurred(image: Tensor, sd_px: float) -> Tensor:
    """An image (3, H, W) blurred by a Gaussian of this standard deviation, with replicated edges."""
    radius = math.ceil(3 * sd_px)
    if radius == 0:
        return image
    place = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(place**2) / (2 * sd_px**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = pad(image[:, None], (radius, radius, radius, radius), mode="replicate")
    return conv2d(conv2d(padded, kernel), kernel.mT)[:, 0]


def coarser(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W) shrunk by `factor` and enlarged again, as from a camera of lower resolution."""
    height, width = image.shape[1:]
    small = (max(1, round(height / factor)), max(1, round(width / factor)))
    shrunk = interpolate(image[None], small, mode="bilinear", antialias=True)
    return interpolate(shrunk, (height, width), mode="bilinear")[0]


def with_noise(image: Tensor, sd: float, shot_sd: float, generator: torch.Generator | None = None) -> Tensor:
    """An image (3, H, W) in [0, 1] plus Gaussian noise of variance sd^2 + shot_sd^2 * image.

    The second part is shot noise, a Poisson variable of many photons. Without a `generator`, torch's global one draws.
    """
    spread = (sd**2 + shot_sd**2 * image.clamp(min=0)).sqrt()
    return image + spread * torch.randn(image.shape, generator=generator)


def compressed(image: Tensor, quality: int) -> Tensor:
    """An image uint8 (3, H, W) after JPEG at this quality, 1 to 95."""
    coded = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(coded, "JPEG", quality=quality)
    with Image.open(coded) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1).contiguous()


def tight_crop(image: Tensor, rows: slice, columns: slice) -> Tensor:
    """An image (3, H, W) with the median colour of the rim outside these rows and columns."""
    inside = image[:, rows, columns]
    rim = torch.cat([inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]], dim=1)
    cropped = rim.median(dim=1).values[:, None, None].expand_as(image).clone()
    cropped[:, rows, columns] = inside
    return cropped


def _shift(strength: float) -> float:
    """Uniform in +- strength; draws nothing for 0."""
    return float(torch.empty(()).uniform_(-strength, strength)) if strength else 0.0


def _amount(largest: float) -> float:
    """Uniform between 0 and `largest`; draws nothing for 0."""
    return float(torch.empty(()).uniform_(0, largest)) if largest else 0.0


def _factor(strength: float) -> float:
    """Between 1 / (1 + strength) and 1 + strength, uniform in its logarithm."""
    return math.exp(_shift(math.log1p(strength)))


def _happens(share: float) -> bool:
    """True with probability `share`; draws nothing for 0."""
    return bool(share) and float(torch.rand(())) < share
