"""The BC-SAM study: models of two laboratories, each tested in both, with and without a cross-domain autoencoder.

Published: first = Matek-19, second = Acevedo-20, as `--data first=matek19:M --data second=acevedo20:A`, with a Segment
Anything that `--data masks=SPEC --set segmenter.weights=FILE` tunes in the study's folder, or one named by
`--set features.segmenter=FOLDER`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hemalens.classifiers.svm import INNER_FOLDS
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import check_classes
from hemalens.errors import SplitError
from hemalens.evaluation.results import ComparisonTable, Report, TrainingCurve
from hemalens.methods.bc_sam import cell_image_stage
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.runs.curves import read_curves
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.inputs import Inputs, open_inputs
from hemalens.studies.base import Study, StudyOptions, input_paths
from hemalens.studies.bc_sam.config import BCSamStudyConfig, StudyConfigs, read_configs
from hemalens.studies.bc_sam.differences import run_differences
from hemalens.studies.bc_sam.latents import DISCREPANCY_WORDS, POOLED, Material, Row, Side
from hemalens.studies.bc_sam.resnext import RESNEXT_HEAD, RESNEXT_ROW, resnext_cells, resnext_folder
from hemalens.studies.bc_sam.scores import Cell, Direction, find_gains
from hemalens.studies.bc_sam.segmenter import fit_study_segmenter, segmenter_folder
from hemalens.studies.bc_sam.tables import (
    accuracy_sentences,
    accuracy_table,
    balanced_table,
    gain_table,
    reconstructions,
    restricted_table,
    verdict,
)
from hemalens.taxonomy import AS_LABELLED

BASELINE_HEADS = {"AE-CFE": ("rf",), "DoRL": ("svm_linear", "lr")}
"""The heads of the published rows."""


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train the autoencoders and the heads, test them in both laboratories; the same call resumes."""
    say = options.say
    mask_specs = data.get("masks", ())
    configs = read_configs(options.settings, masks=bool(mask_specs), published_only=options.published_only)
    config = configs.study
    if configs.segmenter is None:
        cell_image_stage(configs.features)  # a missing segmenter is reported before the folder is claimed
    opened = [
        open_inputs(data[role], labels=config.labels, role=role, min_per_class=config.min_per_class)
        for role in ("first", "second")
    ]
    masks = open_inputs(mask_specs, labels=AS_LABELLED, role="masks") if mask_specs else None
    for note in (note for each in opened for note in each.notes):
        say(note)
    sides = _sides(opened, config)
    request = _request(configs, sides, masks, options)
    with open_run(
        options.out, request, overwrite=options.overwrite, inputs=input_paths(data, options.settings), say=say
    ) as out:
        tables: list[ComparisonTable] = []
        if masks is not None and configs.segmenter is not None:
            n_images = sum(len(side.dataset) for side in sides)
            given = (configs.segmenter, configs.segmenter_settings)
            tables = fit_study_segmenter(mask_specs, masks, given, n_images=n_images, out=out, seed=options.seed, say=say)
            trained = configs.features.model_copy(update={"segmenter": str(segmenter_folder(out))})
            configs = replace(configs, features=trained)
        found = _run(sides, configs, out=out, seed=options.seed, say=say)
        if config.resnext:
            found.cells.extend(resnext_cells(sides, configs, out=out, seed=options.seed, say=say))
        # read below the folder of the work, and named as it will be
        named = configs.features.segmenter.replace(str(out), str(options.out))
        configs = replace(configs, features=configs.features.model_copy(update={"segmenter": named}))
        inputs = [*opened, *([masks] if masks else [])]
        report = _report(found, sides, configs, inputs, tables=tables, options=replace(options, out=out))
        shutil.rmtree(out / "scratch", ignore_errors=True)
        return finish_run(out, report)


def _request(configs: StudyConfigs, sides: Sequence[Side], masks: Inputs | None, options: StudyOptions) -> dict[str, Any]:
    shown = configs.shown()
    request: dict[str, Any] = {
        "job": "study bc-sam",
        "configs": {name: part.model_dump(mode="json") for name, part in shown.items()},
        "sources": {name: part.file_digests() for name, part in shown.items()},
        "data": [side.dataset.fingerprint for side in sides],
        "seed": options.seed,
    }
    return request | ({"masks": [masks.dataset.fingerprint, masks.dataset.mask_fingerprint]} if masks else {})


def _sides(opened: Sequence[Inputs], config: BCSamStudyConfig) -> tuple[Side, Side]:
    first, second = (each.dataset for each in opened)
    refuse_leaks(set(first.contents), second)
    for dataset in (first, second):
        check_classes(dataset, n_units=config.n_folds, purpose=f"{config.n_folds} folds")
    split = [
        Side.split(key, dataset, start=start, n_folds=config.n_folds, seed=config.split_seed)
        for key, dataset, start in (("first", first, 0), ("second", second, len(first)))
    ]
    for side in split:
        _check_folds(side, config)
    return split[0], split[1]


