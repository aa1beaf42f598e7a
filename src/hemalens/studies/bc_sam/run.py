"""The BC-SAM study: models of two laboratories, each tested in both, with and without a cross-domain autoencoder.

Published: first = Matek-19, second = Acevedo-20, as `--data first=matek19:M --data second=acevedo20:A`, with
`--set features.segmenter=FOLDER` of a Segment Anything tuned by `hemalens train bc_sam_segmenter`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from hemalens.benchmark.protocols.folds import cross_domain
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.heads import check_head
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import check_classes
from hemalens.errors import ConfigError
from hemalens.evaluation.results import Report
from hemalens.methods import find_method
from hemalens.methods.bc_sam import BCSamConfig, cell_image_stage
from hemalens.methods.finetune import FinetuneConfig
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run, fit_or_resume, start_run
from hemalens.runs.inputs import Inputs, open_inputs
from hemalens.studies.base import Study, StudyOptions
from hemalens.studies.bc_sam.latents import DISCREPANCY_WORDS, Material, Protocol, Row, Side
from hemalens.studies.bc_sam.scores import Cell, Direction, find_gains
from hemalens.studies.bc_sam.tables import accuracy_table, balanced_table, gain_table, reconstructions, verdict
from hemalens.training.autoencoder import Discrepancy

POOLED = "features"
RESNEXT_ROW, RESNEXT_HEAD = "ResNeXt-50", "fine-tuned"
FEATURES, RESNEXT = "features.", "resnext."
RESNEXT_DEFAULTS: dict[str, Any] = {"backbone": "resnext50_32x4d", "weights": "none", "image_size_px": 224}


class BCSamStudyConfig(StrictConfig):
    """The published protocol, and ours.

    Settings `features.KEY=VALUE` go to the method bc_sam, `resnext.KEY=VALUE` to the fine-tuned ResNeXt-50.
    `protocols` and `discrepancies`: which autoencoders; published is transductive with the linear MMD alone. `resnext`:
    whether the baseline is trained. `shown_head`: the head whose evaluations the report shows in full, for the features
    and the published autoencoder.
    """

    labels: str = "thirteen_class"
    n_folds: int = Field(default=5, ge=2)
    min_per_class: int = Field(default=1, ge=1)
    heads: tuple[str, ...] = Field(default=("rf", "svm_poly", "xgboost", "svm_rbf", "ann", "lr"), strict=False)
    protocols: tuple[Protocol, ...] = Field(default=("transductive", "inductive"), strict=False)
    discrepancies: tuple[Discrepancy, ...] = Field(default=("none", "linear", "rbf"), strict=False)
    pooled: bool = True
    resnext: bool = True
    shown_head: str = "lr"


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train the autoencoders and the heads, test them in both laboratories; the same call resumes."""
    out, seed, say = options.out, options.seed, options.say
    config, features, resnext = _configs(options.settings)
    cell_image_stage(features)  # a missing segmenter is reported before the folder is claimed
    opened = [
        open_inputs(data[role], labels=config.labels, role=role, min_per_class=config.min_per_class)
        for role in ("first", "second")
    ]
    for note in (note for each in opened for note in each.notes):
        say(note)
    sides = _sides(opened, config, seed)
    shown = {"study": config, "features": features, **({"resnext": resnext} if config.resnext else {})}
    methods = {name: each.model_dump(mode="json") for name, each in shown.items()}
    request = {
        "job": "study bc-sam",
        "configs": methods,
        "data": [side.dataset.fingerprint for side in sides],
        "seed": seed,
    }
    start_run(out, request, overwrite=options.overwrite, say=options.say)
    found = _run(sides, config, features, out=out, seed=seed, say=say)
    if config.resnext:
        found.cells.extend(_resnext(sides, config, resnext, out=out, seed=seed, say=say))
    gains = find_gains(found.cells, found.plain, seed=seed)
    report = make_report(
        f"BC-SAM: {sides[0].dataset.name} and {sides[1].dataset.name}",
        f"study bc-sam: {config.n_folds} folds of each laboratory, each fold's models tested in both",
        Results(
            evaluations=[cell.evaluation for cell in found.cells if _is_shown(cell, config)],
            tables=[
                accuracy_table(found.cells, sides, config.labels),
                balanced_table(found.cells, sides),
                *([gain_table(gains, sides)] if gains else []),
            ],
            remarks=[verdict(gains)] if gains else [],
            pictures=reconstructions(found.material, found.rows),
        ),
        data=[each.card for each in opened],
        methods=methods,
        seed=seed,
    )
    finish_run(out, report)
    shutil.rmtree(out / "scratch", ignore_errors=True)
    return report


