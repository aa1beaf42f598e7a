"""The embedders of the BloodShot study, and the parts of the generic dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.base import Record
from hemalens.datasets.splits import hold_out, seeded
from hemalens.errors import SplitError, one_line
from hemalens.methods import find_method
from hemalens.methods.bloodshot import BloodShotConfig
from hemalens.runs.folders import fit_or_resume

LOSSES = ("softmax", "aam", "aam+consistency")
OWN: dict[str, Any] = {
    "interpolation": "bilinear",
    "initialisation": "timm",
    "stochastic_depth": 0.0,
    "passes": "one",
    "dropout": 0.0,
    "head_size": 0,
    "reshuffle": True,
}
"""Settings of our rows that are not those of the authors' code."""
IMAGENET: dict[str, Any] = {
    **OWN,
    "backbone": "tf_efficientnet_lite0",
    "weights": "package",
    "normalisation": "backbone",
}
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
AUTHORS = "aam+consistency, authors' weights"
"""The row of a checkpoint of the authors, which is not trained."""

OWN_SETTINGS = ("embedder.", "augmented.")
"""Prefixes of settings that go to embedders, not to the study."""
LEARN_SHARE, VALIDATION_SHARE, TEST_SHARE = 0.7, 0.1, 0.2
Parts = tuple[CellDataset, CellDataset, CellDataset]


def embedder_config(row: str, settings: Sequence[str]) -> BloodShotConfig:
    """The configuration of a row; settings `embedder.KEY=VALUE` go over it, `augmented.KEY=VALUE` for the augmented row."""
    prefix = "augmented." if row == AUGMENTED_ROW else "embedder."
    chosen = [setting.removeprefix(prefix) for setting in settings if setting.startswith(prefix)]
    return BloodShotConfig.load(None, chosen, base=ROWS[row])


def stratified_parts(generic: CellDataset, *, seed: int) -> Parts:
    """(training, validation, test) parts of 70, 10 and 20 % of each class; groups and copies stay together."""
    rest, test = hold_out(generic, TEST_SHARE, seeded(seed, "test"))
    learn, validation = hold_out(rest, VALIDATION_SHARE / (1 - TEST_SHARE), seeded(seed, "validation"))
    return learn, validation, test


def random_parts(generic: CellDataset, dropped: Sequence[Record], *, seed: int) -> Parts:
    """(training, validation, test) parts of 70, 10 and 20 % of all images, drawn as in the authors' code.

    It draws over all images in the order of their paths. `dropped` are the images that cleaning took out: they count in the
    draw and are in no part. Raises `SplitError` for images in groups, which would be in several parts, and where a class
    has no training or no test image.
    """
    if any(record.group is not None for record in generic.records):
        raise SplitError(f"a random split of {generic.name} would divide its groups", remedy="Use --set split=stratified.")
    position = {id(record): i for i, record in enumerate(generic.records)}
    everything = sorted([*generic.records, *dropped], key=lambda record: record.path)
    learn, validation, test = (
        generic.subset(position[id(everything[i])] for i in chosen if id(everything[i]) in position)
        for chosen in drawn_parts(len(everything), seed=seed)
    )
    for part, what in ((learn, "training"), (test, "test")):
        absent = [name for name, n in part.class_counts.items() if not n]
        if absent:
            raise SplitError(
                f"the random split of {generic.name} has no {what} image of class {one_line(absent[0])}",
                remedy="Use --set split=stratified, or leave small classes out with --set min_per_class=30.",
            )
    return learn, validation, test


def drawn_parts(n: int, *, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Indices of 70, 10 and 20 % of `n` images, as torch's `random_split` draws them with a generator of its own."""
    import torch

    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    n_learn, n_validation = int(LEARN_SHARE * n), int(VALIDATION_SHARE * n)
    return order[:n_learn], order[n_learn : n_learn + n_validation], order[n_learn + n_validation :]


def fit_embedder(
    row: str, config: BloodShotConfig, learn: CellDataset, validation: CellDataset, *, out: Path, seed: int
) -> Bundle:
    """Train one row in its folder below `out`; a finished bundle there is reused."""
    folder = out / "fits" / re.sub("[^a-z0-9]+", "_", row.lower())
    method = find_method("bloodshot")
    return fit_or_resume(folder, method, learn, validation=validation, config=config, rng=seeded(seed, "fit"))
