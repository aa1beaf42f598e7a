"""Imitated laboratories: stain, light, optics, camera and scale, drawn once and held fixed for a whole set."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from hemalens.datasets.base import CellDataset
from hemalens.datasets.mixes import Mix, mixed
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError
from hemalens.files import sha256_text
from hemalens.imaging.segmentation import segment_cell
from hemalens.training.laboratory_augmentation import (
    HAZE_LIGHT,
    JPEG_BEST,
    LaboratoryConfig,
    Three,
    blurred,
    coarser,
    compressed,
    dyes_mixed,
    lab_to_srgb,
    lit,
    restained,
    srgb_to_lab,
    with_noise,
)

__all__ = ["ImitatedLaboratory", "Look", "Mix", "imitated", "mixed"]

UNITS = {
    "gains": "factors on L, a and b, about the colour 70, 10, -5 in LAB",
    "shifts": "units of L, a and b",
    "turn_rad": "radians, of (a, b) about gray",
    "dyes": "matrix that mixes the absorbances of R, G and B",
    "channels": "factors on R, G and B",
    "gamma": "exponent",
    "slope": "share of the light, from the middle to the brighter side, in direction_rad",
    "vignetting": "share of the light that the corners lack",
    "haze": "share of the contrast that a veil of the colour haze_light takes",
    "haze_light": "R, G and B as shares of full scale",
    "blur": "standard deviation as a share of the source image's short side",
    "coarseness": "factor by which the image is shrunk and enlarged again",
    "noise": "standard deviation as a share of full scale, the same everywhere",
    "shot_noise": "standard deviation as a share of full scale, at full light",
    "margin": "share of the cell's height and width that a tight crop keeps on each side",
    "direction_rad": "radians, from the right side downwards",
    "scale": "factor on height and width",
    "jpeg_quality": "1 to 95, or null for no compression",
    "tight": "whether images are cropped to the cell",
}
"""What the numbers of a laboratory mean."""
VERSION = "1"
"""Part of the digest: change it with what a laboratory does to an image."""
VARIATION = 0.1
"""How far each image lies from its laboratory, as a share of the way to another laboratory."""
SCALE = (0.4, 1.6)
"""Range of the factor on the size of an image."""
MARGIN = (0.05, 0.4)
"""Range of what a tight crop keeps on each side of the cell, as a share of the cell's height and width."""
BLUR_PX = 160
"""An image's short side in the pixels of `LaboratoryConfig.blur_px`: a window of 96 px is about 0.6 of an image."""
LEAST_RESOLUTION = 0.25
"""What scale and coarseness leave of the source's resolution; below it a nucleus has fewer than about 30 pixels."""
PIVOT = (70.0, 10.0, -5.0)
"""The colour in LAB about which a stain's gains spread: near the mean of a smear image."""
SMEARS: tuple[tuple[Three, Three], ...] = (
    ((92.0, 5.0, 16.0), (28.0, 41.0, -44.0)),
    ((77.0, 9.0, 11.0), (28.0, 42.0, -26.0)),
)
"""Median colours in LAB of background and nucleus in Acevedo-20 and in Raabin-WBC, by which a laboratory is judged."""
GROUND = ((62.0, 101.0), (-13.0, 18.0), (-12.0, 36.0))
"""Ranges of L, a and b of a plausible background; seven real sets have 73 to 98, -8 to 9 and 2 to 30."""
HUES_DEG = (-68.0, -18.0)
"""Hues of a plausible nucleus, from blue to reddish purple; real sets have -56 to -29."""
NUCLEUS_CHROMA = 18.0
"""Least chroma of a plausible nucleus; real sets have 47 and more, less a haze."""
CONTRAST = 40.0
"""Least distance in LAB between a plausible nucleus and its background; real sets have 71 and more."""
MOST_DRAWS = 1000
"""Laboratories that are drawn before the strengths are refused."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a laboratory does to the colours and pixels of one image; units as in `LaboratoryConfig`.

    `gains` and `shifts` are of L, a and b; `dyes` are the rows of the matrix that mixes absorbances; `channels` are
    factors on R, G and B; `haze_light` is a colour in shares of full scale. `blur` is a share of the image's short side;
    `coarseness` the factor by which it is shrunk and enlarged again. `margin` is what a crop keeps around the cell.
    """

    gains: Three
    shifts: Three
    turn_rad: float
    dyes: tuple[Three, Three, Three]
    channels: Three
    gamma: float
    slope: float
    vignetting: float
    haze: float
    haze_light: Three
    blur: float
    coarseness: float
    noise: float
    shot_noise: float
    margin: float

    @classmethod
    def drawn(cls, c: LaboratoryConfig, rng: np.random.Generator) -> Look:
        """One look with these strengths."""

        def happens(most: float) -> float:
            # both are drawn, so that one strength does not change what others draw
            amount, does = rng.uniform(0, most), rng.random() < c.step_share
            return float(amount) if does else 0.0

        def shift(strength: float) -> float:
            return float(rng.uniform(-strength, strength))

        def factor(strength: float) -> float:
            return math.exp(shift(math.log1p(strength)))

        return cls(
            gains=(factor(c.lightness_gain), factor(c.colour_gain), factor(c.colour_gain)),
            shifts=(shift(c.lightness_shift), shift(c.colour_shift), shift(c.colour_shift)),
            turn_rad=math.radians(shift(c.colour_turn_deg)),
            dyes=_rows(np.eye(3) + c.dye_mix * rng.standard_normal((3, 3))),
            channels=(factor(c.channel_gain), factor(c.channel_gain), factor(c.channel_gain)),
            gamma=factor(c.gamma),
            slope=float(rng.uniform(0, c.gradient)),
            vignetting=float(rng.uniform(0, c.vignetting)),
            haze=happens(c.haze),
            haze_light=_three(rng.uniform(*HAZE_LIGHT, 3)),
            blur=happens(c.blur_px / BLUR_PX),
            coarseness=math.exp(happens(math.log1p(c.coarseness))),
            noise=happens(c.noise),
            shot_noise=happens(c.shot_noise),
            margin=float(rng.uniform(*MARGIN)),
        )

    def towards(self, other: Look, share: float) -> Look:
        """The look that lies `share` of the way to another one."""
        parts = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Look(**{name: _between(mine, its, share) for (name, mine), its in parts})

    def coloured(self, image: Tensor, direction_rad: float) -> Tensor:
        """Stain and light of an image (3, H, W) in [0, 1]; it is brighter towards `direction_rad`."""
        image = restained(image, self.gains, self.shifts, turn_rad=self.turn_rad, about=PIVOT)
        image = dyes_mixed(image, torch.tensor(self.dyes, dtype=torch.float32))
        channels = torch.tensor(self.channels)
        image = lit(image, channels, slope=self.slope, direction_rad=direction_rad, vignetting=self.vignetting)
        image = torch.lerp(image, torch.tensor(self.haze_light).view(3, 1, 1), self.haze)
        return image.clamp(0, 1) ** self.gamma