def _is_shown(cell: Cell, config: BCSamStudyConfig) -> bool:
    """Whether the report shows it in full: features, published autoencoder and baseline; the tables hold all."""
    as_published = cell.row == DISCREPANCY_WORDS["linear"] and cell.protocol == "transductive"
    return cell.head == RESNEXT_HEAD or (cell.head == config.shown_head and (cell.row == POOLED or as_published))


def _configs(settings: Sequence[str]) -> tuple[BCSamStudyConfig, BCSamConfig, FinetuneConfig]:
    own = [s for s in settings if not s.startswith((FEATURES, RESNEXT))]
    config = BCSamStudyConfig.load(None, own)
    for head in (*config.heads, config.shown_head):
        check_head(head)
    if config.shown_head not in config.heads:
        raise ConfigError("shown_head is not among the heads", expected=", ".join(config.heads), got=config.shown_head)
    features = BCSamConfig.load(None, [s.removeprefix(FEATURES) for s in settings if s.startswith(FEATURES)])
    resnext = FinetuneConfig.load(
        None, [s.removeprefix(RESNEXT) for s in settings if s.startswith(RESNEXT)], base=RESNEXT_DEFAULTS
    )
    return config, features, resnext


def _sides(opened: Sequence[Inputs], config: BCSamStudyConfig, seed: int) -> tuple[Side, Side]:
    first, second = (each.dataset for each in opened)
    refuse_leaks(set(first.contents), second)
    for dataset in (first, second):
        check_classes(dataset, n_units=config.n_folds, purpose=f"{config.n_folds} folds")
    split = [
        Side.split(key, dataset, start=start, n_folds=config.n_folds, seed=seed)
        for key, dataset, start in (("first", first, 0), ("second", second, len(first)))
    ]
    return split[0], split[1]


@dataclass(frozen=True, slots=True)
class _Found:
    material: Material
    rows: list[Row]
    cells: list[Cell]
    plain: list[Cell]
    """The pooled features, tested under each of the protocols."""


def _run(
    sides: tuple[Side, Side], config: BCSamStudyConfig, features: BCSamConfig, *, out: Path, seed: int, say: Say
) -> _Found:
    material = Material.prepare(sides, features, out / "scratch" / "maps.npy")
    pooled = Row(POOLED, None, (material.pooled,) * config.n_folds)
    rows = [pooled] if config.pooled else []
    for protocol in config.protocols:
        for discrepancy in config.discrepancies:
            autoencoder = features.autoencoder.model_copy(update={"mmd": discrepancy})
            rows.append(material.row(protocol, autoencoder, out / "fits", say))
    directions = [
        Direction.of(sides[0], sides[1], config.min_per_class),
        Direction.of(sides[1], sides[0], config.min_per_class),
    ]
    cells: list[Cell] = []
    plain: list[Cell] = []
    for row in rows:
        for head in config.heads:
            say(f"{row.name}{', ' + row.protocol if row.protocol else ''}: {head}")
            for direction in directions:
                found = direction.probabilities(row, head, seed=seed)
                cells += direction.cells(row, head, found, parts=row.protocol == "inductive", seed=seed)
                if row is pooled:
                    for protocol in config.protocols:
                        named = replace(row, protocol=protocol)
                        plain += direction.cells(named, head, found, parts=protocol == "inductive", seed=seed)
    return _Found(material, rows, cells, plain)


def _resnext(
    sides: tuple[Side, Side], config: BCSamStudyConfig, finetune: FinetuneConfig, *, out: Path, seed: int, say: Say
) -> list[Cell]:
    """The baseline, trained through the method finetune on the same folds."""
    method = find_method("finetune")

    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{RESNEXT_ROW}, {run_dir.parent.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_or_resume(run_dir, method, train, validation=validation, config=finetune, rng=rng)

    cells = []
    for source, target in (sides, sides[::-1]):
        evaluations = cross_domain(
            fit,
            source.dataset,
            [target.dataset],
            n_folds=config.n_folds,
            seed=seed,
            run_dir=out / "fits" / f"resnext_{source.key}",
            min_per_class=config.min_per_class,
        )
        for side, found in zip((source, target), evaluations, strict=True):
            named = found.model_copy(
                update={"method": RESNEXT_ROW, "name": f"{RESNEXT_ROW}{found.name[len(found.method) :]}"}
            )
            cells.append(Cell(RESNEXT_ROW, None, RESNEXT_HEAD, source.key, side.key, named, ()))
    return cells


STUDY = Study.of("bc_sam", run)
