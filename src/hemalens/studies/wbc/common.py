"""Shared by the two white-cell studies: the fixed parts, masks by a segmenter, and rows over fractions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from hemalens.benchmark.protocols.base import FitFold
from hemalens.benchmark.protocols.fractions import (
    PUBLISHED_FRACTIONS,
    TEST_FRACTION,
    FixedParts,
    FractionRun,
    FractionsProtocol,
    fixed_parts,
    fraction_runs,
    halved,
    tested_whole,
    without_checkpoints,
)
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.segmenter import open_segmenter, segmenter_source
from hemalens.bundle.stages import kept_mask
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.splits import hold_out, seeded
from hemalens.errors import ConfigError, InputError, near_matches
from hemalens.evaluation.results import DataCard, Selection
from hemalens.files import atomic_path
from hemalens.methods import find_method
from hemalens.progress import Say
from hemalens.runs.auxiliary import mask_note, open_auxiliary, refuse_learned
from hemalens.runs.folders import fit_or_resume, method_request, open_run
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs
from hemalens.studies.base import Study, StudyOptions, input_paths

FIT, RESNET = "fit.", "resnet."
"""Prefixes of settings that go to the methods of all rows that have such a key, and of the rows with a ResNet-18."""
SUBSETS = {"wbc_50": 0.5, "wbc_10": 0.1, "wbc_1": 0.01}
WHITE_CELLS = ("wbc", "held", *SUBSETS)
"""The roles of white cells in both studies."""


class WbcStudyConfig(StrictConfig):
    """Settings of both studies, the same for all rows.

    `selection`: "validation", or "published-selection": the epoch is chosen on the test images, as in both papers, and all
    of `held` is the test; a run of the published rows only has it by default. `mask_segmenter` gives masks to white cells
    that have none, for `mask_fraction` of each class; "" for none. `rows` are the rows' short names, empty for all.
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

    @property
    def protocol(self) -> FractionsProtocol:
        """The protocol fractions."""
        return FractionsProtocol(fractions=self.fractions, seeds=self.n_seeds, selection=self.selection, strict=self.strict)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a study: its full name, its method, its settings, and the roles of its auxiliary data.

    `optional` are roles that it takes where they are given. `ours`: not in the paper.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    resnet: bool = True
    ours: bool = False

    def own(self, settings: Sequence[str]) -> list[str]:
        """Its share of the settings, without their prefix, where its method has such a key.

        These are `fit.KEY=VALUE`, and `resnet.KEY=VALUE` for a ResNet-18. A row without training has none.
        """
        if self.method == "linear_probe":
            return []
        prefixes = (FIT, RESNET) if self.resnet else (FIT,)
        given = [s.removeprefix(p) for p in prefixes for s in settings if s.startswith(p)]
        return [s for s in given if _key(s) in find_method(self.method).config.model_fields]

    def config(self, settings: Sequence[str]) -> StrictConfig:
        """Its configuration; the given settings override its own."""
        return find_method(self.method).config.load(None, self.own(settings), base=dict(self.settings))


def _key(setting: str) -> str:
    return re.split(r"[.=]", setting, maxsplit=1)[0].strip()


def configured(rows: Mapping[str, Row], settings: Sequence[str]) -> dict[str, tuple[Row, StrictConfig]]:
    """Each row with its configuration; raises `ConfigError` for a prefixed setting that no row uses."""
    for setting in settings:
        if setting.startswith((FIT, RESNET)) and not any(row.own([setting]) for row in rows.values()):
            known = sorted({key for row in rows.values() for key in find_method(row.method).config.model_fields})
            remedy = near_matches(_key(setting.partition(".")[2]), known)
            raise ConfigError(f"no row of the study uses the setting {setting!r}", remedy=remedy)
    return {key: (row, row.config(settings)) for key, row in rows.items()}


def chosen_rows(rows: Mapping[str, Row], named: Sequence[str], *, published_only: bool = False) -> dict[str, Row]:
    """The rows of these short names, or all; raises `InputError` for an unknown one, or one of ours that is left out."""
    known = {key: row for key, row in rows.items() if not (published_only and row.ours)}
    for name in named:
        if name not in known:
            what = f"the row {name!r} is not in the paper" if name in rows else f"the study has no row {name!r}"
            raise InputError(what, expected=f"some of {', '.join(known)}")
    return {key: row for key, row in known.items() if not named or key in named}


