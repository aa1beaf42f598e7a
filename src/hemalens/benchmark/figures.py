"""Figures of a benchmark's report: joint scatter plots, maps of the evidence, and the cost of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.benchmark.efficiency.config import EfficiencyConfig
from hemalens.benchmark.efficiency.measure import measure_bundles
from hemalens.benchmark.trials import TrialResult
from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import CellDataset
from hemalens.evaluation.activation import activation_table, refused_table
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.evaluation.projection import Projection, joint_scatter
from hemalens.evaluation.results import Efficiency, Evaluation, NamedScatter, PictureTable, TrainingCurve
from hemalens.inference.explain import explainer_of
from hemalens.progress import Say

N_CELLS, N_CANDIDATES = 4, 100
"""Maps of each method, and how many cells they are chosen from."""


@dataclass(frozen=True, slots=True)
class FirstModel:
    """The first model of a method and a source, with its evaluation on the first target, or else on the source.

    `tested` is the dataset of that target.
    """

    method: str
    source: str
    bundle: Path
    evaluation: Evaluation | None
    tested: CellDataset | None


def first_models(results: Sequence[TrialResult]) -> list[FirstModel]:
    """One for each method and source of which a trial succeeded."""
    found: dict[tuple[str, str], FirstModel] = {}
    for result in results:
        trial, outcome = result.trial, result.outcome
        if outcome is None:
            continue
        key = (trial.entry.name, trial.source)
        evaluation = next(iter(outcome.evaluations), None)
        dataset = trial.task.tested[trial.i - 1] if evaluation is not None and trial.i else None
        before = found.get(key)
        if before is None or (evaluation is not None and before.tested is None):
            bundle = trial.fits / outcome.model if before is None else before.bundle
            found[key] = FirstModel(*key, bundle, evaluation, dataset)
    return list(found.values())


def training_curves(results: Sequence[TrialResult]) -> list[TrainingCurve]:
    """The training curves of all trials; each group of a method once, as the tests of a task share their models."""
    found: list[TrainingCurve] = []
    known: set[tuple[str, str]] = set()
    for result in results:
        own = result.outcome.curves if result.outcome is not None else ()
        found += [curve for curve in own if (curve.name, curve.group) not in known]
        known |= {(curve.name, curve.group) for curve in own}
    return found


def measure_efficiency(models: Sequence[FirstModel], config: EfficiencyConfig, *, say: Say) -> list[Efficiency]:
    """The cost of each model, with the scores of its evaluation."""
    several = len({model.source for model in models}) > 1
    named = {f"{m.method}, {m.source}" if several else m.method: (m.bundle, m.evaluation) for m in models}
    return measure_bundles(named, config, say=say)


def joint_scatters(results: Sequence[TrialResult], *, projection: Projection, seed: int) -> tuple[NamedScatter, ...]:
    """The embeddings of every source and its targets by each method's first model, in one plane."""
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for result in results:
        if result.outcome is not None and result.outcome.embeddings is not None:
            groups.setdefault((result.trial.entry.name, result.trial.source), []).append(result)
    scatters = []
    for (method, source), group in groups.items():
        if len(group) < 2:
            continue
        embedded = [
            (
                result.outcome.embeddings.astype(float),
                [(label, predicted, result.trial.target) for label, predicted in result.outcome.points],
            )
            for result in group
            if result.outcome is not None and result.outcome.embeddings is not None
        ]
        scatter = joint_scatter(embedded, seed=seed, projection=projection)
        if scatter is not None:
            targets = tuple(result.trial.target for result in group if result.trial.target != source)
            scatters.append(NamedScatter(method=method, source=source, targets=targets, scatter=scatter))
    return tuple(scatters)


def evidence_maps(models: Sequence[FirstModel], *, seed: int) -> list[PictureTable]:
    """Exact maps of some cells of the first target, by each method's first model of the first source."""
    tables: dict[str, PictureTable] = {}
    for model in models:
        if model.tested is not None and model.method not in tables:
            drawn = np.random.default_rng(seed).permutation(len(model.tested))[:N_CANDIDATES]
            cells, bundle = model.tested.subset(sorted(drawn.tolist())), open_bundle(model.bundle)
            explainer = explainer_of(bundle)
            if explainer is None:
                table = refused_table(model.method, model.tested.name)
            else:
                table = activation_table(explainer, cells, predict_dataset(bundle, cells), n=N_CELLS)
            title = f"{model.method}, {model.source} -> {model.tested.name}: evidence"
            tables[model.method] = table.model_copy(update={"title": title})
    return list(tables.values())
