"""The settings of the BC-SAM study: its own, and those of its parts, `PART.KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from hemalens.classifiers.heads import check_head
from hemalens.config import Seed, StrictConfig
from hemalens.errors import ConfigError
from hemalens.methods.bc_sam import BCSamConfig
from hemalens.methods.bc_sam_segmenter import SegmenterConfig
from hemalens.methods.finetune import FinetuneConfig
from hemalens.studies.bc_sam.latents import Protocol
from hemalens.training.autoencoder import Discrepancy
from hemalens.training.baseline_autoencoders import AECFEConfig, DoRLConfig

PARTS = ("features", "segmenter", "resnext", "ae_cfe", "dorl")
RESNEXT_DEFAULTS: dict[str, Any] = {
    "backbone": "resnext50_32x4d",
    "weights": "none",
    "image_size_px": 224,
    "precision": "fp32",
}
PUBLISHED_HEADS = ("rf", "svm_poly", "xgboost", "svm_rbf", "ann")
PUBLISHED_ROWS: dict[str, Any] = {
    "heads": PUBLISHED_HEADS,
    "protocols": ("transductive",),
    "discrepancies": ("linear",),
    "pooled": False,
    "shown_head": "ann",
}
"""The settings that leave the rows of the paper's table."""


class BCSamStudyConfig(StrictConfig):
    """The published protocol, and ours.

    `split_seed` seeds folds and heads: 1234 in the authors' code. `protocols` and `discrepancies`: which autoencoders;
    published is transductive with the linear MMD alone. `resnext`, `ae_cfe` and `dorl`: which baselines are trained; DoRL
    is of a later paper. `shown_head`: the head whose evaluations the report shows in full, for the features and the
    published autoencoder.
    """

    labels: str = "thirteen_class"
    n_folds: int = Field(default=5, ge=2)
    split_seed: Seed = 1234
    min_per_class: int = Field(default=1, ge=1)
    heads: tuple[str, ...] = Field(default=(*PUBLISHED_HEADS, "lr"), strict=False)
    protocols: tuple[Protocol, ...] = Field(default=("transductive", "inductive"), strict=False)
    discrepancies: tuple[Discrepancy, ...] = Field(default=("none", "linear", "rbf"), strict=False)
    pooled: bool = True
    resnext: bool = True
    ae_cfe: bool = True
    dorl: bool = False
    shown_head: str = "lr"


@dataclass(frozen=True, slots=True)
class StudyConfigs:
    """The settings of the study and of its parts.

    `segmenter` is None where a segmenter is named or classical; `segmenter_settings` are its own ones as given.
    """

    study: BCSamStudyConfig
    features: BCSamConfig
    segmenter: SegmenterConfig | None
    segmenter_settings: tuple[str, ...]
    resnext: FinetuneConfig
    ae_cfe: AECFEConfig
    dorl: DoRLConfig

    def shown(self) -> dict[str, StrictConfig]:
        """The settings of the parts that run, by their names in the report."""
        chosen = {"resnext": self.study.resnext, "ae_cfe": self.study.ae_cfe, "dorl": self.study.dorl}
        parts: dict[str, StrictConfig] = {"study": self.study, "features": self.features}
        if self.segmenter is not None:
            parts["segmenter"] = self.segmenter
        return parts | {name: getattr(self, name) for name, runs in chosen.items() if runs}


def read_configs(settings: Sequence[str], *, masks: bool, published_only: bool) -> StudyConfigs:
    """All settings; `masks`: whether the study trains a segmenter. Raises `ConfigError`.

    `published_only` changes the defaults to `PUBLISHED_ROWS`.
    """
    prefixes = tuple(f"{part}." for part in PARTS)
    own = [setting for setting in settings if not setting.startswith(prefixes)]
    given = {
        part: [setting.removeprefix(f"{part}.") for setting in settings if setting.startswith(f"{part}.")] for part in PARTS
    }
    study = BCSamStudyConfig.load(None, own, base=PUBLISHED_ROWS if published_only else None)
    for head in (*study.heads, study.shown_head):
        check_head(head)
    if study.shown_head not in study.heads:
        raise ConfigError("shown_head is not among the heads", expected=", ".join(study.heads), got=study.shown_head)
    features = BCSamConfig.load(None, given["features"])
    _check_segmenter(features, given["segmenter"], masks=masks)
    segmenter = SegmenterConfig.load(None, given["segmenter"]) if masks else None
    if segmenter is not None:
        _ = segmenter.sam  # raises where no weights are named
    return StudyConfigs(
        study,
        features,
        segmenter,
        tuple(given["segmenter"]),
        FinetuneConfig.load(None, given["resnext"], base=RESNEXT_DEFAULTS),
        AECFEConfig.load(None, given["ae_cfe"]),
        DoRLConfig.load(None, given["dorl"]),
    )


def _check_segmenter(features: BCSamConfig, given: Sequence[str], *, masks: bool) -> None:
    """Raise `ConfigError` unless there is one way to a segmenter."""
    ways = "Train one with --data masks=SPEC --set segmenter.weights=FILE, or name one with --set features.segmenter=FOLDER"
    if masks and features.segmenter:
        raise ConfigError("the study has two segmenters: of masks, and features.segmenter", remedy=f"{ways}, not both.")
    if not masks and not features.segmenter:
        raise ConfigError(
            "the study needs a segmenter",
            remedy=f"{ways}; without SAM's weights: --set features.features=timm --set features.segmenter=classical.",
        )
    if not masks and given:
        raise ConfigError(
            "settings of a segmenter, and no masks to train it",
            got=f"segmenter.{given[0]}",
            remedy="Add --data masks=SPEC.",
        )
