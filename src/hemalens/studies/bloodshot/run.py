"""The BloodShot study: three losses for the embedder, k-shot classification of a new laboratory (Laor 2022).

Published: generic = Matek-19, novel = C-NMC's preliminary test set, support = its fold 0, as
`--data generic=matek19:M --data novel=cnmc:C/<preliminary test> --data support=cnmc:C/<training>/fold_0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from pydantic import Field

from hemalens.benchmark.protocols.data import NewLaboratory, open_laboratories
from hemalens.benchmark.protocols.k_shot import PUBLISHED_SHOTS, KShotProtocol
from hemalens.benchmark.protocols.laboratory import EmbeddedLaboratory, concatenate, embed_laboratory
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import check_classes
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import DataCard, Evaluation, KShot, Report
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut
from hemalens.models.backbone import BackboneConfig, frozen_graph
from hemalens.progress import Say
from hemalens.report.compose import make_report
from hemalens.runs.folders import finish_run, start_run
from hemalens.runs.inputs import open_inputs
from hemalens.studies.base import Study
from hemalens.studies.bloodshot.embedders import (
    FROZEN,
    JOINED,
    OWN_SETTINGS,
    PUBLISHED,
    ROWS,
    embedder_config,
    fit_embedder,
    three_parts,
)
from hemalens.studies.bloodshot.tables import OPTIONS, generic_table, options_table, ten_shot_table

LEFT_OUT = ("KSC", "LYA", "MMZ", "MOB")
"""Classes of Matek-19 that the paper's run left out; PMB, with 18 images rarer than MOB with 26, stayed in."""


class BloodShotStudyConfig(StrictConfig):
    """The published protocol; settings `embedder.KEY=VALUE` go to the embedders of the three losses, `augmented.KEY=VALUE`
    to the augmented one.

    `rows`: the paper's three embedders, or also ours (from ImageNet weights, with augmentation, and frozen).
    `table_shots` and `table_repeats`: the paper's first table; `sweep_shots` and `sweep_repeats`: its third figure.
    `leave_out`: source labels of the generic set that are left out. `*_labels`: label maps.
    """

    rows: Literal["published", "all"] = "all"
    generic_labels: str = "as_labelled"
    novel_labels: str = "as_labelled"
    leave_out: tuple[str, ...] = Field(default=LEFT_OUT, strict=False)  # TOML knows lists only
    min_per_class: int = Field(default=1, ge=1)
    novel_min_per_class: int = Field(default=1, ge=1)
    table_shots: int = Field(default=10, ge=1)
    table_repeats: int = Field(default=100, ge=2)
    sweep_shots: tuple[int, ...] = Field(default=PUBLISHED_SHOTS, strict=False)
    sweep_repeats: int = Field(default=20, ge=2)
    replacement: bool = True
    classifier: FewShotConfig = FewShotConfig()


