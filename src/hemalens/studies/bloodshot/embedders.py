"""The embedders of the BloodShot study, and the parts of the generic dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import hold_out, seeded
from hemalens.methods import find_method
from hemalens.methods.bloodshot import BloodShotConfig
from hemalens.runs.folders import fit_or_resume

LOSSES = ("softmax", "aam", "aam+consistency")
IMAGENET: dict[str, Any] = {"backbone": "tf_efficientnet_lite0", "weights": "package", "normalisation": "backbone"}
AUGMENTED: dict[str, Any] = {
    "loss": "aam",
    "epochs": 10,
    # AdamW with warm-up and a cosine, as the method `finetune`
    "optimiser": {"weight_decay": 0.05, "warmup_epochs": 1.0, "schedule": "cosine", "gradient_clip": 1.0},
    # a cell fills 30 % of an image in one set and 60 % in another: twice as large, half as large
    "augmentation": {
        "flip": True,
        "rotation_deg": 180.0,
        "zoom": 1.0,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.4,
        "hue": 0.06,
    },
}
AUGMENTED_ROW = "aam, ImageNet, augmented"
ROWS: dict[str, dict[str, Any]] = {
    **{f"{loss}, random": {"loss": loss} for loss in LOSSES},
    **{f"{loss}, ImageNet": {**IMAGENET, "loss": loss} for loss in LOSSES},
    AUGMENTED_ROW: {**IMAGENET, **AUGMENTED},
}
"""Row -> settings: the paper's three (random weights first), the same from ImageNet weights, and one with augmentation."""
FROZEN = "frozen ImageNet"
"""The row that is not trained: Lite0 with its ImageNet weights at 224 px."""
JOINED: dict[str, tuple[str, ...]] = {
    "frozen + augmented": (FROZEN, AUGMENTED_ROW),
    "all from ImageNet": (FROZEN, *(f"{loss}, ImageNet" for loss in LOSSES), AUGMENTED_ROW),
}
"""Concatenated embedders: each embedding at unit length."""
PUBLISHED = tuple(f"{loss}, random" for loss in LOSSES)


OWN_SETTINGS = ("embedder.", "augmented.")
"""Prefixes of settings that go to embedders, not to the study."""


def embedder_config(row: str, settings: Sequence[str]) -> BloodShotConfig:
    """The configuration of a row; settings `embedder.KEY=VALUE` go over it, `augmented.KEY=VALUE` for the augmented row."""
    prefix = "augmented." if row == AUGMENTED_ROW else "embedder."
    chosen = [setting.removeprefix(prefix) for setting in settings if setting.startswith(prefix)]
    return BloodShotConfig.load(None, chosen, base=ROWS[row])


def three_parts(generic: CellDataset, seed: int) -> tuple[CellDataset, CellDataset, CellDataset]:
    """(training, validation, test) parts of 70, 10 and 20 %."""
    rest, test = hold_out(generic, 0.2, seeded(seed, "test"))
    learn, validation = hold_out(rest, 0.125, seeded(seed, "validation"))
    return learn, validation, test


def fit_embedder(
    row: str, config: BloodShotConfig, learn: CellDataset, validation: CellDataset, *, out: Path, seed: int
) -> Bundle:
    """Train one row in its folder below `out`; a finished bundle there is reused."""
    folder = out / "fits" / row.replace(", ", "_").replace("+", "_").lower()
    method = find_method("bloodshot")
    return fit_or_resume(folder, method, learn, validation=validation, config=config, rng=seeded(seed, "fit"))
