"""What the two white-cell studies share: the parts, the masks that stand in for missing ones, rows over fractions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from hemalens.benchmark.protocols.fraction_parts import fixed_parts, halved, tested_whole, tidy
from hemalens.benchmark.protocols.fractions import PUBLISHED_FRACTIONS, FixedParts, FractionPlan, FractionRun, fraction_runs
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.segmenter import open_segmenter, segmenter_source
from hemalens.bundle.stages import kept_mask
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError, InputError, near_matches
from hemalens.evaluation.results import DataCard, Selection
from hemalens.files import atomic_path
from hemalens.methods import find_method
from hemalens.progress import Say
from hemalens.runs.auxiliary import mask_note, open_auxiliary, refuse_learned
from hemalens.runs.folders import fit_or_resume, method_request, start_run
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs
from hemalens.studies.base import Study

FIT, RESNET = "fit.", "resnet."
"""Prefixes of settings that go to the methods of all rows that have such a key, and of the rows with a ResNet-18."""
SUBSETS = {"wbc_50": 0.5, "wbc_10": 0.1, "wbc_1": 0.01}
WHITE_CELLS = ("wbc", "held", *SUBSETS)
"""The roles of white cells in both studies."""


class WbcStudyConfig(StrictConfig):
    """What both studies keep the same for all rows.

    `selection`: "validation", or "published-selection": the epoch is chosen on the test images, as in one of the papers;
    all of `held` is then the test. `mask_segmenter`: where the white cells come without masks, those of this segmenter
    stand in for them, for `mask_fraction` of each class; "" for none. `rows` are the rows' short names, empty for all.
    """

    labels: str = "five_class"
    min_per_class: int = Field(default=1, ge=1)
    fractions: tuple[float, ...] = Field(default=PUBLISHED_FRACTIONS, strict=False)
    n_seeds: int = Field(default=3, ge=1)
    selection: Selection = "validation"
    strict: bool = False
    mask_segmenter: str = ""
    mask_fraction: float = Field(default=0.1, gt=0, le=1)
    rows: tuple[str, ...] = Field(default=(), strict=False)

    def file_digests(self) -> dict[str, str]:
        """With the digest of a trained segmenter's manifest."""
        return super().file_digests() | segmenter_source("mask_segmenter", self.mask_segmenter)

    def plan(self, seed: int) -> FractionPlan:
        """The plan of the protocol fractions."""
        return FractionPlan(self.fractions, self.n_seeds, self.selection, self.strict, seed)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a study: its name in full, its method, its settings beyond the method's own, the further data it takes."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: tuple[str, ...] = ()
    resnet: bool = True

    def own(self, settings: Sequence[str]) -> list[str]:
        """Those of the settings that it takes, without their prefix: `fit.KEY=VALUE`, and `resnet.KEY=VALUE` where it is a
        ResNet-18, each where its method has such a key. A row without training takes none.
        """
        if self.method == "linear_probe":
            return []
        prefixes = (FIT, RESNET) if self.resnet else (FIT,)
        given = [s.removeprefix(p) for p in prefixes for s in settings if s.startswith(p)]
        return [s for s in given if _key(s) in find_method(self.method).config.model_fields]

    def config(self, settings: Sequence[str]) -> StrictConfig:
        """Its configuration, with its own settings and these over them."""
        return find_method(self.method).config.load(None, self.own(settings), base=dict(self.settings))


def _key(setting: str) -> str:
    return re.split(r"[.=]", setting, maxsplit=1)[0].strip()


def configured(rows: Mapping[str, Row], settings: Sequence[str]) -> dict[str, tuple[Row, StrictConfig]]:
    """Each row with its configuration; raises `ConfigError` for a setting of a prefix that none of the rows takes."""
    for setting in settings:
        if setting.startswith((FIT, RESNET)) and not any(row.own([setting]) for row in rows.values()):
            known = sorted({key for row in rows.values() for key in find_method(row.method).config.model_fields})
            remedy = near_matches(_key(setting.partition(".")[2]), known)
            raise ConfigError(f"no row of the study takes the setting {setting!r}", remedy=remedy)
    return {key: (row, row.config(settings)) for key, row in rows.items()}


