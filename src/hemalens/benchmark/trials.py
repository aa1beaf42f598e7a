"""Trials of a benchmark: one method in one test of one task, run once, kept, and found again after a kill."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hemalens.benchmark.config import Entry
from hemalens.benchmark.protocols.folds import FitFold
from hemalens.benchmark.tasks import Outcome, Task, Tested
from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, HemalensError
from hemalens.evaluation.results import Failure
from hemalens.files import atomic_dir, output_errors, sha256_text, write_json, write_text
from hemalens.runs.auxiliary import parts_for
from hemalens.runs.folders import fit_or_resume, method_request

RESULT, EMBEDDINGS, ERROR = "result.json", "embeddings.npy", "error.txt"
Status = Literal["waiting", "known", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A method in test `i` of a task; `fits` is the folder of what it trains, `result` that of what came of it."""

    entry: Entry
    task: Task
    i: int
    key: str
    fits: Path
    result: Path

    @property
    def target(self) -> str:
        """What it is tested on."""
        return self.task.tests[self.i]

    @property
    def source(self) -> str:
        """What it is trained on."""
        return self.task.source.dataset.name


Watch = Callable[[Trial, Status, Outcome | None], None]
"""Told whenever a trial begins or ends."""


def plan_trials(
    entries: Sequence[Entry],
    tasks: Sequence[Task],
    *,
    out: Path,
    auxiliary: Mapping[str, CellDataset],
    before: Sequence[str],
    seed: int,
) -> list[Trial]:
    """All trials in the order of the report: by source, method, protocol, test."""
    trials = []
    for source in dict.fromkeys(id(task.source) for task in tasks):
        for entry in entries:
            asked = method_request(entry.method, entry.config)
            own = parts_for(entry.method, auxiliary)
            for task in (task for task in tasks if id(task.source) == source):
                train = task.source.dataset
                for i in range(len(task.tests)):
                    request = {
                        "asked": asked,
                        "source": train.fingerprint,
                        "masks": train.mask_fingerprint,
                        "auxiliary": {role: dataset.fingerprint for role, dataset in own.items()},
                        "before": list(before),
                        "seed": seed,
                        "test": task.request(i),
                        "versions": library_versions(),
                    }
                    key = sha256_text(json.dumps(request, sort_keys=True))
                    fits = out / "fits" / entry.name / train.name.replace("/", "_")
                    trials.append(Trial(entry, task, i, key, fits, out / "results" / entry.name / key[:16]))
    return trials


def known(trial: Trial) -> Tested | None:
    """What came of a trial earlier; None where it was not run, or what is there, its first model too, is damaged."""
    try:
        stored = json.loads((trial.result / RESULT).read_text(encoding="utf-8"))
        if stored["key"] != trial.key:
            return None
        outcome = Outcome.model_validate_json(json.dumps(stored["outcome"]))
        open_bundle(trial.fits / outcome.model)
        embeddings: NDArray[np.float16] | None = None
        if outcome.points:
            embeddings = np.load(trial.result / EMBEDDINGS, allow_pickle=False)
        return Tested(outcome, embeddings)
    except (OSError, ValueError, KeyError, TypeError, ValidationError, BundleError):
        return None


def keep(trial: Trial, tested: Tested) -> None:
    """Write what came of a trial, whole or not at all."""
    with atomic_dir(trial.result) as folder:
        if tested.embeddings is not None:
            np.save(folder / EMBEDDINGS, tested.embeddings, allow_pickle=False)
        told = {"method": trial.entry.name, "source": trial.source, "target": trial.target, "protocol": trial.task.protocol}
        write_json(folder / RESULT, {"key": trial.key, **told, "outcome": tested.outcome.model_dump(mode="json")})


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial with what came of it, or with its error."""

    trial: Trial
    tested: Tested | None
    error: str = ""


def run_trials(
    trials: Iterable[Trial],
    *,
    auxiliary: Mapping[str, CellDataset],
    seed: int,
    say: Callable[[str], None],
    watch: Watch,
) -> list[Ended]:
    """Run one trial after another; an error ends its trial, and no other that does not need the same training."""
    fits: dict[str, FitFold] = {}
    ended = []
    for trial in trials:
        found = known(trial)
        if found is not None:
            watch(trial, "known", found.outcome)
            ended.append(Ended(trial, found))
            continue
        watch(trial, "running", None)
        fit = fits.setdefault(trial.entry.name, _once(_fit(trial.entry, parts_for(trial.entry.method, auxiliary), say)))
        try:
            found = _named(trial.task.run(trial.i, fit, trial.fits, seed), trial)
            keep(trial, found)
        except Exception as error:
            ended.append(Ended(trial, None, _told(error, trial, say)))
            watch(trial, "failed", None)
            continue
        watch(trial, "done", found.outcome)
        ended.append(Ended(trial, found))
    return ended


def _fit(entry: Entry, auxiliary: Mapping[str, CellDataset], say: Callable[[str], None]) -> FitFold:
    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{entry.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_or_resume(
            run_dir, entry.method, train, validation=validation, config=entry.config, rng=rng, auxiliary=auxiliary
        )

    return fit


def _once(fit: FitFold) -> FitFold:
    """The same fit, which remembers the bundle of each folder, or the error: it would only fail again."""
    done: dict[Path, Bundle | Exception] = {}

    def fit_once(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        if run_dir not in done:
            try:
                done[run_dir] = fit(train, validation, rng, run_dir)
            except Exception as error:
                done[run_dir] = error
                raise
        found = done[run_dir]
        if isinstance(found, Exception):
            raise found
        return found

    return fit_once


def _named(tested: Tested, trial: Trial) -> Tested:
    """The outcome under the name that the method has in this benchmark."""
    name = trial.entry.name

    def renamed(part: Any) -> Any:
        _, _, task = part.name.partition(": ")
        return part.model_copy(update={"method": name, "name": f"{name}: {task}"})

    outcome = tested.outcome
    parts = {kind: tuple(map(renamed, getattr(outcome, kind))) for kind in ("evaluations", "k_shot", "fractions")}
    return Tested(outcome.model_copy(update=parts), tested.embeddings)


def _told(error: Exception, trial: Trial, say: Callable[[str], None]) -> str:
    """The error on one line; where it is none of ours, all of it goes into a file."""
    where = f"{trial.entry.name}, {trial.source} -> {trial.target}, {trial.task.protocol}"
    text = str(error) if isinstance(error, HemalensError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    say(f"failed: {where}: {text}")
    if not isinstance(error, HemalensError):
        with output_errors(trial.result):
            shutil.rmtree(trial.result, ignore_errors=True)
            write_text(trial.result / ERROR, "".join(traceback.format_exception(error)))
    return text


def failures(ended: Sequence[Ended]) -> tuple[Failure, ...]:
    """What failed: a row for each method and task, with the targets that share its error."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for each in ended:
        if each.tested is None:
            trial = each.trial
            found.setdefault((trial.entry.name, trial.task.protocol, trial.source, each.error), []).append(trial.target)
    return tuple(
        Failure(method=method, protocol=protocol, source=source, target=", ".join(targets), error=error)
        for (method, protocol, source, error), targets in found.items()
    )
