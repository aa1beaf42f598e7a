"""Settings of the study, its networks, and what keeps published numbers from being comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.datasets.splits import LargerClasses
from hemalens.errors import InputError
from hemalens.methods.mobilevit import MobileVitConfig
from hemalens.studies.base import changed_settings, describe, published

FIT = "fit."
"""Prefix of settings that go to every network."""
ROWS = {
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_large_100": "MobileNetV3",
    "mobilevit_plain_xs": "MobileViT",
}
"""timm's name of each network, and the paper's."""
PUBLISHED_PX = 224
"""Input size of the convolutional networks, by their published FLOPs; MobileViT's is its method's."""
ON_WATCHED_TEST = {"calibrate": False}
"""Settings of the networks without a validation part: the test part is watched, and chooses and calibrates nothing."""
ON_VALIDATION = {"kept_epoch": "best"}
"""Settings of the networks with a validation part, which chooses the epoch and calibrates."""


class MobileVitStudyConfig(StrictConfig):
    """The published protocol: the same images, split and settings for all networks, a random tenth for the test.

    `n_images`: how many images are used, 0 for all. The paper uses 6,033 of 18,365 and does not list them. `class_mix`:
    small classes are whole; of the larger ones "proportional" draws the same share and "equal" the same number.
    `validation_fraction`: share of the training part that chooses the epoch and calibrates; 0, as published, trains on
    all of it and keeps the last epoch. `stratified`: whether the parts have the same mix of classes; published is a plain
    random split. `rows`: networks by timm's names, empty for the five.
    """

    labels: str = "fab_eight"
    min_per_class: int = Field(default=10, ge=1)
    n_images: int = Field(default=6033, ge=0)
    class_mix: LargerClasses = "proportional"
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    stratified: bool = False
    rows: tuple[str, ...] = Field(default=(), strict=False)


def split_settings(settings: Sequence[str]) -> tuple[MobileVitStudyConfig, list[str]]:
    """The study's settings, and those of every network without their prefix."""
    config = MobileVitStudyConfig.load(None, [s for s in settings if not s.startswith(FIT)])
    return config, [s.removeprefix(FIT) for s in settings if s.startswith(FIT)]


def network_configs(
    config: MobileVitStudyConfig, own: Sequence[str], *, published_only: bool = False
) -> dict[str, MobileVitConfig]:
    """The settings of each network by timm's name; `published_only` leaves out networks that the paper does not have.

    Raises `InputError` where no network is left, or where the test part would choose the epoch or calibrate.
    """
    names = [name for name in config.rows or ROWS if name in ROWS or not published_only]
    if not names:
        raise InputError("no row of the study is published", expected=f"some of {', '.join(ROWS)}")
    configs = {name: _network(name, config, own) for name in names}
    if config.validation_fraction == 0 and not all(each.only_watches for each in configs.values()):
        raise InputError(
            "the epoch would be chosen, or the model calibrated, on test images",
            expected="fit.kept_epoch=last, fit.patience=null and fit.calibrate=false",
            remedy="Hold a validation part out with --set validation_fraction=0.1.",
        )
    return configs


def _network(name: str, config: MobileVitStudyConfig, own: Sequence[str]) -> MobileVitConfig:
    size = {} if name.startswith("mobilevit") else {"image_size_px": PUBLISHED_PX}
    held = ON_VALIDATION if config.validation_fraction else ON_WATCHED_TEST
    return MobileVitConfig.load(None, own, base={"backbone": name, **size, **held})


def departures(
    spec: str, n_found: int, config: MobileVitStudyConfig, configs: Mapping[str, MobileVitConfig]
) -> tuple[str, ...]:
    """Reasons why published accuracies are not comparable: other cells, or settings other than the published ones.

    `n_found` is the number of images in the set that `spec` names, before any are left out.
    """
    wanted = describe("mobilevit").roles[0].published
    found = []
    if not (spec.startswith(f"{wanted.reader}:") and n_found == wanted.n_images):
        found.append(f"not the {wanted.n_images:,} images of {wanted.title}")
    found += _changed(config, MobileVitStudyConfig())
    for name, each in configs.items():
        if name in ROWS:
            found += [f"{FIT}{text}" for text in _changed(each, _network(name, MobileVitStudyConfig(), ()))]
    return tuple(dict.fromkeys(found))


def _changed(given: StrictConfig, as_published: StrictConfig) -> list[str]:
    """Settings of other values, as key=value; those that no result depends on are left out."""
    but = ("rows", "n_loader_workers")
    found = changed_settings(given, as_published)
    return [f"{key}={value}" for key, (value, _) in found.items() if key not in but]


def published_rows() -> Mapping[str, Mapping[str, float]]:
    """Published accuracy, GFLOPs and millions of parameters of each network, by timm's name."""
    rows: Mapping[str, Mapping[str, float]] = published("mobilevit")["rows"]
    return rows