def _check_folds(side: Side, config: BCSamStudyConfig) -> None:
    """Raise `SplitError` before anything is trained where a training fold is too small for a row."""
    has_svm = any(head.startswith("svm") for head in config.heads) or config.dorl
    for train, _ in side.folds:
        fold = side.dataset.subset(train)
        if config.resnext:
            check_classes(fold, n_units=2, purpose="a validation part in every fold")
        if has_svm and min(fold.class_counts.values()) < INNER_FOLDS:
            raise SplitError(
                f"a class of {fold.name} is too small for the SVM",
                expected=f"{INNER_FOLDS} images of each class in every training fold",
                got=", ".join(f"{name} ({n})" for name, n in fold.class_counts.items() if n < INNER_FOLDS),
                remedy="Raise n_folds or min_per_class, or leave the SVM out of heads.",
            )


@dataclass(frozen=True, slots=True)
class _Found:
    material: Material
    rows: list[Row]
    cells: list[Cell]
    plain: list[Cell]
    """The pooled features, tested under each of the protocols."""


def _run(sides: tuple[Side, Side], configs: StudyConfigs, *, out: Path, seed: int, say: Say) -> _Found:
    config = configs.study
    material = Material.prepare(sides, configs.features, out / "scratch" / "maps.npy")
    pooled = Row(POOLED, None, (material.pooled,) * config.n_folds)
    rows = [pooled] if config.pooled else []
    for protocol in config.protocols:
        for discrepancy in config.discrepancies:
            autoencoder = configs.features.autoencoder.model_copy(update={"mmd": discrepancy})
            rows.append(material.row(protocol, autoencoder, out / "fits", say))
    heads = [config.heads] * len(rows)
    baselines = [*([configs.ae_cfe] if config.ae_cfe else []), *([configs.dorl] if config.dorl else [])]
    for baseline in baselines:
        rows.append(material.baseline(baseline, out / "fits", say))
        heads.append(BASELINE_HEADS[baseline.name])
    directions = [
        Direction.of(sides[0], sides[1], config.min_per_class),
        Direction.of(sides[1], sides[0], config.min_per_class),
    ]
    cells: list[Cell] = []
    plain: list[Cell] = []
    for row, own in zip(rows, heads, strict=True):
        for head in own:
            say(f"{row.name}{', ' + row.protocol if row.protocol else ''}: {head}")
            for direction in directions:
                found = direction.probabilities(row, head, seed=config.split_seed)
                cells += direction.cells(row, head, found, parts=row.protocol == "inductive", seed=seed)
                if row is pooled:
                    for protocol in config.protocols:
                        named = replace(row, protocol=protocol)
                        plain += direction.cells(named, head, found, parts=protocol == "inductive", seed=seed)
    return _Found(material, rows, cells, plain)


def _report(
    found: _Found,
    sides: Sequence[Side],
    configs: StudyConfigs,
    opened: Sequence[Inputs],
    *,
    tables: Sequence[ComparisonTable],
    options: StudyOptions,
) -> Report:
    config, seed, out = configs.study, options.seed, options.out
    gains = find_gains(found.cells, found.plain, seed=seed)
    restricted = restricted_table(found.cells, sides)
    remarks = [*accuracy_sentences(found.cells, sides), *([verdict(gains)] if gains else [])]
    return make_report(
        f"BC-SAM: {sides[0].dataset.name} and {sides[1].dataset.name}",
        f"study bc-sam: {config.n_folds} folds of each laboratory, each fold's models tested in both",
        Results(
            evaluations=[cell.evaluation for cell in found.cells if _is_shown(cell, config)],
            tables=[
                accuracy_table(found.cells, sides, config.labels),
                *([restricted] if restricted else []),
                balanced_table(found.cells, sides),
                *([gain_table(gains, sides)] if gains else []),
                *tables,
            ],
            remarks=remarks,
            differences=[*STUDY.differences, *run_differences(configs, sides, found.material.outcomes)],
            pictures=reconstructions(found.material, found.rows),
            curves=_curves(found.rows, sides, configs, out),
        ),
        data=[each.card for each in opened],
        methods={name: part.model_dump(mode="json") for name, part in configs.shown().items()},
        seed=seed,
    )


def _curves(rows: Sequence[Row], sides: Sequence[Side], configs: StudyConfigs, out: Path) -> list[TrainingCurve]:
    """The trainings of the segmenter, of every autoencoder and of the ResNeXt."""
    curves = read_curves([out / "segmenter"], "Segment Anything", group="Segmenter") if configs.segmenter else []
    for row in rows:
        own = row.name in BASELINE_HEADS
        curves += read_curves(row.fits, f"{row.name}, {row.protocol}", group=row.name if own else "Autoencoders")
    if configs.study.resnext:
        for side in sides:
            folders = [resnext_folder(out, side) / f"fold_{fold}" for fold in range(configs.study.n_folds)]
            curves += read_curves(folders, side.dataset.name, group=RESNEXT_ROW)
    return curves


def _is_shown(cell: Cell, config: BCSamStudyConfig) -> bool:
    """Whether the report shows it in full: features, published autoencoder and baseline; the tables hold all."""
    as_published = cell.row == DISCREPANCY_WORDS["linear"] and cell.protocol == "transductive"
    return cell.head == RESNEXT_HEAD or (cell.head == config.shown_head and (cell.row == POOLED or as_published))


STUDY = Study.of("bc_sam", run)