def chosen_rows(rows: Mapping[str, Row], named: Sequence[str]) -> dict[str, Row]:
    """The rows of these short names, all for none; raises `InputError` for an unknown one."""
    for name in named:
        if name not in rows:
            raise InputError(f"the study has no row {name!r}", expected=f"some of {', '.join(rows)}")
    return {key: row for key, row in rows.items() if not named or key in named}


@dataclass(frozen=True, slots=True)
class WhiteCells:
    """The white cells of a study in their fixed parts, with their cards and notes."""

    name: str
    parts: FixedParts
    cards: tuple[DataCard, ...]
    notes: tuple[str, ...]
    published: bool
    """Whether these are the published sets, so that published numbers may stand beside ours."""


def open_white_cells(data: Mapping[str, Sequence[str]], config: WbcStudyConfig, *, out: Path, seed: int) -> WhiteCells:
    """Open the roles wbc, held and the subsets; give the training part masks where it has none and a segmenter is named."""
    wanted: dict[str, Any] = {"labels": config.labels, "min_per_class": config.min_per_class}
    spec = data["wbc"][0]
    wbc = open_inputs(spec, role="wbc", **wanted)
    opened = [wbc]
    if "held" in data:
        held = open_inputs(data["held"][0], role="held", **wanted)
        opened.append(held)
        flatters = config.selection == "published-selection"
        parts = tested_whole(wbc.dataset, held.dataset) if flatters else halved(wbc.dataset, held.dataset, seed=seed)
    else:
        parts = fixed_parts(wbc.dataset, seed=seed)
    given: dict[float, Inputs] = {}
    for role, share in SUBSETS.items():
        if role in data:
            given[share] = open_inputs(data[role][0], role=role, **wanted)
    notes = [note for each in (*opened, *given.values()) for note in each.notes]
    train = parts.train
    if config.mask_segmenter and not any(record.mask_path for record in train.records):
        train, n_masks = with_stand_in_masks(train, config, folder=out / "masks", seed=seed)
        notes.append(f"{train.name}: {n_masks} masks of the segmenter {config.mask_segmenter} stand in for those it lacks")
        given = {f: replace(part, dataset=_masked_alike(part.dataset, train)) for f, part in given.items()}
    parts = replace(parts, train=train, given={f: part.dataset.under(train.classes) for f, part in given.items()})
    cards = tuple(each.card for each in (*opened, *given.values()))
    return WhiteCells(wbc.dataset.name, parts, cards, tuple(notes), spec.startswith("wbc_subsets:"))


def _masked_alike(part: CellDataset, train: CellDataset) -> CellDataset:
    """A part whose images have the masks that the same images have in `train`."""
    masks = dict(zip(train.contents, (record.mask_path for record in train.records), strict=True))
    pairs = zip(part.contents, part.records, strict=True)
    return replace(part, records=tuple(replace(record, mask_path=masks.get(content)) for content, record in pairs))


def with_stand_in_masks(train: CellDataset, config: WbcStudyConfig, *, folder: Path, seed: int) -> tuple[CellDataset, int]:
    """The same images, floor(n * mask_fraction) of each class with a segmenter's mask, and how many have one.

    The masks are written into `folder`; an image in which no cell is found gets none.
    """
    segmenter = open_segmenter(config.mask_segmenter)
    rng = seeded(seed, "masks")
    records = list(train.records)
    n_masks = 0
    for i in range(len(train.classes)):
        members = rng.permutation(np.flatnonzero(train.targets == i))
        # 0.57 of 100 are 57, whatever 0.57 is in binary
        for position in members[: int(len(members) * Fraction(str(config.mask_fraction)))]:
            mask = kept_mask(records[position], segmenter)
            if not mask.any() or mask.all():
                continue
            path = folder / f"{records[position].content_id()}.png"
            with atomic_path(path) as temporary:
                Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
            records[position] = replace(records[position], mask_path=path)
            n_masks += 1
    masked = replace(train, records=tuple(records))
    masked.__dict__["contents"] = train.contents
    return masked, n_masks


