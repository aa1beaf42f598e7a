"""The BloodShot study: three losses for the embedder, k-shot classification of a new laboratory (Laor 2022).

Published: generic = Matek-19, novel = C-NMC's preliminary test set, support = its fold 0, as
`--data generic=matek19:M --data novel=cnmc:C/<preliminary test> --data support=cnmc:C/<training>/fold_0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx
from pydantic import Field

from hemalens.benchmark.protocols.data import NewLaboratory, open_laboratories
from hemalens.benchmark.protocols.k_shot import PUBLISHED_SHOTS, KShotProtocol
from hemalens.benchmark.protocols.laboratory import EmbeddedLaboratory, concatenate, embed_laboratory
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.config import Seed, StrictConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Generator, Shared, shared_groups
from hemalens.datasets.splits import check_classes
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.projection import scatter
from hemalens.evaluation.results import DataCard, Evaluation, KShot, Report, Scatter, TrainingCurve
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut
from hemalens.methods.bloodshot import BloodShotConfig
from hemalens.models.backbone import BackboneConfig, frozen_graph
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.report.gallery import sample_gallery
from hemalens.runs.curves import read_curves
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.inputs import open_inputs
from hemalens.studies.base import Study, StudyOptions, input_paths
from hemalens.studies.bloodshot.differences import run_differences
from hemalens.studies.bloodshot.embedders import (
    AUTHORS,
    FROZEN,
    JOINED,
    OWN_SETTINGS,
    PUBLISHED,
    ROWS,
    embedder_config,
    fit_embedder,
    random_parts,
    stratified_parts,
)
from hemalens.studies.bloodshot.tables import OPTIONS, generic_table, options_table, sweep_table, ten_shot_table

LEFT_OUT = ("KSC", "LYA", "MMZ", "MOB")
"""Classes of Matek-19 that the paper's run left out; PMB, with 18 images rarer than MOB with 26, stayed in."""