def study_config(options: StudyOptions) -> WbcStudyConfig:
    """The settings of a run; with the published rows only, the epoch is chosen as published unless set otherwise."""
    base = {"selection": "published-selection"} if options.published_only else {}
    return WbcStudyConfig.load(None, [s for s in options.settings if not s.startswith((FIT, RESNET))], base=base)


@dataclass(frozen=True, slots=True)
class WhiteCells:
    """The white cells of a study in their fixed parts, with their cards and notes."""

    name: str
    parts: FixedParts
    cards: tuple[DataCard, ...]
    notes: tuple[str, ...]
    published: bool
    """Whether these are the published subsets, or images in their layout."""
    segmenter: str
    """Source of the training images' masks where they came without any, else empty."""


def open_white_cells(data: Mapping[str, Sequence[str]], config: WbcStudyConfig, *, out: Path, seed: int) -> WhiteCells:
    """Open the roles wbc, held and the subsets; a training part without masks gets those of a named segmenter."""
    read = partial(open_inputs, labels=config.labels, min_per_class=config.min_per_class)
    spec = data["wbc"][0]
    wbc = read(spec, role="wbc")
    opened = [wbc, *(read(held, role="held") for held in data.get("held", ()))]
    parts = _parts([each.dataset for each in opened], config, seed=seed)
    given: dict[float, Inputs] = {}
    for role, share in SUBSETS.items():
        if role in data:
            given[share] = read(data[role][0], role=role)
    notes = [note for each in (*opened, *given.values()) for note in each.notes]
    train = parts.train
    segmenter = "" if any(record.mask_path for record in train.records) else config.mask_segmenter
    if segmenter:
        train, n_masks = with_segmenter_masks(train, config, folder=out / "masks", seed=seed)
        notes.append(f"{train.name}: {n_masks} masks by the segmenter {segmenter}")
        given = {f: replace(part, dataset=_masked_alike(part.dataset, train)) for f, part in given.items()}
    parts = replace(parts, train=train, given={f: part.dataset.under(train.classes) for f, part in given.items()})
    cards = tuple(each.card for each in (*opened, *given.values()))
    return WhiteCells(
        wbc.dataset.name,
        parts,
        cards,
        tuple(notes),
        published=spec.startswith("wbc_subsets:"),
        segmenter=segmenter,
    )


def _parts(opened: Sequence[CellDataset], config: WbcStudyConfig, *, seed: int) -> FixedParts:
    """The parts of the white cells, and of those held out where they are given: tested whole, or one half of them."""
    train, *held = opened
    if config.selection == "validation":
        return halved(train, held[0], seed=seed) if held else fixed_parts(train, seed=seed)
    if not held:
        # the same test images as under "validation"
        train, test = hold_out(train, TEST_FRACTION, seeded(seed, "test"))
        held = [replace(test, name=f"{opened[0].name}, test part")]
    return tested_whole(train, held[0])


def _masked_alike(part: CellDataset, train: CellDataset) -> CellDataset:
    """A part whose images have the masks that the same images have in `train`."""
    masks = dict(zip(train.contents, (record.mask_path for record in train.records), strict=True))
    pairs = zip(part.contents, part.records, strict=True)
    return replace(part, records=tuple(replace(record, mask_path=masks.get(content)) for content, record in pairs))


