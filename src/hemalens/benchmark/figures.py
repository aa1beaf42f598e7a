"""What a benchmark shows beside its scores: embeddings of all laboratories in one plane, what answers rest on, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.benchmark.efficiency.measure import measure_bundles
from hemalens.benchmark.trials import Ended
from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import CellDataset
from hemalens.evaluation.occlusion import occlusion_table
from hemalens.evaluation.projection import Projection, joint_scatter
from hemalens.evaluation.results import Efficiency, Evaluation, NamedScatter, PictureTable

N_CELLS, N_CANDIDATES = 4, 100
"""Cells of each method of which the report shows what the answer rests on, out of so many that are drawn."""


@dataclass(frozen=True, slots=True)
class FirstModel:
    """The first model of a method and a source, with its evaluation on the first target, or else at home."""

    method: str
    source: str
    bundle: Path
    evaluation: Evaluation | None
    tested: CellDataset | None


def first_models(ended: Sequence[Ended]) -> list[FirstModel]:
    """One for each method and source of which a trial succeeded."""
    found: dict[tuple[str, str], FirstModel] = {}
    for each in ended:
        if each.tested is None:
            continue
        trial, outcome = each.trial, each.tested.outcome
        here = (trial.entry.name, trial.source)
        evaluation = next(iter(outcome.evaluations), None)
        dataset = trial.task.tested[trial.i - 1] if evaluation is not None and trial.i else None
        before = found.get(here)
        if before is None or (evaluation is not None and before.tested is None):
            bundle = trial.fits / outcome.model if before is None else before.bundle
            found[here] = FirstModel(*here, bundle, evaluation, dataset)
    return list(found.values())


def costs(
    models: Sequence[FirstModel], *, n_rounds: int, n_threads: int | None, say: Callable[[str], None]
) -> list[Efficiency]:
    """What each model costs, beside the score that its method has."""
    several = len({model.source for model in models}) > 1
    named = {f"{m.method}, {m.source}" if several else m.method: (m.bundle, m.evaluation) for m in models}
    return measure_bundles(named, n_rounds=n_rounds, n_threads=n_threads, say=say)


def joint_scatters(ended: Sequence[Ended], *, projection: Projection, seed: int) -> tuple[NamedScatter, ...]:
    """The embeddings of every source and its targets by each method's first model, in one plane."""
    groups: dict[tuple[str, str], list[Ended]] = {}
    for each in ended:
        if each.tested is not None and each.tested.embeddings is not None:
            groups.setdefault((each.trial.entry.name, each.trial.source), []).append(each)
    shown = []
    for (method, source), group in groups.items():
        if len(group) < 2:
            continue
        told = []
        for each in group:
            if each.tested is not None and each.tested.embeddings is not None:
                points = [(label, predicted, each.trial.target) for label, predicted in each.tested.outcome.points]
                told.append((each.tested.embeddings.astype(float), points))
        scatter = joint_scatter(told, seed=seed, projection=projection)
        if scatter is not None:
            shown.append(
                NamedScatter(
                    method=method,
                    source=source,
                    targets=tuple(e.trial.target for e in group if e.trial.target != source),
                    scatter=scatter,
                )
            )
    return tuple(shown)


def what_answers_rest_on(models: Sequence[FirstModel], *, seed: int) -> list[PictureTable]:
    """Some cells of the first target under the first model of each method, parts of them covered; of the first source."""
    shown, seen = [], set()
    for model in models:
        if model.tested is not None and model.method not in seen:
            seen.add(model.method)
            drawn = np.random.default_rng(seed).permutation(len(model.tested))[:N_CANDIDATES]
            table = occlusion_table(open_bundle(model.bundle), model.tested.subset(sorted(drawn.tolist())), n=N_CELLS)
            title = f"{model.method}, {model.source} -> {model.tested.name}: what answers rest on"
            shown.append(table.model_copy(update={"title": title}))
    return shown
