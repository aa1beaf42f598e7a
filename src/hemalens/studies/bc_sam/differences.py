"""What a run of the BC-SAM study does otherwise than the papers, besides what every run does (`published/bc_sam.toml`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hemalens.bundle.stages import CLASSICAL
from hemalens.config import StrictConfig
from hemalens.imaging.segmentation import Outcome
from hemalens.methods.bc_sam import BCSamConfig
from hemalens.methods.bc_sam_segmenter import SegmenterConfig
from hemalens.studies.base import changed_settings
from hemalens.studies.bc_sam.config import BCSamStudyConfig, StudyConfigs
from hemalens.studies.bc_sam.latents import Side

PROTOCOL = ("labels", "n_folds", "split_seed", "min_per_class")
"""The study's own settings that the paper fixes; its others choose rows."""
LEFT_OUT = ("features", "segmenter", "weights", "backbone", "head", "class_weights", "autoencoder.mmd")
"""Settings of the parts that have a sentence of their own, no published value, or no effect in the study."""
AE_CFE = (
    "AE-CFE reads the feature maps of this study, resampled to 14x14, and reconstructs its cell images. Published are "
    "regions of a Mask R-CNN, whose weights are not public, and the box around the cell with its surroundings.",
    "AE-CFE is published with a forest of 100 trees and an SSIM window of 10 px; here they are 200 and 11, as in BC-SAM.",
)
DORL = "The logistic regression of DoRL stops after 2,000 iterations at most, the published one after 500."
BASELINES = "{} two laboratories; the third set of the published training is not public."


def run_differences(configs: StudyConfigs, sides: Sequence[Side], outcomes: Mapping[Outcome, int]) -> list[str]:
    """Sentences for the parts that ran, the settings that are not the published ones, and the cells without a mask."""
    return [*_data_differences(configs.study, sides, outcomes), *_settings(configs), *_baseline_differences(configs)]


def _data_differences(study: BCSamStudyConfig, sides: Sequence[Side], outcomes: Mapping[Outcome, int]) -> Iterator[str]:
    if any(record.group is not None for side in sides for record in side.dataset.records):
        yield "These images have groups, which folds keep together; the published folds are drawn by image."
    n = sum(outcomes.values())
    yield (
        f"Of {n:,} images {outcomes.get('no white cell', 0):,} have no cell in the mask and are reconstructed whole, and "
        f"{outcomes.get('touches border', 0):,} have a cell at the border, which is treated like any other."
    )


def _settings(configs: StudyConfigs) -> Iterator[str]:
    features = configs.features
    if features.features == "timm":
        yield f"Feature maps are those of {features.backbone}, not of a Segment Anything tuned on masks."
    if features.segmenter == CLASSICAL:
        yield "Cells are cut out along the masks of the classical segmenter, not of a Segment Anything tuned on masks."
    changed = [
        *_changed("", configs.study, BCSamStudyConfig(), only=PROTOCOL),
        *_changed("features.", features, BCSamConfig()),
        *_changed("segmenter.", configs.segmenter or SegmenterConfig(), SegmenterConfig()),
        *(_changed("ae_cfe.", configs.ae_cfe, type(configs.ae_cfe)()) if configs.study.ae_cfe else ()),
        *(_changed("dorl.", configs.dorl, type(configs.dorl)()) if configs.study.dorl else ()),
    ]
    if changed:
        yield f"Settings with another value than the published one, which is in brackets: {'; '.join(changed)}."


def _changed(prefix: str, given: StrictConfig, published: StrictConfig, *, only: Sequence[str] = ()) -> Iterator[str]:
    """The settings of one part that differ, with the published value."""
    for key, (value, theirs) in changed_settings(given, published).items():
        if key in only if only else key not in LEFT_OUT:
            yield f"{prefix}{key}={value} ({theirs})"


def _baseline_differences(configs: StudyConfigs) -> Iterator[str]:
    study, resnext = configs.study, configs.resnext
    if study.resnext:
        yield (
            f"ResNeXt is {resnext.backbone} with the settings resnext.KEY, {resnext.epochs} epochs at most; published are "
            "the network and training of Matek et al. (2019), which BC-SAM's code does not contain."
        )
    if study.ae_cfe:
        yield from AE_CFE
    if study.dorl:
        yield DORL
    learning = [name for name, runs in (("AE-CFE", study.ae_cfe), ("DoRL", study.dorl)) if runs]
    if learning:
        yield BASELINES.format(" and ".join(learning) + (" learn from" if len(learning) > 1 else " learns from"))
