"""White cells with few labels, study of Kong (2023): pretraining on other tissue, and new images of cells cut out.

Published: `--data wbc=wbc_subsets:WBC_100/train --data held=wbc_subsets:WBC_100/val --data pretraining=cam16:CAM16_...`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hemalens.evaluation.results import Report
from hemalens.methods.finetune import PRETRAINING
from hemalens.methods.mask_augmentation import PRCC, MaskAugmentationConfig
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run
from hemalens.studies.base import Study, StudyOptions, published
from hemalens.studies.wbc.common import Row, open_study, run_rows
from hemalens.studies.wbc.differences import departures, differences
from hemalens.studies.wbc.pictures import mask_pictures
from hemalens.studies.wbc.tables import gains_table, published_table
from hemalens.training.augmentation import AugmentationConfig

REFERENCE = "scratch"
RANDOM: dict[str, Any] = MaskAugmentationConfig().model_dump(exclude={"masks", "reconstruction"})
"""The published training of all rows: ResNet-18 from random weights, no other augmentation, the best of 30 epochs."""
IMAGENET: dict[str, Any] = {
    **RANDOM,
    "backbone": "tf_efficientnet_lite0",
    "weights": "package",
    "augmentation": AugmentationConfig().model_dump(),
}
ROWS: dict[str, Row] = {
    "scratch": Row("ResNet-18 from scratch", "finetune", RANDOM),
    "pretrained": Row("pretrained", "finetune", RANDOM, (PRETRAINING,)),
    "augmented": Row("pretrained + mask augmentation", "mask_augmentation", RANDOM, (PRETRAINING,)),
    "scratch_augmented": Row("from scratch + mask augmentation", "mask_augmentation", RANDOM, ours=True),
    "pasted": Row(
        "pretrained + cells pasted on other backgrounds",
        "mask_augmentation",
        {**RANDOM, "masks": {"copies": 5, "background": "pasted"}},
        (PRETRAINING,),
        ours=True,
    ),
    "no_background": Row(
        "pretrained + augmentation, no background anywhere",
        "mask_augmentation",
        {**RANDOM, "masks": {"copies": 5, "background": "removed", "segmenter": "classical"}},
        (PRETRAINING,),
        ours=True,
    ),
    "prcc_pretrained": Row(
        "pretrained by reconstructing unlabelled tissue",
        "mask_augmentation",
        {**RANDOM, "masks": {"copies": 0}},
        (PRCC,),
        ours=True,
    ),
    "lite0": Row("Lite0 from ImageNet, fine-tuned with online augmentation", "finetune", IMAGENET, resnet=False, ours=True),
    "lite0_frozen": Row("Lite0 from ImageNet, frozen, logistic regression", "linear_probe", resnet=False, ours=True),
}
"""The paper's three first, then ours, of which two follow its future work; by the names that the setting `rows` takes."""


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train every row on every fraction, test all on the same images; the same call resumes."""
    seed, say = options.seed, options.say
    with open_study(STUDY, ROWS, "mask_augmentation", data, options) as study:
        cells = study.cells
        runs = run_rows(study, say=say)
        report = make_report(
            f"White cells with few labels: {cells.name}",
            f"study wbc-augmentation: {len(cells.parts.train)} training images in fractions, "
            f"{study.protocol.seeds} seed(s)",
            Results(
                fractions=[found.curve for found in runs.values()],
                differences=differences(STUDY, study),
                curves=[curve for found in runs.values() for curve in found.training],
                tables=[
                    published_table(
                        runs,
                        published("wbc_augmentation"),
                        shown=cells.published,
                        comparable=not departures(STUDY, study),
                    ),
                    *gains_table(runs, REFERENCE, seed=seed),
                ],
                pictures=mask_pictures(study, seed=seed),
            ),
            data=study.cards,
            methods=study.methods,
            seed=seed,
        )
        return finish_run(study.out, report)


STUDY = Study.of("wbc_augmentation", run)
