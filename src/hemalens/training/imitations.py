"""Held-out images as imitated laboratories show them: what prediction sets for other laboratories are calibrated on."""

from __future__ import annotations

from hemalens.datasets.base import CellDataset
from hemalens.training.imitated_laboratory import imitated
from hemalens.training.laboratory_augmentation import LaboratoryConfig

LABORATORIES = 12
IMAGES_OF_TYPE = 12
"""Images of each type that a laboratory has, where the held-out part allows; of a type with fewer, others fill up."""
FEWEST = 50
"""Fewest held-out images: below, a laboratory has too few for a quantile."""
STRENGTHS = (1.5, 2.0, 2.5)
"""Factors on the strengths of the laboratory augmentation, which laboratories have in turn: imitations no stronger than
those of the training are easier than real laboratories (docs/explanation/monitoring.md)."""
FIRST_SEED = 7000
"""Seed of the first laboratory; those of `hemalens data imitate` begin at 0, so that tests on them see others."""
_STRENGTHS = (
    "lightness_gain", "lightness_shift", "colour_gain", "colour_shift", "colour_turn_deg", "dye_mix", "channel_gain",
    "gamma", "gradient", "vignetting", "haze", "blur_px", "coarseness", "noise", "shot_noise",
)  # fmt: skip
MOST_HAZE = 0.85
"""Largest share of the contrast that a haze takes."""


def imitations_of(held: CellDataset | None) -> tuple[CellDataset, ...]:
    """Sets of `LABORATORIES` imitated laboratories, drawn from held-out images; none of fewer than `FEWEST` images."""
    if held is None or len(held) < FEWEST:
        return ()
    n = IMAGES_OF_TYPE * len(held.classes)
    strengths = [stronger(LaboratoryConfig(), STRENGTHS[i % len(STRENGTHS)]) for i in range(LABORATORIES)]
    return tuple(imitated(held, FIRST_SEED + i, "balanced", n, i, strengths=each) for i, each in enumerate(strengths))


def stronger(strengths: LaboratoryConfig, factor: float) -> LaboratoryConfig:
    """Strengths of stain, light, optics and noise times `factor`, and `step_share` times its root."""
    scaled = {name: getattr(strengths, name) * factor for name in _STRENGTHS}
    scaled["haze"] = min(scaled["haze"], MOST_HAZE)
    scaled["step_share"] = min(strengths.step_share * factor**0.5, 1.0)
    return strengths.model_copy(update=scaled)
