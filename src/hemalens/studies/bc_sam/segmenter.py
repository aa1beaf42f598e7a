"""The segmenter of the BC-SAM study, trained on masks inside the study's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from hemalens.datasets.masks import with_masks
from hemalens.evaluation.results import ComparisonTable
from hemalens.methods.bc_sam_segmenter import SegmenterConfig
from hemalens.progress import Say
from hemalens.report import JSON_NAME, read_report
from hemalens.runs.inputs import Inputs
from hemalens.runs.segment import train_segmenter
from hemalens.runs.train import DEFAULTS, TrainOptions

MOST_HELD_OUT = DEFAULTS.test_fraction


def segmenter_folder(out: Path) -> Path:
    """Where the study keeps the segmenter that it trains."""
    return out / "segmenter" / "segmenter"


def fit_study_segmenter(
    specs: Sequence[str],
    masks: Inputs,
    given: tuple[SegmenterConfig, Sequence[str]],
    *,
    n_images: int,
    out: Path,
    seed: int,
    say: Say,
) -> list[ComparisonTable]:
    """Train the segmenter in `out`, resume it, or leave a finished one; its tables of held-out masks.

    It learns from as many masks as `mask_fraction` of the study's `n_images` (published: 1 % of the images). Of the masks
    beyond that number up to a fifth of all are held out for its test. `given` are its settings, parsed and as given.
    """
    config, settings = given
    folder = out / "segmenter"
    if not (folder / JSON_NAME).is_file():
        wanted = math.ceil(n_images * Fraction(str(config.mask_fraction)))
        share, held_out = mask_shares(wanted, len(with_masks(masks.dataset)), len(masks.dataset))
        train_segmenter(
            specs,
            out=folder,
            settings=[*settings, f"mask_fraction={share}"],
            options=TrainOptions(test_fraction=held_out),
            seed=seed,
            say=say,
        )
    return list(read_report(folder / JSON_NAME).tables)


def mask_shares(wanted: int, n_masks: int, n_images: int) -> tuple[float, float]:
    """The share of a set's `n_images` that is `wanted` masks, rounded up, and the share of its `n_masks` to hold out."""
    held_out = min(MOST_HELD_OUT, max(0.0, 1 - wanted / n_masks))
    return min(1.0, (wanted - 0.5) / n_images), held_out