def with_segmenter_masks(train: CellDataset, config: WbcStudyConfig, *, folder: Path, seed: int) -> tuple[CellDataset, int]:
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
class OpenStudy:
    """A study with its data opened: the folder of its run, rows with settings, white cells, auxiliary data by role."""

    out: Path
    rows: Mapping[str, tuple[Row, StrictConfig]]
    protocol: FractionsProtocol
    seed: int
    cells: WhiteCells
    more: Mapping[str, Inputs]

    @property
    def auxiliary(self) -> dict[str, CellDataset]:
        """The auxiliary datasets by role."""
        return {role: each.dataset for role, each in self.more.items()}

    @property
    def cards(self) -> list[DataCard]:
        """The cards of all data."""
        return [*self.cells.cards, *(each.card for each in self.more.values())]

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The settings of each row, for the report."""
        return {row.name: config.model_dump(mode="json") for row, config in self.rows.values()}


@contextmanager
def open_study(
    study: Study,
    rows: Mapping[str, Row],
    method: str,
    data: Mapping[str, Sequence[str]],
    options: StudyOptions,
) -> Iterator[OpenStudy]:
    """Read the settings, open all data, and claim the folder of the run; `method` has the roles of the auxiliary data."""
    config = study_config(options)
    wanted = with_data(chosen_rows(rows, config.rows, published_only=options.published_only), data, config, options.say)
    chosen = configured(wanted, options.settings)
    protocol, seed = config.protocol, options.seed
    user = find_method(method)
    used = {role for row in wanted.values() for role in (*row.auxiliary, *row.optional)}
    specs = [(role.name, spec) for role in user.roles if role.name in used for spec in data.get(role.name, ())]
    # rows without auxiliary data need none of the method's
    more = open_auxiliary([user] if used else [], specs, labels=config.labels)
    request = {
        "job": f"study {study.name}",
        "study": config.model_dump(mode="json"),
        "sources": config.file_digests(),
        "rows": {key: method_request(find_method(row.method), own) for key, (row, own) in chosen.items()},
        "white cells": [dataset.fingerprint for dataset in _white_cells(data, config)],
        "auxiliary": {role: each.dataset.fingerprint for role, each in more.items()},
        "seed": seed,
    }
    with open_run(
        options.out, request, overwrite=options.overwrite, inputs=input_paths(data, options.settings), say=options.say
    ) as out:
        cells = open_white_cells(data, config, out=out, seed=seed)
        cells.parts.check(protocol, seed=seed)
        refuse_learned([user], {r: each.dataset for r, each in more.items()}, [cells.parts.validation, *cells.parts.tests])
        about_masks = [mask_note(own, cells.parts.train) for _, own in chosen.values()]
        report_inputs(options.say, more.values(), *cells.notes, *about_masks)
        yield OpenStudy(out, chosen, protocol, seed, cells, more)


def with_data(
    rows: Mapping[str, Row], data: Mapping[str, Sequence[str]], config: WbcStudyConfig, say: Say
) -> dict[str, Row]:
    """The rows whose auxiliary data are given: one of ours is left out and reported, unless it is named.

    Raises `InputError` for any other row without its data.
    """
    found = {}
    for key, row in rows.items():
        missing = next((role for role in row.auxiliary if not data.get(role)), None)
        if missing is None:
            found[key] = row
        elif row.ours and not config.rows:
            say(f"left out the row {row.name!r}, which needs --data {missing}=SPEC")
        else:
            raise InputError(f"the row {row.name!r} needs the role {missing}", remedy=f"Use --data {missing}=SPEC.")
    return found


def _white_cells(data: Mapping[str, Sequence[str]], config: WbcStudyConfig) -> list[CellDataset]:
    return [open_dataset(spec, labels=config.labels) for role in WHITE_CELLS for spec in data.get(role, ())]


def run_rows(study: OpenStudy, *, say: Say) -> dict[str, FractionRun]:
    """Every row over every fraction and seed, each fit in a folder below "fits"; finished fits are reused."""
    found = {}
    cells, protocol, auxiliary = study.cells, study.protocol, study.auxiliary
    for key, (row, config) in study.rows.items():
        say(f"{row.name}: {len(protocol.fractions)} fractions, {protocol.seeds} seed(s)")
        roles = (*row.auxiliary, *row.optional)
        fit = _fit(row, config, {role: auxiliary[role] for role in roles if role in auxiliary}, say)
        (found[key],) = fraction_runs(
            without_checkpoints(fit),
            cells.parts,
            protocol,
            method=row.name,
            source=cells.name,
            run_dir=study.out / "fits" / key,
            seed=study.seed,
        )
    return found


def _fit(row: Row, config: StrictConfig, auxiliary: Mapping[str, CellDataset], say: Say) -> FitFold:
    method = find_method(row.method)

    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{row.name}: {len(train)} images, {run_dir.name.replace('_', ' ')}")
        return fit_or_resume(run_dir, method, train, validation=validation, config=config, rng=rng, auxiliary=auxiliary)

    return fit