@dataclass(frozen=True, slots=True)
class Opened:
    """A study that may begin: its rows with their configurations, the white cells, the further data by role."""

    config: WbcStudyConfig
    rows: Mapping[str, tuple[Row, StrictConfig]]
    plan: FractionPlan
    cells: WhiteCells
    more: Mapping[str, Inputs]

    @property
    def auxiliary(self) -> dict[str, CellDataset]:
        """The further datasets by role."""
        return {role: each.dataset for role, each in self.more.items()}

    @property
    def cards(self) -> list[DataCard]:
        """The cards of all data."""
        return [*self.cells.cards, *(each.card for each in self.more.values())]

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """What a report says of each row's settings."""
        return {row.name: config.model_dump(mode="json") for row, config in self.rows.values()}


def open_study(
    study: Study,
    rows: Mapping[str, Row],
    method: str,
    data: Mapping[str, Sequence[str]],
    *,
    out: Path,
    settings: Sequence[str],
    seed: int,
    overwrite: bool,
    say: Say,
) -> Opened:
    """Read the settings, open all data, take `out` for the run; `method` is the one whose roles the further data play."""
    study.check_roles(data)
    config = WbcStudyConfig.load(None, [s for s in settings if not s.startswith((FIT, RESNET))])
    chosen = configured(chosen_rows(rows, config.rows), settings)
    plan = config.plan(seed)
    user = find_method(method)
    specs = [(role.name, spec) for role in user.roles for spec in data.get(role.name, ())]
    more = open_auxiliary([user], specs, labels=config.labels)
    for row, _ in chosen.values():
        for role in row.auxiliary:
            if role not in more:
                raise InputError(f"the row {row.name!r} needs the role {role}", remedy=f"Say --data {role}=SPEC.")
    request = {
        "job": f"study {study.name}",
        "study": config.model_dump(mode="json"),
        "sources": config.file_digests(),
        "rows": {key: method_request(find_method(row.method), own) for key, (row, own) in chosen.items()},
        "white cells": [dataset.fingerprint for dataset in _white_cells(data, config)],
        "auxiliary": {role: each.dataset.fingerprint for role, each in more.items()},
        "seed": seed,
    }
    start_run(out, request, overwrite=overwrite, say=say)
    cells = open_white_cells(data, config, out=out, seed=seed)
    cells.parts.check(plan)
    refuse_learned([user], {r: each.dataset for r, each in more.items()}, [cells.parts.validation, *cells.parts.tests])
    about_masks = [mask_note(own, cells.parts.train) for _, own in chosen.values()]
    report_inputs(say, more.values(), *cells.notes, *about_masks)
    return Opened(config, chosen, plan, cells, more)


def _white_cells(data: Mapping[str, Sequence[str]], config: WbcStudyConfig) -> list[CellDataset]:
    return [open_dataset(spec, labels=config.labels) for role in WHITE_CELLS for spec in data.get(role, ())]


def run_rows(study: Opened, *, out: Path, say: Say) -> dict[str, FractionRun]:
    """Every row over every fraction and seed, each fit in a folder below `out`/fits; what is finished is taken as it is."""
    found = {}
    cells, plan, auxiliary = study.cells, study.plan, study.auxiliary
    for key, (row, config) in study.rows.items():
        say(f"{row.name}: {len(plan.fractions)} fractions, {plan.n_seeds} seed(s)")
        fit = _fit(row, config, {role: auxiliary[role] for role in row.auxiliary}, say)
        (found[key],) = fraction_runs(
            tidy(fit), cells.parts, plan, method=row.name, source=cells.name, run_dir=out / "fits" / key
        )
    return found


def _fit(row: Row, config: StrictConfig, auxiliary: Mapping[str, CellDataset], say: Say) -> Any:
    method = find_method(row.method)

    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{row.name}: {len(train)} images, {run_dir.name.replace('_', ' ')}")
        return fit_or_resume(run_dir, method, train, validation=validation, config=config, rng=rng, auxiliary=auxiliary)

    return fit
