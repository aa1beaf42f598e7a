"""The baseline of the BC-SAM study that is trained on labelled images: a ResNeXt-50 on the folds of each laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hemalens.benchmark.protocols.folds import Fold, evaluate_folds, fit_folds
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.evaluation.evaluate import plan_test
from hemalens.methods import find_method
from hemalens.progress import Say
from hemalens.runs.folders import fit_or_resume
from hemalens.studies.bc_sam.config import StudyConfigs
from hemalens.studies.bc_sam.latents import Side
from hemalens.studies.bc_sam.scores import Cell, Origin, make_cell

RESNEXT_ROW, RESNEXT_HEAD = "ResNeXt-50", "fine-tuned"


def resnext_folder(out: Path, side: Side) -> Path:
    """Where the networks of one laboratory's folds are trained."""
    return out / "fits" / f"resnext_{side.key}"


def resnext_cells(sides: Sequence[Side], configs: StudyConfigs, *, out: Path, seed: int, say: Say) -> list[Cell]:
    """Trained through the method finetune on the folds of the study, and tested as its other rows are."""
    method = find_method("finetune")
    minimum = configs.study.min_per_class

    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{RESNEXT_ROW}, {run_dir.parent.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_or_resume(run_dir, method, train, validation=validation, config=configs.resnext, rng=rng)

    cells = []
    for source, target in (sides, sides[::-1]):
        dataset = source.dataset
        folds = [Fold(dataset.subset(train), dataset.subset(test)) for train, test in source.folds]
        bundles = fit_folds(fit, folds, seed=seed, run_dir=resnext_folder(out, source))
        everything = [np.arange(len(target.dataset))] * len(folds)
        for side, tests in ((source, [test for _, test in source.folds]), (target, everything)):
            tested = None if side is source else target.dataset
            found, predictions = evaluate_folds(bundles, folds, dataset, tested, seed=seed, min_per_class=minimum)
            named = found.model_copy(
                update={"method": RESNEXT_ROW, "name": f"{RESNEXT_ROW}{found.name[len(found.method) :]}"}
            )
            plan = plan_test(bundles[0].manifest.labels, side.dataset, min_per_class=1 if side is source else minimum)
            origin = Origin(RESNEXT_ROW, None, RESNEXT_HEAD, source.key)
            cells.append(make_cell(origin, side, named, plan, predictions=predictions, tests=tests))
    return cells