class BloodShotStudyConfig(StrictConfig):
    """The published protocol; settings `embedder.KEY=VALUE` go to the embedders of the three losses, `augmented.KEY=VALUE`
    to the augmented one.

    `generic_labels`, `novel_labels`: label maps. `leave_out`: source labels of the generic set that are left out.
    `split`: the parts of the generic set, drawn at "random" over all images as in the authors' code, or "stratified" by
    class without dividing groups; both by `split_seed`. `checkpoint`: weights of the authors (.ckpt), tested in a row.

    `table_shots` and `table_repeats`: the paper's first table; `sweep_shots` and `sweep_repeats`: its third figure.
    `generator` and `drawing_seed`: how support images are drawn. `shared_groups`: allow or refuse patients in both support
    and test; the paper does not look for them. `scatter_points`: images of the paper's second figure.
    """

    generic_labels: str = "as_labelled"
    novel_labels: str = "as_labelled"
    leave_out: tuple[str, ...] = Field(default=LEFT_OUT, strict=False)  # TOML knows lists only
    min_per_class: int = Field(default=1, ge=1)
    split: Literal["random", "stratified"] = "random"
    split_seed: Seed = 42
    checkpoint: str | None = None
    novel_min_per_class: int = Field(default=1, ge=1)
    table_shots: int = Field(default=10, ge=1)
    table_repeats: int = Field(default=100, ge=2)
    sweep_shots: tuple[int, ...] = Field(default=PUBLISHED_SHOTS, strict=False)
    sweep_repeats: int = Field(default=20, ge=2)
    replacement: bool = True
    generator: Generator = "one"
    drawing_seed: Seed = 42
    shared_groups: Shared = "allow"
    scatter_points: int = Field(default=400, ge=3)
    classifier: FewShotConfig = FewShotConfig()


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train the embedders, test them on the generic set and k-shot on the novel sets; the same call resumes."""
    seed, say = options.seed, options.say
    config = BloodShotStudyConfig.load(None, [s for s in options.settings if not s.startswith(OWN_SETTINGS)])
    embedders = _embedders(config, options)
    pool = next(iter(data.get("support", ())), None)
    laboratories = open_laboratories(
        data["novel"], pool, labels=config.novel_labels, min_per_class=config.novel_min_per_class
    )
    generic = _generic(data["generic"][0], config)
    cards = [*generic.cards, *(card for laboratory in laboratories for card in laboratory.cards)]
    shared = [_shared_groups(laboratory) for laboratory in laboratories]
    notes = [note for laboratory in laboratories for note in laboratory.notes]
    for note in (*generic.notes, *notes, *filter(None, shared)):
        say(note)
    shown = {"study": config.model_dump(mode="json"), **{r: e.model_dump(mode="json") for r, e in embedders.items()}}
    request = {
        "job": "study bloodshot",
        "configs": shown,
        "sources": {row: embedder.file_digests() for row, embedder in embedders.items()},
        "published_only": options.published_only,
        "data": [generic.dataset.fingerprint, *(card.fingerprint for lab in laboratories for card in lab.cards)],
        "seed": seed,
    }
    plans = _plans(laboratories, config, generic.dataset, say)
    with open_run(options.out, request, overwrite=options.overwrite, inputs=input_paths(data), say=say) as out:
        trained = _train(embedders, generic, replace(options, out=out))
        classifiers = {} if options.published_only else OPTIONS
        novel = _score_novel(
            trained.encoders, laboratories, plans, classifiers=classifiers, source=generic.dataset.name, say=say
        )
        results = Results(
            evaluations=trained.evaluations,
            k_shot=novel.results,
            curves=trained.curves,
            pictures=[
                sample_gallery(cells, title=f"Sample cells of {cells.name}, by class", seed=seed)
                for cells in (generic.dataset, *(laboratory.target for laboratory in laboratories))
            ],
            tables=[
                *ten_shot_table(novel.table, config.table_shots),
                *sweep_table(novel.results),
                *generic_table(trained.evaluations, generic.dataset.label_map),
                *options_table(novel.options, config.table_shots),
            ],
            remarks=list(filter(None, shared)),
            differences=[*STUDY.differences, *run_differences(data, cards, generic.n_copies, config, embedders)],
        )
        report = make_report(
            f"BloodShot: from {generic.dataset.name} to {', '.join(lab.target.name for lab in laboratories)}",
            "study bloodshot: embedders trained on 70 % of the generic set (10 % validation, 20 % test, "
            f"{config.split}), then {config.table_repeats} drawings of {config.table_shots} images a class for the table, "
            f"{config.sweep_repeats} for each k of the curve",
            results,
            data=cards,
            methods=shown,
            seed=seed,
        )
        return finish_run(out, report)


def _embedders(config: BloodShotStudyConfig, options: StudyOptions) -> dict[str, BloodShotConfig]:
    """The configuration of each row that is a bundle."""
    rows = PUBLISHED if options.published_only else tuple(ROWS)
    found = {row: embedder_config(row, options.settings) for row in rows}
    if config.checkpoint is not None:
        found[AUTHORS] = BloodShotConfig(weights=config.checkpoint, epochs=0)
    return found


@dataclass(frozen=True, slots=True)
class _Trained:
    """Of each row: scores on the generic test part, encoder, and training curve where it is trained."""

    evaluations: list[Evaluation]
    encoders: dict[str, onnx.ModelProto]
    curves: list[TrainingCurve]


def _train(embedders: Mapping[str, BloodShotConfig], generic: _Generic, options: StudyOptions) -> _Trained:
    found = _Trained([], {}, [])
    for row, embedder in embedders.items():
        options.say(f"embedder {row}: {len(generic.learn)} training images, {embedder.epochs} epochs")
        bundle = fit_embedder(row, embedder, generic.learn, generic.validation, out=options.out, seed=options.seed)
        found.evaluations.append(_evaluate(row, bundle, generic.test, options.seed))
        found.encoders[row] = cut(bundle.graph, ["image"], ["embedding"])
        found.curves.extend(read_curves([bundle.path.parent], row))
    if not options.published_only:
        found.encoders[FROZEN] = frozen_graph(BackboneConfig(), default_cache_dir())
    return found


def _evaluate(row: str, bundle: Bundle, test: CellDataset, seed: int) -> Evaluation:
    found = evaluate([bundle], [test], target=test, source_name=f"{test.name} (70%)", seed=seed)
    return found.model_copy(update={"method": row, "name": f"{row}: {test.name}, test part"})


@dataclass(frozen=True, slots=True)
class _Generic:
    """The generic set with its three parts, in none of which its `n_copies` copies and conflicting images are."""

    dataset: CellDataset
    learn: CellDataset
    validation: CellDataset
    test: CellDataset
    cards: tuple[DataCard, ...]
    notes: tuple[str, ...]
    n_copies: int


def _generic(spec: str, config: BloodShotStudyConfig) -> _Generic:
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
    copies = [r for r in (*given.cleaning.copies, *given.cleaning.conflicting) if r.source_label not in config.leave_out]
    if config.split == "random":
        parts = random_parts(dataset, copies, seed=config.split_seed)
    else:
        parts = stratified_parts(dataset, seed=config.split_seed)
    card = given.card.model_copy(
        update={"n_images": len(dataset), "class_counts": dataset.class_counts, "dropped": dropped}
    )
    return _Generic(dataset, *parts, cards=(card,), notes=tuple(notes), n_copies=len(copies))


def _shared_groups(laboratory: NewLaboratory) -> str | None:
    """A sentence on groups with images in both the support and the test."""
    if laboratory.pool is None:
        return None
    found = shared_groups(laboratory.pool, laboratory.target)
    names = f"{laboratory.pool.name} and {laboratory.target.name}"
    if not any(record.group is not None for record in laboratory.pool.records):
        return None
    if not found:
        return f"{names} have no subject in common."
    return f"{names} have {len(found)} subject(s) in common, so the k-shot scores are optimistic."


@dataclass(frozen=True, slots=True)
class _Plan:
    """The k-shot protocols of one laboratory: of the first table, and of the sweep over k; images of the scatter."""

    table: KShotProtocol
    sweep: KShotProtocol
    seed: int
    n_points: int


def _plans(
    laboratories: Sequence[NewLaboratory], config: BloodShotStudyConfig, generic: CellDataset, say: Say
) -> list[_Plan]:
    """The plan of each laboratory; k that its classes do not allow are left out, with a note."""
    plans = []
    table = KShotProtocol(
        shots=(config.table_shots,),
        repeats=config.table_repeats,
        replacement=config.replacement,
        generator=config.generator,
        shared_groups=config.shared_groups,
        few_shot=config.classifier,
    )
    seed = config.drawing_seed
    all_shots = table.model_copy(update={"shots": config.sweep_shots, "repeats": config.sweep_repeats})
    for laboratory in laboratories:
        laboratory.refuse_source(generic)
        table.check([laboratory], seed=seed)
        sweep, without = all_shots.possible(laboratory, seed=seed)
        if without:
            smallest = min(laboratory.target.class_counts.items(), key=lambda entry: entry[1])
            say(f"{laboratory.target.name}: no k = {', '.join(map(str, without))}: {smallest[1]} images of {smallest[0]}")
        plans.append(_Plan(table, sweep, seed, config.scatter_points))
    return plans


@dataclass(frozen=True, slots=True)
class _Novel:
    """The scores on the novel sets: of the first table, of the sweep, and of the classifier options."""

    table: list[KShot]
    results: list[KShot]
    options: dict[str, list[KShot]]


def _score_novel(
    encoders: Mapping[str, onnx.ModelProto],
    laboratories: Sequence[NewLaboratory],
    plans: Sequence[_Plan],
    *,
    classifiers: Mapping[str, FewShotConfig],
    source: str,
    say: Say,
) -> _Novel:
    table: list[KShot] = []
    results: list[KShot] = []
    options: dict[str, list[KShot]] = {name: [] for name in classifiers}
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
            results.append(_sweep(seen, plan, first))
            for name, option in classifiers.items():
                changed = plan.table.model_copy(update={"few_shot": option})
                options[name].append(changed.score(seen, method=row, source=source, seed=plan.seed))
    return _Novel(table, results, options)


def _sweep(seen: EmbeddedLaboratory, plan: _Plan, first: KShot) -> KShot:
    """The scores over k, each from the sweep's drawings; a k of the table alone has the table's."""
    found = plan.sweep.score(seen, method=first.method, source=first.source, seed=plan.seed)
    swept = {shots.k for shots in found.shots}
    more = (shots for shots in first.shots if shots.k not in swept)
    shots = tuple(sorted((*found.shots, *more), key=lambda shots: shots.k))
    return found.model_copy(update={"shots": shots, "scatter": _support_scatter(seen, plan)})


def _support_scatter(seen: EmbeddedLaboratory, plan: _Plan) -> Scatter | None:
    """Embeddings of labelled images of the laboratory, as in the paper's second figure; nothing is predicted there."""
    support = seen.source
    points = [(str(record.label), str(record.label), record.domain) for record in support.dataset.records]
    found = scatter(support.embeddings, points, seed=plan.seed, n_points=plan.n_points)
    return found and found.model_copy(update={"cells": support.dataset.name})


STUDY = Study.of("bloodshot", run)