@dataclass(frozen=True)
class ImitatedLaboratory:
    """A laboratory that never was: a stage that makes an image look as if it came from there. Draw one with `drawn`.

    All of a set share its `look`, the direction of its light, its factor of scale, its JPEG quality (None: no JPEG), and
    whether its images are cropped to the cell. Each image varies about the look by `VARIATION`. The image's pixels seed
    that, so an image gives the same pixels whenever, wherever and in whichever order it is read.
    """

    seed: int
    look: Look
    direction_rad: float
    scale: float
    jpeg_quality: int | None
    tight: bool
    strengths: LaboratoryConfig

    @classmethod
    def drawn(cls, seed: int, strengths: LaboratoryConfig | None = None) -> ImitatedLaboratory:
        """Draw a laboratory; the same seed and strengths give the same one.

        A laboratory under which a smear would be no smear (`is_plausible`) is drawn anew. Strength 0 in all gives one that
        changes the scale alone. Raises `ConfigError` where the strengths give no plausible one.
        """
        strengths = strengths or LaboratoryConfig()
        rng = seeded(seed, "imitated laboratory")
        for _ in range(MOST_DRAWS):
            look = Look.drawn(strengths, rng)
            if is_plausible(look):
                break
        else:
            raise ConfigError(
                "no imitated laboratory under these strengths shows a smear",
                got=f"{MOST_DRAWS} without a dark nucleus on a bright ground",
                remedy="Lower the strengths of stain and light.",
            )
        scale = float(math.exp(rng.uniform(*np.log(SCALE))))
        quality = int(rng.integers(strengths.jpeg_quality_min, JPEG_BEST + 1))
        return cls(
            seed=seed,
            look=replace(look, coarseness=min(look.coarseness, scale / LEAST_RESOLUTION)),
            direction_rad=float(rng.uniform(-math.pi, math.pi)),
            scale=scale,
            jpeg_quality=quality if rng.random() < strengths.jpeg else None,
            tight=bool(rng.random() < strengths.tight),
            strengths=strengths,
        )

    @cached_property
    def digest(self) -> str:
        """A digest of all that was drawn."""
        return sha256_text("imitated laboratory", VERSION, json.dumps(self.parameters(), sort_keys=True))

    def parameters(self) -> dict[str, object]:
        """All that was drawn, with the strengths, for JSON."""
        return {**asdict(self), "strengths": self.strengths.model_dump()}

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, 3), as it would come from this laboratory, of another height and width."""
        rng = np.random.default_rng(list(hashlib.sha256(f"{self.digest}{image.shape}".encode() + image.tobytes()).digest()))
        look = self.look.towards(Look.drawn(self.strengths, rng), VARIATION)
        blur_px = look.blur * min(image.shape[:2])
        if self.tight:
            image = around_cell(image, look.margin)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = blurred(look.coloured(pixels, self.direction_rad), blur_px)
        pixels = coarser(rescaled(pixels, self.scale), look.coarseness)
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        pixels = with_noise(pixels, look.noise, look.shot_noise, noise)
        coded = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        if self.jpeg_quality is not None:
            coded = compressed(coded, self.jpeg_quality)
        return coded.permute(1, 2, 0).contiguous().numpy()


def imitated(
    dataset: CellDataset,
    laboratory_seed: int,
    mix: Mix,
    n: int,
    seed: int,
    *,
    strengths: LaboratoryConfig | None = None,
) -> CellDataset:
    """The set of an imitated laboratory: cells of `dataset` drawn by `mixed`, each seen through one laboratory.

    The laboratory lies in front of all stages that the records have or get, so the cell is found in the changed image.
    Contents stay those of the files: a training still refuses cells that it is tested on. So do groups and domains. Masks
    are left out, since they fit the images on disk. Raises `InputError` as `mixed` does.
    """
    drawn = mixed(dataset, mix, n, seed)
    laboratory = ImitatedLaboratory.drawn(laboratory_seed, strengths)
    records = tuple(replace(record, imitation=laboratory, mask_path=None) for record in drawn.records)
    found = replace(drawn, name=f"{dataset.name} imitation {laboratory_seed}, {mix}", records=records)
    found.__dict__["contents"] = drawn.contents
    return found


def is_plausible(look: Look) -> bool:
    """Whether smears stay smears: a bright, pale background, and a darker nucleus between blue and reddish purple."""
    return all(_is_smear(*(_shown(look, colour) for colour in smear)) for smear in SMEARS)


def _shown(look: Look, colour: Three) -> Three:
    """A colour in LAB under this look, in the middle of an image, where gradient and vignetting are nothing."""
    pixel = lab_to_srgb(torch.tensor(colour).view(3, 1, 1))
    return _three(srgb_to_lab(look.coloured(pixel.expand(3, 3, 3), 0.0))[:, 1, 1].numpy())


def _is_smear(ground: Three, nucleus: Three) -> bool:
    within = all(low <= value <= high for value, (low, high) in zip(ground, GROUND, strict=True))
    chroma, hue = math.hypot(*nucleus[1:]), math.degrees(math.atan2(nucleus[2], nucleus[1]))
    stained = chroma >= NUCLEUS_CHROMA and HUES_DEG[0] <= hue <= HUES_DEG[1]
    return within and stained and nucleus[0] < ground[0] and math.dist(ground, nucleus) >= CONTRAST


def around_cell(image: NDArray[np.uint8], margin: float) -> NDArray[np.uint8]:
    """The image (H, W, 3) cut to its cell, with `margin` of the cell's height and width on each side.

    An image in which no cell is found stays whole.
    """
    mask = segment_cell(image).cell
    if not mask.any():
        return image
    cut = []
    for axis in (0, 1):
        inside = np.flatnonzero(mask.any(axis=1 - axis))
        first, last = int(inside[0]), int(inside[-1]) + 1
        room = round(margin * (last - first))
        cut.append(slice(max(0, first - room), last + room))
    return image[cut[0], cut[1]]


def rescaled(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W) with `factor` times the height and width."""
    height, width = (max(1, round(n * factor)) for n in image.shape[1:])
    return interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]


def _between(mine: Any, its: Any, share: float) -> Any:
    """A number, or a tuple of such, `share` of the way to another one."""
    if isinstance(mine, tuple):
        return tuple(_between(a, b, share) for a, b in zip(mine, its, strict=True))
    return (1 - share) * mine + share * its


def _three(values: NDArray[np.float64]) -> Three:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _rows(matrix: NDArray[np.float64]) -> tuple[Three, Three, Three]:
    first, second, third = (_three(row) for row in matrix)
    return first, second, third