def run(
    data: Mapping[str, Sequence[str]],
    *,
    out: Path,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train the embedders, test them on the generic set and k-shot on the novel sets; the same call resumes."""
    STUDY.check_roles(data)
    config = BloodShotStudyConfig.load(None, [s for s in settings if not s.startswith(OWN_SETTINGS)])
    rows = PUBLISHED if config.rows == "published" else tuple(ROWS)
    embedders = {row: embedder_config(row, settings) for row in rows}
    pool = next(iter(data.get("support", ())), None)
    laboratories = open_laboratories(
        data["novel"], pool, labels=config.novel_labels, min_per_class=config.novel_min_per_class
    )
    generic, cards, notes = _generic(data["generic"][0], config)
    for note in (*notes, *(note for laboratory in laboratories for note in laboratory.notes)):
        say(note)
    learn, validation, test = three_parts(generic, seed)
    shown = {"study": config.model_dump(mode="json"), **{r: e.model_dump(mode="json") for r, e in embedders.items()}}
    request = {
        "job": "study bloodshot",
        "configs": shown,
        "data": [generic.fingerprint, *(card.fingerprint for lab in laboratories for card in lab.cards)],
        "seed": seed,
    }
    plans = _plans(laboratories, config, seed, generic, say)
    start_run(out, request, overwrite=overwrite, say=say)
    encoders: dict[str, onnx.ModelProto] = {}
    evaluations: list[Evaluation] = []
    for row, embedder in embedders.items():
        say(f"embedder {row}: {len(learn)} training images, {embedder.epochs} epochs")
        bundle = fit_embedder(row, embedder, learn, validation, out=out, seed=seed)
        evaluations.append(_evaluate(row, bundle, test, seed))
        encoders[row] = cut(bundle.graph, ["image"], ["embedding"])
    if config.rows == "all":
        encoders[FROZEN] = frozen_graph(BackboneConfig(), default_cache_dir())
    novel = _score_novel(encoders, laboratories, plans, generic.name, say)
    report = make_report(
        f"BloodShot: from {generic.name} to {', '.join(lab.target.name for lab in laboratories)}",
        "study bloodshot: embedders trained on 70 % of the generic set (10 % validation, 20 % test), then "
        f"{config.table_repeats} drawings of {config.table_shots} images a class, {config.sweep_repeats} for the other k",
        evaluations=evaluations,
        k_shot=novel.results,
        tables=[
            *ten_shot_table(novel.table, config.table_shots),
            *generic_table(evaluations, generic.label_map),
            *options_table(novel.options, config.table_shots),
        ],
        data=[*cards, *(card for laboratory in laboratories for card in laboratory.cards)],
        methods=shown,
        seed=seed,
    )
    return finish_run(out, report)


def _evaluate(row: str, bundle: Bundle, test: CellDataset, seed: int) -> Evaluation:
    found = evaluate([bundle], [test], target=test, source_name=f"{test.name} (70%)", seed=seed)
    return found.model_copy(update={"method": row, "name": f"{row}: {test.name}, test part"})


def _generic(spec: str, config: BloodShotStudyConfig) -> tuple[CellDataset, list[DataCard], list[str]]:
    given = open_inputs(spec, labels=config.generic_labels, role="generic", min_per_class=config.min_per_class)
    dataset = given.dataset
    kept = [i for i, record in enumerate(dataset.records) if record.source_label not in config.leave_out]
    notes = list(given.notes)
    dropped = dict(given.card.dropped)
    if len(kept) < len(dataset):
        notes.append(f"{dataset.name}: left out {', '.join(config.leave_out)}: {len(dataset) - len(kept)} image(s)")
        dropped["classes the study leaves out"] = len(dataset) - len(kept)
        dataset = dataset.subset(kept)
        dataset = dataset.under(tuple(c for c, n in dataset.class_counts.items() if n))
    check_classes(dataset, n_units=3, purpose="training, validation and test")
    card = given.card.model_copy(
        update={"n_images": len(dataset), "class_counts": dataset.class_counts, "dropped": dropped}
    )
    return dataset, [card], notes


@dataclass(frozen=True, slots=True)
class _Plan:
    """The k-shot protocols of one laboratory: of the first table, and of the sweep over k."""

    table: KShotProtocol
    sweep: KShotProtocol
    seed: int


def _plans(
    laboratories: Sequence[NewLaboratory], config: BloodShotStudyConfig, seed: int, generic: CellDataset, say: Say
) -> list[_Plan]:
    """The plan of each laboratory; k that its classes do not allow are left out, with a note."""
    plans = []
    table = KShotProtocol(
        shots=(config.table_shots,),
        repeats=config.table_repeats,
        replacement=config.replacement,
        few_shot=config.classifier,
    )
    all_shots = table.model_copy(update={"shots": config.sweep_shots, "repeats": config.sweep_repeats})
    for laboratory in laboratories:
        laboratory.refuse_source(generic)
        table.check([laboratory], seed=seed)
        sweep, without = all_shots.possible(laboratory, seed=seed)
        if without:
            smallest = min(laboratory.target.class_counts.items(), key=lambda entry: entry[1])
            say(f"{laboratory.target.name}: no k = {', '.join(map(str, without))}: {smallest[1]} images of {smallest[0]}")
        plans.append(_Plan(table, sweep, seed))
    return plans


@dataclass(frozen=True, slots=True)
class _Novel:
    """The scores on the novel sets: of the first table, of the sweep with the table's k, and of the classifier options."""

    table: list[KShot]
    results: list[KShot]
    options: dict[str, list[KShot]]


def _score_novel(
    encoders: Mapping[str, onnx.ModelProto],
    laboratories: Sequence[NewLaboratory],
    plans: Sequence[_Plan],
    source: str,
    say: Say,
) -> _Novel:
    table: list[KShot] = []
    results: list[KShot] = []
    options: dict[str, list[KShot]] = {name: [] for name in OPTIONS}
    for laboratory, plan in zip(laboratories, plans, strict=True):
        parts: dict[str, EmbeddedLaboratory] = {}
        for row, encoder in encoders.items():
            parts[row] = embed_laboratory(laboratory, encoder, seed=plan.seed)
        for row, joined in JOINED.items():
            if set(joined) <= set(parts):
                parts[row] = concatenate([parts[name] for name in joined], seed=plan.seed)
        for row, seen in parts.items():
            say(f"{row}: k-shot on {laboratory.target.name}")
            first = plan.table.score(seen, method=row, source=source, seed=plan.seed)
            table.append(first)
            results.append(_with_table(seen, plan, first))
            for name, option in OPTIONS.items():
                changed = plan.table.model_copy(update={"few_shot": option})
                options[name].append(changed.score(seen, method=row, source=source, seed=plan.seed))
    return _Novel(table, results, options)


def _with_table(seen: EmbeddedLaboratory, plan: _Plan, first: KShot) -> KShot:
    """The sweep over k, in which the table's own k has all its drawings."""
    others = tuple(k for k in plan.sweep.shots if k not in plan.table.shots)
    if not others:
        return first
    sweep = plan.sweep.model_copy(update={"shots": others})
    rest = sweep.score(seen, method=first.method, source=first.source, seed=plan.seed)
    return first.model_copy(update={"shots": tuple(sorted((*rest.shots, *first.shots), key=lambda shots: shots.k))})


STUDY = Study.of("bloodshot", run)
